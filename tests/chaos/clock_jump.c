/* LD_PRELOAD: the wall clock is a day ahead while the file that CLOCK_JUMP_FILE names is there; no other clock is.
   (libfaketime 0.9.10 cannot be used: under it Python's time.sleep fails with EINVAL.) */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    const char *file = getenv("CLOCK_JUMP_FILE");
    if (clock == CLOCK_REALTIME && file && access(file, F_OK) == 0) now->tv_sec += 24 * 3600;
    return result;
}
