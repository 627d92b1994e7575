/*
 * A library to preload: on command, malloc(3) and similar functions fail for callers in the memstat
 * module. The test writes two 64-bit numbers to the file in REFUSE:
 *
 *     order   0: nothing fails; N: the Nth allocation of the module from now on fails, once;
 *             -1: all fail
 *     count   the number of allocations of the module since the order; the test sets it to 0
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static volatile int64_t *order;

/* The addresses of the module's code, once it is loaded. */
static uintptr_t start, end;

static int
is_module(void *caller)
{
    Dl_info info;
    uintptr_t address = (uintptr_t) caller;

    if (start == 0) {
        if (!dladdr(caller, &info) || !strstr(info.dli_fname, "ngx_http_memstat_module")) {
            return 0;
        }
        start = (uintptr_t) info.dli_fbase;
        end = start + (64 << 20);
    }

    return address >= start && address < end
        && dladdr(caller, &info) && (uintptr_t) info.dli_fbase == start;
}

static int
refuses(void *caller)
{
    static __thread int inside;

    if (order == NULL || order[0] == 0 || inside) {
        return 0;
    }

    inside = 1;
    int is = is_module(caller);
    inside = 0;

    if (!is) {
        return 0;
    }

    int64_t count = __atomic_add_fetch(&order[1], 1, __ATOMIC_RELAXED);

    if (order[0] == -1 || order[0] == count) {
        errno = ENOMEM;
        return 1;
    }

    return 0;
}

void *
malloc(size_t size)
{
    return refuses(__builtin_return_address(0)) ? NULL : __libc_malloc(size);
}

void *
calloc(size_t count, size_t size)
{
    return refuses(__builtin_return_address(0)) ? NULL : __libc_calloc(count, size);
}

void *
realloc(void *pointer, size_t size)
{
    return refuses(__builtin_return_address(0)) ? NULL : __libc_realloc(pointer, size);
}

int
posix_memalign(void **pointer, size_t alignment, size_t size)
{
    if (refuses(__builtin_return_address(0))) {
        return ENOMEM;
    }
    *pointer = __libc_memalign(alignment, size);
    return *pointer ? 0 : ENOMEM;
}

__attribute__((constructor)) static void
begin(void)
{
    const char *path = getenv("REFUSE");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;

    if (file != -1) {
        void *map = mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        order = map == MAP_FAILED ? NULL : map;
        close(file);
    }
}
