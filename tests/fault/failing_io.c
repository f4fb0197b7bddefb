/* A disk that fails or keeps a diary, below one directory and nowhere else. Preloaded into a test's process.
 *
 * io_fail(n, error, forever): the n-th write-like call from now on fails with that errno; with `forever` so do all later ones.
 * io_fired(): how many calls failed.
 * io_record(path): from now on each write-like call that succeeded is written to that file, in order; NULL ends it.
 * A process started with FAILING_IO="DIRECTORY\tN\tERROR\tFOREVER\tTOLD\tONLY" has made the first two calls already, and so have the
 * processes that it starts, each with a count of its own. ONLY: not those without this text among their arguments. The file
 * TOLD appears with the first failure.
 * Write-like: write, writev, pwrite, fsync, fdatasync, ftruncate, rename, mkdir, and open of a file that is not there yet.
 * unlink is recorded but never fails: a full disk must still let go of things.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char below[PATH_MAX];
static size_t below_length;
static long countdown, fired;
static int fail_with, fail_forever, diary = -1;
static char told[PATH_MAX];

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void io_below(const char *directory) {
    below_length = (size_t)snprintf(below, sizeof below, "%s", directory);
}

void io_fail(long n, int error, int forever) {
    countdown = n;
    fail_with = error;
    fail_forever = forever;
    fired = 0;
}

long io_fired(void) { return fired; }

void io_record(const char *path) {
    diary = path ? REAL(open)(path, O_WRONLY | O_CREAT | O_TRUNC, 0600) : -1;
}

static int is_below(const char *path) {
    return below_length && strncmp(path, below, below_length) == 0 && (path[below_length] == '/' || !path[below_length]);
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return is_below(path);
}

/* Whether this call is to fail. */
static int fails(void) {
    if (!fail_with) return 0;
    pthread_mutex_lock(&lock);
    countdown--;
    int now = countdown == 0 || (fail_forever && countdown < 0);
    fired += now;
    pthread_mutex_unlock(&lock);
    if (now && told[0]) close(REAL(open)(told, O_WRONLY | O_CREAT, 0600));
    if (now) errno = fail_with;
    return now;
}

static void put(const void *data, size_t size) {
    while (size) {
        ssize_t done = REAL(write)(diary, data, size);
        if (done <= 0) abort();
        data = (const char *)data + done;
        size -= (size_t)done;
    }
}

/* One line of the diary: what, at which offset, which path, the second path or the bytes. */
static void note(char what, const char *path, uint64_t offset, const void *data, uint64_t size) {
    if (diary < 0) return;
    int saved = errno;
    uint64_t head[4] = {(uint64_t)what, offset, strlen(path), size};
    pthread_mutex_lock(&lock);
    put(head, sizeof head);
    put(path, head[2]);
    put(data, size);
    pthread_mutex_unlock(&lock);
    errno = saved;
}

/* Where the next write goes. */
static off_t position(int fd) {
    struct stat status;
    int appends = REAL(fcntl)(fd, F_GETFL) & O_APPEND;
    return appends && fstat(fd, &status) == 0 ? status.st_size : lseek(fd, 0, SEEK_CUR);
}

ssize_t write(int fd, const void *data, size_t size) {
    char path[PATH_MAX];
    int ours = path_of(fd, path);
    if (ours && fails()) return -1;
    off_t offset = ours ? position(fd) : 0;
    ssize_t done = REAL(write)(fd, data, size);
    if (ours && done > 0) note('w', path, (uint64_t)offset, data, (uint64_t)done);
    return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    char path[PATH_MAX];
    int ours = path_of(fd, path);
    if (ours && fails()) return -1;
    off_t offset = ours ? position(fd) : 0;
    ssize_t done = REAL(writev)(fd, parts, count);
    ssize_t left = ours && diary >= 0 ? done : 0;
    for (int i = 0; i < count && left > 0; i++) {
        size_t size = parts[i].iov_len < (size_t)left ? parts[i].iov_len : (size_t)left;
        note('w', path, (uint64_t)(offset + done - left), parts[i].iov_base, size);
        left -= (ssize_t)size;
    }
    return done;
}

