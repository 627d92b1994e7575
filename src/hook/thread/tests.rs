use super::*;
use crate::sys::testing::{isolated, Library};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::Barrier;
use std::time::{Duration, Instant};

mod c {
    //! Functions that a thread's end may unwind through.
    use std::ffi::{c_int, c_uint, c_void};

    extern "C-unwind" {
        pub fn pthread_exit(value: *mut c_void) -> !;
        pub fn sleep(seconds: c_uint) -> c_uint;
        pub fn pthread_join(thread: libc::pthread_t, value: *mut *mut c_void) -> c_int;
    }

    extern "C" {
        pub fn pthread_cancel(thread: libc::pthread_t) -> c_int;
    }
}

fn create(
    attributes: *const pthread_attr_t,
    routine: Routine,
    argument: usize,
) -> Result<pthread_t, c_int> {
    // SAFETY: a C routine may unwind its thread; only libc's declaration does not say so.
    let routine: extern "C" fn(*mut c_void) -> *mut c_void =
        unsafe { std::mem::transmute(routine) };
    let mut thread = 0;
    // SAFETY: the attributes are null or initialised.
    let result =
        unsafe { libc::pthread_create(&mut thread, attributes, routine, argument as *mut c_void) };
    if result == 0 {
        Ok(thread)
    } else {
        Err(result)
    }
}

fn join(thread: pthread_t) -> usize {
    let mut value = std::ptr::null_mut();
    // SAFETY: each thread of these tests is joined once.
    assert_eq!(unsafe { c::pthread_join(thread, &mut value) }, 0);
    value as usize
}

fn wait_until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "it takes too long");
        std::thread::yield_now();
    }
}

fn seen() -> usize {
    stacks().seen.len()
}

/// Returns the number of threads that the kernel reports.
fn kernel_threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

static STARTED: AtomicUsize = AtomicUsize::new(0);
static GO_ON: AtomicBool = AtomicBool::new(false);
static SEEN_INSIDE: AtomicUsize = AtomicUsize::new(0);

