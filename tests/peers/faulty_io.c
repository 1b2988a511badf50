/*
 * A disk that fails at the n-th call, preloaded into the daemon (LD_PRELOAD). It counts the calls that change or sync
 * files below one folder, in all threads together, and lets one of them fail, or that one and all after it.
 *
 *   FAULTY_IO_BELOW   the folder; nothing outside of it is counted
 *   FAULTY_IO_AT      the number of the call that fails, from 1; 0 or absent: none does
 *   FAULTY_IO_WAY     eio, enospc; torn (half of a write is written, then EIO); short (half is written, and said so)
 *   FAULTY_IO_LASTS   once, or always: every call from that one on fails
 *   FAULTY_IO_BOOK    a file outside of the folder, for what happened, a line each:
 *                       struck N CALL PATH     this call failed
 *                       resynced N CALL PATH   a file was synced again after its sync had failed
 *                       calls N                at the end: so many there were; not written by a process that is killed
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* More files than the daemon has open. */
#define UNSYNCED_MAX 64
/* A path, and what is said of it. */
#define LINE_MAX_LEN (PATH_MAX + 64)

enum way { WAY_EIO, WAY_ENOSPC, WAY_TORN, WAY_SHORT };

/* What a call does. */
enum verdict { GOES_ON, FAILS, HALF_THEN_FAILS, HALF };

static const char *below;
static size_t below_len;
static long fails_at;
static enum way way;
static int always;
static int book = -1;
static atomic_long calls;

/* The files whose sync has failed. */
static struct { dev_t device; ino_t inode; } unsynced[UNSYNCED_MAX];
static atomic_int unsynced_len;

static void say(const char *line, int len)
{
    if (book >= 0 && len > 0)
        syscall(SYS_write, book, line, (size_t)len);
}

static void note(const char *what, long number, const char *call, const char *path)
{
    char line[LINE_MAX_LEN];
    int len = snprintf(line, sizeof line, "%s %ld %s %s\n", what, number, call, path);
    say(line, len);
}

__attribute__((constructor)) static void begin(void)
{
    const char *at = getenv("FAULTY_IO_AT"), *how = getenv("FAULTY_IO_WAY");
    const char *lasts = getenv("FAULTY_IO_LASTS"), *name = getenv("FAULTY_IO_BOOK");
    below = getenv("FAULTY_IO_BELOW");
    below_len = below ? strlen(below) : 0;
    fails_at = at ? atol(at) : 0;
    way = !how || !strcmp(how, "eio") ? WAY_EIO : !strcmp(how, "enospc") ? WAY_ENOSPC : !strcmp(how, "torn") ? WAY_TORN : WAY_SHORT;
    always = lasts && !strcmp(lasts, "always");
    if (name) {
        int fd = (int)syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        /* Out of the way of descriptors that are passed in from 3 on. */
        book = fcntl(fd, F_DUPFD_CLOEXEC, 100);
        close(fd);
    }
}

__attribute__((destructor)) static void end(void)
{
    char line[LINE_MAX_LEN];
    say(line, snprintf(line, sizeof line, "calls %ld\n", atomic_load(&calls)));
}

static int is_below(const char *path)
{
    return below_len && !strncmp(path, below, below_len) && (path[below_len] == '/' || path[below_len] == 0);
}

/* The path of a descriptor, if it lies below the folder. */
static int path_of(int fd, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long len = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    if (len < 0)
        return 0;
    path[len] = 0;
    return is_below(path);
}

/* Counts a call on a path, and says what becomes of it. */
static enum verdict count(const char *call, const char *path, int writes)
{
    long number = atomic_fetch_add(&calls, 1) + 1;
    if (!fails_at || number < fails_at || (number > fails_at && !always))
        return GOES_ON;
    note("struck", number, call, path);
    errno = way == WAY_ENOSPC ? ENOSPC : EIO;
    if (writes && way == WAY_TORN)
        return HALF_THEN_FAILS;
    if (writes && way == WAY_SHORT)
        return HALF;
    return FAILS;
}

static enum verdict count_write(const char *call, int fd)
{
    char path[PATH_MAX];
    int saved = errno;
    if (!path_of(fd, path)) {
        errno = saved;
        return GOES_ON;
    }
    return count(call, path, 1);
}

