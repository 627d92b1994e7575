//! Tables of the breakdowns of all processes.
#![forbid(unsafe_code)]

use std::cmp::Reverse;

use super::section;
use crate::render::layout::{Align, TextTable};
use crate::render::units::{known, share, size};
use crate::render::who::label;
use crate::report::model::{Breakdown, Category, Process, Region};

/// The maximum number of blocks with processes as columns. With more of them, each process is a
/// row.
const BLOCKS: usize = 2;

/// Prints two tables: the resident bytes of each category, with their share of the process if there
/// is room for it, and the reserved bytes. The categories are sorted by their resident bytes in all
/// processes, the largest first.
pub(super) fn breakdowns(out: &mut String, processes: &[Process]) {
    let columns: Vec<(&Process, &Breakdown)> =
        processes.iter().filter_map(|p| Some((p, p.breakdown.as_ref()?))).collect();
    if columns.is_empty() {
        return;
    }
    let categories = by_size(&columns);
    let resident = Matrix { columns: &columns, categories: &categories, figure: |r| r.resident };
    section(out, "Resident memory by category, and its share of the process");
    resident.print(out, true);
    let reserved = Matrix { figure: |r| r.reserved, ..resident };
    section(out, "Virtual memory by category");
    reserved.print(out, false);
}

/// The categories that some process has, the largest first.
fn by_size(columns: &[(&Process, &Breakdown)]) -> Vec<Category> {
    let mut sizes = Vec::new();
    for category in Category::ALL {
        let regions = columns.iter().filter_map(|(_, breakdown)| breakdown.get(category));
        let (there, bytes) = regions.fold((false, 0u64), |(_, sum), region| {
            (true, sum.saturating_add(region.resident.unwrap_or(0)))
        });
        if there {
            sizes.push((category, bytes));
        }
    }
    sizes.sort_by_key(|(_, bytes)| Reverse(*bytes));
    sizes.into_iter().map(|(category, _)| category).collect()
}

/// One figure of all categories in all processes.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    columns: &'a [(&'a Process, &'a Breakdown)],
    categories: &'a [Category],
    figure: fn(Region) -> Option<u64>,
}

impl Matrix<'_> {
    fn print(self, out: &mut String, shares: bool) {
        let beside = self.beside(shares);
        if beside.blocks() <= BLOCKS {
            beside.print(out);
        } else {
            self.below().print(out);
        }
    }

    /// Categories as rows, processes as columns.
    fn beside(self, shares: bool) -> TextTable {
        let mut table = TextTable::default();
        let names = self.categories.iter().map(|c| c.name()).chain(["total"]);
        table.name(&["", ""], names.map(str::to_owned).collect());
        for (process, breakdown) in self.columns {
            let total = self.total(breakdown);
            let mut cells: Vec<_> = self
                .categories
                .iter()
                .map(|category| {
                    let cell = self.cell(breakdown, *category);
                    let bytes = breakdown.get(*category).and_then(self.figure);
                    let share = bytes.zip(total).map(|(b, t)| share(b, t)).unwrap_or_default();
                    if shares {
                        format!("{cell} {share:>4}")
                    } else {
                        cell
                    }
                })
                .collect();
            let total = known(total, size);
            cells.push(if shares { format!("{total}     ") } else { total });
            let pid = format!("pid {}", process.pid);
            table.column(Align::Right, &[&label(process), &pid], cells);
        }
        table
    }

    /// Processes as rows, categories as columns.
    fn below(self) -> TextTable {
        let mut table = TextTable::default();
        table.name(&["process"], self.columns.iter().map(|(p, _)| label(p)).collect());
        table.name(&["pid"], self.columns.iter().map(|(p, _)| p.pid.to_string()).collect());
        let totals = self.columns.iter().map(|(_, b)| known(self.total(b), size)).collect();
        table.column(Align::Right, &["total"], totals);
        for category in self.categories {
            let cells = self.columns.iter().map(|(_, b)| self.cell(b, *category)).collect();
            table.column(Align::Right, &[category.name()], cells);
        }
        table
    }

    fn cell(self, breakdown: &Breakdown, category: Category) -> String {
        match breakdown.get(category) {
            Some(region) => known((self.figure)(region), size),
            None => "-".to_owned(),
        }
    }

    fn total(self, breakdown: &Breakdown) -> Option<u64> {
        breakdown
            .0
            .iter()
            .try_fold(0u64, |sum, (_, region)| sum.checked_add((self.figure)(*region)?))
    }
}
