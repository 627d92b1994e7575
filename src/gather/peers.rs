//! Who else answers.

use crate::nginx::process;
use crate::probe::status;
use crate::slot::Board;

/// A process that has been silent for so long may be another one with the same pid.
const SILENT_MS: u64 = 5000;

/// Another live process that owns a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its pid.
    pub pid: i32,
    /// Its slot.
    pub index: usize,
}

/// The other live processes that own slots.
pub fn live(board: &Board, now_ms: u64) -> Vec<Peer> {
    let me = process::pid();
    let slots = board.slots().iter().enumerate();
    let mut peers: Vec<_> = slots
        .filter_map(|(index, slot)| Some(Peer { pid: slot.pid()?, index }))
        .filter(|peer| peer.pid != me && process::exists(peer.pid))
        .collect();
    let silent = |peer: &Peer| {
        let published_ms = board.get(peer.index).and_then(|slot| slot.published_ms());
        published_ms.is_none_or(|ms| ms.saturating_add(SILENT_MS) < now_ms)
    };
    if peers.iter().any(silent) {
        if let Some(children) = process::master().and_then(status::children) {
            peers.retain(|peer| children.contains(&peer.pid));
        }
    }
    peers
}
