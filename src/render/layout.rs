//! Tables and paragraphs of a fixed width.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};

/// The maximum width of a line, in characters.
pub(crate) const WIDTH: usize = 100;

/// The maximum width of a figure or a head, in characters. Longer ones are cut.
const CELL: usize = 24;

/// The maximum width of a name. Names are shortened further if the line needs the room.
const NAME: usize = 64;

/// The minimum width to which a line shortens its names.
const SHORT_NAME: usize = 24;

/// The alignment of the cells of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A column of a table: head lines and cells in printable ASCII.
#[derive(Debug, Clone)]
struct Column {
    align: Align,
    width: usize,
    head: Vec<String>,
    cells: Vec<String>,
}

/// A table. Its first columns name the rows. If the table is too wide for a line, the other columns
/// are split into blocks, and the names are repeated in front of each block.
#[derive(Debug, Clone, Default)]
pub(crate) struct TextTable {
    names: Vec<Column>,
    columns: Vec<Column>,
}

impl TextTable {
    /// Adds a column that names the rows.
    pub(crate) fn name(&mut self, head: &[&str], cells: Vec<String>) {
        self.names.push(Column::new(Align::Left, head, cells, shorten_all));
    }

    /// Adds a column.
    pub(crate) fn column(&mut self, align: Align, head: &[&str], cells: Vec<String>) {
        self.columns.push(Column::new(align, head, cells, cut_all));
    }

    /// The number of blocks.
    pub(crate) fn blocks(&self) -> usize {
        self.fitted().split().1.len()
    }

    /// Prints all lines.
    pub(crate) fn print(&self, out: &mut String) {
        self.fitted().print_blocks(out, usize::MAX);
    }

    /// Prints the lines of the first block only: columns that do not fit into it are left out.
    pub(crate) fn print_first(&self, out: &mut String) {
        self.fitted().print_blocks(out, 1);
    }

    /// The table with its names shortened as much as one line needs, and no more.
    fn fitted(&self) -> TextTable {
        let mut fitted = self.clone();
        let full = |column: &Column| column.width.saturating_add(1);
        let all = self.names.iter().chain(&self.columns);
        let width = all.map(full).sum::<usize>().saturating_sub(1);
        let widest = fitted.names.iter_mut().max_by_key(|column| column.width);
        if let Some(column) = widest.filter(|_| width > WIDTH) {
            let room = column.width.saturating_sub(width.saturating_sub(WIDTH));
            column.shorten(room.max(SHORT_NAME));
        }
        fitted
    }

    fn print_blocks(&self, out: &mut String, most: usize) {
        let (gap, blocks) = self.split();
        for (i, block) in blocks.iter().take(most).enumerate() {
            if i > 0 {
                out.push('\n');
            }
            let columns: Vec<&Column> = self.names.iter().chain(block.iter().copied()).collect();
            let lines = |part: fn(&Column) -> &Vec<String>| {
                columns.iter().map(|column| part(column).len()).max().unwrap_or(0)
            };
            for line in 0..lines(|c| &c.head) {
                print_line(out, gap, &columns, |c| c.head.get(line));
            }
            for line in 0..lines(|c| &c.cells) {
                print_line(out, gap, &columns, |c| c.cells.get(line));
            }
        }
    }

    /// The gap between columns, and the blocks. The number of blocks is as low as possible; the gap
    /// is 2 unless that would need more blocks.
    fn split(&self) -> (usize, Vec<Vec<&Column>>) {
        let (wide, narrow) = (self.split_with(2), self.split_with(1));
        if wide.len() <= narrow.len() {
            (2, wide)
        } else {
            (1, narrow)
        }
    }

    fn split_with(&self, gap: usize) -> Vec<Vec<&Column>> {
        let full = |column: &Column| column.width.saturating_add(gap);
        let names: usize = self.names.iter().map(full).sum();
        let mut blocks = Vec::new();
        let mut block = Vec::new();
        let mut width = names;
        for column in &self.columns {
            // The last column has no gap behind it.
            let wider = width.saturating_add(full(column));
            if wider.saturating_sub(gap) > WIDTH && !block.is_empty() {
                blocks.push(std::mem::take(&mut block));
                width = names;
            }
            width = width.saturating_add(full(column));
            block.push(column);
        }
        blocks.push(block);
        blocks
    }
}

