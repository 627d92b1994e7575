/*
 * Reads a slab pool of nginx through the mapping of a running process, with nginx's own headers. Counts
 * free pages along the free list and used slots by the bitmaps of their pages, not by the pool's counters.
 *
 *   slab PID ADDRESS            prints pages and slots as "name value" lines
 *   slab PID ADDRESS break      overwrites min_shift with an invalid value
 *   slab PID ADDRESS mend       writes the right value back
 */
#define _GNU_SOURCE
#include <ngx_config.h>
#include <ngx_core.h>
#include <sys/uio.h>

static pid_t  pid;

static void
copy(void *remote, void *local, size_t size, int write)
{
    struct iovec  here = { local, size }, there = { remote, size };
    ssize_t       n;

    n = write ? process_vm_writev(pid, &here, 1, &there, 1, 0)
              : process_vm_readv(pid, &here, 1, &there, 1, 0);
    if (n != (ssize_t) size) {
        perror("slab");
        exit(1);
    }
}

static unsigned
bits(uintptr_t word)
{
    return (unsigned) __builtin_popcountl(word);
}

int
main(int argc, char **argv)
{
    char             *at;
    size_t            shift, size, map, n, i, pages, free = 0, runs = 0, largest = 0;
    size_t            used[16] = { 0 }, total[16] = { 0 };
    uintptr_t         words[1024];
    ngx_slab_pool_t   pool;
    ngx_slab_stat_t   stats[16];
    ngx_slab_page_t  *descriptors, *page, *head, one;

    if (argc < 3) {
        return 2;
    }
    pid = atoi(argv[1]);
    at = (char *) strtoull(argv[2], NULL, 0);
    copy(at, &pool, sizeof(pool), 0);

    if (argc > 3) {
        pool.min_shift = strcmp(argv[3], "mend") == 0 ? 3 : 77;
        copy(at + offsetof(ngx_slab_pool_t, min_shift), &pool.min_shift, sizeof(size_t), 1);
        return 0;
    }

    size = sysconf(_SC_PAGESIZE);
    pages = pool.last - pool.pages;
    copy(pool.stats, stats, 9 * sizeof(ngx_slab_stat_t), 0);

    /* the free list, which ends at the pool's own head */
    head = (ngx_slab_page_t *) (at + offsetof(ngx_slab_pool_t, free));
    for (page = pool.free.next; page != head; page = one.next) {
        copy(page, &one, sizeof(one), 0);
        free += one.slab;
        runs++;
        largest = one.slab > largest ? one.slab : largest;
    }

    /* the pages with slots */
    descriptors = malloc(pages * sizeof(ngx_slab_page_t));
    copy(pool.pages, descriptors, pages * sizeof(ngx_slab_page_t), 0);
    for (i = 0; i < pages; i++) {
        page = &descriptors[i];
        switch (page->prev & 3) {
        case 1:                                     /* large slots: the bits are in "slab" */
            shift = page->slab & 0xf;
            used[shift] += bits(page->slab >> 32);
            total[shift] += size >> shift;
            break;
        case 2:                                     /* as many as bits of a word */
            used[6] += bits(page->slab);
            total[6] += size >> 6;
            break;
        case 3:                                     /* small slots: the bits are in the page */
            shift = page->slab & 0xf;
            map = (size >> shift) / 8;              /* bytes of bits */
            n = (map + (1 << shift) - 1) >> shift;  /* slots that they take */
            copy(pool.start + i * size, words, map, 0);
            used[shift] -= n;
            while (map > 0) {
                map -= sizeof(uintptr_t);
                used[shift] += bits(words[map / sizeof(uintptr_t)]);
            }
            total[shift] += (size >> shift) - n;
            break;
        }
    }

    printf("pages.total %zu\npages.used %zu\npages.free %zu\npages.free_runs %zu\n"
           "pages.largest_free_run %zu\n", pages, pages - free, free, runs, largest);
    for (shift = 3; shift < 12; shift++) {
        printf("slots.%d.used %zu\nslots.%d.free %zu\n", 1 << shift, used[shift], 1 << shift,
               total[shift] - used[shift]);
        printf("slots.%d.reqs %zu\nslots.%d.fails %zu\n", 1 << shift,
               (size_t) stats[shift - 3].reqs, 1 << shift, (size_t) stats[shift - 3].fails);
    }
    return 0;
}
