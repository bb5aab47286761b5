//! The matrix of a policy: its zones and interfaces, and what passes between them.

use super::{Asked, Format, JsonCell, MatrixDocument, Stop};
use crate::analysis::Space;
use crate::net::Family;
use crate::resolve::{Endpoint, Plan, PlannedRule};
use crate::verify::{self, Cell, Opens, Places};

/// Prints the matrix.
pub fn show(
    plan: &Plan,
    packets: &PlannedRule,
    families: &[Family],
    asked: &Asked<'_>,
) -> Result<(), Stop> {
    let spaces = families.iter();
    let spaces: Vec<_> = spaces
        .map(|family| Space::new(*family).within(asked.budget))
        .collect();
    let cells = verify::matrix(plan, packets, asked.source_ports.as_ref(), &spaces)?;
    let table = Table {
        places: Places::of(plan),
        cells,
        families,
        asked,
    };
    match asked.format {
        Format::Json => table.json(),
        Format::Markdown => asked.output.result(&table.markdown()),
        _ => asked.output.result(&table.text()),
    }
    Ok(())
}

struct Table<'a> {
    places: Places,
    cells: Vec<Cell>,
    families: &'a [Family],
    asked: &'a Asked<'a>,
}

impl Table<'_> {
    fn json(&self) {
        let place = |of: Endpoint| self.places.0.iter().position(|(place, _)| *place == of);
        let name = |of: Endpoint| place(of).map(|at| self.places.0[at].1.clone());
        // Rules of other programs are unknown here and may accept the connection, so they count as an edge.
        let some = |cell: &&Cell| matches!(cell.opens, Opens::Some | Opens::All | Opens::Others);
        let edges = self.cells.iter().filter(some);
        let mut edges: Vec<_> = edges
            .map(|cell| [place(cell.from), place(cell.to)])
            .collect();
        edges.sort_unstable();
        edges.dedup();
        let cells = self
            .cells
            .iter()
            .filter(|cell| cell.opens != Opens::NoPacket);
        let cells = cells.map(|cell| JsonCell {
            family: cell.family.keyword(),
            from: name(cell.from),
            to: name(cell.to),
            opens: word(cell.opens),
            others: cell.others,
            depends_on: cell.depends_on.clone(),
        });
        let places = self.places.0.iter();
        self.asked.output.json(&MatrixDocument {
            chain: None,
            service: self.asked.service.clone(),
            state: self.asked.state_word(),
            partial: None,
            classes: places.map(|(_, name)| vec![name.clone()]).collect(),
            families: None,
            divided_by: None,
            edges,
            cells: Some(cells.collect()),
        });
    }

    fn heading(&self) -> String {
        let families: Vec<String> = self.families.iter().map(Family::to_string).collect();
        format!("{}: {}", families.join(", "), self.asked.words())
    }

    /// Returns the text of a cell: one word, or one for each family if they differ.
    fn cell(&self, from: Endpoint, to: Endpoint) -> String {
        let cells = self
            .cells
            .iter()
            .filter(|cell| (cell.from, cell.to) == (from, to));
        let cells: Vec<_> = cells.filter(|cell| cell.opens != Opens::NoPacket).collect();
        let starred = |cell: &Cell| {
            let star = if cell.depends_on.is_empty() { "" } else { "*" };
            let others = match cell.others && cell.opens != Opens::Others {
                true => " or others",
                false => "",
            };
            format!("{}{star}{others}", shown(cell.opens))
        };
        match &cells[..] {
            [] => String::new(),
            [one, rest @ ..] if rest.iter().all(|cell| starred(cell) == starred(one)) => {
                starred(one)
            }
            more => {
                let of = |cell: &&Cell| format!("{} {}", starred(cell), short(cell.family));
                more.iter().map(of).collect::<Vec<_>>().join(", ")
            }
        }
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![vec!["from \\ to".to_owned()]];
        rows[0].extend(self.places.0.iter().map(|(_, name)| name.clone()));
        for (from, name) in &self.places.0 {
            let mut row = vec![name.clone()];
            row.extend(self.places.0.iter().map(|(to, _)| self.cell(*from, *to)));
            rows.push(row);
        }
        rows
    }

    /// Returns the conditions of all cells with a star.
    fn conditions(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        let conditions = self.cells.iter().flat_map(|cell| &cell.depends_on);
        for condition in conditions {
            if !all.contains(condition) {
                all.push(condition.clone());
            }
        }
        all
    }

    fn text(&self) -> String {
        let rows = self.rows();
        let columns = rows.first().map_or(0, Vec::len);
        let widths: Vec<usize> = (0..columns)
            .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
            .collect();
        let mut text = self.heading() + "\n\n";
        for row in rows {
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            text.push_str(&format!("  {}\n", line.trim_end()));
        }
        let conditions = self.conditions();
        if !conditions.is_empty() {
            text.push_str("\n* depends on:\n");
            for condition in conditions {
                text.push_str(&format!("  {condition}\n"));
            }
        }
        if self.cells.iter().any(|cell| cell.others) {
            text.push_str(&format!("\n{OTHERS}\n"));
        }
        text
    }

    fn markdown(&self) -> String {
        let rows = self.rows();
        let mut text = format!("### {}\n\n", self.heading());
        for (number, row) in rows.iter().enumerate() {
            text.push_str(&format!("| {} |\n", row.join(" | ")));
            if number == 0 {
                text.push_str(&format!("|{}\n", "---|".repeat(row.len())));
            }
        }
        for condition in self.conditions() {
            text.push_str(&format!("\n\\* depends on: {condition}\n"));
        }
        if self.cells.iter().any(|cell| cell.others) {
            text.push_str(&format!("\n{OTHERS}\n"));
        }
        text
    }
}

/// The note below a table with cells that rules of other programs decide.
const OTHERS: &str = "others: no rule of the policy decides, but rules of other programs do (`mode` of [ownership]); `--live` includes them";

fn word(opens: Opens) -> &'static str {
    match opens {
        Opens::Nothing => "nothing",
        Opens::Some => "some",
        Opens::All => "all",
        Opens::Others => "others",
        Opens::NoPacket => "no packet",
    }
}

fn shown(opens: Opens) -> &'static str {
    match opens {
        Opens::Nothing => "-",
        Opens::Some => "some",
        Opens::All => "yes",
        Opens::Others => "others",
        Opens::NoPacket => "",
    }
}

fn short(family: Family) -> &'static str {
    match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    }
}
