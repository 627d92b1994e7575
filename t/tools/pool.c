/*
 * Prints the size of a pool of another process: its blocks by their headers, and its large allocations by
 * the sizes that glibc keeps in front of them.
 *
 * usage: pool PID ADDRESS        the pool at an address
 *        pool PID cycle ADDRESS  the pool of the cycle that the pointer at an address points to
 */

#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include <ngx_config.h>
#include <ngx_core.h>

static pid_t pid;

static void
fetch(uintptr_t from, void *to, size_t size)
{
    struct iovec here = { to, size };
    struct iovec there = { (void *) from, size };

    if (process_vm_readv(pid, &here, 1, &there, 1, 0) != (ssize_t) size) {
        fprintf(stderr, "cannot read %zu bytes at %zx\n", size, (size_t) from);
        exit(1);
    }
}

/* malloc(3) keeps the size of a chunk in front of it. The lower bits say where the chunk came from. */
static size_t
usable(uintptr_t allocation)
{
    size_t size;

    fetch(allocation - sizeof(size), &size, sizeof(size));

    return (size & ~7ul) - (size & 2 ? 16 : 8);
}

int
main(int argc, char **argv)
{
    int is_cycle = argc == 4 && strcmp(argv[2], "cycle") == 0;

    if (argc != 3 && !is_cycle) {
        fprintf(stderr, "usage: pool PID [cycle] ADDRESS\n");
        return 2;
    }

    pid = atoi(argv[1]);
    uintptr_t pool = strtoul(argv[argc - 1], NULL, 16);

    if (is_cycle) {
        ngx_cycle_t cycle;
        fetch(pool, &pool, sizeof(pool));
        fetch(pool, &cycle, sizeof(cycle));
        pool = (uintptr_t) cycle.pool;
    }

    size_t bytes = 0, unused = 0, large_bytes = 0, large_count = 0;
    ngx_pool_t first;
    fetch(pool, &first, sizeof(first));

    for (uintptr_t at = pool; at != 0; ) {
        ngx_pool_data_t block;
        fetch(at, &block, sizeof(block));
        bytes += (uintptr_t) block.end - at;
        unused += block.end - block.last;
        at = (uintptr_t) block.next;
    }

    for (uintptr_t at = (uintptr_t) first.large; at != 0; ) {
        ngx_pool_large_t large;
        fetch(at, &large, sizeof(large));
        if (large.alloc != NULL) {
            large_count++;
            large_bytes += usable((uintptr_t) large.alloc);
        }
        at = (uintptr_t) large.next;
    }

    printf("bytes %zu\nunused %zu\nlarge_bytes %zu\nlarge_count %zu\n",
           bytes, unused, large_bytes, large_count);

    return 0;
}
