//! Helpers shared by the tests of hooks.
//!
//! Invariants of the unsafe code:
//!
//! 1. A [`Library`] is built by its test, and runs no code when it is loaded. Its handle stays open
//!    until it is closed, once.
//! 2. The process of an [`isolated`] test has one other thread, which waits for the test and holds
//!    no lock. A child of it needs no cleanup.

use std::ffi::{c_void, CStr, CString};
use std::path::PathBuf;
use std::process::Command;

use crate::sys::elf::{LoadedObject, Segment};

const CHILD: &str = "MEMSTAT_TEST_CHILD";

/// Runs a test in a process of its own. `name` is the full name of the test, with its modules.
pub fn isolated(name: &str, body: impl FnOnce()) {
    if std::env::var(CHILD).is_ok_and(|child| child == name) {
        return body();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, name)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}\n{errors}", output.status);
    assert!(text.contains("1 passed"), "no such test: {name}\n{text}");
}

/// Like [`isolated`], but the process has a single thread.
pub fn alone(name: &str, body: impl FnOnce() + std::panic::UnwindSafe) {
    isolated(name, || {
        // SAFETY: the only other thread waits for this one and holds no lock (2).
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let failed = std::panic::catch_unwind(body).is_err();
            // SAFETY: the child needs no cleanup (2).
            unsafe { libc::_exit(failed.into()) };
        }
        let mut status = 0;
        // SAFETY: the pid is that of the child, and `status` has room for a status (2).
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0);
    });
}

/// A C library, built with the compiler that links this crate, and loaded.
pub struct Library {
    handle: *mut c_void,
    path: PathBuf,
}

impl Library {
    /// Builds and loads a library.
    pub fn build(name: &str, source: &str, options: &[&str]) -> Self {
        let directory = std::env::temp_dir().join(format!("memstat-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (path, code) = (directory.join(name), directory.join(format!("{name}.c")));
        std::fs::write(&code, source).unwrap();
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&path, &code])
            .args(options)
            .status()
            .unwrap();
        assert!(built.success());
        let c_path = CString::new(path.to_str().unwrap()).unwrap();
        let mode = if options.contains(&"-Wl,-z,lazy") { libc::RTLD_LAZY } else { libc::RTLD_NOW };
        // SAFETY: the libraries of the tests run no code when they are loaded (1).
        let handle = unsafe { libc::dlopen(c_path.as_ptr(), mode) };
        assert!(!handle.is_null());
        Library { handle, path }
    }

    /// Makes the library's symbols visible to other objects and to `RTLD_DEFAULT`.
    pub fn make_global(&self) {
        let path = CString::new(self.path.to_str().unwrap()).unwrap();
        let mode = libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_GLOBAL;
        // SAFETY: the library is loaded already, and runs no code of its own (1).
        assert!(!unsafe { libc::dlopen(path.as_ptr(), mode) }.is_null());
    }

    /// Returns the address of a symbol of the library.
    pub fn symbol(&self, name: &CStr) -> *const c_void {
        // SAFETY: the handle is open (1).
        let found = unsafe { libc::dlsym(self.handle, name.as_ptr()) };
        assert!(!found.is_null());
        found
    }

    /// Closes the library.
    pub fn close(self) {
        // SAFETY: the handle is open, and is not used again (1).
        assert_eq!(unsafe { libc::dlclose(self.handle) }, 0);
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        if let Some(directory) = self.path.parent() {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

/// The type of the made relocation.
pub const JUMP_SLOT: u32 = if cfg!(target_arch = "aarch64") {
    object::elf::R_AARCH64_JUMP_SLOT
} else {
    object::elf::R_X86_64_JUMP_SLOT
};

/// An artificial object of 64 words: the dynamic section at 0, a relocation at 32, symbols at 36
/// (the second at 39), strings at 46, a slot at 50.
pub struct Made {
    /// The words.
    pub words: Box<[u64; 64]>,
}

const AT: [u64; 5] = [32 * 8, 36 * 8, 46 * 8, 50 * 8, 0x1234];

impl Made {
    /// Makes an object that imports `function`.
    pub fn new() -> Self {
        let mut words = Box::new([0; 64]);
        let [rela, symbols, strings, slot, function] = AT;
        let dynamic =
            [(5, strings), (10, 13), (6, symbols), (11, 24), (23, rela), (2, 24), (20, 7), (0, 0)];
        for (i, (tag, value)) in dynamic.into_iter().enumerate() {
            words[i * 2] = tag;
            words[i * 2 + 1] = value;
        }
        words[32] = slot;
        words[33] = (1 << 32) | u64::from(JUMP_SLOT);
        words[39] = 1;
        words[46] = u64::from_ne_bytes(*b"\0functio");
        words[47] = u64::from_ne_bytes(*b"n\0abc\0\0\0");
        words[50] = function;
        Made { words }
    }

    /// Returns a description of the words as a loaded object.
    pub fn object(&self) -> LoadedObject {
        let bias = self.words.as_ptr() as usize;
        let segment = Segment { range: bias..bias + 512, flags: libc::PF_R };
        LoadedObject {
            name: "made".into(),
            bias,
            segments: vec![segment],
            dynamic: Some(bias),
            unwind: None,
        }
    }
}
