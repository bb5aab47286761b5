//! The matrix of rules: address classes and edges.

use super::{Asked, Format, MatrixDocument, Stop};
use crate::analysis::{Behaviour, Behind, Matrix, Reading, Space, TextError};
use crate::cli::explain::PARTIAL;
use crate::iptables::{Match, Ruleset, TableName};
use crate::net::{AddressRange, Family, Hook, IntervalSet, PerFamily};
use crate::resolve::{Plan, Rule};
use crate::verify;

/// So many ranges of a class are shown to people; programs get all.
const MOST_SHOWN: usize = 12;

/// Prints the matrix of each family.
pub fn show(
    rulesets: &PerFamily<Option<Ruleset>>,
    plan: &Plan,
    packets: &Rule,
    behind: &Behind,
    asked: &Asked<'_>,
) -> Result<(), Stop> {
    let (mut matrices, mut partial) = (Vec::new(), false);
    for (family, ruleset) in rulesets.iter() {
        if let Some(ruleset) = ruleset {
            hint(ruleset, behind.is_known(), asked);
            let matrix = match matrix(ruleset, plan, packets, behind, asked, false) {
                Err(TextError::GaveUp(_)) => {
                    asked.output.message(PARTIAL);
                    partial = true;
                    matrix(ruleset, plan, packets, behind, asked, true)?
                }
                result => result?,
            };
            matrices.push((family, matrix));
        }
    }
    match asked.format {
        Format::Json => as_json(&matrices, partial, asked),
        Format::Markdown => {
            for (family, matrix) in &matrices {
                asked.output.result(&markdown(*family, matrix, asked));
            }
        }
        _ => {
            for (family, matrix) in &matrices {
                asked.output.result(&text(*family, matrix, asked));
            }
        }
    }
    Ok(())
}

fn matrix(
    ruleset: &Ruleset,
    plan: &Plan,
    packets: &Rule,
    behind: &Behind,
    asked: &Asked<'_>,
    apart: bool,
) -> Result<Matrix, TextError> {
    let space = Space::for_rules(ruleset.family, [ruleset]).within(asked.budget);
    let reading = Reading {
        apart,
        ..Reading::default()
    };
    let behaviour = Behaviour::of(&space, ruleset, &reading)?;
    let mut set = verify::packets(plan, packets, &space, asked.hook)?;
    set = space.and(set, space.as_state(asked.state)?)?;
    if let Some(ports) = &asked.source_ports {
        set = space.and(
            set,
            space.values(crate::analysis::Field::SourcePort, ports)?,
        )?;
    }
    let passes = behaviour.may_pass(&space, asked.hook, set, behind)?;
    Ok(space.matrix(passes)?)
}

/// Says where another question would tell more: a host that forwards nothing has another matrix to look at, and devices
/// that nobody placed may have every address.
fn hint(ruleset: &Ruleset, placed: bool, asked: &Asked<'_>) {
    let filter = ruleset.table(TableName::Filter);
    let chains = filter.iter().flat_map(|filter| &filter.chains);
    let mut conditions = chains.flat_map(|chain| chain.rules.iter().flat_map(|rule| &rule.matches));
    let names_devices = |one: &Match| match one {
        Match::InInterface(name) | Match::OutInterface(name) => name.value.as_str() != "lo",
        _ => false,
    };
    if !placed && conditions.any(names_devices) {
        let family = ruleset.family;
        let text = format!(
            "{family}: the rules name devices, and any address may be behind any; `--interfaces FILE` says which are"
        );
        asked.output.message(&text);
    }
    let rules = |chain: &str| {
        let chain = filter.and_then(|filter| filter.chain(chain));
        chain.is_some_and(|chain| !chain.rules.is_empty())
    };
    if asked.hook == Hook::Forward && !rules("FORWARD") && rules("INPUT") {
        let family = ruleset.family;
        let text =
            format!("{family}: FORWARD has no rules; `--chain INPUT` shows who reaches this host");
        asked.output.message(&text);
    }
}