static ssize_t write_at(int fd, const void *data, size_t size, off_t offset) {
    char path[PATH_MAX];
    int ours = path_of(fd, path);
    if (ours && fails()) return -1;
    ssize_t done = REAL(pwrite64)(fd, data, size, offset);
    if (ours && done > 0) note('w', path, (uint64_t)offset, data, (uint64_t)done);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return write_at(fd, data, size, offset); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) { return write_at(fd, data, size, offset); }

static int sync_with(int (*real)(int), int fd) {
    char path[PATH_MAX];
    int ours = path_of(fd, path);
    if (ours && fails()) return -1;
    int result = real(fd);
    if (ours && result == 0) note('s', path, 0, "", 0);
    return result;
}

int fsync(int fd) { return sync_with(REAL(fsync), fd); }
int fdatasync(int fd) { return sync_with(REAL(fdatasync), fd); }

static int truncate_to(int fd, off_t size) {
    char path[PATH_MAX];
    int ours = path_of(fd, path);
    if (ours && fails()) return -1;
    int result = REAL(ftruncate64)(fd, size);
    if (ours && result == 0) note('t', path, (uint64_t)size, "", 0);
    return result;
}

int ftruncate(int fd, off_t size) { return truncate_to(fd, size); }
int ftruncate64(int fd, off64_t size) { return truncate_to(fd, size); }

int rename(const char *from, const char *to) {
    int ours = is_below(to);
    if (ours && fails()) return -1;
    int result = REAL(rename)(from, to);
    if (ours && result == 0) note('r', from, 0, to, strlen(to));
    return result;
}

int mkdir(const char *path, mode_t mode) {
    int ours = is_below(path) && access(path, F_OK) != 0;
    if (ours && fails()) return -1;
    int result = REAL(mkdir)(path, mode);
    if (ours && result == 0) note('m', path, 0, "", 0);
    return result;
}

int unlink(const char *path) {
    int result = REAL(unlink)(path);
    if (is_below(path) && result == 0) note('u', path, 0, "", 0);
    return result;
}

static int open_with(int (*real)(const char *, int, ...), const char *path, int flags, mode_t mode) {
    int creates = (flags & O_CREAT) && is_below(path) && access(path, F_OK) != 0;
    if (creates && fails()) return -1;
    int fd = real(path, flags, mode);
    if (fd >= 0 && creates) note('c', path, 0, "", 0);
    if (fd >= 0 && (flags & O_TRUNC) && !creates && is_below(path)) note('t', path, 0, "", 0);
    return fd;
}

#define OPEN(name)                                   \
    int name(const char *path, int flags, ...) {     \
        va_list rest;                                \
        va_start(rest, flags);                       \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                \
        return open_with(REAL(name), path, flags, mode); \
    }

OPEN(open)
OPEN(open64)

/* A format of sscanf: at most as many characters of a path as there is room for. */
#define A_PATH "%4095[^\t]\t"

__attribute__((constructor)) static void obey_the_environment(int count, char **arguments) {
    const char *order = getenv("FAILING_IO");
    char directory[PATH_MAX], file[PATH_MAX], only[PATH_MAX] = "";
    long n;
    int error, forever;
    if (!order || sscanf(order, A_PATH "%ld\t%d\t%d\t" A_PATH "%4095[^\t]", directory, &n, &error, &forever, file, only) < 5)
        return;
    int meant = !only[0];
    for (int i = 0; i < count; i++) meant |= strstr(arguments[i], only) != NULL;
    if (!meant) return;
    memcpy(told, file, sizeof told);
    io_below(directory);
    io_fail(n, error, forever);
}
