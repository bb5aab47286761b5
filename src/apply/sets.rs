//! The sets of a change: which differ, how they change, and how that is reverted.
//!
//! A rule keeps the set that it names, also when the set is renamed. So a set in use changes by a swap: fwc fills `NAME~` with
//! the new members and swaps the two. `NAME~` then has the old members, and is kept until the change is confirmed. Reverting is a change of its own, to the old members. New sets are created before
//! the rules; sets that the policy no longer has are destroyed after them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::thread;
use std::time::Duration;

use super::error::Error;
use super::points;
use crate::fault::Point;
use crate::live::sets::IpsetMember;
use crate::live::{self, Host, Ipsets, ListedIpset, LiveRuleset, Payload, Rehearsed, sets};
use crate::net::PerFamily;

/// The names of the sets of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Sets that the policy has and the kernel has not.
    pub created: Vec<String>,
    /// Sets whose members or options differ.
    pub replaced: Vec<String>,
    /// Sets of fwc that the policy does not have any more, and that no rule uses.
    pub removed: Vec<String>,
}

impl Changes {
    /// Returns `true` if no set changes.
    pub fn is_empty(&self) -> bool {
        self.created.is_empty() && self.replaced.is_empty() && self.removed.is_empty()
    }
}

/// Returns what changes between two groups of sets.
pub(super) fn changes(before: Ipsets, after: Ipsets) -> Changes {
    let compared = Compared {
        live: before,
        target: after,
        ..Compared::default()
    };
    compared.changes()
}

/// The live sets and those of the policy, compared.
#[derive(Clone, Debug, Default)]
pub(super) struct Compared {
    /// The live sets that the change may touch.
    pub live: Ipsets,
    /// The same sets after the change.
    pub target: Ipsets,
    /// How often the rules that the change replaces name each set. A set with more references is in use elsewhere.
    named: BTreeMap<String, usize>,
    /// The sets that the new rules name.
    needed: BTreeSet<String>,
}

impl Compared {
    /// Returns which sets differ.
    pub fn changes(&self) -> Changes {
        let (live, target) = (&self.live.0, &self.target.0);
        let of = |from: &Ipsets, wanted: &dyn Fn(&str) -> bool| {
            let names = from.0.keys().filter(|name| wanted(name));
            names.cloned().collect()
        };
        Changes {
            created: of(&self.target, &|name| !live.contains_key(name)),
            replaced: of(&self.target, &|name| {
                live.get(name).is_some_and(|set| *set != target[name])
            }),
            removed: of(&self.live, &|name| !target.contains_key(name)),
        }
    }

    /// Reads the live sets again.
    pub fn read(&self, host: &dyn Host) -> Result<Ipsets, live::Error> {
        let listed = list(host, !self.target.0.is_empty())?;
        self.read_listed(host, &listed)
    }

    /// Stops if a set that other programs fill has more members than its new size allows.
    pub fn check_room(&self, host: &dyn Host) -> Result<(), Error> {
        for name in self.changes().replaced {
            let set = &self.target.0[&name];
            if !set.is_dynamic() {
                continue;
            }
            let members = host.save_set(&name).map_err(Error::Live)?.members.len();
            if let Some(size) = set.header.size().filter(|size| *size < members) {
                return Err(Error::SetTooSmall {
                    name,
                    members,
                    size,
                });
            }
        }
        Ok(())
    }

    /// Returns commands that create an empty set for each one that the rules of `live` or the new ones name: a rule loads in the
    /// scratch namespace only if its set exists.
    pub fn stand_ins(
        &self,
        host: &dyn Host,
        live: &PerFamily<LiveRuleset>,
    ) -> Result<String, live::Error> {
        let mut needed = self.needed.clone();
        needed.extend(names(live).map(str::to_owned));
        if needed.is_empty() {
            return Ok(String::new());
        }
        let listed = list(host, true)?;
        let mut commands = String::new();
        for name in &needed {
            let listed = listed.get(name).map(|set| &set.header);
            let header = listed.or_else(|| self.target.0.get(name).map(|set| &set.header));
            if let Some(header) = header {
                // Writing to a String cannot fail.
                let _ = writeln!(commands, "create {name} {header}");
            }
        }
        Ok(commands)
    }

    fn read_listed(
        &self,
        host: &dyn Host,
        listed: &BTreeMap<String, ListedIpset>,
    ) -> Result<Ipsets, live::Error> {
        Ipsets::live(host, listed, &self.target, |name, listed| {
            let named = self.named.get(name).copied().unwrap_or(0);
            !self.needed.contains(name) && listed.references <= named
        })
    }
}

/// Parses sets in the form of `ipset save`.
pub(super) fn parse(text: &str) -> Result<Ipsets, Error> {
    Ipsets::parse(text).map_err(Error::Sets)
}

