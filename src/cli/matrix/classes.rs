//! The matrix of a ruleset: address classes, and which of them may reach which.

use std::collections::BTreeSet;

use super::{Asked, Format, MatrixDocument, Stop};
use crate::analysis::{Behaviour, DevicesBehind, Field, Matrix, Reading, Set, Space, TextError};
use crate::cli::explain::{HOPS_END, PARTIAL};
use crate::iptables::{Match, Ruleset, TableName};
use crate::net::{AddressRange, Family, Hook, IntervalSet, PerFamily, number_of};
use crate::resolve::{Plan, PlannedRule};
use crate::verify;

/// The maximum number of ranges of a class to print for people; JSON has all of them.
const MOST_SHOWN: usize = 12;

/// A matrix, and the non-contiguous masks that divide its classes.
struct Divided {
    matrix: Matrix,
    /// For each class: the non-contiguous masks that some of its addresses match. A class of its own for each would be a huge number
    /// of ranges: 10.0.0.1/255.0.0.255 alone is 65,536 addresses, none beside another.
    masks: Vec<BTreeSet<String>>,
}

/// Prints the matrix of each family.
pub fn show(
    rulesets: &PerFamily<Option<Ruleset>>,
    plan: &Plan,
    packets: &PlannedRule,
    behind: &DevicesBehind,
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
    packets: &PlannedRule,
    behind: &DevicesBehind,
    asked: &Asked<'_>,
    apart: bool,
) -> Result<Divided, TextError> {
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
    let matrix = space.matrix(passes)?;
    let classes = matrix.classes.iter();
    let masks = classes.map(|class| dividing(&space, ruleset, passes, class));
    Ok(Divided {
        masks: masks.collect::<Result<_, _>>()?,
        matrix,
    })
}

/// Returns the masks that divide a class for some of the packets.
fn dividing(
    space: &Space,
    ruleset: &Ruleset,
    packets: Set,
    class: &IntervalSet,
) -> Result<BTreeSet<String>, TextError> {
    let mut masks = BTreeSet::new();
    for (is_source, here) in [
        (true, space.sources(class)?),
        (false, space.destinations(class)?),
    ] {
        let is_bit = |field: &Field| match field {
            Field::SourceBit(_) => is_source,
            Field::DestinationBit(_) => !is_source,
            _ => false,
        };
        if !space.support(space.and(packets, here)?).iter().any(is_bit) {
            continue;
        }
        let chains = ruleset.tables.iter().flat_map(|table| &table.chains);
        let conditions = chains
            .flat_map(|chain| &chain.rules)
            .flat_map(|rule| &rule.matches);
        let networks = conditions.filter_map(|one| match one {
            Match::Source(network) if is_source => Some(&network.value),
            Match::Destination(network) if !is_source => Some(&network.value),
            _ => None,
        });
        for network in networks.filter(|network| network.prefix_length().is_none()) {
            let (address, mask) = (number_of(network.address()), number_of(network.mask()));
            let last = address | (!mask & space.family().last_address());
            let around = IntervalSet::from_intervals([(address, last)]);
            if around.difference(class) != around {
                masks.insert(network.to_string());
            }
        }
    }
    Ok(masks)
}

/// Prints hints at options that would give a better answer: `--chain INPUT` for a host that forwards nothing, and
/// `--interfaces` if rules name devices, which otherwise may have any address behind them.
fn hint(ruleset: &Ruleset, devices_known: bool, asked: &Asked<'_>) {
    let filter = ruleset.table(TableName::Filter);
    let chains = filter.iter().flat_map(|filter| &filter.chains);
    let mut conditions = chains.flat_map(|chain| chain.rules.iter().flat_map(|rule| &rule.matches));
    let names_devices = |one: &Match| match one {
        Match::InInterface(name) | Match::OutInterface(name) => name.value.as_str() != "lo",
        _ => false,
    };
    if !devices_known && conditions.any(names_devices) {
        let family = ruleset.family;
        let text = format!(
            "{family}: the rules name devices; without `--interfaces FILE` any address may be behind any device"
        );
        asked.output.message(&text);
    }
    if asked.hook == Hook::Forward && ruleset.may_end_hops() {
        asked
            .output
            .message(&format!("{}: {HOPS_END}", ruleset.family));
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

fn as_json(matrices: &[(Family, Divided)], partial: bool, asked: &Asked<'_>) {
    let (mut classes, mut families, mut edges) = (Vec::new(), Vec::new(), Vec::new());
    let mut masks = Vec::new();
    for (family, Divided { matrix, masks: own }) in matrices {
        masks.extend(own.iter().cloned());
        // The classes of the second family follow those of the first, so its indices are shifted.
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
        divided_by: Some(masks),
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

/// Returns the ranges of a class for people, or those that it excludes if that is shorter.
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

/// Returns the numbers of the classes that a class may reach.
fn reached(matrix: &Matrix, class: usize) -> String {
    let to = matrix.edges.iter().filter(|(from, _)| *from == class);
    let to: Vec<String> = to.map(|(_, to)| to.to_string()).collect();
    match to.len() {
        0 => "nobody".to_owned(),
        all if all == matrix.classes.len() && all > 1 => "all".to_owned(),
        _ => to.join(", "),
    }
}

/// Returns the explanation of edges of divided classes, if there are any.
fn mask_note(masks: &[BTreeSet<String>]) -> Option<&'static str> {
    masks.iter().any(|masks| !masks.is_empty()).then_some(
        "A mask divides a class into too many parts to list: what the class may reach, or who may reach it, holds only for those of \
         its addresses that match the rules with the mask.",
    )
}

/// `, divided by 10.0.0.1/255.0.0.255`
fn divided_by(masks: &BTreeSet<String>) -> String {
    let masks: Vec<&str> = masks.iter().map(String::as_str).collect();
    match masks.len() {
        0 => String::new(),
        _ => format!(", divided by {}", masks.join(", ")),
    }
}

fn text(family: Family, Divided { matrix, masks }: &Divided, asked: &Asked<'_>) -> String {
    let mut text = heading(family, matrix, asked) + "\n\n";
    let width = matrix.classes.len().to_string().len();
    for (number, class) in matrix.classes.iter().enumerate() {
        let lines = shown(family, class);
        let divided = masks.get(number).map_or(String::new(), divided_by);
        text.push_str(&format!(
            "  {number:>width$}  {}{divided}\n",
            lines.join(", ")
        ));
    }
    text.push('\n');
    for number in 0..matrix.classes.len() {
        text.push_str(&format!(
            "  {number:>width$} may reach {}\n",
            reached(matrix, number)
        ));
    }
    if let Some(words) = mask_note(masks) {
        text.push_str(&format!("\n  {words}\n"));
    }
    text + "\n"
}

fn markdown(family: Family, Divided { matrix, masks }: &Divided, asked: &Asked<'_>) -> String {
    let mut text = format!("### {}\n\n", heading(family, matrix, asked));
    text.push_str("| class | addresses | may reach |\n|---|---|---|\n");
    for (number, class) in matrix.classes.iter().enumerate() {
        let addresses: Vec<_> = shown(family, class)
            .iter()
            .map(|it| format!("`{it}`"))
            .collect();
        let reached = reached(matrix, number);
        let divided = masks.get(number).map_or(String::new(), divided_by);
        text.push_str(&format!(
            "| {number} | {}{divided} | {reached} |\n",
            addresses.join(", ")
        ));
    }
    if let Some(words) = mask_note(masks) {
        text.push_str(&format!("\n{words}\n"));
    }
    text + "\n"
}
