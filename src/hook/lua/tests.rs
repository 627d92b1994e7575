//! Tests with a fake Lua, whose VMs have an allocator that reports, at the end of a VM, which
//! allocator the VM has.

use super::*;
use crate::sys::testing::{isolated, Library};
use crate::tally::lua::VmFigures;

const LUA: &str = r#"
#include <stdlib.h>
typedef void *(*Alloc)(void *, void *, size_t, size_t);
typedef struct { Alloc alloc; void *data; size_t count; int pause, stepmul; } State;
static char own;
int ended_with_own, ended;
static void *plain(void *data, void *block, size_t from, size_t to) {
    (void) data; (void) from;
    if (to == 0) { free(block); return NULL; }
    return to > 1000000 ? NULL : realloc(block, to);
}
State *lua_newstate(Alloc alloc, void *data) {
    State *L = alloc(data, NULL, 0, sizeof(State));
    *L = (State) { alloc, data, sizeof(State), 200, 200 };
    return L;
}
State *luaL_newstate(void) { return lua_newstate(plain, &own); }
void lua_close(State *L) {
    __atomic_fetch_add(&ended, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&ended_with_own, L->alloc == plain && L->data == &own, __ATOMIC_RELAXED);
    L->alloc(L->data, L, sizeof(State), 0);
}
Alloc lua_getallocf(State *L, void **data) { *data = L->data; return L->alloc; }
void lua_setallocf(State *L, Alloc alloc, void *data) { L->alloc = alloc; L->data = data; }
int lua_gc(State *L, int what, int data) {
    int old = 0;
    switch (what) {
    case 3: return L->count >> 10;
    case 4: return L->count & 1023;
    case 6: old = L->pause; L->pause = data; return old;
    case 7: old = L->stepmul; L->stepmul = data; return old;
    case 9: return 1;
    }
    return -1;
}
void *lua_use(State *L, void *block, size_t from, size_t to) {
    void *result = L->alloc(L->data, block, from, to);
    if (to == 0 || result) L->count += to - from;
    return result;
}
"#;

const USER: &str = r#"
#include <stddef.h>
void *luaL_newstate(void);
void *lua_newstate(void *(*)(void *, void *, size_t, size_t), void *);
void lua_close(void *);
void *ngx_stream_lua_make(void) { return luaL_newstate(); }
void *ngx_stream_lua_make_with(void *alloc, void *data) { return lua_newstate(alloc, data); }
void ngx_stream_lua_end(void *L) { lua_close(L); }
"#;

struct World {
    lua: Library,
    user: Library,
}

// SAFETY: the libraries stay loaded, and their functions use only their arguments and atomics.
unsafe impl Sync for World {}

/// Loads a library as nginx loads modules, so that `dlsym` finds its symbols.
fn load() -> World {
    let lua = Library::build("liblua-made-up.so", LUA, &[]);
    lua.make_global();
    let user = Library::build("module.so", USER, &[]);
    World { lua, user }
}

impl World {
    fn call(&self, library: &Library, name: &CStr, arguments: [usize; 4]) -> usize {
        type Function = unsafe extern "C" fn(usize, usize, usize, usize) -> usize;
        // SAFETY: the functions of the test take at most four words, and return one word or
        // nothing.
        unsafe {
            let function = std::mem::transmute::<*const c_void, Function>(library.symbol(name));
            let [a, b, c, d] = arguments;
            function(a, b, c, d)
        }
    }

    fn make(&self) -> usize {
        self.call(&self.user, c"ngx_stream_lua_make", [0; 4])
    }

    fn end(&self, lua: usize) {
        self.call(&self.user, c"ngx_stream_lua_end", [lua, 0, 0, 0]);
    }

    fn alloc(&self, lua: usize, block: usize, from: usize, to: usize) -> usize {
        self.call(&self.lua, c"lua_use", [lua, block, from, to])
    }

    fn counter(&self, name: &CStr) -> i32 {
        // SAFETY: the symbol is an int of the library.
        unsafe { self.lua.symbol(name).cast::<i32>().read() }
    }
}

fn figures(subsystem: Subsystem) -> Vec<VmFigures> {
    let vms = read().vms.into_iter();
    vms.filter(|vm| vm.subsystem == subsystem).map(|vm| vm.figures).collect()
}

#[test]
fn no_lua() {
    assert_eq!(install(), Err(Refusal::NoLua));
    assert_eq!(state(), Hooked::Off(Refusal::NoLua));
    assert!(read().vms.is_empty());
}