/// Lists the live sets. If none is needed, an error counts as no sets: ipset is not installed, or the kernel has no sets.
fn list(host: &dyn Host, needed: bool) -> Result<BTreeMap<String, ListedIpset>, live::Error> {
    match host.list_sets() {
        Err(_) if !needed => Ok(BTreeMap::new()),
        result => result,
    }
}

/// Loads rules and sets in a scratch network namespace, with empty copies of other programs' sets that the rules name.
pub(super) fn rehearse(
    host: &dyn Host,
    rehearse: &mut dyn FnMut(&Payload) -> Result<Rehearsed, Error>,
    payload: &PerFamily<String>,
    own: &str,
    dumps: &PerFamily<LiveRuleset>,
) -> Result<(Rehearsed, Compared), Error> {
    let wanted = parse(own)?;
    let needed: BTreeSet<String> = names(dumps).map(str::to_owned).collect();
    let listed = list(host, !wanted.0.is_empty() || !needed.is_empty()).map_err(Error::Live)?;
    for name in wanted.0.keys() {
        let Some(set) = listed.get(name) else {
            continue;
        };
        let (name, kind) = (name.clone(), set.header.kind.clone());
        if !sets::is_own(&name, &set.header) {
            return Err(Error::TakenSet { name, kind });
        }
        // The kernel swaps only sets of one type, and a set that rules name can neither be destroyed nor renamed away.
        let wanted = &wanted.0[&name].header.kind;
        if *wanted != kind {
            let wanted = wanted.clone();
            return Err(Error::SetOfAnotherType { name, kind, wanted });
        }
    }
    let mut commands = String::new();
    let mut missing = Vec::new();
    for name in needed.iter().filter(|name| !wanted.0.contains_key(*name)) {
        match listed.get(name) {
            // Writing to a String cannot fail.
            Some(set) => drop(writeln!(commands, "create {name} {}", set.header)),
            None => missing.push(name.clone()),
        }
    }
    if !missing.is_empty() {
        return Err(Error::MissingSets(missing));
    }
    commands.push_str(own);
    let rehearsed = rehearse(&Payload {
        sets: commands,
        rules: PerFamily::from_fn(|family| (!host.lacks(family)).then(|| payload[family].clone())),
        edits: PerFamily::default(),
    })?;
    let mut target = wanted;
    if !target.0.is_empty() {
        let ours: String = rehearsed
            .sets
            .lines()
            .filter(|line| {
                let name = line.split_ascii_whitespace().nth(1);
                name.is_some_and(|name| target.0.contains_key(name))
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        target = parse(&ours)?;
    }
    let compared = Compared {
        target,
        needed,
        ..Compared::default()
    };
    Ok((rehearsed, compared))
}

/// Compares the sets with the live ones. `dumps` are the live rules that the change may replace.
pub(super) fn compare(
    host: &dyn Host,
    dumps: &PerFamily<LiveRuleset>,
    mut compared: Compared,
) -> Result<Compared, Error> {
    for name in names(dumps) {
        *compared.named.entry(name.to_owned()).or_default() += 1;
    }
    compared.live = compared.read(host).map_err(Error::Live)?;
    Ok(compared)
}

/// Lists the sets that rules name, as often as they name them.
fn names(dumps: &PerFamily<LiveRuleset>) -> impl Iterator<Item = &str> {
    let dumps = [&dumps.v4, &dumps.v6].into_iter();
    let chains = dumps.flat_map(LiveRuleset::all_chains);
    chains.flat_map(|(_, _, chain)| chain.rules.iter().flat_map(live::LiveRule::sets))
}

/// Creates and swaps the sets that the new rules need. Sets that they do not need remain for now, and so do the old members of
/// swapped ones.
pub(super) fn begin(host: &mut dyn Host, plan: &Compared) -> Result<(), live::Error> {
    let changes = plan.changes();
    let mut sets = Ipsets::default();
    for name in &changes.created {
        sets.0.insert(name.clone(), plan.target.0[name].clone());
    }
    for name in &changes.replaced {
        let target = &plan.target.0[name];
        let mut set = target.clone();
        if target.is_dynamic() {
            set.members = host.save_set(name)?.members;
        }
        // It is of the last change, or a killed fwc left it. In that case other programs may have added members just before the
        // swap, which nobody carried over yet.
        if plan.live.0.contains_key(&beside(name)) {
            if target.is_dynamic() {
                let left = host.save_set(&beside(name))?.members;
                add_unknown(&mut set.members, left);
            }
            destroy(host, &beside(name))?;
        }
        sets.0.insert(beside(name), set);
    }
    let commands = sets.text();
    if commands.is_empty() {
        return Ok(());
    }
    points::sets(Point::SetsFill)?;
    host.change_sets(&commands)?;
    points::sets(Point::SetsFilled)?;
    for name in changes.replaced {
        points::sets(Point::SetsSwap)?;
        swap(host, &name)?;
        points::sets(Point::SetsSwapped)?;
        if plan.target.0[&name].is_dynamic() {
            points::sets(Point::SetsCarry)?;
            carry(host, &beside(&name), &name)?;
            // Empty it: members in it mean, to the next change, that they were not carried over (see above).
            points::sets(Point::SetsEmpty)?;
            host.change_sets(&format!("flush {}\n", beside(&name)))?;
        }
    }
    Ok(())
}

/// Destroys the sets that the rules do not need any more. A set that remains does no harm: returns its name and the reason.
pub(super) fn finish(host: &mut dyn Host, changes: &Changes) -> Vec<String> {
    let swapped = changes.replaced.iter().map(|name| beside(name));
    let mut names: BTreeSet<String> = swapped.collect();
    names.extend(changes.removed.iter().cloned());
    if names.is_empty() {
        return Vec::new();
    }
    let Ok(live) = host.list_sets() else {
        return Vec::new();
    };
    names.retain(|name| live.contains_key(name));
    let destroyed = names.iter().map(|name| (name, destroy(host, name)));
    destroyed
        .filter_map(|(name, result)| Some(format!("{name}: {}", result.err()?)))
        .collect()
}

/// Returns the change that reverts the sets to `before`. Sets that other programs fill keep their members, and only their options
/// are reverted.
pub(super) fn revert(
    host: &dyn Host,
    mut before: Ipsets,
    after: &Ipsets,
) -> Result<Compared, live::Error> {
    if before == *after {
        return Ok(Compared::default());
    }
    let listed = list(host, true)?;
    keep_room(host, &mut before, &listed)?;
    let made = |name: &str| after.0.contains_key(name) || before.0.contains_key(name);
    let live = Ipsets::live(host, &listed, &before, |name, _| {
        made(name.strip_suffix('~').unwrap_or(name))
    })?;
    Ok(Compared {
        live,
        target: before,
        ..Compared::default()
    })
}

/// Keeps the options of a set that other programs filled beyond its old size: a ban is worth more than the old size, and the rules
/// must be reverted whatever the set has.
fn keep_room(
    host: &dyn Host,
    before: &mut Ipsets,
    listed: &BTreeMap<String, ListedIpset>,
) -> Result<(), live::Error> {
    for (name, set) in &mut before.0 {
        let is_smaller = |live: &&ListedIpset| set.header.size() < live.header.size();
        let Some(live) = listed.get(name).filter(is_smaller) else {
            continue;
        };
        if set.is_dynamic() && Some(host.save_set(name)?.members.len()) > set.header.size() {
            set.header = live.header.clone();
        }
    }
    Ok(())
}

/// Adds the members that are not among `members`, whatever their timeouts.
fn add_unknown(members: &mut BTreeSet<IpsetMember>, more: BTreeSet<IpsetMember>) {
    let known: BTreeSet<_> = members.iter().map(IpsetMember::element).collect();
    let unknown = more.into_iter();
    let unknown: Vec<_> = unknown
        .filter(|member| !known.contains(&member.element()))
        .collect();
    members.extend(unknown);
}

/// Returns the name of the set with which a set is swapped.
fn beside(name: &str) -> String {
    format!("{name}~")
}

fn swap(host: &mut dyn Host, name: &str) -> Result<(), live::Error> {
    host.change_sets(&format!("swap {name} {}\n", beside(name)))
}

/// Adds the members of one set to another. A member of both keeps its timeout in the second.
fn carry(host: &mut dyn Host, from: &str, to: &str) -> Result<(), live::Error> {
    let (from, into) = (host.save_set(from)?, host.save_set(to)?);
    let known: BTreeSet<_> = into.members.iter().map(IpsetMember::element).collect();
    let mut commands = String::new();
    for member in &from.members {
        if !known.contains(&member.element()) {
            let words = member.words_for(&into.header);
            let _ = writeln!(commands, "add {to} {words}");
        }
    }
    if commands.is_empty() {
        return Ok(());
    }
    host.add_members(&commands)
}

/// Destroys a set. With nf_tables it is in use for a moment after its rules were deleted, so try again for about a second.
fn destroy(host: &mut dyn Host, name: &str) -> Result<(), live::Error> {
    let mut pause = Duration::from_millis(5);
    loop {
        match host.change_sets(&format!("destroy {name}\n")) {
            Err(live::Error::RefusedSets(refusal))
                if refusal.message.contains("in use") && pause < Duration::from_secs(1) =>
            {
                thread::sleep(pause);
                pause *= 2;
            }
            result => return result,
        }
    }
}
