//! A test library whose pools are like nginx's.

use std::ffi::c_void;

use crate::sys::testing::Library;

/// Pools with nginx's layout, in as few lines as possible. `EXTRA` changes the layout. `PFREE` is
/// the name of the function that frees, and `FILLED` the number of places of the list that are
/// filled again.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <errno.h>
typedef struct large { struct large *next; void *alloc; } large;
typedef struct pool {
    char *last, *end; struct pool *next; uintptr_t failed;
    size_t max; struct pool *current; void *chain; large *large; void *cleanup; void *log;
    EXTRA
} pool;
volatile uintptr_t ngx_current_msec = 64000;
void *ngx_palloc(pool *, size_t);
int fails;
void fail(pool *p) { fails = p != 0; }
pool *ngx_create_pool(size_t size, void *log) {
    pool *p = aligned_alloc(16, size);
    if (fails) return 0;
    p->last = (char *) (p + 1); p->end = (char *) p + size; p->next = 0; p->failed = 0;
    p->max = size - sizeof(pool); p->current = p; p->chain = 0; p->large = 0; p->cleanup = 0;
    p->log = log;
    errno = 77;
    return p;
}
void grow(pool *p) {
    size_t size = p->end - (char *) p;
    pool *n = aligned_alloc(16, size);
    n->last = (char *) (n + 1); n->end = (char *) n + size; n->next = 0;
    while (p->next) p = p->next;
    p->next = n;
}
void enlarge(pool *p) { ngx_palloc(p, 5000); }
void enlarge_much(pool *p) { ngx_palloc(p, 90000); }
intptr_t PFREE(pool *p, void *m) {
    for (large *l = p->large; l; l = l->next) {
        if (l->alloc == m) { free(m); l->alloc = 0; errno = 77; return 0; }
    }
    errno = 77;
    return -5;
}
void give_back(pool *p) { PFREE(p, p->large->alloc); }
static void drop(pool *p) {
    for (large *l = p->large; l; l = l->next) free(l->alloc);
}
void ngx_destroy_pool(pool *p) {
    drop(p);
    for (pool *n; p; p = n) { n = p->next; free(p); }
}
void ngx_reset_pool(pool *p) { drop(p); p->large = 0; p->last = (char *) (p + 1); }
void *ngx_palloc(pool *p, size_t n) {
    void *m = p->last;
    p->last += n <= p->max ? n : sizeof(large);
    if (n <= p->max) return m;
    int left = FILLED;
    for (large *l = p->large; l && left; l = l->next, left--) {
        if (!l->alloc) return l->alloc = malloc(n);
    }
    large *l = p->last > p->end ? malloc(sizeof(large)) : m;
    l->alloc = malloc(n); l->next = p->large; p->large = l;
    return l->alloc;
}
pool *also_exported(void) { pool *p = ngx_create_pool(512, 0); __asm__(""); return p; }
pool *exported(void) { pool *p = ngx_create_pool(256, 0); __asm__(""); return p; }
static __attribute__((noinline)) pool *hidden(void) {
    pool *p = ngx_create_pool(512, 0); __asm__(""); return p;
}
pool *first(void) { pool *p = hidden(); __asm__(""); return p; }
pool *second(void) { pool *p = hidden(); __asm__(""); return p; }
static void *body(void *p) { ngx_destroy_pool(p); return 0; }
void elsewhere(pool *p) { pthread_t t; pthread_create(&t, 0, body, p); pthread_join(t, 0); }
"#;

/// The library that is built from this source.
pub struct Nginx(pub Library);

impl Nginx {
    pub fn new(extra: &str) -> Self {
        Nginx::with_pfree(extra, "ngx_pfree", 5)
    }

    pub fn with_pfree(extra: &str, name: &str, filled: u32) -> Self {
        let options = [("EXTRA", extra), ("PFREE", name), ("FILLED", &filled.to_string())];
        let options = options.map(|(name, value)| format!("-D{name}={value}"));
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let library = Library::build("nginx.so", SOURCE, &[&["-pthread"], &options[..]].concat());
        library.make_global();
        Nginx(library)
    }

    pub fn make(&self, name: &std::ffi::CStr) -> usize {
        // SAFETY: the function takes nothing and returns a pool.
        unsafe {
            std::mem::transmute::<*const c_void, extern "C" fn() -> usize>(self.0.symbol(name))()
        }
    }

    pub fn give_back(&self, pool: usize, given: usize) -> isize {
        let function = self.0.symbol(c"ngx_pfree");
        // SAFETY: the function takes a pool and an address.
        unsafe {
            std::mem::transmute::<*const c_void, extern "C" fn(usize, usize) -> isize>(function)(
                pool, given,
            )
        }
    }

    pub fn with(&self, name: &std::ffi::CStr, pool: usize) {
        // SAFETY: the function takes a pool.
        unsafe {
            std::mem::transmute::<*const c_void, extern "C" fn(usize)>(self.0.symbol(name))(pool)
        }
    }
}