impl Column {
    /// A column whose cells are made to fit by `fit`.
    fn new(
        align: Align,
        head: &[&str],
        mut cells: Vec<String>,
        fit: fn(&[String]) -> Vec<String>,
    ) -> Self {
        let head = head.iter().map(|line| cut((*line).to_owned())).collect();
        // After this, each character is one byte, so that cutting cannot split one.
        cells.iter_mut().for_each(|cell| cell.retain(|c| matches!(c, ' '..='~')));
        let mut column = Column { align, width: 0, head, cells: fit(&cells) };
        column.measure();
        column
    }

    fn measure(&mut self) {
        let lines = self.head.iter().chain(&self.cells);
        self.width = lines.map(String::len).max().unwrap_or(0);
    }

    fn shorten(&mut self, width: usize) {
        self.cells = shorten(&self.cells, width);
        self.measure();
    }
}

fn cut(mut cell: String) -> String {
    if cell.len() > CELL {
        cell.truncate(CELL.saturating_sub(1));
        cell.push('~');
    }
    cell
}

fn cut_all(cells: &[String]) -> Vec<String> {
    cells.iter().cloned().map(cut).collect()
}

fn shorten_all(cells: &[String]) -> Vec<String> {
    shorten(cells, NAME)
}

/// Shortens names to this width by leaving out their middle. Names that differ stay different: where
/// the middle is what differs, another part is left out, and as a last resort they are numbered.
fn shorten(names: &[String], width: usize) -> Vec<String> {
    let room = width.saturating_sub(1);
    let different: HashSet<&String> = names.iter().collect();
    // The middle first, then ever more of the end, then ever more of the start.
    let tails = (room / 2..=room).chain((0..room / 2).rev());
    for tail in tails {
        let short: Vec<String> =
            names.iter().map(|name| without_middle(name, room, tail)).collect();
        if short.iter().collect::<HashSet<_>>().len() == different.len() {
            return short;
        }
    }
    let mut numbers: HashMap<&String, usize> = HashMap::new();
    let numbered = names.iter().map(|name| {
        let next = numbers.len().saturating_add(1);
        let number = numbers.entry(name).or_insert(next);
        let end = format!("~{number}");
        let start = name.get(..width.saturating_sub(end.len())).unwrap_or(name);
        format!("{start}{end}")
    });
    numbered.collect()
}

/// A name of at most `room` characters and a `~`, which stands before the last `tail` of them.
fn without_middle(name: &str, room: usize, tail: usize) -> String {
    if name.len() <= room.saturating_add(1) {
        return name.to_owned();
    }
    let start = name.get(..room.saturating_sub(tail)).unwrap_or(name);
    let end = name.get(name.len().saturating_sub(tail)..).unwrap_or_default();
    format!("{start}~{end}")
}

