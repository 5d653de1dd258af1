// Loaded before the C library: counts the calls of a program that change files, and makes one of them fail.
//
// FAULT_COUNT  a file that the number of calls is written to at the end
// FAULT_AT     the call that fails, from 0
// FAULT_KIND   what it does: "kill" the program, "full" or "io" errors, "cut" the file FAULT_FILE to a quarter and go on
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_int calls;

#define REAL(name)                                     \
    static __typeof__(&name) real;                     \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static void cut(void) {
    const char *path = getenv("FAULT_FILE");
    struct stat meta;
    if (path && stat(path, &meta) == 0 && truncate(path, meta.st_size / 4) != 0) abort();
}

// The error of this call, or 0.
static int fault(void) {
    const char *at = getenv("FAULT_AT"), *kind = getenv("FAULT_KIND");
    int call = atomic_fetch_add(&calls, 1);
    if (!at || !kind || call != atoi(at)) return 0;
    if (!strcmp(kind, "kill")) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    if (!strcmp(kind, "cut")) {
        cut();
        return 0;
    }
    return !strcmp(kind, "full") ? ENOSPC : EIO;
}

// Regular files and folders alone: standard streams and pipes are somebody else's.
static int fault_of(int fd) {
    struct stat meta;
    if (fd <= 2 || fstat(fd, &meta) != 0 || !(S_ISREG(meta.st_mode) || S_ISDIR(meta.st_mode))) return 0;
    return fault();
}

#define FAIL(code)        \
    do {                  \
        int e = (code);   \
        if (e) {          \
            errno = e;    \
            return -1;    \
        }                 \
    } while (0)

ssize_t write(int fd, const void *b, size_t n) { REAL(write); FAIL(fault_of(fd)); return real(fd, b, n); }
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t at) { REAL(pwrite64); FAIL(fault_of(fd)); return real(fd, b, n, at); }
int fsync(int fd) { REAL(fsync); FAIL(fault_of(fd)); return real(fd); }
int fdatasync(int fd) { REAL(fdatasync); FAIL(fault_of(fd)); return real(fd); }
int ftruncate64(int fd, off64_t n) { REAL(ftruncate64); FAIL(fault_of(fd)); return real(fd, n); }
int fchmod(int fd, mode_t m) { REAL(fchmod); FAIL(fault_of(fd)); return real(fd, m); }
int unlink(const char *p) { REAL(unlink); FAIL(fault()); return real(p); }
int unlinkat(int d, const char *p, int f) { REAL(unlinkat); FAIL(fault()); return real(d, p, f); }
int rmdir(const char *p) { REAL(rmdir); FAIL(fault()); return real(p); }
int rename(const char *a, const char *b) { REAL(rename); FAIL(fault()); return real(a, b); }
int renameat2(int x, const char *a, int y, const char *b, unsigned f) { REAL(renameat2); FAIL(fault()); return real(x, a, y, b, f); }
int link(const char *a, const char *b) { REAL(link); FAIL(fault()); return real(a, b); }
int linkat(int x, const char *a, int y, const char *b, int f) { REAL(linkat); FAIL(fault()); return real(x, a, y, b, f); }
int mkdir(const char *p, mode_t m) { REAL(mkdir); FAIL(fault()); return real(p, m); }

int open64(const char *p, int flags, ...) {
    REAL(open64);
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    va_end(more);
    if (flags & O_CREAT) FAIL(fault());
    return real(p, flags, mode);
}

__attribute__((destructor)) static void count(void) {
    const char *path = getenv("FAULT_COUNT");
    FILE *out = path ? fopen(path, "w") : NULL;
    if (out) {
        fprintf(out, "%d\n", atomic_load(&calls));
        fclose(out);
    }
}
