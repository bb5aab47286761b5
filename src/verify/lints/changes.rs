//! Entries of `[[mangle]]` that change nothing. Several entries may change the same packet one after the other, so an entry is
//! idle if none of its change is left at the end of the chain.

use std::mem::discriminant;

use super::entries::{Entry, EntrySummaries, Role, is_opaque};
use crate::analysis::{BaseChain, Effect, Flow, GaveUp, RuleStep, Set, Space, Verdict};
use crate::iptables::TableName;
use crate::policy::{CustomPosition, HopLimitChange, MangleChange};
use crate::resolve::Plan;
use crate::verify::spec::custom::{self, CustomFlows};
use crate::verify::spec::mangle;

/// Checks the entries of mangle, base chain by base chain.
pub(super) fn check(
    plan: &Plan,
    space: &Space,
    customs: &CustomFlows,
    seen: &mut EntrySummaries,
) -> Result<(), GaveUp> {
    for chain in BaseChain::ALL {
        let mut lines = Vec::new();
        for (index, entry) in plan.mangle.iter().enumerate() {
            let when = mangle::packets(plan, space, index, chain)?;
            if when != space.none() {
                lines.push(Line {
                    entry: Entry::Mangle(index),
                    change: entry.change,
                    when,
                    opaque: is_opaque(space, when)?,
                });
            }
        }
        Chain {
            space,
            customs,
            chain,
            lines,
        }
        .check(seen)?;
    }
    Ok(())
}

/// An entry in a base chain.
struct Line {
    entry: Entry,
    change: MangleChange,
    when: Set,
    /// `true` if `when` depends on conditions that a packet alone does not answer.
    opaque: bool,
}

/// A base chain of a family.
struct Chain<'a> {
    space: &'a Space,
    customs: &'a CustomFlows,
    chain: BaseChain,
    lines: Vec<Line>,
}

