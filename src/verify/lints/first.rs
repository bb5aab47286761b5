//! Tables where the first entry that has a packet decides what becomes of it: nat, and tracking in raw.

use super::entries::{Entry, EntrySummaries, Role, is_only_for_hairpins, is_opaque};
use crate::analysis::{BaseChain, Covers, GaveUp, Set, Space, Verdict};
use crate::iptables::TableName;
use crate::net::State;
use crate::policy::{CustomPosition, NatChain};
use crate::resolve::Plan;
use crate::verify::spec::{custom, nat, raw};

/// What an entry takes at a base chain, whoever comes before it.
struct Line {
    entry: Entry,
    set: Set,
    /// What becomes of all of it; `None`: of some this, of some that.
    does: Option<Verdict>,
    /// It depends on what a packet does not tell.
    opaque: bool,
}

/// Looks at the entries of nat and raw.
pub(super) fn look(plan: &Plan, space: &Space, seen: &mut EntrySummaries) -> Result<(), GaveUp> {
    // The table is asked about the first packet of a connection only.
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
            let does = match &parts[..] {
                [(verdict, _)] => Some(verdict.clone()),
                _ => None,
            };
            lines.extend(line(space, Entry::Nat(index), set, does)?);
        }
        let place = (TableName::Nat, nat::base_chain(chain));
        look_at(plan, space, place, asked, &lines, seen)?;
    }
    for chain in [BaseChain::Prerouting, BaseChain::Output] {
        let mut lines = Vec::new();
        for (index, entry) in plan.raw.iter().enumerate() {
            let set = raw::packets(plan, space, entry, chain)?;
            let does = Verdict::Target(raw::effect(entry).into());
            lines.extend(line(space, Entry::Raw(index), set, Some(does))?);
        }
        let place = (TableName::Raw, chain);
        look_at(plan, space, place, space.all(), &lines, seen)?;
    }
    Ok(())
}

fn line(
    space: &Space,
    entry: Entry,
    set: Set,
    does: Option<Verdict>,
) -> Result<Option<Line>, GaveUp> {
    let line = Line {
        entry,
        set,
        does,
        opaque: is_opaque(space, set)?,
    };
    Ok(Some(line).filter(|line| line.set != space.none()))
}

fn look_at(
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
            // That is asked when nothing is translated any more.
            continue;
        }
        let seen = seen.entry(line.entry).or_default();
        seen.place();
        seen.look_at_packets(space, chain, space.and(line.set, asked)?)?;
        if let Some(by) = &covered[at] {
            seen.idle(as_entries(by, Role::Takes));
            continue;
        }
        if line.opaque || line.does.is_none() {
            continue;
        }
        // Of two that do the same one is idle, not both.
        let same = |next: usize| {
            let next_line = &lines[next];
            covered[next].is_none()
                && !next_line.opaque
                && next_line.does == line.does
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

/// Returns whether a custom rule of the chain stands between two entries, and may take packets from the second.
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
