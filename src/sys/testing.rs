//! What the tests of hooks share.

use std::ffi::{c_void, CStr, CString};
use std::path::PathBuf;
use std::process::Command;

use crate::sys::elf::{LoadedObject, Segment};

const CHILD: &str = "MEMSTAT_TEST_CHILD";

/// Runs a test in a process of its own: `name` is the test's own name, with its modules.
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

/// The same in a process with one thread.
pub fn alone(name: &str, body: impl FnOnce() + std::panic::UnwindSafe) {
    isolated(name, || {
        // SAFETY: the other thread waits for this one and holds no lock.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let failed = std::panic::catch_unwind(body).is_err();
            // SAFETY: the child has nothing to end in order.
            unsafe { libc::_exit(failed.into()) };
        }
        let mut status = 0;
        // SAFETY: room for a status.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0);
    });
}

/// A library of C, built with the compiler that links this crate, and loaded.
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
        // SAFETY: the libraries of the tests run nothing when they are loaded.
        let handle = unsafe { libc::dlopen(c_path.as_ptr(), mode) };
        assert!(!handle.is_null());
        Library { handle, path }
    }

    /// Lets other objects, and `RTLD_DEFAULT`, see its symbols.
    pub fn make_global(&self) {
        let path = CString::new(self.path.to_str().unwrap()).unwrap();
        let mode = libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_GLOBAL;
        // SAFETY: the library is loaded, and runs nothing of its own.
        assert!(!unsafe { libc::dlopen(path.as_ptr(), mode) }.is_null());
    }

    /// The address of one of its symbols.
    pub fn symbol(&self, name: &CStr) -> *const c_void {
        // SAFETY: the handle is open.
        let found = unsafe { libc::dlsym(self.handle, name.as_ptr()) };
        assert!(!found.is_null());
        found
    }

    /// Closes it.
    pub fn close(self) {
        // SAFETY: the handle is open, and not used again.
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

/// `R_*_JUMP_SLOT`.
pub const JUMP_SLOT: u64 = if cfg!(target_arch = "aarch64") { 1026 } else { 7 };

/// A made-up object of 64 words: the dynamic section at 0, a relocation at 32, symbols at 36
/// (the second at 39), strings at 46, a slot at 50.
pub struct Made {
    /// The words.
    pub words: Box<[u64; 64]>,
}

const AT: [u64; 5] = [32 * 8, 36 * 8, 46 * 8, 50 * 8, 0x1234];

impl Made {
    /// A new one, that imports `function`.
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
        words[33] = (1 << 32) | JUMP_SLOT;
        words[39] = 1;
        words[46] = u64::from_ne_bytes(*b"\0functio");
        words[47] = u64::from_ne_bytes(*b"n\0abc\0\0\0");
        words[50] = function;
        Made { words }
    }

    /// It, as an object.
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
