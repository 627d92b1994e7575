//! The entry points of the hooked slab functions. On this processor they lead straight to the
//! common code.

pub(in crate::hook) use crate::hook::slab::{
    alloc_locked as memstat_slab_alloc, free_locked as memstat_slab_free,
};