impl Chain<'_> {
    fn check(&self, seen: &mut EntrySummaries) -> Result<(), GaveUp> {
        let all = vec![true; self.lines.len()];
        let whole = self.run(&all)?;
        let mut idle = vec![false; self.lines.len()];
        for (at, line) in self.lines.iter().enumerate() {
            let seen = seen.entry(line.entry).or_default();
            seen.place();
            seen.check_packets(self.space, self.chain, line.when)?;
            if !self.may_be_idle(at, &whole)? || !self.is_idle(at, &all)? {
                continue;
            }
            let Some(others) = self.because_of(at)? else {
                continue;
            };
            // Of two entries that do the same, only one is idle.
            if others.iter().any(|other| *other < at && idle[*other]) {
                continue;
            }
            idle[at] = true;
            let is_met = self.met(&whole, at) != self.space.none();
            let others = others.into_iter();
            let others =
                others.map(|other| (self.lines[other].entry, self.role(other, at, is_met)));
            seen.idle(others);
        }
        Ok(())
    }

    /// Returns how another entry makes the one at `at` idle.
    fn role(&self, other: usize, at: usize, is_met: bool) -> Role {
        let (one, two) = (self.lines[other].change, self.lines[at].change);
        match is_met {
            false if is_last(one) => Role::Takes,
            false => Role::Marks,
            true if other < at => Role::DidSame,
            true if one == two => Role::DoesSame,
            true => Role::Overwrites,
        }
    }

    /// Runs the chain with the entries in `kept`. Each entry leaves its number as an effect on its packets. Changes that no
    /// entry and no routing decision reads are left out, because the numbers are enough to compare them.
    fn run(&self, kept: &[bool]) -> Result<Flow, GaveUp> {
        let space = self.space;
        let mut steps: Vec<RuleStep> = Vec::new();
        let mut customs = self.customs.of_chain((TableName::Mangle, self.chain));
        for (at, line) in self.lines.iter().enumerate() {
            let before = customs.before_entry(line.entry.index());
            steps.extend(custom::steps(space, before));
            if !kept[at] {
                continue;
            }
            steps.push(RuleStep::effect(line.when, number(at)));
            if !is_seen_at_the_end(line.change) {
                steps.extend(mangle::steps(space, line.change, line.when)?);
            }
        }
        let after = customs.up_to(CustomPosition::After);
        steps.extend(custom::steps(space, after));
        Flow::from_rules(space, steps)?.with_policy(space, Verdict::Accept)
    }

    /// Returns the packets that meet an entry, as they arrived at the chain.
    fn met(&self, flow: &Flow, at: usize) -> Set {
        let packets = flow.effects.get(&number(at)).copied();
        packets.unwrap_or(self.space.none())
    }

    /// Returns `true` if an entry can be idle: other entries with the same kind of change have all of its packets. This is
    /// cheap, and excludes most entries.
    fn may_be_idle(&self, at: usize, whole: &Flow) -> Result<bool, GaveUp> {
        let mine = self.lines[at].change;
        let is_same_kind = |other: MangleChange| match mine {
            MangleChange::SetMark(_) | MangleChange::SaveMark(_) | MangleChange::RestoreMark(_) => {
                matches!(
                    other,
                    MangleChange::SetMark(_)
                        | MangleChange::SaveMark(_)
                        | MangleChange::RestoreMark(_)
                )
            }
            _ if is_last(mine) => false,
            _ => discriminant(&mine) == discriminant(&other),
        };
        if is_last(mine) {
            let mut behind = self.lines[at + 1..].iter();
            if behind.any(|line| line.change == mine) {
                return Ok(true);
            }
        }
        let mut left = self.met(whole, at);
        for (other, line) in self.lines.iter().enumerate() {
            if left == self.space.none() {
                break;
            }
            if other != at && is_same_kind(line.change) {
                left = self.space.minus(left, self.met(whole, other))?;
            }
        }
        Ok(left == self.space.none())
    }

    /// Returns `true` if an entry changes nothing beside the other entries in `kept`.
    fn is_idle(&self, at: usize, kept: &[bool]) -> Result<bool, GaveUp> {
        let space = self.space;
        let with = self.run(kept)?;
        let met = self.met(&with, at);
        if met == space.none() {
            return Ok(true);
        }
        if is_seen_at_the_end(self.lines[at].change) {
            return Ok(self.lasting(at, kept, &with)? == space.none());
        }
        let without = self.run(&but(kept, at))?;
        let mut effects = with.effects;
        effects.remove(&number(at));
        Ok(effects == without.effects
            && space.differ(with.verdicts, without.verdicts)? == space.none())
    }

    /// Returns the packets that are different at the end of the chain because of an entry.
    fn lasting(&self, at: usize, kept: &[bool], flow: &Flow) -> Result<Set, GaveUp> {
        let space = self.space;
        let mine = self.lines[at].change;
        let like_it = |other: &usize| {
            let change = self.lines[*other].change;
            kept[*other] && discriminant(&change) == discriminant(&mine)
        };
        let mut left = self.met(flow, at);
        for other in (at + 1..self.lines.len()).filter(like_it) {
            if is_absolute(self.lines[other].change) || is_repeated(mine, self.lines[other].change)
            {
                left = space.minus(left, self.met(flow, other))?;
            }
        }
        // The packets that have the value already before the entry.
        let mut same = space.none();
        for other in (0..at).filter(like_it) {
            let there = self.met(flow, other);
            let change = self.lines[other].change;
            let is_same = change == mine && (is_absolute(mine) || is_repeated(mine, change));
            if is_same {
                same = space.or(same, there)?;
            } else if !matches!(mine, MangleChange::ClampMss(_)) {
                same = space.minus(same, there)?;
            }
        }
        space.minus(left, same)
    }

    /// Returns the entries that make an entry idle, as few as possible, and later ones rather than earlier ones. `None` if
    /// there are none, or if one of them depends on conditions that a packet alone does not answer.
    fn because_of(&self, at: usize) -> Result<Option<Vec<usize>>, GaveUp> {
        let mut kept: Vec<bool> = self.lines.iter().map(|line| !line.opaque).collect();
        kept[at] = true;
        if !self.is_idle(at, &kept)? {
            return Ok(None);
        }
        for other in (0..self.lines.len()).filter(|other| *other != at) {
            let fewer = but(&kept, other);
            if kept[other] && self.is_idle(at, &fewer)? {
                kept = fewer;
            }
        }
        let others = (0..kept.len()).filter(|other| kept[*other] && *other != at);
        let others: Vec<usize> = others.collect();
        Ok(Some(others).filter(|others| !others.is_empty()))
    }
}

/// Returns the effect that marks the packets of an entry.
fn number(at: usize) -> Effect {
    format!("{at:08}").into()
}

/// Returns `kept` without one entry.
fn but(kept: &[bool], at: usize) -> Vec<bool> {
    let mut fewer = kept.to_vec();
    fewer[at] = false;
    fewer
}

/// Returns `true` if later entries never see the packets of the change: TPROXY and DROP end the chain.
fn is_last(change: MangleChange) -> bool {
    matches!(change, MangleChange::Proxy(_) | MangleChange::Drop)
}

/// Returns `true` if nothing reads the change before the end of the table: neither other entries nor routing.
fn is_seen_at_the_end(change: MangleChange) -> bool {
    match change {
        MangleChange::ClampMss(_)
        | MangleChange::Dscp(_)
        | MangleChange::HopLimit(_)
        | MangleChange::Checksum
        | MangleChange::Classify(..) => true,
        MangleChange::SetMark(_)
        | MangleChange::SaveMark(_)
        | MangleChange::RestoreMark(_)
        | MangleChange::Drop
        | MangleChange::Proxy(_) => false,
    }
}

/// Returns `true` if the change replaces the whole value that was there before.
fn is_absolute(change: MangleChange) -> bool {
    matches!(
        change,
        MangleChange::Dscp(_)
            | MangleChange::Classify(..)
            | MangleChange::HopLimit(HopLimitChange::Set(_))
    )
}

/// Returns `true` if one of two changes in a row is enough, whichever it is.
fn is_repeated(one: MangleChange, two: MangleChange) -> bool {
    // TCPMSS only lowers the segment size, so the same clamp twice is one. A filled checksum is right.
    matches!(one, MangleChange::ClampMss(_) | MangleChange::Checksum) && one == two
}
