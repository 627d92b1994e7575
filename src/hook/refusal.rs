//! Why a hook is not in place.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// Why a hook is not in place. The text is a short reason, fit for `off: reason`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    /// The dynamic section of an object does not say what it should.
    #[error("the dynamic section of {object} cannot be read")]
    Malformed {
        /// The object's base name.
        object: String,
    },
    /// The loader has no definition of the function, or only stubs that lead to one.
    #[error("{symbol} cannot be resolved")]
    Unresolved {
        /// The function.
        symbol: String,
    },
    /// A slot leads elsewhere than the others: to someone else's hook.
    #[error("{object} has another {symbol} than the rest")]
    Foreign {
        /// The function.
        symbol: String,
        /// The importing object's base name.
        object: String,
    },
    /// A slot changed while it was about to be patched.
    #[error("a slot of {object} changed meanwhile")]
    Changed {
        /// The importing object's base name.
        object: String,
    },
    /// A slot is on a page that must not become writable.
    #[error("a slot of {object} is on an executable or unreadable page")]
    Page {
        /// The importing object's base name.
        object: String,
    },
    /// `/proc/self/maps` cannot be read, so protections cannot be put back.
    #[error("the mappings of the process cannot be read")]
    Maps,
    /// The kernel refuses to make a page writable, or to put its protection back.
    #[error("mprotect failed, errno {0}")]
    Protect(i32),
    /// All thread-specific keys are taken.
    #[error("no thread-specific key is left")]
    Key,
    /// The loader does not know the object that is to stay, or refuses to keep it.
    #[error("the module cannot be kept in the process")]
    Pin,
    /// There is no Lua library in the process.
    #[error("no LuaJIT is loaded")]
    NoLua,
    /// VMs are made in a way that the hook does not see.
    #[error("no module imports {symbol}")]
    NotImported {
        /// The function.
        symbol: String,
    },
    /// The process has more threads than one: code that they may be in cannot be changed.
    #[error("the process has threads already")]
    Threads,
    /// There is no room for code close enough to the functions.
    #[error("no room near the functions")]
    Room,
    /// The function's first instructions cannot be moved.
    #[error("the first instructions of {symbol} cannot be moved")]
    Code {
        /// The function.
        symbol: String,
    },
    /// A structure of nginx is not as the module was built for.
    #[error("nginx's structures are not those that the module was built for")]
    Layout,
    /// Somebody else has changed the function's code since.
    #[error("the code of {symbol} was changed by somebody else")]
    Overwritten {
        /// The function.
        symbol: String,
    },
    /// There can be no child process to try it in.
    #[error("cannot try it in a child process")]
    Fork,
    /// The child process that tried it was killed.
    #[error("a child process that tried it was killed")]
    Killed,
    /// The kernel refuses to wait for a signal or a descriptor, whichever comes first.
    #[error("ppoll failed, errno {0}")]
    Wait(i32),
    /// There is no memory for what the hook counts.
    #[error("there is no memory for its counters")]
    Memory,
}
