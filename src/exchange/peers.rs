//! The other processes that take part in the exchange.

use crate::nginx::process;
use crate::scoreboard::Board;
use crate::sys::{life, status};

/// After this time without a publication, in milliseconds, the pid may belong to another process.
const SILENT_MS: u64 = 5000;

/// A process that noticed a question within this time, in milliseconds, is taken to be alive: the
/// kernel need not be asked.
const NOTICED_MS: u64 = 20;

/// Another live process that owns a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its pid.
    pub pid: i32,
    /// Its slot.
    pub index: usize,
}

/// Returns the other processes that own slots, except those that are about to exit. Some may have died.
pub fn owners(board: &Board) -> Vec<Peer> {
    let me = process::pid();
    let others = board.owned().filter(|(_, pid, slot)| *pid != me && !slot.is_leaving());
    others.map(|(index, pid, _)| Peer { pid, index }).collect()
}

/// Returns the pids of processes that own slots and are about to exit.
pub fn leaving(board: &Board) -> impl Iterator<Item = i32> + '_ {
    board.owned().filter(|(.., slot)| slot.is_leaving()).map(|(_, pid, _)| pid)
}

/// Returns the other processes that own slots and are alive.
pub fn live(board: &Board, now_ms: u64) -> Vec<Peer> {
    let mut peers = owners(board);
    peers.retain(|peer| life::exists(peer.pid));
    if peers.iter().any(|peer| is_silent(board, peer, now_ms)) {
        if let Some(children) = process::master().and_then(status::children) {
            let master = process::master();
            peers.retain(|peer| children.contains(&peer.pid) || Some(peer.pid) == master);
        }
    }
    peers
}

/// Returns the time of the oldest publication among those of `owners` that are alive; 0 if one has never
/// published.
pub fn oldest_ms(board: &Board, owners: &[Peer], now_ms: u64) -> u64 {
    let published_ms = |peer: &Peer| match board.get(peer.index) {
        Some(slot) if slot.is_away() => Some(u64::MAX),
        slot => slot.and_then(|slot| slot.published_ms()),
    };
    // Finds the oldest live process with as few questions to the kernel as possible.
    let oldest = |mut peers: Vec<Peer>| {
        // Processes publish meanwhile, so the time of each is read once.
        peers.sort_by_cached_key(|peer| published_ms(peer).unwrap_or(0));
        peers.into_iter().find(|peer| life::exists(peer.pid) && !is_ending(board, peer, now_ms))
    };
    let oldest = match oldest(owners.to_vec()) {
        Some(peer) if is_silent(board, &peer, now_ms) => oldest(live(board, now_ms)),
        peer => peer,
    };
    oldest.map_or(u64::MAX, |peer| published_ms(&peer).unwrap_or(0))
}

/// Returns whether a process that has noticed nothing for a while was killed. A killed process exists
/// while its memory is freed, and then until the master reaps it.
fn is_ending(board: &Board, peer: &Peer, now_ms: u64) -> bool {
    let noticed_ms = board.get(peer.index).map_or(0, |slot| slot.noticed_ms());
    noticed_ms.saturating_add(NOTICED_MS) < now_ms && life::is_ending(peer.pid)
}

fn is_silent(board: &Board, peer: &Peer, now_ms: u64) -> bool {
    let published_ms = board.get(peer.index).and_then(|slot| slot.published_ms());
    published_ms.is_none_or(|ms| ms.saturating_add(SILENT_MS) < now_ms)
}