fn print_line<'a>(
    out: &mut String,
    gap: usize,
    columns: &[&'a Column],
    cell: impl Fn(&'a Column) -> Option<&'a String>,
) {
    let mut line = String::new();
    for column in columns {
        let text = cell(column).map_or("", String::as_str);
        let space = column.width.saturating_sub(text.len());
        let (left, right) = match column.align {
            Align::Left => (0, space),
            Align::Right => (space, 0),
        };
        for _ in 0..left {
            line.push(' ');
        }
        line.push_str(text);
        for _ in 0..right.saturating_add(gap) {
            line.push(' ');
        }
    }
    out.push_str(line.trim_end());
    out.push('\n');
}

/// Prints a paragraph of ASCII text with `lead` before its first line and as many spaces before the
/// others.
pub(crate) fn paragraph(out: &mut String, lead: &str, text: &str) {
    let indent = " ".repeat(lead.len());
    let mut line = lead.to_owned();
    let mut empty = true;
    for mut word in text.split_ascii_whitespace() {
        loop {
            let gap = usize::from(!empty);
            let space = WIDTH.saturating_sub(line.len()).saturating_sub(gap);
            if word.len() <= space {
                if !empty {
                    line.push(' ');
                }
                line.push_str(word);
                empty = false;
                break;
            }
            // A word longer than a line is broken. If the indent leaves no room, a line gets one
            // byte.
            if empty {
                match word.split_at_checked(space.max(1)) {
                    Some((fits, rest)) => {
                        line.push_str(fits);
                        word = rest;
                    }
                    None => break,
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
            line.clone_from(&indent);
            empty = true;
        }
    }
    out.push_str(line.trim_end());
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(width: usize, rows: usize) -> Vec<String> {
        vec!["x".repeat(width); rows]
    }

    #[test]
    fn aligned() {
        let mut table = TextTable::default();
        table.name(&["process"], vec!["a".to_owned(), "long name".to_owned()]);
        table.column(Align::Right, &["size", "B"], vec!["1".to_owned(), "1234567".to_owned()]);
        table.column(Align::Left, &["state"], vec!["ok".to_owned(), String::new()]);
        let mut out = String::new();
        table.print(&mut out);
        assert_eq!(
            out,
            "process       size  state\n\
             \x20                B\n\
             a                1  ok\n\
             long name  1234567\n"
        );
    }

    #[test]
    fn blocks_fit() {
        for columns in 1..40 {
            for width in [1, 8, 13, CELL, 200] {
                let mut table = TextTable::default();
                table.name(&[""], cells(10, 3));
                for _ in 0..columns {
                    table.column(Align::Right, &["h", "i"], cells(width, 3));
                }
                let mut out = String::new();
                table.print(&mut out);
                assert!(out.lines().all(|line| line.len() <= WIDTH), "{out}");
                assert_eq!(out.lines().filter(|line| line.is_empty()).count(), table.blocks() - 1);
                let heads: usize = out.lines().map(|line| line.matches('h').count()).sum();
                assert_eq!(heads, columns);
            }
        }
    }

    #[test]
    fn names_stay_different() {
        let owned =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let names = owned(&["a_long_name_of_dict_1", "a_long_name_of_dict_12", "short", "short"]);
        let expected = owned(&["a_long~ict_1", "a_long~ct_12", "short", "short"]);
        assert_eq!(shorten(&names, 12), expected);
        // What differs is in the middle.
        let names = owned(&["front_AA_ending", "front_BB_ending"]);
        assert_eq!(shorten(&names, 10), owned(&["f~A_ending", "f~B_ending"]));
        // In the middle of what is left out at either end.
        let names: Vec<String> =
            (1..30).map(|n| format!("{}{n}{}", "x".repeat(40), "y".repeat(40))).collect();
        let short = shorten(&names, 24);
        assert_eq!(short.iter().collect::<HashSet<_>>().len(), names.len());
        assert!(short.iter().all(|name| name.len() <= 24), "{short:?}");
    }

    #[test]
    fn names_are_whole_where_there_is_room() {
        let name = "a".repeat(NAME);
        let mut table = TextTable::default();
        table.name(&["zone"], vec![name.clone()]);
        table.column(Align::Right, &["size"], cells(20, 1));
        let print = |table: &TextTable| {
            let mut out = String::new();
            table.print(&mut out);
            out
        };
        assert!(print(&table).contains(&name));
        table.column(Align::Right, &["in use"], cells(20, 1));
        let out = print(&table);
        assert!(!out.contains(&name) && out.contains('~'), "{out}");
        assert!(out.lines().all(|line| line.len() <= WIDTH));
        assert_eq!(table.blocks(), 1);
    }

    #[test]
    fn gap_narrows_before_it_splits() {
        let mut table = TextTable::default();
        table.name(&[""], cells(10, 1));
        for _ in 0..9 {
            table.column(Align::Right, &[""], cells(9, 1));
        }
        assert_eq!(table.split().0, 1);
        assert_eq!(table.blocks(), 1);
    }

    #[test]
    fn paragraphs() {
        let print = |lead: &str, text: &str| {
            let mut out = String::new();
            paragraph(&mut out, lead, text);
            out
        };
        assert_eq!(print("- ", "one  two\nthree"), "- one two three\n");
        assert_eq!(print("- ", ""), "-\n");
        let words = "word ".repeat(30);
        let expected = format!("- {}\n  {}\n", ["word"; 19].join(" "), ["word"; 11].join(" "));
        assert_eq!(print("- ", &words), expected);
        let long = "x".repeat(250);
        assert_eq!(
            print("- ", &format!("a {long}")),
            format!("- a\n  {}\n  {}\n  {}\n", &long[..98], &long[..98], &long[..54])
        );
        assert_eq!(print(&"l".repeat(100), "ab").lines().count(), 3);
    }
}
