use std::sync::atomic::AtomicUsize;

use libc::c_int;

use super::*;
use crate::sys::testing::{alone, Library};

const SOURCE: &str = "
    #include <errno.h>
    int counter;
    __attribute__((noinline)) int twice(int n) { counter++; errno = 7; return 2 * n; }
    int caller(int n) { return twice(n) + 1; }
    __attribute__((naked)) int empty(void) { __asm__(\"ret\"); }
";

type Twice = unsafe extern "C" fn(c_int) -> c_int;

static TWICE: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static EMPTY: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static CALLS: AtomicUsize = AtomicUsize::new(0);

static TARGETS: [Target; 1] =
    [Target { symbol: c"twice", hook: || hooked as *const c_void, original: &TWICE }];
static WITH_EMPTY: [Target; 2] = [
    Target { symbol: c"twice", hook: || hooked as *const c_void, original: &TWICE },
    Target { symbol: c"empty", hook: || hooked as *const c_void, original: &EMPTY },
];
static MISSING: [Target; 1] =
    [Target { symbol: c"no_such_function", hook: || hooked as *const c_void, original: &TWICE }];

unsafe extern "C" fn hooked(n: c_int) -> c_int {
    CALLS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: `TWICE` holds the address of the original `twice`.
    unsafe { std::mem::transmute::<*mut c_void, Twice>(TWICE.load(Ordering::Relaxed))(n) }
}

struct Loaded(Library);

impl Loaded {
    fn new() -> Self {
        let library = Library::build("twice.so", SOURCE, &[]);
        library.make_global();
        Loaded(library)
    }

    /// Returns the result of a call within the library.
    fn call(&self, n: c_int) -> c_int {
        // SAFETY: `caller` has this type.
        let caller =
            unsafe { std::mem::transmute::<*const c_void, Twice>(self.0.symbol(c"caller")) };
        // SAFETY: the function accepts any argument.
        unsafe { caller(n) }
    }

    fn code(&self) -> Vec<u8> {
        // SAFETY: the function is longer than that.
        unsafe { std::slice::from_raw_parts(self.0.symbol(c"twice").cast::<u8>(), 16) }.to_vec()
    }
}

fn install(targets: &'static [Target], check: Check) -> Result<(), Refusal> {
    // SAFETY: the hook has the type of `twice`; this program and the library stay loaded.
    unsafe { super::install(targets, check) }
}

/// Returns the number of mappings that are writable and executable, and the number of all
/// executable ones.
fn executable() -> (usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let count = |rights: &str| maps.lines().filter(|line| line.contains(rights)).count();
    (count(" rwx"), count("x"))
}

fn crash() -> Result<(), Refusal> {
    // SAFETY: the signal ends the child, which is the purpose.
    unsafe { libc::raise(libc::SIGSEGV) };
    Ok(())
}

fn name(test: &str) -> String {
    format!("hook::engine::tests::{test}")
}

#[test]
fn in_and_out() {
    alone(&name("in_and_out"), || {
        let library = Loaded::new();
        let before = library.code();
        for round in 0..3 {
            assert_eq!(library.call(20), 41);
            assert_eq!(CALLS.load(Ordering::Relaxed), round);
            assert_eq!(install(&TARGETS, || Ok(())), Ok(()));
            assert_eq!(install(&TARGETS, || Err(Refusal::Layout)), Ok(()), "it is in already");
            assert_ne!(library.code(), before);
            assert_eq!(library.call(20), 41);
            assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(7));
            assert_eq!(CALLS.load(Ordering::Relaxed), round + 1);
            assert_eq!(executable().0, 0);
            assert_eq!(uninstall(&TARGETS), Ok(()));
            assert_eq!(library.code(), before);
        }
        assert_eq!(uninstall(&TARGETS), Ok(()));
    });
}

#[test]
fn the_check_is_in_a_child() {
    alone(&name("the_check_is_in_a_child"), || {
        fn check() -> Result<(), Refusal> {
            // SAFETY: `twice`, which is hooked in the child, has this type.
            let twice =
                unsafe { std::mem::transmute::<usize, Twice>(symbol::address(c"twice").unwrap()) };
            // SAFETY: the function accepts any argument.
            assert_eq!(unsafe { twice(4) }, 8);
            if CALLS.load(Ordering::Relaxed) == 1 {
                Ok(())
            } else {
                Err(Refusal::Layout)
            }
        }
        let library = Loaded::new();
        assert_eq!(install(&TARGETS, check), Ok(()));
        assert_eq!(CALLS.load(Ordering::Relaxed), 0);
        assert_eq!(library.call(1), 3);
        assert_eq!(CALLS.load(Ordering::Relaxed), 1);
        // SAFETY: this process has no child to collect.
        assert_eq!(unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::__WALL) }, -1);
    });
}

