use std::ffi::{c_int, CStr};

use super::*;
use crate::hook::testing::{alone, Library};

/// Functions with nginx's names and types, on an allocator that never gives back.
const SOURCE: &str = r#"
    #include <errno.h>
    #include <stddef.h>
    #include <stdint.h>
    #include <sys/mman.h>
    struct shm { unsigned char *addr; size_t size; size_t len; unsigned char *data; };
    static unsigned char memory[1 << 20];
    static size_t used;
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
            unsafe { std::mem::transmute::<*const c_void, Alloc>(self.symbol(c"call_alloc")) };
        // SAFETY: any pool will do.
        let block = unsafe { call(pool as *mut c_void, size) };
        (!block.is_null(), errno())
    }

    fn free(&self, pool: usize) -> c_int {
        // SAFETY: the function has this type.
        let call = unsafe { std::mem::transmute::<*const c_void, Free>(self.symbol(c"call_free")) };
        // SAFETY: any pool and block will do.
        unsafe { call(pool as *mut c_void, std::ptr::dangling_mut()) };
        errno()
    }

    fn map(&self, name: &str, size: usize) -> Result<Shm, c_int> {
        let (name_len, name_data) = (name.len(), name.as_ptr().cast_mut());
        let mut shm = Shm { addr: null_mut(), size, name_len, name_data };
        let call = self.symbol(c"call_shm_alloc");
        // SAFETY: the function has this type.
        let call = unsafe { std::mem::transmute::<*const c_void, ShmAlloc>(call) };
        // SAFETY: the structure lives through the call.
        match unsafe { call(&mut shm) } {
            OK => Ok(shm),
            _ => Err(errno()),
        }
    }

    fn unmap(&self, mut shm: Shm) {
        let call = self.symbol(c"call_shm_free");
        // SAFETY: the function has this type.
        let call = unsafe { std::mem::transmute::<*const c_void, ShmFree>(call) };
        // SAFETY: the structure lives through the call.
        unsafe { call(&mut shm) }
    }
}

fn errno() -> c_int {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn names() -> Vec<(Vec<u8>, Option<u64>)> {
    mappings().into_iter().map(|mapping| (mapping.name, mapping.generation)).collect()
}

/// What a child process says: its exit status.
fn in_child(body: impl FnOnce() -> bool) -> bool {
    // SAFETY: one thread.
    match unsafe { libc::fork() } {
        // SAFETY: the child has nothing to end in order.
        0 => unsafe { libc::_exit(body().into()) },
        pid => {
            let mut status = 0;
            // SAFETY: room for a status.
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
        assert_eq!(state(), State::On);
        let zone = nginx.map("one", 1 << 16).unwrap();
        assert_eq!(nginx.map("none", usize::MAX / 2).unwrap_err(), 73);
        loaded(1, &[(b"one".to_vec(), zone.addr as usize, zone.size)]);
        assert_eq!(names(), [(b"one".to_vec(), Some(1))]);

        let pool = zone.addr as usize;
        assert_eq!(nginx.alloc(pool, 100), (true, 71));
        assert_eq!(nginx.alloc(pool, 2 << 20), (false, 71));
        assert_eq!(nginx.free(pool), 72);
        let masters = Counts { allocations: 1, frees: 1, failures: 1, bytes_requested: 100 };
        assert_eq!(counts(pool), Some(masters));

        let mapping = mappings().remove(0);
        let child_counts = in_child(|| {
            let empty = counts(pool) == Some(Counts::default());
            nginx.alloc(pool, 4096);
            nginx.alloc(pool, 8);
            nginx.alloc(8192, 8);
            let mine = Counts { allocations: 2, frees: 0, failures: 0, bytes_requested: 4104 };
            let other = Counts { allocations: 1, frees: 0, failures: 0, bytes_requested: 8 };
            empty
                && counts(pool) == Some(mine)
                && masters_counts(&mapping) == Some(masters)
                && others(|known| known == pool) == other
        });
        assert!(child_counts);
        assert_eq!(counts(pool), Some(masters), "a child's are not its parent's");
        assert_eq!(page_counts(&mapping), Some(PageCounts { reqs: 2, fails: 1 }), "of all");
        assert_eq!(others(|known| known == pool), Counts::default());

        // Another zone, which then replaces the first.
        let second = nginx.map("one", 1 << 17).unwrap();
        assert_eq!(names(), [(b"one".to_vec(), Some(1)), (b"one".to_vec(), None)]);
        loaded(2, &[]);
        nginx.unmap(zone);
        assert_eq!(names(), [(b"one".to_vec(), Some(2))]);
        assert_eq!(page_counts(&mapping), None);
        assert_eq!(counts(second.addr as usize), Some(Counts::default()));

        uninstall().unwrap();
        assert!(mappings().is_empty());
        nginx.alloc(second.addr as usize, 1);
        nginx.unmap(second);
        let third = nginx.map("three", 4096).unwrap();
        assert!(mappings().is_empty());
        install(|| Ok(())).unwrap();
        // It is older than the hooks.
        loaded(3, &[(b"three".to_vec(), third.addr as usize, 4096)]);
        assert_eq!(names(), [(b"three".to_vec(), None)]);
        nginx.alloc(third.addr as usize, 1);
        assert_eq!(counts(third.addr as usize).map(|c| c.allocations), Some(1));
    });
}

#[test]
fn refused() {
    alone("hook::slab::tests::refused", || {
        let nginx = Nginx::load();
        assert_eq!(install(|| Err(Refusal::Layout)), Err(Refusal::Layout));
        assert_eq!(state(), State::Off(Refusal::Layout));
        nginx.alloc(4096, 1);
        assert_eq!(others(|_| false), Counts::default());
        assert!(mappings().is_empty());
    });
}
