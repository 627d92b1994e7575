use std::collections::HashMap;
use std::ffi::{c_int, CStr};

use super::*;
use crate::report::sample::Random;
use crate::sys::testing::{alone, Library};
use crate::tally::zones::POOLS;

/// Functions with nginx's names and types, on an allocator that never reuses memory.
const SOURCE: &str = r#"
    #include <errno.h>
    #include <stddef.h>
    #include <stdint.h>
    #include <sys/mman.h>
    struct shm { unsigned char *addr; size_t size; size_t len; unsigned char *data; };
    static unsigned char memory[1 << 20];
    static _Thread_local size_t used;
    __attribute__((noinline)) void *ngx_slab_alloc_locked(void *pool, size_t size) {
        errno = 71;
        if (size > sizeof(memory) - used) { return NULL; }
        used += size;
        return memory + used - size;
    }
    __attribute__((noinline)) void ngx_slab_free_locked(void *pool, void *p) {
        if (p) { used -= 1; errno = 72; } else { used -= 2; }
    }
    __attribute__((noinline)) intptr_t ngx_shm_alloc(struct shm *shm) {
        shm->addr = mmap(NULL, shm->size, PROT_READ|PROT_WRITE, MAP_ANON|MAP_SHARED, -1, 0);
        if (shm->addr == MAP_FAILED) { errno = 73; return -1; }
        return 0;
    }
    __attribute__((noinline)) void ngx_shm_free(struct shm *shm) {
        if (munmap((void *) shm->addr, shm->size) == -1) { errno = 74; }
    }
    void *call_alloc(void *pool, size_t size) { return ngx_slab_alloc_locked(pool, size); }
    void call_free(void *pool, void *p) { ngx_slab_free_locked(pool, p); }
    intptr_t call_shm_alloc(struct shm *shm) { return ngx_shm_alloc(shm) + 0; }
    void call_shm_free(struct shm *shm) { ngx_shm_free(shm); }
"#;

struct Nginx(Library);

// SAFETY: the library stays loaded, and its slab functions use memory of the calling thread only.
unsafe impl Sync for Nginx {}

impl Nginx {
    fn load() -> Self {
        let library = Library::build("slab.so", SOURCE, &["-fno-optimize-sibling-calls"]);
        library.make_global();
        Nginx(library)
    }

    fn symbol(&self, name: &CStr) -> *const c_void {
        self.0.symbol(name)
    }

    fn alloc(&self, pool: usize, size: usize) -> (bool, c_int) {
        // SAFETY: the function has this type.
        let call =
            unsafe { std::mem::transmute::<*const c_void, SlabAlloc>(self.symbol(c"call_alloc")) };
        // SAFETY: the function accepts any pool.
        let block = unsafe { call(pool as *mut c_void, size) };
        (!block.is_null(), errno())
    }

    fn free(&self, pool: usize) -> c_int {
        // SAFETY: the function has this type.
        let call = unsafe { std::mem::transmute::<*const c_void, Free>(self.symbol(c"call_free")) };
        // SAFETY: the function accepts any pool and block.
        unsafe { call(pool as *mut c_void, std::ptr::dangling_mut()) };
        errno()
    }

    fn map(&self, name: &str, size: usize) -> Result<Shm, c_int> {
        let (name_len, name_data) = (name.len(), name.as_ptr().cast_mut());
        let mut shm = Shm { addr: null_mut(), size, name_len, name_data, log: null_mut() };
        let call = self.symbol(c"call_shm_alloc");
        // SAFETY: the function has this type.
        let call = unsafe { std::mem::transmute::<*const c_void, ShmAlloc>(call) };
        // SAFETY: the structure outlives the call.
        match unsafe { call(&mut shm) } {
            OK => Ok(shm),
            _ => Err(errno()),
        }
    }

    fn unmap(&self, mut shm: Shm) {
        let call = self.symbol(c"call_shm_free");
        // SAFETY: the function has this type.
        let call = unsafe { std::mem::transmute::<*const c_void, ShmFree>(call) };
        // SAFETY: the structure outlives the call.
        unsafe { call(&mut shm) }
    }
}