#[test]
fn refused_by_the_check() {
    alone(&name("refused_by_the_check"), || {
        let library = Loaded::new();
        let (before, mappings) = (library.code(), executable());
        let table: [(Check, Refusal); 5] = [
            (|| Err(Refusal::Layout), Refusal::Layout),
            (|| Err(Refusal::Protect(13)), Refusal::Protect(13)),
            (|| Err(Refusal::Pin), Refusal::Pin),
            (crash, Refusal::Killed),
            (|| std::process::abort(), Refusal::Killed),
        ];
        for (check, refusal) in table {
            assert_eq!(install(&TARGETS, check), Err(refusal));
            assert_eq!((library.code(), executable()), (before.clone(), mappings));
            assert_eq!(library.call(3), 7);
        }
        assert_eq!(CALLS.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn all_or_none() {
    alone(&name("all_or_none"), || {
        let library = Loaded::new();
        let before = library.code();
        let refusal = Refusal::Code { symbol: "empty".into() };
        assert_eq!(install(&WITH_EMPTY, || Ok(())), Err(refusal));
        let refusal = Refusal::Unresolved { symbol: "no_such_function".into() };
        assert_eq!(install(&MISSING, || Ok(())), Err(refusal));
        assert_eq!(library.code(), before);
    });
}

#[test]
fn not_where_threads_are() {
    alone(&name("not_where_threads_are"), || {
        let library = Loaded::new();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || ended.recv());
        assert_eq!(install(&TARGETS, || Ok(())), Err(Refusal::Threads));
        drop(end);
        let _ = thread.join();
        assert_eq!(install(&TARGETS, || Ok(())), Ok(()));
        assert_eq!(library.call(1), 3);
    });
}

#[test]
fn not_where_code_must_not_be_made() {
    /// `PR_SET_MDWE`, `PR_MDWE_REFUSE_EXEC_GAIN`: Linux 6.3.
    const DENY_WRITE_EXECUTE: (c_int, usize) = (65, 1);
    alone(&name("not_where_code_must_not_be_made"), || {
        let library = Loaded::new();
        let (before, mappings) = (library.code(), executable());
        let (option, value) = DENY_WRITE_EXECUTE;
        // SAFETY: the call restricts only this process.
        if unsafe { libc::prctl(option, value, 0, 0, 0) } == 0 {
            assert_eq!(install(&TARGETS, || Ok(())), Err(Refusal::Protect(libc::EACCES)));
            assert_eq!((library.code(), executable()), (before, mappings));
            assert_eq!(library.call(1), 3);
        }
    });
}

#[test]
fn what_somebody_else_wrote_stays() {
    alone(&name("what_somebody_else_wrote_stays"), || {
        let library = Loaded::new();
        assert_eq!(install(&TARGETS, || Ok(())), Ok(()));
        let address = symbol::address(c"twice").unwrap();
        // SAFETY: the code becomes a return instruction, and nothing calls it meanwhile.
        unsafe { code::write(address, &[0xc3]) }.unwrap();
        let changed = library.code();
        let refusal = Refusal::Overwritten { symbol: "twice".into() };
        assert_eq!(uninstall(&TARGETS), Err(refusal.clone()));
        assert_eq!(install(&TARGETS, || Ok(())), Err(refusal));
        assert_eq!(library.code(), changed);
    });
}
