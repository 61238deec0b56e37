/* Records what a process does to the files below one directory (LD_PRELOAD).
 *
 * POWERCUT_WATCH names the directory (absolute, no trailing slash), POWERCUT_LOG the file that the
 * records are appended to. With POWERCUT_DIE_AFTER=n the process kills itself after n records; with
 * POWERCUT_DIE_SYNCING=1 as well, at the first sync after that, which is then not done. Every call is carried out and logged under one lock, so the log has the order in which the
 * kernel saw them. A record is `struct head` and `size` bytes (a path, two paths with a zero byte
 * between, written data, a mark's text). disk.py plays it back.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, WRITE, TRUNCATE, SYNC, CLOSE, RENAME, UNLINK, MKDIR, RMDIR, MARK, ALLOCATE, UNKNOWN };

struct head {
    uint32_t kind;
    int32_t fd;
    int64_t offset;
    uint64_t size;
};

#define FDS 65536
static unsigned char watched[FDS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char watch[4096];
static size_t watch_size;
static int log_fd = -1;
static long lives_for = -1;
static int dies_syncing;

/* The next definition of a function: the C library's. */
#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void)
{
    const char *directory = getenv("POWERCUT_WATCH"), *log = getenv("POWERCUT_LOG");
    if (!directory || !log || strlen(directory) >= sizeof watch) return;
    strcpy(watch, directory);
    watch_size = strlen(watch);
    if (getenv("POWERCUT_DIE_AFTER")) lives_for = atol(getenv("POWERCUT_DIE_AFTER"));
    dies_syncing = getenv("POWERCUT_DIE_SYNCING") != NULL;
    log_fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int below(const char *path)
{
    return log_fd >= 0 && path && !strncmp(path, watch, watch_size)
        && (path[watch_size] == '/' || path[watch_size] == 0);
}

static int is_watched(int fd) { return fd >= 0 && fd < FDS && watched[fd]; }

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static void record(uint32_t kind, int fd, int64_t offset, const void *bytes, size_t size)
{
    struct head head = {kind, fd, offset, size};
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)bytes, size}};
    if (log_fd < 0) return;
    if (syscall(SYS_writev, log_fd, parts, 2) != (long)(sizeof head + size)) abort();
    if (lives_for > 0) --lives_for;
    if (lives_for == 0 && !dies_syncing) die();
}

static void record_text(uint32_t kind, int fd, int64_t offset, const char *text)
{
    record(kind, fd, offset, text, strlen(text));
}

static void record_pair(uint32_t kind, const char *from, const char *to)
{
    size_t a = strlen(from) + 1, b = strlen(to);
    char *both = malloc(a + b);
    if (!both) abort();
    memcpy(both, from, a);
    memcpy(both + a, to, b);
    record(kind, -1, 0, both, a + b);
    free(both);
}

/* A mark of the program itself: what it has just confirmed to somebody. */
void powercut_mark(const char *text)
{
    pthread_mutex_lock(&lock);
    record_text(MARK, -1, 0, text);
    pthread_mutex_unlock(&lock);
}

/* -- opening and closing ------------------------------------------------------------------ */

static int opened(int directory, const char *path, int flags, mode_t mode)
{
    int fd, error;
    if (!below(path)) {
        fd = (int)syscall(SYS_openat, directory, path, flags, mode);
        if (fd >= 0 && fd < FDS) watched[fd] = 0;
        return fd;
    }
    pthread_mutex_lock(&lock);
    fd = (int)syscall(SYS_openat, directory, path, flags, mode);
    error = errno;
    if (fd >= 0) {
        if (fd >= FDS) abort();
        watched[fd] = 1;
        record_text(OPEN, fd, flags & O_TRUNC ? 1 : 0, path);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

#define MODE(flags, mode) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) { MODE(flags, mode) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags, mode) return opened(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags, mode) return opened(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags, mode) return opened(at, path, flags, mode); }
int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int fd)
{
    int result;
    if (!is_watched(fd)) return (int)syscall(SYS_close, fd);
    pthread_mutex_lock(&lock);
    watched[fd] = 0;
    record(CLOSE, fd, 0, "", 0);
    result = (int)syscall(SYS_close, fd);
    pthread_mutex_unlock(&lock);
    return result;
}

/* -- content ------------------------------------------------------------------------------- */

static ssize_t written(int fd, const void *bytes, ssize_t count, int64_t offset)
{
    int error = errno;
    if (count > 0) record(WRITE, fd, offset, bytes, (size_t)count);
    pthread_mutex_unlock(&lock);
    errno = error;
    return count;
}

ssize_t write(int fd, const void *bytes, size_t size)
{
    ssize_t count;
    if (!is_watched(fd)) return syscall(SYS_write, fd, bytes, size);
    pthread_mutex_lock(&lock);
    count = syscall(SYS_write, fd, bytes, size);
    /* Asked afterwards, so that O_APPEND is right too. */
    return written(fd, bytes, count, count > 0 ? lseek(fd, 0, SEEK_CUR) - count : 0);
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t offset)
{
    if (!is_watched(fd)) return syscall(SYS_pwrite64, fd, bytes, size, offset);
    pthread_mutex_lock(&lock);
    return written(fd, bytes, syscall(SYS_pwrite64, fd, bytes, size, offset), offset);
}
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) { return pwrite64(fd, bytes, size, offset); }

