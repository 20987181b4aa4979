/* The time of day of a process, off by as many seconds as stand in the file that CLOCK_SHIFT names, as read each time.
   Monotonic clocks and sleeping stay what they are: cc -shared -fPIC -o wrong_clock.so _wrong_clock.c; LD_PRELOAD it. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
  long result = syscall(SYS_clock_gettime, clock, now), seconds = 0;
  FILE *file = clock == CLOCK_REALTIME && getenv("CLOCK_SHIFT") ? fopen(getenv("CLOCK_SHIFT"), "r") : NULL;
  if (file) {
    if (fscanf(file, "%ld", &seconds) == 1) now->tv_sec += seconds;
    fclose(file);
  }
  return (int)result;
}
