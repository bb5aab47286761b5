//! Sets in the transaction: what differs, and how it is done and undone.
//!
//! Rules hold on to a set wherever it is renamed to, so that a set in use is changed by a swap: the new members are filled in
//! `NAME~`, the two are swapped, and `NAME~`, which holds the old ones now, is kept until the rules are in force. Undoing is to
//! swap again. New sets are there before the rules, those that the policy no longer has go after them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::thread;
use std::time::Duration;

use super::Error;
use crate::live::{self, Dump, Host, Listed, Payload, Rehearsed, Sets, sets};
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

/// The sets of both sides.
#[derive(Clone, Debug, Default)]
pub(super) struct Compared {
    /// What is live, as far as it can differ.
    pub live: Sets,
    /// As they will be.
    pub target: Sets,
    /// How often the rules that will be replaced name each set.
    named: BTreeMap<String, usize>,
    /// The sets that the new rules name.
    needed: BTreeSet<String>,
}

impl Compared {
    pub fn changes(&self) -> Changes {
        let (live, target) = (&self.live.0, &self.target.0);
        let of = |from: &Sets, wanted: &dyn Fn(&str) -> bool| {
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
    pub fn read(&self, host: &dyn Host) -> Result<Sets, live::Error> {
        let listed = list(host, !self.target.0.is_empty())?;
        self.read_listed(host, &listed)
    }

    fn read_listed(
        &self,
        host: &dyn Host,
        listed: &BTreeMap<String, Listed>,
    ) -> Result<Sets, live::Error> {
        Sets::live(host, listed, &self.target, |name, listed| {
            let named = self.named.get(name).copied().unwrap_or(0);
            !self.needed.contains(name) && listed.references <= named
        })
    }
}

/// All sets. Without need for any it is no error that they cannot be read: ipset is not installed, or the kernel has none.
fn list(host: &dyn Host, needed: bool) -> Result<BTreeMap<String, Listed>, live::Error> {
    match host.list_sets() {
        Err(_) if !needed => Ok(BTreeMap::new()),
        result => result,
    }
}

/// Loads rules and sets in a scratch namespace, with empty copies of the others' sets that the rules name.
pub(super) fn rehearse(
    host: &dyn Host,
    payload: &PerFamily<String>,
    own: &str,
    dumps: &PerFamily<Dump>,
) -> Result<(Rehearsed, Compared), Error> {
    let wanted = Sets::parse(own).map_err(Error::Sets)?;
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
    let rehearsed = host
        .rehearse(&Payload {
            sets: commands,
            rules: PerFamily::from_fn(|family| Some(payload[family].clone())),
        })
        .map_err(Error::Rehearsal)?;
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
        target = Sets::parse(&ours).map_err(Error::Sets)?;
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
    dumps: &PerFamily<Dump>,
    mut compared: Compared,
) -> Result<Compared, Error> {
    for name in names(dumps) {
        *compared.named.entry(name.to_owned()).or_default() += 1;
    }
    compared.live = compared.read(host).map_err(Error::Live)?;
    Ok(compared)
}

fn names(dumps: &PerFamily<Dump>) -> impl Iterator<Item = &str> {
    let dumps = [&dumps.v4, &dumps.v6].into_iter();
    let chains = dumps.flat_map(Dump::all_chains);
    chains.flat_map(|(_, _, chain)| chain.rules.iter().flat_map(live::Rule::sets))
}

/// What was done with sets, to be finished or undone.
#[derive(Debug, Default)]
pub(super) struct Work {
    created: Vec<String>,
    /// Filled, and not yet or no longer those of the rules.
    beside: Vec<String>,
    swapped: Vec<String>,
}

impl Work {
    /// Makes the sets that the rules need; those that are not needed any more stay.
    pub fn begin(&mut self, host: &mut dyn Host, plan: &Compared) -> Result<(), live::Error> {
        let changes = plan.changes();
        let mut commands = String::new();
        let mut sets = Sets::default();
        for name in &changes.created {
            sets.0.insert(name.clone(), plan.target.0[name].clone());
        }
        for name in &changes.replaced {
            // Left by a fwc that was killed.
            if plan.live.0.contains_key(&beside(name)) {
                destroy(host, &beside(name))?;
            }
            let target = &plan.target.0[name];
            let mut set = target.clone();
            if target.is_dynamic() {
                set.members = host.save_set(name)?.members;
            }
            sets.0.insert(beside(name), set);
        }
        commands.push_str(&sets.text());
        if commands.is_empty() {
            return Ok(());
        }
        self.created.clone_from(&changes.created);
        self.beside = changes.replaced.iter().map(|name| beside(name)).collect();
        host.change_sets(&commands)?;
        for name in changes.replaced {
            swap(host, &name)?;
            self.swapped.push(name.clone());
            if plan.target.0[&name].is_dynamic() {
                carry(host, &beside(&name), &name)?;
            }
        }
        Ok(())
    }

    /// Removes what the new rules do not need. Nothing depends on it: what stays is named, and why.
    pub fn finish(self, host: &mut dyn Host, plan: &Compared) -> Vec<String> {
        let mut removed = plan.changes().removed;
        removed.retain(|name| !self.beside.contains(name));
        let names = [self.beside, removed].concat();
        let destroyed = names.iter().map(|name| (name, destroy(host, name)));
        destroyed
            .filter_map(|(name, result)| Some(format!("{name}: {}", result.err()?)))
            .collect()
    }

    /// Brings the old sets back, those that others fill with what was put in meanwhile. What could not be done, and the
    /// command that does it.
    pub fn undo(self, host: &mut dyn Host, plan: &Compared) -> Vec<(String, String)> {
        let mut failed = Vec::new();
        for name in self.swapped {
            let undone = swap(host, &name).and_then(|()| {
                if plan.target.0[&name].is_dynamic() {
                    carry(host, &beside(&name), &name)
                } else {
                    Ok(())
                }
            });
            if let Err(error) = undone {
                let command = format!("ipset swap {name} {}", beside(&name));
                failed.push((error.to_string(), command));
            }
        }
        if !failed.is_empty() {
            // The old members are in them.
            return failed;
        }
        for name in self.beside.iter().chain(&self.created) {
            // What was not made any more need not go.
            let there = host.list_sets().is_ok_and(|sets| sets.contains_key(name));
            if there && let Err(error) = destroy(host, name) {
                failed.push((error.to_string(), format!("ipset destroy {name}")));
            }
        }
        failed
    }
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