int ftruncate64(int fd, off64_t size)
{
    int result, error;
    if (!is_watched(fd)) return (int)syscall(SYS_ftruncate, fd, size);
    pthread_mutex_lock(&lock);
    result = (int)syscall(SYS_ftruncate, fd, size);
    error = errno;
    if (result == 0) record(TRUNCATE, fd, size, "", 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

static int synced(long call, int fd)
{
    int result, error;
    if (!is_watched(fd)) return (int)syscall(call, fd);
    pthread_mutex_lock(&lock);
    if (lives_for == 0) die();
    result = (int)syscall(call, fd);
    error = errno;
    if (result == 0) record(SYNC, fd, 0, "", 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
int fsync(int fd) { return synced(SYS_fsync, fd); }
int fdatasync(int fd) { return synced(SYS_fdatasync, fd); }

static void allocated(int fd, int mode, int64_t offset, int64_t size)
{
    /* Space only, or zeros at the end: the record holds where the file then ends. */
    if (mode == 0) record(ALLOCATE, fd, offset + size, "", 0);
    else if (!(mode & FALLOC_FL_KEEP_SIZE)) record_text(UNKNOWN, fd, 0, "fallocate");
}

int fallocate64(int fd, int mode, off64_t offset, off64_t size)
{
    int result, error;
    pthread_mutex_lock(&lock);
    result = (int)syscall(SYS_fallocate, fd, mode, offset, size);
    error = errno;
    if (result == 0 && is_watched(fd)) allocated(fd, mode, offset, size);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
int fallocate(int fd, int mode, off_t offset, off_t size) { return fallocate64(fd, mode, offset, size); }

int posix_fallocate64(int fd, off64_t offset, off64_t size)
{
    return fallocate64(fd, 0, offset, size) ? errno : 0;
}
int posix_fallocate(int fd, off_t offset, off_t size) { return posix_fallocate64(fd, offset, size); }

/* -- names --------------------------------------------------------------------------------- */

static int renamed(int from_at, const char *from, int to_at, const char *to, unsigned flags)
{
    int result, error;
    pthread_mutex_lock(&lock);
    result = (int)syscall(SYS_renameat2, from_at, from, to_at, to, flags);
    error = errno;
    if (result == 0 && (below(from) || below(to))) record_pair(RENAME, from, to);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int fa, const char *from, int ta, const char *to) { return renamed(fa, from, ta, to, 0); }
int renameat2(int fa, const char *from, int ta, const char *to, unsigned flags) { return renamed(fa, from, ta, to, flags); }

static int removed(int at, const char *path, int flags)
{
    int result, error;
    pthread_mutex_lock(&lock);
    result = (int)syscall(SYS_unlinkat, at, path, flags);
    error = errno;
    if (result == 0 && below(path)) record_text(flags & AT_REMOVEDIR ? RMDIR : UNLINK, -1, 0, path);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
int unlink(const char *path) { return removed(AT_FDCWD, path, 0); }
int unlinkat(int at, const char *path, int flags) { return removed(at, path, flags); }
int rmdir(const char *path) { return removed(AT_FDCWD, path, AT_REMOVEDIR); }

static int made(int at, const char *path, mode_t mode)
{
    int result, error;
    pthread_mutex_lock(&lock);
    result = (int)syscall(SYS_mkdirat, at, path, mode);
    error = errno;
    if (result == 0 && below(path)) record_text(MKDIR, -1, 0, path);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
int mkdir(const char *path, mode_t mode) { return made(AT_FDCWD, path, mode); }
int mkdirat(int at, const char *path, mode_t mode) { return made(at, path, mode); }

/* -- what cannot be played back is at least seen --------------------------------------------- */

static void seen(int fd, const char *name)
{
    if (!is_watched(fd)) return;
    pthread_mutex_lock(&lock);
    record_text(UNKNOWN, fd, 0, name);
    pthread_mutex_unlock(&lock);
}

void *mmap64(void *at, size_t size, int protection, int flags, int fd, off64_t offset)
{
    /* SQLite maps `-shm` so; disk.py lets it pass for those files alone. */
    if (flags & MAP_SHARED && protection & PROT_WRITE) seen(fd, "mmap");
    return (void *)syscall(SYS_mmap, at, size, protection, flags, fd, offset);
}
void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) { return mmap64(at, size, protection, flags, fd, offset); }

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    seen(fd, "writev");
    return syscall(SYS_writev, fd, parts, count);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    REAL(ssize_t, pwritev, int, const struct iovec *, int, off_t);
    seen(fd, "pwritev");
    return real(fd, parts, count, offset);
}

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags)
{
    seen(out, "copy_file_range");
    return syscall(SYS_copy_file_range, in, from, out, to, size, flags);
}

ssize_t sendfile64(int out, int in, off64_t *offset, size_t size)
{
    seen(out, "sendfile");
    return syscall(SYS_sendfile, out, in, offset, size);
}
ssize_t sendfile(int out, int in, off_t *offset, size_t size) { return sendfile64(out, in, offset, size); }

int link(const char *from, const char *to)
{
    if (below(from)) record_pair(UNKNOWN, "link", to);
    return (int)syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int dup2(int from, int to)
{
    seen(from, "dup2");
    if (to >= 0 && to < FDS) watched[to] = 0;
    return (int)syscall(SYS_dup3, from, to, 0);
}
