/*
 * Clocks that somebody sets, preloaded into the daemon (LD_PRELOAD). The file named by SHIFTED_CLOCK holds two numbers of 8
 * bytes, as this machine writes them, in milliseconds: by how much the wall clock is off, and by how much monotonic time.
 * The file is mapped, so a change is felt at once, as when an operator or a time server sets the clock. To shift both by the
 * same is to let time pass.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define NANOS_PER_SECOND 1000000000
#define NANOS_PER_MILLI 1000000

/* Of the wall, and of monotonic time. */
static const volatile int64_t *offsets_ms;

__attribute__((constructor)) static void begin(void)
{
    const char *name = getenv("SHIFTED_CLOCK");
    int fd = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    void *map = fd < 0 ? MAP_FAILED : mmap(NULL, 2 * sizeof *offsets_ms, PROT_READ, MAP_SHARED, fd, 0);
    /* A clock that goes right in silence would let every test pass. */
    if (map == MAP_FAILED)
        abort();
    offsets_ms = map;
    close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (failed || (clock != CLOCK_REALTIME && clock != CLOCK_MONOTONIC) || !offsets_ms)
        return failed;
    int64_t ms = offsets_ms[clock == CLOCK_MONOTONIC];
    int64_t nanos = now->tv_nsec + ms % 1000 * NANOS_PER_MILLI;
    now->tv_sec += ms / 1000 + (nanos < 0 ? -1 : nanos >= NANOS_PER_SECOND ? 1 : 0);
    now->tv_nsec = (nanos + NANOS_PER_SECOND) % NANOS_PER_SECOND;
    return 0;
}
