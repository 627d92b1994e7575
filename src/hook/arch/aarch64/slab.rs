//! Where calls of the hooked slab functions come in: nothing is done here.

pub(in crate::hook) use crate::hook::slab::{
    alloc_locked as memstat_slab_alloc, free_locked as memstat_slab_free,
};
