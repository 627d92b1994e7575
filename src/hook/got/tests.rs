use super::*;
use crate::sys::elf::objects;
use crate::sys::testing::{isolated, Library, Made};

const SYMBOL: &CStr = c"getppid";
const SOURCE: &str = "#include <unistd.h>\nint ask(void) { return getppid(); }";

extern "C" fn first() -> libc::pid_t {
    -1
}

extern "C" fn second() -> libc::pid_t {
    -2
}

static FIRST: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static SECOND: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

fn put(
    objects: &[LoadedObject],
    replacement: extern "C" fn() -> libc::pid_t,
    original: &AtomicPtr<c_void>,
) -> Patched {
    // SAFETY: each test has a process of its own, and the replacement has the type of `getppid`.
    unsafe { patch(objects, SYMBOL, replacement as *const c_void, original) }.unwrap()
}

fn take(
    objects: &[LoadedObject],
    replacement: extern "C" fn() -> libc::pid_t,
    original: &AtomicPtr<c_void>,
) -> Patched {
    let original = original.load(Ordering::Relaxed);
    // SAFETY: each test has a process of its own, and `original` is what `patch` found.
    unsafe { restore(objects, SYMBOL, replacement as *const c_void, original) }.unwrap()
}

fn own() -> Vec<LoadedObject> {
    objects().into_iter().take(1).collect()
}

/// Returns what the executable gets when it calls the function.
#[inline(never)]
fn ask() -> libc::pid_t {
    // SAFETY: the call has no preconditions.
    unsafe { libc::getppid() }
}

/// Returns what a library gets when it calls the function.
fn ask_in(library: &Library) -> libc::pid_t {
    // SAFETY: `ask` in `SOURCE` has this type.
    let ask: extern "C" fn() -> libc::pid_t =
        unsafe { std::mem::transmute(library.symbol(c"ask")) };
    ask()
}

fn real() -> *mut c_void {
    // SAFETY: the lookup has no effect.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, SYMBOL.as_ptr()) }
}

/// Returns `/proc/self/maps` without the size of the heap.
fn protections() -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains('/')).map(str::to_owned).collect()
}

#[test]
fn in_and_out_of_the_executable() {
    isolated("hook::got::tests::in_and_out_of_the_executable", || {
        let parent = ask();
        assert!(parent > 0);
        let (objects, maps) = (own(), protections());
        let name = vec![objects[0].name.clone()];

        let patched = put(&objects, first, &FIRST);
        assert_eq!(patched, Patched { now: name.clone(), ..Patched::default() });
        assert!(patched.any() && patched.complete().is_ok());
        assert_eq!(ask(), -1);
        assert_eq!(FIRST.load(Ordering::Relaxed), real());
        assert_eq!(protections(), maps);

        let again = put(&objects, first, &FIRST);
        assert_eq!(again, Patched { before: name.clone(), ..Patched::default() });
        assert_eq!((ask(), FIRST.load(Ordering::Relaxed)), (-1, real()));

        let restored = take(&objects, first, &FIRST);
        assert_eq!(restored, Patched { now: name, ..Patched::default() });
        assert_eq!(ask(), parent);
        assert_eq!(protections(), maps);
        assert_eq!(take(&objects, first, &FIRST), Patched::default());
        assert_eq!(ask(), parent);
    });
}

#[test]
fn libraries_bound_at_once_lazily_and_later() {
    isolated("hook::got::tests::libraries_bound_at_once_lazily_and_later", || {
        let parent = ask();
        let now = ["-Wl,-z,relro", "-Wl,-z,now"];
        let full = Library::build("full.so", SOURCE, &now);
        let lazy = Library::build("lazy.so", SOURCE, &["-Wl,-z,lazy", "-Wl,-z,norelro"]);
        let got = Library::build("got.so", SOURCE, &["-fno-plt", "-Wl,-z,relro"]);
        let libraries = [&full, &lazy, &got];
        let names = ["full.so", "lazy.so", "got.so"];
        let maps = protections();
        let all = objects();

        let patched = put(&all, first, &FIRST);
        assert_eq!(patched.refusals, []);
        assert!(names.iter().all(|name| patched.now.iter().any(|n| n == name)), "{patched:?}");
        assert_eq!(protections(), maps);
        // Also where the first call would have looked the function up.
        assert_eq!(FIRST.load(Ordering::Relaxed), real());
        for library in libraries {
            assert_eq!((ask_in(library), ask_in(library)), (-1, -1));
        }

        let late = Library::build("late.so", SOURCE, &now);
        assert_eq!(ask_in(&late), parent);
        let again = put(&objects(), first, &FIRST);
        assert_eq!((again.now, again.refusals), (vec!["late.so".to_owned()], vec![]));
        assert_eq!(again.before.len(), patched.now.len());
        assert_eq!(ask_in(&late), -1);

        take(&objects(), first, &FIRST);
        for library in libraries {
            assert_eq!((ask_in(library), ask_in(library)), (parent, parent));
        }
        assert_eq!((ask(), ask_in(&late)), (parent, parent));
    });
}