fn as_json(matrices: &[(Family, Matrix)], partial: bool, asked: &Asked<'_>) {
    let (mut classes, mut families, mut edges) = (Vec::new(), Vec::new(), Vec::new());
    for (family, matrix) in matrices {
        // The classes of the second family come behind those of the first; no edge leads from one to the other.
        let before = classes.len();
        classes.extend(matrix.classes.iter().map(|class| ranges(*family, class)));
        families.resize(classes.len(), family.keyword());
        edges.extend(
            matrix
                .edges
                .iter()
                .map(|(from, to)| [Some(before + from), Some(before + to)]),
        );
    }
    asked.output.json(&MatrixDocument {
        chain: Some(asked.hook.chain()),
        service: asked.service.clone(),
        state: asked.state_word(),
        partial: Some(partial),
        classes,
        families: Some(families),
        edges,
        cells: None,
    });
}

fn ranges(family: Family, class: &IntervalSet) -> Vec<String> {
    let ranges = class.intervals().iter();
    ranges
        .map(|(first, last)| {
            AddressRange {
                family,
                first: *first,
                last: *last,
            }
            .to_string()
        })
        .collect()
}

/// A class for people: what it is not, where that is shorter.
fn shown(family: Family, class: &IntervalSet) -> Vec<String> {
    let rest = class.complement(family.last_address());
    if rest.is_empty() {
        return vec!["every address".to_owned()];
    }
    let is_shorter = rest.intervals().len() < class.intervals().len();
    if is_shorter && rest.intervals().len() > MOST_SHOWN {
        return vec!["all other addresses".to_owned()];
    }
    let (word, list) = match is_shorter {
        true => ("all but ", ranges(family, &rest)),
        false => ("", ranges(family, class)),
    };
    let mut lines = Vec::new();
    for (at, range) in list.iter().enumerate().take(MOST_SHOWN) {
        let word = if at == 0 { word } else { "" };
        lines.push(format!("{word}{range}"));
    }
    if list.len() > MOST_SHOWN {
        lines.push(format!("and {} more", list.len() - MOST_SHOWN));
    }
    lines
}

fn heading(family: Family, matrix: &Matrix, asked: &Asked<'_>) -> String {
    let classes = match matrix.classes.len() {
        1 => "1 class".to_owned(),
        more => format!("{more} classes"),
    };
    let chain = asked.hook.chain();
    format!("{family}, {chain}: {}; {classes}", asked.words())
}

/// Whom a class may reach, by numbers.
fn reached(matrix: &Matrix, class: usize) -> String {
    let to = matrix.edges.iter().filter(|(from, _)| *from == class);
    let to: Vec<String> = to.map(|(_, to)| to.to_string()).collect();
    match to.len() {
        0 => "nobody".to_owned(),
        all if all == matrix.classes.len() && all > 1 => "all".to_owned(),
        _ => to.join(", "),
    }
}

fn text(family: Family, matrix: &Matrix, asked: &Asked<'_>) -> String {
    let mut text = heading(family, matrix, asked) + "\n\n";
    let width = matrix.classes.len().to_string().len();
    for (number, class) in matrix.classes.iter().enumerate() {
        let lines = shown(family, class);
        text.push_str(&format!("  {number:>width$}  {}\n", lines.join(", ")));
    }
    text.push('\n');
    for number in 0..matrix.classes.len() {
        text.push_str(&format!(
            "  {number:>width$} may reach {}\n",
            reached(matrix, number)
        ));
    }
    text + "\n"
}

fn markdown(family: Family, matrix: &Matrix, asked: &Asked<'_>) -> String {
    let mut text = format!("### {}\n\n", heading(family, matrix, asked));
    text.push_str("| class | addresses | may reach |\n|---|---|---|\n");
    for (number, class) in matrix.classes.iter().enumerate() {
        let addresses: Vec<_> = shown(family, class)
            .iter()
            .map(|it| format!("`{it}`"))
            .collect();
        let reached = reached(matrix, number);
        text.push_str(&format!(
            "| {number} | {} | {reached} |\n",
            addresses.join(", ")
        ));
    }
    text + "\n"
}
