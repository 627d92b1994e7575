//! The reasons why a hook is not in place.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// The reason why a hook is not in place. Its text is short, for use in `off: reason`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    /// The dynamic section of an object is malformed.
    #[error("the dynamic section of {object} cannot be read")]
    Malformed {
        /// The object's base name.
        object: String,
    },
    /// The loader finds no definition of the function, or only stubs that lead to one.
    #[error("{symbol} cannot be resolved")]
    Unresolved {
        /// The name of the function.
        symbol: String,
    },
    /// A slot leads to a different function than the other slots do: other code has hooked it.
    #[error("{object} uses a different {symbol} than the other objects")]
    Foreign {
        /// The name of the function.
        symbol: String,
        /// The importing object's base name.
        object: String,
    },
    /// A slot changed just before it was patched.
    #[error("an import slot of {object} changed while it was patched")]
    Changed {
        /// The importing object's base name.
        object: String,
    },
    /// A slot lies on a page that must not become writable.
    #[error("an import slot of {object} is on an executable or unreadable page")]
    Page {
        /// The importing object's base name.
        object: String,
    },
    /// `/proc/self/maps` cannot be read, so page protections could not be restored.
    #[error("the mappings of the process cannot be read")]
    Maps,
    /// The kernel refused to make a page writable, or to restore its protection.
    #[error("mprotect failed, errno {0}")]
    Protect(i32),
    /// All thread-specific keys are taken.
    #[error("no thread-specific key is left")]
    Key,
    /// The loader does not know the object to pin, or refuses to keep it.
    #[error("the module cannot be kept loaded")]
    Pin,
    /// No Lua library is loaded in the process.
    #[error("no LuaJIT is loaded")]
    NoLua,
    /// The hook does not see how VMs are created.
    #[error("no module imports {symbol}")]
    NotImported {
        /// The name of the function.
        symbol: String,
    },
    /// The process has more than one thread. Code that other threads may be running cannot be
    /// changed.
    #[error("the process already has several threads")]
    Threads,
    /// There is no free page close enough to the functions for the hook's code.
    #[error("no free page is close enough to the functions")]
    Room,
    /// The function's first instructions cannot be moved.
    #[error("the first instructions of {symbol} cannot be moved")]
    Code {
        /// The name of the function.
        symbol: String,
    },
    /// A structure of nginx differs from the one that the module was built for.
    #[error("nginx's structures differ from those that the module was built for")]
    Layout,
    /// Other code has changed the function since it was hooked.
    #[error("other code has changed {symbol}")]
    Overwritten {
        /// The name of the function.
        symbol: String,
    },
    /// No child process could be created for the trial.
    #[error("no child process could be created for the trial")]
    Fork,
    /// The child process that ran the trial was killed, or ended without a result.
    #[error("the child process of the trial was killed")]
    Killed,
    /// The kernel refused to wait for either a signal or a descriptor.
    #[error("ppoll failed, errno {0}")]
    Wait(i32),
    /// There is no memory for the hook's counters.
    #[error("there is no memory for its counters")]
    Memory,
}