#[test]
fn hooks_of_others_are_left_alone() {
    isolated("hook::got::tests::hooks_of_others_are_left_alone", || {
        let library = Library::build("other.so", SOURCE, &["-Wl,-z,now"]);
        let exe = own();
        let both: Vec<_> =
            objects().into_iter().filter(|o| o == &exe[0] || o.name == "other.so").collect();

        // Somebody else has hooked one of them before.
        put(&exe, second, &SECOND);
        let patched = put(&both, first, &FIRST);
        assert_eq!(patched.now, ["other.so"]);
        let object = exe[0].name.clone();
        let refusal = Refusal::Foreign { symbol: "getppid".into(), object };
        assert_eq!(patched.complete(), Err(refusal));
        assert_eq!((ask(), ask_in(&library)), (-2, -1));
        assert_eq!(FIRST.load(Ordering::Relaxed), real());

        // Somebody else hooks it later, on top of ours.
        SECOND.store(first as *mut c_void, Ordering::Relaxed);
        let over: Vec<_> = both.iter().filter(|o| o.name == "other.so").cloned().collect();
        assert_eq!(put(&over, second, &SECOND).now, ["other.so"]);
        assert_eq!(take(&both, first, &FIRST), Patched::default());
        assert_eq!((ask(), ask_in(&library)), (-2, -2));
    });
}

/// A position-dependent executable takes a function's address, so all slots lead to its stub for
/// the function, and the stub leads through its own slot. The stub must not become the original, or
/// calls would never end.
#[test]
fn a_stub_is_not_the_function() {
    let name = [u64::from_ne_bytes(*b"\0getppid"), 0];
    let mut made = Made::new();
    made.words[46..48].copy_from_slice(&name);
    let stub = made.object().bias as u64 + 0x60;
    (made.words[40], made.words[50]) = (0x60, stub);
    let original = AtomicPtr::new(std::ptr::null_mut());
    let patched = put(&[made.object()], first, &original);
    assert_eq!(patched.now, ["made"]);
    assert_eq!(original.load(Ordering::Relaxed), real());
    assert_eq!(slot(&made), first as *const () as usize as u64);

    // A library that is loaded later leads to the stub, too.
    let mut late = Made::new();
    late.words[46..48].copy_from_slice(&name);
    late.words[50] = stub;
    let patched = put(&[made.object(), late.object()], first, &original);
    assert_eq!(patched.refusals, []);
    assert_eq!(slot(&late), first as *const () as usize as u64);
}

/// Returns the slot of a made-up object, which is written behind the compiler's back.
fn slot(made: &Made) -> u64 {
    // SAFETY: the address is that of a word in the box.
    unsafe { (&raw const made.words[50]).read_volatile() }
}

#[test]
fn what_cannot_be_resolved() {
    let mut made = Made::new();
    let stub = made.object().bias as u64 + 0x60;
    (made.words[40], made.words[50]) = (0x60, stub);
    let original = AtomicPtr::new(std::ptr::null_mut());
    let objects = [made.object()];
    // SAFETY: nothing calls through the made-up slot.
    let patched = unsafe { patch(&objects, c"function", first as *const c_void, &original) };
    let patched = patched.unwrap();
    assert_eq!(patched.refusals, [Refusal::Unresolved { symbol: "function".into() }]);
    assert!(!patched.any() && original.load(Ordering::Relaxed).is_null());
    assert_eq!(slot(&made), stub);
}
