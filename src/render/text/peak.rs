//! The worst moments of processes.
#![forbid(unsafe_code)]

use std::cmp::Reverse;

use super::{named, section};
use crate::format::ascii;
use crate::render::layout::{paragraph, Align};
use crate::render::text::pools::shared_name;
use crate::render::units::{known, size};
use crate::render::who::label;
use crate::report::model::peak::{Peak, PeakCreator, PeakPools};
use crate::report::model::Process;

/// Creators that are named.
const CREATORS: usize = 3;

/// The worst moment of each process, and what its pools held then.
pub(super) fn peaks(out: &mut String, processes: &[Process]) {
    let (processes, peaks): (Vec<&Process>, Vec<&Peak>) =
        processes.iter().filter_map(|p| Some((p, p.peak.as_ref()?))).unzip();
    if processes.is_empty() {
        return;
    }
    section(
        out,
        "Worst moments (as seen once a second; unseen is how far the kernel's peak is above)",
    );
    let mut table = named(&processes);
    let mut column = |align: Align, head: &str, cell: &dyn Fn(&Peak) -> String| {
        table.column(align, &[head], peaks.iter().map(|peak| cell(peak)).collect());
    };
    let of_pools = |peak: &Peak, cell: &dyn Fn(&PeakPools) -> String| {
        peak.pools.as_ref().map_or_else(|| "?".to_owned(), cell)
    };
    column(Align::Left, "at", &|peak| ascii(&peak.at.text()));
    column(Align::Right, "resident", &|peak| size(peak.resident));
    column(Align::Right, "unseen", &|peak| known(peak.unseen, size));
    column(Align::Right, "pools", &|peak| of_pools(peak, &|pools| size(pools.size())));
    column(Align::Left, "largest creator", &|peak| {
        of_pools(peak, &|pools| pools.by_creator.first().map(creator).unwrap_or_default())
    });
    table.print(out);
    let mut lines = String::new();
    for (process, pools) in
        processes.iter().zip(&peaks).filter_map(|(p, k)| Some((p, k.pools.as_ref()?)))
    {
        let text = [held(pools), whose(pools)].into_iter().flatten().collect::<Vec<_>>().join("; ");
        if !text.is_empty() {
            paragraph(&mut lines, "", &format!("{} pid {}: {text}", label(process), process.pid));
        }
    }
    if !lines.is_empty() {
        out.push('\n');
        out.push_str(&lines);
    }
}

/// The worst moment of the process that had most in RAM, in a sentence.
pub(super) fn worst(out: &mut String, processes: &[&Process]) {
    let with_peak = processes.iter().filter_map(|p| Some((*p, p.peak.as_ref()?)));
    let Some((process, peak)) =
        with_peak.max_by_key(|(_, peak)| (peak.resident, Reverse(peak.at.0)))
    else {
        return;
    };
    let pools = peak.pools.as_ref();
    let pools = pools
        .map(|p| format!("pools {}", size(p.size())))
        .into_iter()
        .chain(pools.into_iter().flat_map(|pools| [held(pools), whose(pools)]).flatten());
    let mut text = format!(
        "worst moment: {} pid {}, {} in RAM at {}",
        label(process),
        process.pid,
        size(peak.resident),
        ascii(&peak.at.text())
    );
    for part in pools {
        text.push_str("; ");
        text.push_str(&part);
    }
    out.push('\n');
    paragraph(out, "", &text);
}

/// The creators whose pools held most.
fn held(pools: &PeakPools) -> Option<String> {
    let creators = pools.by_creator.iter().take(CREATORS);
    let creators: Vec<_> =
        creators.map(|one| format!("{} {}", creator(one), size(one.size()))).collect();
    (!creators.is_empty()).then(|| creators.join(", "))
}

/// The server and the request that held most.
fn whose(pools: &PeakPools) -> Option<String> {
    let server = pools.server.as_ref().map(|server| {
        format!("server {} {}", ascii(&shared_name(&server.name)), size(server.sum().size()))
    });
    let request = pools.request.as_ref().map(|request| {
        let of = request.request.as_deref().or(request.server_name.as_deref()).map(ascii);
        let held = size(request.bytes.saturating_add(request.large_bytes));
        match of {
            Some(of) => format!("largest request {of} {held}"),
            None => format!("largest request {held}"),
        }
    });
    let both: Vec<_> = server.into_iter().chain(request).collect();
    (!both.is_empty()).then(|| both.join(", "))
}

fn creator(creator: &PeakCreator) -> String {
    let known = creator.creator.as_deref().map(ascii);
    known.unwrap_or_else(|| format!("? in {}", ascii(&creator.object)))
}