fn errno() -> c_int {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn names() -> Vec<(Vec<u8>, Option<u64>)> {
    mappings().into_iter().map(|mapping| (mapping.name, mapping.generation)).collect()
}

/// Runs `body` in a child process, and returns its result, which is the child's exit status.
fn in_child(body: impl FnOnce() -> bool) -> bool {
    // SAFETY: the process has one thread.
    match unsafe { libc::fork() } {
        // SAFETY: the child has nothing to clean up.
        0 => unsafe { libc::_exit(body().into()) },
        pid => {
            let mut status = 0;
            // SAFETY: the pointer leads to room for a status.
            assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
            assert!(libc::WIFEXITED(status));
            libc::WEXITSTATUS(status) == 1
        }
    }
}

#[test]
fn counts_by_process_and_pool() {
    alone("hook::slab::tests::counts_by_process_and_pool", || {
        let nginx = Nginx::load();
        install(|| Ok(())).unwrap();
        assert_eq!(state(), Hooked::On);
        let zone = nginx.map("one", 1 << 16).unwrap();
        assert_eq!(nginx.map("none", usize::MAX / 2).unwrap_err(), 73);
        loaded(1, &[(b"one".to_vec(), zone.addr as usize, zone.size)]);
        assert_eq!(names(), [(b"one".to_vec(), Some(1))]);

        let pool = zone.addr as usize;
        assert_eq!(nginx.alloc(pool, 100), (true, 71));
        assert_eq!(nginx.alloc(pool, 2 << 20), (false, 71));
        assert_eq!(nginx.free(pool), 72);
        let masters = SlabCounts { allocations: 1, frees: 1, failures: 1, bytes_requested: 100 };
        assert_eq!(counts(pool), Some(masters));

        let mapping = mappings().remove(0);
        let child_counts = in_child(|| {
            let empty = counts(pool) == Some(SlabCounts::default());
            // The pool that the parent used last.
            nginx.alloc(pool, 8);
            nginx.alloc(pool, 4096);
            nginx.alloc(8192, 8);
            let of_its_child = in_child(|| {
                nginx.free(pool);
                counts(pool) == Some(SlabCounts { frees: 1, ..SlabCounts::default() })
            });
            let mine = SlabCounts { allocations: 2, frees: 0, failures: 0, bytes_requested: 4104 };
            let other = SlabCounts { allocations: 1, frees: 0, failures: 0, bytes_requested: 8 };
            empty
                && of_its_child
                && counts(pool) == Some(mine)
                && masters_counts(&mapping) == Some(masters)
                && others(|known| known == pool) == other
        });
        assert!(child_counts);
        assert_eq!(counts(pool), Some(masters), "a child's are not its parent's");
        assert_eq!(page_counts(&mapping), Some(PageCounts { reqs: 2, fails: 1 }), "of all");
        assert_eq!(others(|known| known == pool), SlabCounts::default());

        // Another zone, which replaces the first one afterwards.
        let second = nginx.map("one", 1 << 17).unwrap();
        assert_eq!(names(), [(b"one".to_vec(), Some(1)), (b"one".to_vec(), None)]);
        loaded(2, &[]);
        nginx.unmap(zone);
        assert_eq!(names(), [(b"one".to_vec(), Some(2))]);
        assert_eq!(page_counts(&mapping), None);
        assert_eq!(counts(second.addr as usize), Some(SlabCounts::default()));

        uninstall().unwrap();
        assert!(mappings().is_empty());
        nginx.alloc(second.addr as usize, 1);
        nginx.unmap(second);
        let third = nginx.map("three", 4096).unwrap();
        assert!(mappings().is_empty());
        install(|| Ok(())).unwrap();
        // The pool is older than the hooks.
        loaded(3, &[(b"three".to_vec(), third.addr as usize, 4096)]);
        assert_eq!(names(), [(b"three".to_vec(), None)]);
        nginx.alloc(third.addr as usize, 1);
        assert_eq!(counts(third.addr as usize).map(|c| c.allocations), Some(1));
    });
}

/// Calls a random slab function on a pool, and counts the result.
fn anything(nginx: &Nginx, pool: usize, random: &mut Random, counts: &mut SlabCounts) {
    let size = [1, 2, 3, 2000, 3000][random.below(5) as usize];
    if random.below(3) == 0 {
        assert_eq!(nginx.free(pool), 72);
        counts.frees += 1;
        return;
    }
    let (succeeded, errno) = nginx.alloc(pool, size);
    assert_eq!(errno, 71);
    if succeeded {
        counts.allocations += 1;
        counts.bytes_requested += size as u64;
    } else {
        counts.failures += 1;
    }
}

/// Pools are used in turn while others are created and removed, and memory is short.
#[test]
fn pools_are_those_of_a_map() {
    alone("hook::slab::tests::pools_are_those_of_a_map", || {
        let nginx = Nginx::load();
        install(|| Ok(())).unwrap();
        let mut random = Random::new(11);
        let mut zones: Vec<(Shm, SlabCounts)> = Vec::new();
        let mut all = SlabCounts::default();
        for round in 0..50_000 {
            if zones.len() < 3 || (zones.len() < 8 && random.below(50) == 0) {
                zones.push((nginx.map("one", 4096).unwrap(), SlabCounts::default()));
            }
            let place = random.below(zones.len() as u64) as usize;
            if random.below(100) == 0 {
                let (shm, expected) = zones.swap_remove(place);
                assert_eq!(counts(shm.addr as usize), Some(expected), "{round}");
                nginx.unmap(shm);
                all.allocations += expected.allocations;
                all.frees += expected.frees;
                all.failures += expected.failures;
                continue;
            }
            let (shm, expected) = &mut zones[place];
            let pool = shm.addr as usize;
            anything(&nginx, pool, &mut random, expected);
            assert_eq!(counts(pool), Some(*expected), "{round}");
        }
        let least = [all.allocations, all.frees, all.failures].into_iter().min();
        assert!(least > Some(2000), "{all:?}");
        for (shm, expected) in &zones {
            assert_eq!(counts(shm.addr as usize), Some(*expected));
        }
        assert_eq!(others(|pool| zones.iter().any(|(shm, _)| shm.addr as usize == pool)), {
            SlabCounts::default()
        });
    });
}

/// Pools whose first place is taken by another pool, and pools for which no place is left.
#[test]
fn more_pools_than_places() {
    alone("hook::slab::tests::more_pools_than_places", || {
        let nginx = Nginx::load();
        install(|| Ok(())).unwrap();
        let mut random = Random::new(12);
        let mut map: HashMap<usize, SlabCounts> = HashMap::new();
        for _ in 0..100_000 {
            let pool = (1 + random.below(2 * POOLS as u64) as usize) * 4096;
            // The second lookup finds the counters that were used last.
            for _ in 0..2 {
                anything(&nginx, pool, &mut random, map.entry(pool).or_default());
            }
        }
        let (counted, rest): (Vec<_>, Vec<_>) =
            map.iter().partition(|(pool, _)| counts(**pool).is_some());
        assert!(
            counted.len() > POOLS / 2 && rest.len() >= POOLS,
            "{} {}",
            counted.len(),
            rest.len()
        );
        assert!(counted.iter().all(|(pool, expected)| counts(**pool) == Some(**expected)));
        let sum =
            |of: fn(&SlabCounts) -> u64| rest.iter().map(|(_, counts)| of(counts)).sum::<u64>();
        let expected = SlabCounts {
            allocations: sum(|counts| counts.allocations),
            frees: sum(|counts| counts.frees),
            failures: sum(|counts| counts.failures),
            bytes_requested: sum(|counts| counts.bytes_requested),
        };
        assert_eq!(others(|pool| counts(pool).is_some()), expected);
    });
}

/// Each thread uses a pool of its own: the counters that one thread used last are not used by
/// another.
#[test]
fn threads_in_different_pools() {
    alone("hook::slab::tests::threads_in_different_pools", || {
        let nginx = Nginx::load();
        install(|| Ok(())).unwrap();
        let pools: Vec<usize> = (1..=4).map(|i| i << 20).collect();
        let expected: Vec<SlabCounts> = std::thread::scope(|scope| {
            let use_it = |&pool: &usize| {
                let nginx = &nginx;
                scope.spawn(move || {
                    let (mut random, mut counts) =
                        (Random::new(pool as u64), SlabCounts::default());
                    (0..50_000).for_each(|_| anything(nginx, pool, &mut random, &mut counts));
                    counts
                })
            };
            let threads: Vec<_> = pools.iter().map(use_it).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let found: Vec<_> = pools.iter().filter_map(|pool| counts(*pool)).collect();
        assert_eq!(found, expected);
    });
}

#[test]
fn refused() {
    alone("hook::slab::tests::refused", || {
        let nginx = Nginx::load();
        assert_eq!(install(|| Err(Refusal::Layout)), Err(Refusal::Layout));
        assert_eq!(state(), Hooked::Off(Refusal::Layout));
        nginx.alloc(4096, 1);
        assert_eq!(others(|_| false), SlabCounts::default());
        assert!(mappings().is_empty());
    });
}