/* Notes a sync of a file whose last one has failed: the kernel may have dropped its pages, so it would lie. */
static enum verdict count_sync(const char *call, int fd)
{
    char path[PATH_MAX];
    struct stat file;
    int saved = errno;
    if (!path_of(fd, path) || fstat(fd, &file)) {
        errno = saved;
        return GOES_ON;
    }
    int failed = atomic_load(&unsynced_len);
    for (int at = 0; at < failed && at < UNSYNCED_MAX; at++)
        if (unsynced[at].device == file.st_dev && unsynced[at].inode == file.st_ino)
            note("resynced", atomic_load(&calls) + 1, call, path);
    enum verdict verdict = count(call, path, 0);
    if (verdict == FAILS) {
        int at = atomic_fetch_add(&unsynced_len, 1);
        if (at < UNSYNCED_MAX) {
            unsynced[at].device = file.st_dev;
            unsynced[at].inode = file.st_ino;
        }
    }
    return verdict;
}

static enum verdict count_name(const char *call, int folder, const char *name)
{
    char path[PATH_MAX];
    int saved = errno;
    if (name[0] == '/' || folder == AT_FDCWD) {
        snprintf(path, sizeof path, "%s", name);
    } else if (path_of(folder, path)) {
        size_t len = strlen(path);
        snprintf(path + len, sizeof path - len, "/%s", name);
    } else {
        path[0] = 0;
    }
    errno = saved;
    return is_below(path) ? count(call, path, 0) : GOES_ON;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) \
        real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define WRITE(fd, size, half, whole) \
    switch (count_write(__func__, fd)) { \
    case GOES_ON: return whole; \
    case FAILS: return -1; \
    case HALF: if ((size) > 1) return half; return whole; \
    case HALF_THEN_FAILS: \
        if ((size) > 1 && (half) < 0) return -1; \
        errno = EIO; \
        return -1; \
    } \
    return -1

ssize_t write(int fd, const void *bytes, size_t size)
{
    REAL(ssize_t, "write", int, const void *, size_t);
    WRITE(fd, size, real(fd, bytes, size / 2), real(fd, bytes, size));
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at)
{
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    WRITE(fd, size, real(fd, bytes, size / 2, at), real(fd, bytes, size, at));
}

/* Half of a vector is the half of its first piece. */
ssize_t writev(int fd, const struct iovec *pieces, int len)
{
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    struct iovec half = { len ? pieces[0].iov_base : NULL, len ? pieces[0].iov_len / 2 : 0 };
    WRITE(fd, len ? pieces[0].iov_len : 0, real(fd, &half, 1), real(fd, pieces, len));
}

int fsync(int fd)
{
    REAL(int, "fsync", int);
    return count_sync("fsync", fd) == GOES_ON ? real(fd) : -1;
}

int fdatasync(int fd)
{
    REAL(int, "fdatasync", int);
    return count_sync("fdatasync", fd) == GOES_ON ? real(fd) : -1;
}

int ftruncate64(int fd, off64_t size)
{
    REAL(int, "ftruncate64", int, off64_t);
    char path[PATH_MAX];
    return !path_of(fd, path) || count("ftruncate", path, 0) == GOES_ON ? real(fd, size) : -1;
}

int rename(const char *from, const char *to)
{
    REAL(int, "rename", const char *, const char *);
    return count_name("rename", AT_FDCWD, to) == GOES_ON ? real(from, to) : -1;
}

int unlink(const char *name)
{
    REAL(int, "unlink", const char *);
    return count_name("unlink", AT_FDCWD, name) == GOES_ON ? real(name) : -1;
}

int unlinkat(int folder, const char *name, int flags)
{
    REAL(int, "unlinkat", int, const char *, int);
    return count_name("unlink", folder, name) == GOES_ON ? real(folder, name, flags) : -1;
}

int linkat(int from_folder, const char *from, int folder, const char *to, int flags)
{
    REAL(int, "linkat", int, const char *, int, const char *, int);
    return count_name("link", folder, to) == GOES_ON ? real(from_folder, from, folder, to, flags) : -1;
}

int mkdir(const char *name, mode_t mode)
{
    REAL(int, "mkdir", const char *, mode_t);
    return count_name("mkdir", AT_FDCWD, name) == GOES_ON ? real(name, mode) : -1;
}

/* Opening counts where it may make a file. */
#define OPEN(folder, name, flags, call) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
        if (count_name("create", folder, name) != GOES_ON) \
            return -1; \
    } \
    return call

int open(const char *name, int flags, ...)
{
    REAL(int, "open", const char *, int, ...);
    OPEN(AT_FDCWD, name, flags, real(name, flags, mode));
}

int open64(const char *name, int flags, ...)
{
    REAL(int, "open64", const char *, int, ...);
    OPEN(AT_FDCWD, name, flags, real(name, flags, mode));
}

int openat64(int folder, const char *name, int flags, ...)
{
    REAL(int, "openat64", int, const char *, int, ...);
    OPEN(folder, name, flags, real(folder, name, flags, mode));
}