fn wait_inside() {
    let local = 0u8;
    let address = (&raw const local) as usize;
    if stacks().seen.iter().any(|stack| stack.contains(&address)) {
        SEEN_INSIDE.fetch_add(1, Ordering::SeqCst);
    }
    STARTED.fetch_add(1, Ordering::SeqCst);
    while !GO_ON.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

unsafe extern "C-unwind" fn returns(argument: *mut c_void) -> *mut c_void {
    wait_inside();
    (argument as usize + 1) as *mut c_void
}

unsafe extern "C-unwind" fn exits(argument: *mut c_void) -> *mut c_void {
    wait_inside();
    // SAFETY: no frame of the thread has anything to drop.
    unsafe { c::pthread_exit((argument as usize + 2) as *mut c_void) }
}

unsafe extern "C-unwind" fn sleeps(_argument: *mut c_void) -> *mut c_void {
    STARTED.fetch_add(1, Ordering::SeqCst);
    // SAFETY: no frame of the thread has anything to drop.
    unsafe { c::sleep(600) };
    std::ptr::null_mut()
}

fn one_thread(routine: Routine, value: usize) {
    assert_eq!(install(), Ok(()));
    let others = kernel_threads() - 1;
    let thread = create(std::ptr::null(), routine, 40).unwrap();
    wait_until(|| STARTED.load(Ordering::SeqCst) == 1);
    assert_eq!((seen(), kernel_threads() - others), (1, 2));
    assert_eq!(SEEN_INSIDE.load(Ordering::SeqCst), 1);
    GO_ON.store(true, Ordering::SeqCst);
    assert_eq!(join(thread), value);
    assert_eq!(stacks(), ThreadStacks::default());
}

#[test]
fn a_thread_that_returns() {
    isolated("hook::thread::tests::a_thread_that_returns", || one_thread(returns, 41));
}

#[test]
fn a_thread_that_exits() {
    isolated("hook::thread::tests::a_thread_that_exits", || one_thread(exits, 42));
}

#[test]
fn threads_that_are_cancelled() {
    isolated("hook::thread::tests::threads_that_are_cancelled", || {
        assert_eq!(install(), Ok(()));
        for early in [false, true, true, true, true] {
            STARTED.store(0, Ordering::SeqCst);
            let thread = create(std::ptr::null(), sleeps, 0).unwrap();
            wait_until(|| early || STARTED.load(Ordering::SeqCst) == 1);
            assert!(early || seen() == 1);
            // SAFETY: the thread has not been joined.
            assert_eq!(unsafe { c::pthread_cancel(thread) }, 0);
            assert_eq!(join(thread), usize::MAX, "PTHREAD_CANCELED");
            assert_eq!(stacks(), ThreadStacks::default());
        }
    });
}

#[test]
fn forty_threads() {
    isolated("hook::thread::tests::forty_threads", || {
        assert_eq!(install(), Ok(()));
        assert_eq!(install(), Ok(()), "again");
        assert_eq!(state(), Hooked::On);
        let others = kernel_threads() - 1;
        let ready = Barrier::new(41);
        std::thread::scope(|scope| {
            let done: Vec<_> = (0..40)
                .map(|_| {
                    scope.spawn(|| {
                        let local = 0u8;
                        let address = (&raw const local) as usize;
                        ready.wait();
                        let stacks = stacks().seen;
                        let own: Vec<_> =
                            stacks.into_iter().filter(|stack| stack.contains(&address)).collect();
                        ready.wait();
                        assert_eq!(own.len(), 1);
                        own[0].clone()
                    })
                })
                .collect();
            ready.wait();
            assert_eq!((seen(), kernel_threads() - others), (40, 41));
            let guards = maps();
            for stack in stacks().seen {
                // These are whole mappings, readable and writable; the guard is below them.
                let inside = |map: &&MemoryMap| {
                    (map.address.0 as usize) < stack.end && stack.start < map.address.1 as usize
                };
                for map in guards.iter().filter(inside) {
                    assert_eq!(map.perms.as_str(), "rw-p");
                }
                let below = guards.iter().find(|map| map.address.1 as usize == stack.start);
                assert_eq!(below.map(|map| map.perms.as_str()), Some("---p".into()));
            }
            ready.wait();
            let mut stacks: Vec<_> = done.into_iter().map(|t| t.join().unwrap()).collect();
            stacks.sort_by_key(|stack| stack.start);
            assert!(stacks.windows(2).all(|pair| pair[0].end <= pair[1].start));
        });
        wait_until(|| kernel_threads() - others == 1);
        assert_eq!(stacks(), ThreadStacks::default());
    });
}

#[test]
fn many_short_threads() {
    isolated("hook::thread::tests::many_short_threads", || {
        assert_eq!(install(), Ok(()));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for i in 0..500 {
                        assert_eq!(std::thread::spawn(move || i).join().unwrap(), i);
                        assert!(seen() <= 8);
                    }
                });
            }
        });
        wait_until(|| seen() == 0);
        assert_eq!(stacks().unseen, 0);
    });
}

#[test]
fn a_creation_that_fails() {
    isolated("hook::thread::tests::a_creation_that_fails", || {
        let mut attributes = MaybeUninit::<pthread_attr_t>::uninit();
        // SAFETY: the calls initialise the attributes, then set a size for which there is no
        // memory.
        unsafe {
            assert_eq!(libc::pthread_attr_init(attributes.as_mut_ptr()), 0);
            assert_eq!(libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), 1 << 46), 0);
        }
        let fail = || {
            // SAFETY: the address of errno is valid as long as the thread lives.
            unsafe { libc::__errno_location().write(77) };
            let result = create(attributes.as_ptr(), returns, 0);
            // SAFETY: the address of errno is valid as long as the thread lives.
            (result, unsafe { libc::__errno_location().read() })
        };
        let unhooked = fail();
        assert!(unhooked.0.is_err());
        assert_eq!(install(), Ok(()));
        assert_eq!(fail(), unhooked);
        // SAFETY: the call has no preconditions.
        let in_use = || unsafe { libc::mallinfo2() }.uordblks;
        let before = in_use();
        for _ in 0..10_000 {
            assert_eq!(fail(), unhooked);
        }
        assert!(in_use() < before + 1000);
        assert_eq!(stacks(), ThreadStacks::default());
    });
}

