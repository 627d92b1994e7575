//! Who else answers.

use crate::nginx::process;
use crate::slot::Board;

/// Another live process that owns a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its pid.
    pub pid: i32,
    /// Its slot.
    pub index: usize,
}

/// The other live processes that own slots.
pub fn live(board: &Board) -> Vec<Peer> {
    let me = process::pid();
    let slots = board.slots().iter().enumerate();
    slots
        .filter_map(|(index, slot)| Some(Peer { pid: slot.pid()?, index }))
        .filter(|peer| peer.pid != me && process::exists(peer.pid))
        .collect()
}
