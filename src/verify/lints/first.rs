//! Entries of `[[nat]]` and `[[raw]]` that do nothing. In these tables the first entry that matches a packet decides it.

use super::entries::{Entry, EntrySummaries, Role, is_only_for_hairpins, is_opaque};
use crate::analysis::{BaseChain, Covers, GaveUp, Set, Space, Verdict};
use crate::iptables::TableName;
use crate::net::State;
use crate::policy::{CustomPosition, NatChain};
use crate::resolve::Plan;
use crate::verify::spec::{custom, nat, raw};

/// An entry in a base chain.
struct Line {
    entry: Entry,
    /// The packets that it matches, without regard to earlier entries.
    set: Set,
    /// The verdict for all of them; `None` if they have several.
    verdict: Option<Verdict>,
    /// `true` if `set` depends on conditions that a packet alone does not answer.
    opaque: bool,
}

/// Checks the entries of nat and raw, base chain by base chain.
pub(super) fn check(plan: &Plan, space: &Space, seen: &mut EntrySummaries) -> Result<(), GaveUp> {
    // The kernel asks the nat table only about the first packet of a connection.
    let asked = space.states(&[State::New, State::Related])?;
    for chain in [
        NatChain::Prerouting,
        NatChain::Output,
        NatChain::Postrouting,
    ] {
        let mut lines = Vec::new();
        for index in 0..plan.nat.len() {
            let flow = nat::alone(plan, space, index, chain)?;
            let parts = space.parts(flow.verdicts)?.into_iter();
            let parts: Vec<(Verdict, Set)> = parts
                .filter_map(|(verdict, set)| Some((verdict?, set)))
                .collect();
            let set = space.any(parts.iter().map(|(_, set)| *set))?;
            let verdict = match &parts[..] {
                [(verdict, _)] => Some(verdict.clone()),
                _ => None,
            };
            lines.extend(line(space, Entry::Nat(index), set, verdict)?);
        }
        let place = (TableName::Nat, nat::base_chain(chain));
        check_chain(plan, space, place, asked, &lines, seen)?;
    }
    for chain in [BaseChain::Prerouting, BaseChain::Output] {
        let mut lines = Vec::new();
        for (index, entry) in plan.raw.iter().enumerate() {
            let set = raw::packets(plan, space, index, chain)?;
            let verdict = Verdict::Target(raw::effect(entry).into());
            lines.extend(line(space, Entry::Raw(index), set, Some(verdict))?);
        }
        let place = (TableName::Raw, chain);
        check_chain(plan, space, place, space.all(), &lines, seen)?;
    }
    Ok(())
}

fn line(
    space: &Space,
    entry: Entry,
    set: Set,
    verdict: Option<Verdict>,
) -> Result<Option<Line>, GaveUp> {
    let line = Line {
        entry,
        set,
        verdict,
        opaque: is_opaque(space, set)?,
    };
    Ok(Some(line).filter(|line| line.set != space.none()))
}

fn check_chain(
    plan: &Plan,
    space: &Space,
    (table, chain): (TableName, BaseChain),
    asked: Set,
    lines: &[Line],
    seen: &mut EntrySummaries,
) -> Result<(), GaveUp> {
    let sure = lines.iter().map(|line| match line.opaque {
        true => space.none(),
        false => line.set,
    });
    let sure = Covers::new(space, sure.collect())?;
    let may = Covers::new(space, lines.iter().map(|line| line.set).collect())?;
    let covered = lines
        .iter()
        .enumerate()
        .map(|(at, line)| sure.covering(line.set, at));
    let covered = covered.collect::<Result<Vec<_>, _>>()?;
    let as_entries = |places: &[usize], role: Role| -> Vec<(Entry, Role)> {
        let entries = places.iter().map(|place| (lines[*place].entry, role));
        entries.collect()
    };
    for (at, line) in lines.iter().enumerate() {
        if is_only_for_hairpins(plan, line.entry, chain) {
            // `Whole::is_same_without` checks these together with the filter table.
            continue;
        }
        let seen = seen.entry(line.entry).or_default();
        seen.place();
        seen.check_packets(space, chain, space.and(line.set, asked)?)?;
        if let Some(by) = &covered[at] {
            seen.idle(as_entries(by, Role::Takes));
            continue;
        }
        if line.opaque || line.verdict.is_none() {
            continue;
        }
        // Of two entries that do the same, only one is idle.
        let same = |next: usize| {
            let next_line = &lines[next];
            covered[next].is_none()
                && !next_line.opaque
                && next_line.verdict == line.verdict
                && !has_custom_between(plan, (table, chain), line.entry, next_line.entry)
        };
        if may.is_needed(&sure, line.set, at, same, false)? {
            continue;
        }
        let left = sure.left(line.set, at)?;
        if let Some((behind, _)) = may.behind(left, at + 1, same, false)? {
            seen.idle(as_entries(&behind, Role::DoesSame));
        }
    }
    Ok(())
}

/// Returns `true` if there is a custom rule between two entries of the chain, which may take packets from the second.
fn has_custom_between(
    plan: &Plan,
    (table, chain): (TableName, BaseChain),
    one: Entry,
    other: Entry,
) -> bool {
    let between = one.index() + 1..=other.index();
    plan.custom.iter().any(|custom| {
        let is_here = custom::table_of(custom) == table && custom.chain == chain.as_str();
        is_here && matches!(custom.place, Some(CustomPosition::Behind(count)) if between.contains(&count))
    })
}
