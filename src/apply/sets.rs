//! Sets in the transaction: what differs, and how it is done and undone.
//!
//! Rules hold on to a set wherever it is renamed to, so that a set in use is changed by a swap: the new members are filled in
//! `NAME~`, the two are swapped, and `NAME~`, which holds the old ones now, is kept until the change is confirmed. Undoing is a
//! change of its own, to the members of before. New sets are there before the rules, those that the policy no longer has go
//! after them.

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

/// The names of sets that change, or did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The policy has them, live does not.
    pub created: Vec<String>,
    /// Other members or another timeout.
    pub replaced: Vec<String>,
    /// fwc's sets that the policy does not have any more, and that nobody uses.
    pub removed: Vec<String>,
}

impl Changes {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.created.is_empty() && self.replaced.is_empty() && self.removed.is_empty()
    }
}

/// What leads from some sets to others.
pub(super) fn changes(before: Ipsets, after: Ipsets) -> Changes {
    let compared = Compared {
        live: before,
        target: after,
        ..Compared::default()
    };
    compared.changes()
}

/// The sets of both sides.
#[derive(Clone, Debug, Default)]
pub(super) struct Compared {
    /// What is live, as far as it can differ.
    pub live: Ipsets,
    /// As they will be.
    pub target: Ipsets,
    /// How often the rules that will be replaced name each set.
    named: BTreeMap<String, usize>,
    /// The sets that the new rules name.
    needed: BTreeSet<String>,
}

impl Compared {
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

    /// The live sets again.
    pub fn read(&self, host: &dyn Host) -> Result<Ipsets, live::Error> {
        let listed = list(host, !self.target.0.is_empty())?;
        self.read_listed(host, &listed)
    }

    /// Stops where a set that others fill would become too small for what is in it.
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

    /// Commands that make an empty set for each one that the rules of `live` or the new ones name.
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

/// All sets. Without need for any it is no error that they cannot be read: ipset is not installed, or the kernel has none.
fn list(host: &dyn Host, needed: bool) -> Result<BTreeMap<String, ListedIpset>, live::Error> {
    match host.list_sets() {
        Err(_) if !needed => Ok(BTreeMap::new()),
        result => result,
    }
}

/// Loads rules and sets in a scratch namespace, with empty copies of the others' sets that the rules name.
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
        if let Some(set) = listed.get(name)
            && !sets::is_own(name, &set.header)
        {
            return Err(Error::TakenSet {
                name: name.clone(),
                kind: set.header.kind.clone(),
            });
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

/// Compares with live, of which `dumps` are the rules that the payload may replace.
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

fn names(dumps: &PerFamily<LiveRuleset>) -> impl Iterator<Item = &str> {
    let dumps = [&dumps.v4, &dumps.v6].into_iter();
    let chains = dumps.flat_map(LiveRuleset::all_chains);
    chains.flat_map(|(_, _, chain)| chain.rules.iter().flat_map(live::LiveRule::sets))
}

/// Makes the sets that the rules need; those that are not needed any more stay, and the old members of swapped ones stay
/// beside them.
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
        // Of the last change, or left by a fwc that was killed: then others may have added members to it which nobody carried
        // over yet.
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
            // What is left in it from here on was not carried over: see above.
            points::sets(Point::SetsEmpty)?;
            host.change_sets(&format!("flush {}\n", beside(&name)))?;
        }
    }
    Ok(())
}

/// Removes what the rules do not need any more. Nothing depends on it: what stays is named, and why.
pub(super) fn finish(host: &mut dyn Host, changes: &Changes) -> Vec<String> {
    let others = changes.replaced.iter().map(|name| beside(name));
    let mut names: BTreeSet<String> = others.collect();
    names.extend(changes.removed.iter().cloned());
    if names.is_empty() {
        return Vec::new();
    }
    let Ok(there) = host.list_sets() else {
        return Vec::new();
    };
    names.retain(|name| there.contains_key(name));
    let destroyed = names.iter().map(|name| (name, destroy(host, name)));
    destroyed
        .filter_map(|(name, result)| Some(format!("{name}: {}", result.err()?)))
        .collect()
}

/// What has to be done so that the sets are as they were before a change: of those that others fill only the form.
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

/// A set that others filled beyond its old size stays as it is: a ban is worth more than the old form, and the rules have to go
/// back whatever the set holds.
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

/// Adds the members whose networks are not among them.
fn add_unknown(members: &mut BTreeSet<IpsetMember>, more: BTreeSet<IpsetMember>) {
    let known: BTreeSet<_> = members.iter().map(|member| member.network).collect();
    let unknown = more.into_iter();
    members.extend(unknown.filter(|member| !known.contains(&member.network)));
}

/// The other side of a set's swap.
fn beside(name: &str) -> String {
    format!("{name}~")
}

fn swap(host: &mut dyn Host, name: &str) -> Result<(), live::Error> {
    host.change_sets(&format!("swap {name} {}\n", beside(name)))
}

/// Adds the members of one set to another one. What is in both keeps what time it has.
fn carry(host: &mut dyn Host, from: &str, to: &str) -> Result<(), live::Error> {
    let (from, there) = (host.save_set(from)?, host.save_set(to)?);
    let known: BTreeSet<_> = there.members.iter().map(|member| member.network).collect();
    let mut commands = String::new();
    for member in &from.members {
        if !known.contains(&member.network) {
            let words = member.words_for(&there.header);
            let _ = writeln!(commands, "add {to} {words}");
        }
    }
    if commands.is_empty() {
        return Ok(());
    }
    host.add_members(&commands)
}

/// Removes a set. nf_tables lets go of removed rules' sets a little later.
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
