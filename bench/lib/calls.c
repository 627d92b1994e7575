/*
 * A library to preload: measures the time of each process in system calls, by function and by the file
 * below /proc, if any, that the call is for. The sums are in the file BENCH_SHARED: the number of
 * processes, and for each its pid and its kinds of calls (a name, their number, and nanoseconds). Time is
 * wall-clock time, except for calls that sleep or wake another process, which may then take the processor:
 * for these it is CPU time, which is more expensive to read.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PROCESSES 16
#define KINDS 64
#define FILES 16
#define DESCRIPTORS 4096

struct kind { char name[48]; uint64_t calls, time; };
struct process { uint64_t pid; struct kind kinds[KINDS]; };
struct shared { _Atomic uint64_t count; struct process processes[PROCESSES]; };

static struct shared *shared;
static struct process *mine;
static int kinds;
/* The names of files below /proc; 0 is any other file. Then the file of each descriptor. */
static char files[FILES][32];
static int file_count = 1;
static unsigned char file_of[DESCRIPTORS];

static void forked(void) { mine = NULL; }

__attribute__((constructor)) static void begin(void)
{
    int fd = open(getenv("BENCH_SHARED"), O_RDWR | O_CLOEXEC);
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED) {
        abort();
    }
    close(fd);
    pthread_atfork(NULL, NULL, forked);
}

static uint64_t now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* Returns the kind of a call in this process. known: where the function keeps its kinds, by file. */
static struct kind *kind(struct kind **known, struct process **of, const char *function, int file)
{
    if (shared == NULL) {
        return NULL;
    }
    if (mine == NULL) {
        uint64_t place = atomic_fetch_add(&shared->count, 1);
        if (place >= PROCESSES) {
            abort();
        }
        mine = &shared->processes[place];
        kinds = 0;
        mine->pid = getpid();
    }
    if (*of != mine) {
        memset(known, 0, FILES * sizeof(*known));
        *of = mine;
    }
    if (known[file] == NULL) {
        if (kinds == KINDS) {
            abort();
        }
        known[file] = &mine->kinds[kinds++];
        snprintf(known[file]->name, sizeof(known[file]->name), "%s %s", function, files[file]);
    }
    return known[file];
}

#define MEASURED(clock, type, function, file, arguments)                              \
    static __typeof__(&function) next;                                                \
    static struct kind *known[FILES];                                                 \
    static struct process *of;                                                        \
    if (next == NULL) {                                                               \
        next = (__typeof__(&function)) dlsym(RTLD_NEXT, #function);                   \
    }                                                                                 \
    struct kind *measured = kind(known, &of, #function, file);                        \
    uint64_t begun = now(clock);                                                      \
    type result = next arguments;                                                     \
    if (measured != NULL) {                                                           \
        measured->time += now(clock) - begun;                                         \
        measured->calls++;                                                            \
    }

#define CALL(clock, type, function, file, parameters, arguments)                            \
    type function parameters                                                          \
    {                                                                                 \
        MEASURED(CLOCK_##clock, type, function, file, arguments)                      \
        return result;                                                                \
    }

#define OF(fd) ((unsigned) (fd) < DESCRIPTORS ? file_of[fd] : 0)

/* Returns the number of a path below /proc. All processes have the same number. */
static int file(const char *path)
{
    char name[sizeof(files[0])];
    const char *rest = path + 6;
    int i;

    if (strncmp(path, "/proc/", 6) != 0) {
        return 0;
    }
    rest += strspn(rest, "0123456789");
    snprintf(name, sizeof(name), "/proc/%s%s", rest == path + 6 ? "" : "PID", rest);
    for (i = 1; i < file_count; i++) {
        if (strcmp(files[i], name) == 0) {
            return i;
        }
    }
    if (file_count == FILES) {
        abort();
    }
    strcpy(files[file_count], name);
    return file_count++;
}

#define OPEN(function)                                                                \
    int function(const char *path, int flags, ...)                                    \
    {                                                                                 \
        va_list rest;                                                                 \
        int which = file(path), mode;                                                 \
                                                                                      \
        va_start(rest, flags);                                                        \
        mode = va_arg(rest, int);                                                     \
        va_end(rest);                                                                 \
        MEASURED(CLOCK_MONOTONIC, int, function, which, (path, flags, mode))          \
        if ((unsigned) result < DESCRIPTORS) {                                        \
            file_of[result] = which;                                                  \
        }                                                                             \
        return result;                                                                \
    }

OPEN(open)
OPEN(open64)

int ioctl(int fd, unsigned long request, ...)
{
    va_list rest;
    void *argument;

    va_start(rest, request);
    argument = va_arg(rest, void *);
    va_end(rest);
    MEASURED(CLOCK_MONOTONIC, int, ioctl, OF(fd), (fd, request, argument))
    return result;
}

int epoll_wait(int fd, struct epoll_event *events, int most, int timeout)
{
    MEASURED(CLOCK_THREAD_CPUTIME_ID, int, epoll_wait, 0, (fd, events, most, timeout))
    return result;
}

int close(int fd)
{
    MEASURED(CLOCK_MONOTONIC, int, close, OF(fd), (fd))
    if ((unsigned) fd < DESCRIPTORS) {
        file_of[fd] = 0;
    }
    return result;
}

CALL(MONOTONIC, ssize_t, read, OF(fd), (int fd, void *to, size_t size), (fd, to, size))
CALL(MONOTONIC, ssize_t, pread64, OF(fd), (int fd, void *to, size_t size, off64_t at), (fd, to, size, at))
CALL(THREAD_CPUTIME_ID, ssize_t, write, 0, (int fd, const void *from, size_t size), (fd, from, size))
CALL(THREAD_CPUTIME_ID, ssize_t, writev, 0, (int fd, const struct iovec *from, int count), (fd, from, count))
CALL(MONOTONIC, ssize_t, recv, 0, (int fd, void *to, size_t size, int flags), (fd, to, size, flags))
CALL(MONOTONIC, int, mincore, 0, (void *from, size_t size, unsigned char *to), (from, size, to))
CALL(MONOTONIC, ssize_t, process_vm_readv, 0,
     (pid_t pid, const struct iovec *to, unsigned long tos, const struct iovec *from, unsigned long froms,
      unsigned long flags),
     (pid, to, tos, from, froms, flags))
CALL(MONOTONIC, ssize_t, readlink, file(path), (const char *path, char *to, size_t size), (path, to, size))
CALL(MONOTONIC, int, kill, 0, (pid_t pid, int signal), (pid, signal))
CALL(MONOTONIC, pid_t, getpid, 0, (void), ())
CALL(MONOTONIC, int, statx, OF(fd), (int fd, const char *path, int flags, unsigned mask, struct statx *to),
     (fd, path, flags, mask, to))