#[test]
fn from_birth_to_end() {
    isolated("hook::lua::tests::from_birth_to_end", || {
        let world = load();
        // A VM that is older than the hook.
        let old = world.make();
        assert_eq!(install(), Ok(()));
        assert_eq!(install(), Ok(()));
        assert_eq!(state(), Hooked::On);
        let lua = world.make();
        let size = 32;
        assert_eq!(
            figures(Subsystem::Stream),
            [VmFigures { live: size, peak: size, ..VmFigures::default() }]
        );

        let block = world.alloc(lua, 0, 0, 100);
        let block = world.alloc(lua, block, 100, 3000);
        assert_eq!(world.alloc(lua, block, 3000, 2_000_000), 0);
        world.alloc(lua, 0, 0, 17);
        world.alloc(lua, block, 3000, 0);
        let mut sizes = [0; crate::tally::lua::CLASSES];
        (sizes[1], sizes[3], sizes[8]) = (1, 1, 1);
        let expected = VmFigures {
            live: size + 17,
            peak: size + 3017,
            allocations: 2,
            resizes: 1,
            frees: 1,
            failures: 1,
            sizes,
            ..VmFigures::default()
        };
        assert_eq!(figures(Subsystem::Stream), std::slice::from_ref(&expected));
        let reading = read();
        assert!(reading.vms[0].heap.is_err(), "not LuaJIT's own allocator");
        assert_eq!(reading.vms[0].counted, None);

        // Adopted VMs are known as the cycle's own.
        for state in [old, lua] {
            // SAFETY: the VM is alive, and used only here.
            unsafe { adopt(state as *mut c_void, Subsystem::Http, || None) }.unwrap();
            // SAFETY: the VM is alive, and used only here.
            assert!(unsafe { is_known(state as *mut c_void) });
        }
        let reading = read();
        assert_eq!(reading.vms.len(), 2);
        for vm in &reading.vms {
            let (count, gc) = vm.counted.unwrap();
            assert_eq!((count, vm.subsystem), (vm.figures.live, Subsystem::Http));
            assert_eq!((gc.pause, gc.stepmul, gc.running), (Some(200), Some(200), Some(true)));
            assert_eq!((gc.gc64, gc.limit_bytes), (None, None));
        }

        world.end(lua);
        world.end(old);
        assert_eq!((world.counter(c"ended"), world.counter(c"ended_with_own")), (2, 2));
        let reading = read();
        assert!(reading.vms.is_empty());
        assert_eq!(reading.miscounted, 0);
        assert_eq!((reading.ended[0].allocations, reading.ended[0].frees), (2, 2));
        assert_eq!((reading.ended[0].peak, reading.ended[0].live), (size + 3017, 0));

        // The place is reused.
        let places = vm::all().count();
        let again = world.make();
        assert_eq!(vm::all().count(), places);
        let born = VmFigures { live: size, peak: size, ..VmFigures::default() };
        assert_eq!(figures(Subsystem::Stream), std::slice::from_ref(&born));

        // A VM that is created with an allocator of its creator.
        let (alloc, data) = vm::all().find(|vm| vm.is_live()).unwrap().original();
        let alloc = alloc.map_or(0, |alloc| alloc as usize);
        let with =
            world.call(&world.user, c"ngx_stream_lua_make_with", [alloc, data as usize, 0, 0]);
        assert_eq!(figures(Subsystem::Stream), [born.clone(), born]);
        world.end(with);
        world.end(again);
        assert_eq!(world.counter(c"ended_with_own"), 4);
    });
}

#[test]
fn taken_out() {
    isolated("hook::lua::tests::taken_out", || {
        let world = load();
        install().unwrap();
        let lua = world.make();
        world.alloc(lua, 0, 0, 100);
        // SAFETY: the VM is alive, and used only here.
        unsafe { adopt(lua as *mut c_void, Subsystem::Stream, || None) }.unwrap();
        uninstall().unwrap();
        assert_eq!(state(), Hooked::NotInstalled);
        assert!(read().vms.is_empty());
        // SAFETY: the VM is alive, and used only here.
        assert!(!unsafe { is_known(lua as *mut c_void) });
        world.end(lua);
        let unseen = world.make();
        assert!(read().vms.is_empty());
        world.end(unseen);
        assert_eq!((world.counter(c"ended"), world.counter(c"ended_with_own")), (2, 2));
        assert!(read().ended.iter().all(|ended| *ended == VmFigures::default()));
    });
}

#[test]
fn ends_that_are_not_seen() {
    isolated("hook::lua::tests::ends_that_are_not_seen", || {
        let world = load();
        install().unwrap();
        let lua = world.make();
        // Called within the library, as when no module imports it.
        world.call(&world.lua, c"lua_close", [lua, 0, 0, 0]);
        assert!(read().vms.is_empty());
        assert_eq!(read().ended[1].frees, 1);
        assert_eq!(world.counter(c"ended_with_own"), 0);
        // The end is announced.
        let lua = world.make();
        // SAFETY: the VM is alive, and used only here.
        unsafe { end(lua as *mut c_void) };
        assert!(read().vms.is_empty());
        world.call(&world.lua, c"lua_close", [lua, 0, 0, 0]);
        assert_eq!(world.counter(c"ended_with_own"), 1);
    });
}

/// VMs are created and ended on threads while they are read.
#[test]
fn on_threads() {
    isolated("hook::lua::tests::on_threads", || {
        let world = load();
        install().unwrap();
        let worker = |world: &World| {
            for round in 0..200 {
                let lua = world.make();
                let blocks: Vec<_> =
                    (1..50).map(|n| (world.alloc(lua, 0, 0, n + round), n + round)).collect();
                for (block, size) in blocks {
                    world.alloc(lua, block, size, 0);
                }
                world.end(lua);
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| worker(&world))).collect();
            while threads.iter().any(|thread| !thread.is_finished()) {
                let reading = read();
                assert!(reading.vms.len() <= 4, "{reading:?}");
            }
        });
        let reading = read();
        assert!(reading.vms.is_empty());
        assert_eq!(reading.miscounted, 0);
        let allocations = 4 * 200 * 49;
        assert_eq!(
            (reading.ended[1].allocations, reading.ended[1].frees),
            (allocations, allocations)
        );
        assert_eq!(world.counter(c"ended_with_own"), 800);
    });
}
