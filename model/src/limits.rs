//! Limits that more than one layer must know. Each layer keeps its own beside its code.

/// Recipients of one message: their states live in the message's row, which the store caps at 4 KiB.
pub const RECIPIENTS_MAX: usize = 10;
/// A message's size in bytes, announced with SIZE (25 MiB, as the large providers take).
pub const MESSAGE_BYTES_MAX: usize = 25 * 1024 * 1024;
/// Rows in one page of a list.
pub const PAGE_MAX: usize = 500;
/// Characters kept of a server's answer.
pub const REPLY_CHARS_MAX: usize = 200;
/// Characters kept of a subject.
pub const SUBJECT_CHARS_MAX: usize = 200;
/// Partners that an inbox remembers: three days of threads at full ramp, in 1.5 KB of its row.
pub const PARTNERS_MAX: usize = 60;
