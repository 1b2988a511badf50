//! Our own `sync_file_range`, which syncs for good.
//!
//! sled 0.34.7 ends its `flush` in `sync_file_range`, which flushes neither the metadata of a file nor the
//! cache of the disk: in 44 of 44 simulated power cuts data was lost or the store did not open. The symbol
//! defined here takes the place of libc's for everything linked into the program, and calls `fdatasync`.
//! It counts its calls; the store refuses to open where a flush does not move the count. After a sync that failed
//! there is no other: the kernel may have dropped the pages, and the next sync would succeed without them. sled syncs
//! several buffers at a time and would go on with the others.
#![allow(
    unsafe_code,
    reason = "defining a C symbol and borrowing the descriptor it is given cannot be said in safe Rust; \
              the descriptor is the caller's, is open while it waits for us, and is not kept"
)]

use std::{
    ffi::{c_int, c_uint},
    hint,
    os::fd::BorrowedFd,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::{errno::Errno, unistd::fdatasync};

/// How often it was called in this process.
static CALLS: AtomicU64 = AtomicU64::new(0);

/// Whether a sync has failed. Held while one runs, so that none begins beside it and ends after it.
static FAILED: Mutex<bool> = Mutex::new(false);

/// Takes the place of libc's function of this name.
#[unsafe(no_mangle)]
extern "C" fn sync_file_range(fd: c_int, _offset: i64, _len: i64, _flags: c_uint) -> c_int {
    CALLS.fetch_add(1, Ordering::Relaxed);
    if fd < 0 {
        Errno::EBADF.set();
        return -1;
    }
    // SAFETY: `fd` is not -1, and C's contract is that it stays open until the call returns.
    let file = unsafe { BorrowedFd::borrow_raw(fd) };
    let mut failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    let synced = if *failed {
        Err(Errno::EIO)
    } else {
        fdatasync(file)
    };
    match synced {
        Ok(()) => 0,
        Err(why) => {
            *failed = true;
            why.set();
            -1
        }
    }
}

/// How often it was called. Referring to the function here also keeps the linker from dropping it.
pub(crate) fn calls() -> u64 {
    hint::black_box(sync_file_range as extern "C" fn(c_int, i64, i64, c_uint) -> c_int);
    CALLS.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn it_syncs_and_says_when_that_fails() {
        let file = tempfile::tempfile().expect("a file");
        assert_eq!(sync_file_range(file.as_raw_fd(), 0, 0, 0), 0);
        // fdatasync refuses a pipe; whoever does not call it does not notice.
        let (pipe, _other) = nix::unistd::pipe().expect("a pipe");
        assert_eq!(sync_file_range(pipe.as_raw_fd(), 0, 0, 0), -1);
        assert_eq!(Errno::last(), Errno::EINVAL);
        assert_eq!(sync_file_range(-1, 0, 0, 0), -1);
        assert_eq!(Errno::last(), Errno::EBADF);
    }
}
