/* Preloaded by test_sync_fails.py: once the file named by FAIL_WHEN exists, syncing any file whose
   path holds FAIL_PATH says EIO, as a disk does that lost what it had accepted. Each such call
   leaves one byte in the file named by FAIL_COUNT. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fails(int fd)
{
    const char *when = getenv("FAIL_WHEN"), *part = getenv("FAIL_PATH"), *count = getenv("FAIL_COUNT");
    char link[64], path[4096];
    if (!when || !part || !count || access(when, F_OK) != 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    if (!strstr(path, part))
        return 0;
    int log = open(count, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (log >= 0) {
        if (write(log, "x", 1) < 0)
            abort();
        close(log);
    }
    errno = EIO;
    return 1;
}

int fsync(int fd)
{
    static int (*real)(int);
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return fails(fd) ? -1 : real(fd);
}

int fdatasync(int fd)
{
    static int (*real)(int);
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return fails(fd) ? -1 : real(fd);
}
