//! A host for tests: executes restore input on a model, records the requests, and fails where a test wants it to.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::{
    Error, Host, Ipset, Ipsets, ListedIpset, LiveChain, LiveRule, LiveRuleset, Payload, Refusal,
    Rehearsed,
};
use crate::iptables::{Counters, TableName};
use crate::net::{Family, PerFamily};

/// A failure to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The `n`th save of all (from 1) fails.
    Save(usize),
    /// Rehearsing fails.
    Rehearse,
    /// The `n`th restore of all (from 1) fails after this many tables were changed.
    Restore(usize, usize),
    /// The `n`th command that changes sets (from 1) fails.
    Sets(usize),
    /// The `n`th restore succeeds, but the kernel has one rule more than it was given.
    Distort(usize),
}

/// A change of live rules by another program.
type Meddling = fn(&mut LiveRuleset);

/// The model of a host.
#[derive(Debug, Default)]
pub struct Fake {
    /// The live rules.
    pub live: PerFamily<LiveRuleset>,
    /// The failures to inject.
    pub faults: Vec<Fault>,
    /// The families of all restores, in order.
    pub restores: Vec<Family>,
    /// The live sets.
    pub sets: Ipsets,
    /// The commands that changed sets, in order.
    pub commands: Vec<String>,
    saves: RefCell<usize>,
    /// The family that the kernel does not support.
    pub lacking: Option<Family>,
    /// A change of the sets by another program, after the `n`th command.
    pub late: Option<(usize, &'static str)>,
    /// A change of the live rules by another program, from the `n`th save on.
    pub meddler: Option<(usize, Meddling)>,
}

impl Fake {
    /// Creates a host with these rules, in the format of `iptables-save`.
    pub fn new(v4: &str, v6: &str) -> Self {
        Self {
            live: PerFamily {
                v4: LiveRuleset::parse(v4).unwrap(),
                v6: LiveRuleset::parse(v6).unwrap(),
            },
            ..Self::default()
        }
    }

    fn references(&self, name: &str) -> usize {
        let dumps = self.live.iter().flat_map(|(_, dump)| dump.all_chains());
        let rules = dumps.flat_map(|(_, _, chain)| &chain.rules);
        rules
            .flat_map(LiveRule::sets)
            .filter(|named| *named == name)
            .count()
    }

    fn execute(&mut self, command: &str) -> Result<(), &'static str> {
        let words: Vec<_> = command.split_ascii_whitespace().collect();
        let sets = &mut self.sets.0;
        match words[..] {
            ["create", name, ..] if !sets.contains_key(name) => {
                sets.extend(Ipsets::parse(command).unwrap().0);
            }
            ["add", name, ..] if sets.contains_key(name) => {
                let one = format!("create {name} hash:net\n{command}\n");
                let member = Ipsets::parse(&one).unwrap().0.remove(name).unwrap().members;
                sets.get_mut(name).unwrap().members.extend(member);
            }
            ["swap", a, b] if sets.contains_key(a) && sets.contains_key(b) => {
                let (of_a, of_b) = (sets.remove(a).unwrap(), sets.remove(b).unwrap());
                sets.insert(a.to_owned(), of_b);
                sets.insert(b.to_owned(), of_a);
            }
            ["flush", name] if sets.contains_key(name) => {
                sets.get_mut(name).unwrap().members.clear();
            }
            ["destroy", name] if sets.contains_key(name) => {
                if self.references(name) > 0 {
                    return Err("it is in use by a kernel component");
                }
                self.sets.0.remove(name);
            }
            _ => return Err("no such set, or there already"),
        }
        Ok(())
    }

    fn refused(family: Family) -> Error {
        Error::Refused {
            family,
            refusal: Refusal::read("iptables-restore", "injected", ""),
        }
    }
}

impl Host for Fake {
    fn lacks(&self, family: Family) -> bool {
        self.lacking == Some(family)
    }

    fn save(&self, family: Family) -> Result<LiveRuleset, Error> {
        *self.saves.borrow_mut() += 1;
        let number = *self.saves.borrow();
        if self.faults.contains(&Fault::Save(number)) {
            return Err(Self::refused(family));
        }
        let mut dump = self.live[family].clone();
        if let Some((at, change)) = self.meddler
            && number >= at
        {
            change(&mut dump);
        }
        Ok(dump)
    }

    fn restore(&mut self, family: Family, input: &str) -> Result<(), Error> {
        if self.lacks(family) {
            return Err(Self::refused(family));
        }
        self.restores.push(family);
        let number = self.restores.len();
        let words = input.split_ascii_whitespace();
        let named = words.clone().zip(words.skip(1));
        let missing = |(option, name): (&str, &str)| {
            option == "--match-set" && !self.sets.0.contains_key(name)
        };
        if named.into_iter().any(missing) {
            return Err(Self::refused(family));
        }
        for (index, table) in input.split_inclusive("COMMIT\n").enumerate() {
            if self.faults.contains(&Fault::Restore(number, index)) {
                return Err(Self::refused(family));
            }
            let executed = self.live[family].execute(table);
            executed.map_err(|_| Self::refused(family))?;
        }
        if self.faults.contains(&Fault::Distort(number)) {
            let chains = self.live[family].table_mut(TableName::Filter);
            let chain: &mut LiveChain = chains.get_mut("INPUT").unwrap();
            chain.rules.push(LiveRule {
                spec: "-j DISTORTED".to_owned(),
                counters: Counters::default(),
            });
        }
        Ok(())
    }

    fn list_sets(&self) -> Result<BTreeMap<String, ListedIpset>, Error> {
        let sets = self.sets.0.iter().map(|(name, set)| {
            let listed = ListedIpset {
                header: set.header.clone(),
                references: self.references(name),
            };
            (name.clone(), listed)
        });
        Ok(sets.collect())
    }

    fn save_set(&self, name: &str) -> Result<Ipset, Error> {
        let set = self.sets.0.get(name).cloned();
        set.ok_or_else(|| Error::RefusedSets(Refusal::read("ipset", "no such set", "")))
    }

    fn change_sets(&mut self, commands: &str) -> Result<(), Error> {
        for command in commands.lines().filter(|line| !line.starts_with('#')) {
            self.commands.push(command.to_owned());
            let result = if self.faults.contains(&Fault::Sets(self.commands.len())) {
                Err("injected")
            } else {
                self.execute(command)
            };
            result.map_err(|words| Error::RefusedSets(Refusal::read("ipset", words, "")))?;
            if let Some((after, command)) = self.late
                && after == self.commands.len()
            {
                self.execute(command).unwrap();
            }
        }
        Ok(())
    }

    fn add_members(&mut self, commands: &str) -> Result<(), Error> {
        self.change_sets(commands)
    }

    fn rehearse(&self, payload: &Payload) -> Result<Rehearsed, Error> {
        if self.faults.contains(&Fault::Rehearse) {
            return Err(Self::refused(Family::V4));
        }
        let mut rehearsed = Rehearsed {
            sets: payload.sets.clone(),
            ..Rehearsed::default()
        };
        for family in Family::ALL {
            let Some(text) = &payload.rules[family] else {
                continue;
            };
            if self.lacks(family) {
                return Err(Self::refused(family));
            }
            let mut dump = LiveRuleset::parse(text).unwrap();
            for edits in &payload.edits[family] {
                dump.execute(edits).unwrap();
                rehearsed.stages[family].push(dump.clone());
            }
            rehearsed.rules[family] = Some(dump);
        }
        Ok(rehearsed)
    }
}