#[test]
fn a_forked_child_sees_its_own() {
    isolated("hook::thread::tests::a_forked_child_sees_its_own", || {
        assert_eq!(install(), Ok(()));
        let thread = create(std::ptr::null(), returns, 0).unwrap();
        wait_until(|| STARTED.load(Ordering::SeqCst) == 1);
        // As if another thread held the lock at that moment.
        let lock = stacks::lock_for_test();
        // SAFETY: the child calls nothing that is forbidden after the fork of a process with
        // threads: glibc's malloc is usable after a fork.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let mut code = i32::from(seen() != 0);
            GO_ON.store(true, Ordering::SeqCst);
            match create(std::ptr::null(), returns, 7) {
                Ok(thread) if join(thread) == 8 && SEEN_INSIDE.load(Ordering::SeqCst) == 2 => {}
                _ => code |= 2,
            }
            code |= i32::from(stacks() != ThreadStacks::default()) << 2;
            // SAFETY: the call only ends the child.
            unsafe { libc::_exit(code) };
        }
        drop(lock);
        let mut status = 0;
        // SAFETY: the child is this process's.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0);
        assert_eq!(seen(), 1);
        GO_ON.store(true, Ordering::SeqCst);
        assert_eq!(join(thread), 1);
        assert_eq!(seen(), 0);
    });
}

#[test]
fn libraries_loaded_later_and_uninstalled() {
    isolated("hook::thread::tests::libraries_loaded_later_and_uninstalled", || {
        assert_eq!(state(), Hooked::NotInstalled);
        assert_eq!(uninstall(), Ok(()));
        assert_eq!(install(), Ok(()));
        let source = "#include <pthread.h>
            int start(pthread_t *t, void *(*f)(void *)) { return pthread_create(t, 0, f, 0); }";
        let library = Library::build("late.so", source, &["-Wl,-z,relro,-z,now"]);
        // SAFETY: `start` has this type.
        let start: unsafe extern "C" fn(*mut pthread_t, Routine) -> c_int =
            unsafe { std::mem::transmute(library.symbol(c"start")) };
        let seen_of_one = || {
            STARTED.store(0, Ordering::SeqCst);
            GO_ON.store(false, Ordering::SeqCst);
            let mut thread = 0;
            // SAFETY: the pointer and the routine are valid.
            assert_eq!(unsafe { start(&mut thread, returns) }, 0);
            wait_until(|| STARTED.load(Ordering::SeqCst) == 1);
            let seen = seen();
            GO_ON.store(true, Ordering::SeqCst);
            assert_eq!(join(thread), 1);
            seen
        };
        assert_eq!(seen_of_one(), 0);
        assert_eq!(install(), Ok(()));
        assert_eq!(seen_of_one(), 1);
        assert_eq!(uninstall(), Ok(()));
        assert_eq!(state(), Hooked::NotInstalled);
        assert_eq!(seen_of_one(), 0);
        assert_eq!(install(), Ok(()));
        assert_eq!((seen_of_one(), state()), (1, Hooked::On));
    });
}

fn maps() -> Vec<MemoryMap> {
    procfs::process::Process::myself().unwrap().maps().unwrap().0
}

#[test]
fn the_main_stack() {
    isolated("hook::thread::tests::the_main_stack", || {
        let local = 0u8;
        let address = (&raw const local) as usize;
        let stack = main_stack(&maps()).unwrap();
        // With one test thread the harness runs the test in the main thread.
        // SAFETY: the call has no preconditions.
        let is_main = unsafe { libc::gettid() } == std::process::id() as i32;
        assert_eq!(stack.contains(&address), is_main);
    });
    assert_eq!(main_stack(&[]), None);
}
