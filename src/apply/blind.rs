//! Reverts a change without reading the live rules, because `iptables-save` cannot print them: a table has a rule that iptables
//! cannot express, or the program fails, hangs or leaves something out.
//!
//! Unreadable rules must not keep a change active. fwc knows what it wrote, and `iptables-restore --noflush` needs no
//! reading: it fills the chains that the change touched with their old rules. Rules that other programs added to these very
//! chains since are lost; all other chains stay as they are.
//!
//! A base chain that fwc shares with other programs cannot be filled again: their rules would be lost. fwc has to delete its
//! own rules there one by one, without knowing how far the change came, or an earlier attempt to revert it. So it first puts
//! the old rules into a chain of their own and jumps there, then deletes each rule of any state of the change until there is
//! none, then replaces the jump by the old rules. The result is the same whatever was there, and each step may be repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::owned::{Fallthrough, Owned};
use super::panic;
use crate::iptables::TableName;
use crate::live::{self, Host, LiveChain, LiveChains, LiveRuleset};
use crate::net::Family;

/// Reverts a change from `before` to one of `states` in the tables of one family.
pub(super) fn take_back(
    host: &mut dyn Host,
    owned: &Owned,
    family: Family,
    before: &LiveRuleset,
    states: &[&LiveRuleset],
) -> Result<(), live::Error> {
    for &table in owned.tables(family) {
        let states = states.iter().map(|state| state.table(table)).collect();
        let back = Back {
            table,
            before: before.table(table),
            states,
            rest: owned.is_beside_others().then(|| owned.rest()),
        };
        back.run(host, family)?;
    }
    Ok(())
}

struct Back {
    table: TableName,
    before: LiveChains,
    states: Vec<LiveChains>,
    /// What follows fwc's rules in base chains; `None` if fwc owns these whole.
    rest: Option<Fallthrough>,
}

impl Back {
    fn run(&self, host: &mut dyn Host, family: Family) -> Result<(), live::Error> {
        let touched = self.touched();
        if touched.is_empty() {
            return Ok(());
        }
        let panic = self.table == TableName::Raw && panic::is_on_unread(host, family);
        host.restore(family, &self.refill(&touched, panic))?;
        if self.rest.is_some() {
            self.clear(host, family, &touched);
            host.restore(family, &self.settle(&touched, panic))?;
            for name in self.base_chains(&touched) {
                let (jump, back) = (jump(name), back(name));
                self.delete(host, family, &format!("-D {name} {jump}\n"), 0);
                let _ = host.restore(family, &self.file(&format!(":{back} - [0:0]\n-X {back}\n")));
            }
        }
        for name in touched
            .iter()
            .filter(|name| !self.before.contains_key(**name))
        {
            // If another program's rule jumps to the chain, the kernel refuses to delete it. It stays, and is empty.
            let _ = host.restore(family, &self.file(&format!(":{name} - [0:0]\n-X {name}\n")));
        }
        Ok(())
    }

    /// Returns the chains that are not the same in all states.
    fn touched(&self) -> BTreeSet<&str> {
        let all = self.states.iter().chain([&self.before]);
        let names: BTreeSet<&str> = all.flat_map(LiveChains::keys).map(String::as_str).collect();
        let is_touched = |name: &&str| {
            let before = self.before.get(*name).map(content);
            let mut states = self.states.iter();
            states.any(|state| state.get(*name).map(content) != before)
        };
        names.into_iter().filter(is_touched).collect()
    }

    /// Returns the touched chains that are base chains.
    fn base_chains<'a>(&self, touched: &BTreeSet<&'a str>) -> Vec<&'a str> {
        let is_base = |name: &&&str| {
            let before = self.before.get(**name);
            before.is_some_and(|chain| chain.policy.is_some())
        };
        touched.iter().filter(is_base).copied().collect()
    }

    /// Returns the input that fills the touched chains with their old rules: of a shared base chain those go to a chain of
    /// their own for now.
    fn refill(&self, touched: &BTreeSet<&str>, panic: bool) -> String {
        let mut text = String::new();
        let base = self.base_chains(touched);
        // Writing to a String cannot fail.
        for name in touched {
            let policy = self
                .before
                .get(*name)
                .and_then(|chain| chain.policy.as_deref());
            let _ = match policy {
                Some(policy) if self.changes_policy(name) => {
                    writeln!(text, ":{name} {policy} [0:0]")
                }
                Some(_) => Ok(()),
                None => writeln!(text, ":{name} - [0:0]"),
            };
        }
        for name in &base {
            if self.rest.is_some() {
                let _ = writeln!(text, ":{} - [0:0]", back(name));
            }
        }
        for name in touched {
            let Some(chain) = self.before.get(*name) else {
                continue;
            };
            let is_base = base.contains(name);
            if is_base && self.rest.is_none() {
                let _ = writeln!(text, "-F {name}");
                if panic {
                    let _ = writeln!(text, "-A {name} -j {}", panic::CHAIN);
                }
            }
            let chain_name = match is_base && self.rest.is_some() {
                true => back(name),
                false => (*name).to_owned(),
            };
            for rule in &chain.rules {
                let _ = writeln!(text, "{} -A {chain_name} {}", rule.counters, rule.spec);
            }
            if is_base && self.rest.is_some() {
                let _ = writeln!(text, "{} {}", self.insert(name, 0, panic), jump(name));
            }
        }
        self.file(&text)
    }

    /// Returns the command that puts the rule with this index into a shared base chain: in shared mode fwc's rules come first,
    /// behind the jump of `fwc panic`; else they come last, behind the preserved rules.
    fn insert(&self, name: &str, index: usize, panic: bool) -> String {
        match self.rest {
            Some(Fallthrough::Others) => format!("-I {name} {}", index + 1 + usize::from(panic)),
            _ => format!("-A {name}"),
        }
    }

    /// Returns the input that replaces the jumps to the old rules by these, in one step.
    fn settle(&self, touched: &BTreeSet<&str>, panic: bool) -> String {
        let mut text = String::new();
        for name in self.base_chains(touched) {
            let rules = self.before.get(name).map(|chain| chain.rules.as_slice());
            for (index, rule) in rules.unwrap_or_default().iter().enumerate() {
                let insert = self.insert(name, index, panic);
                let _ = writeln!(text, "{} {insert} {}", rule.counters, rule.spec);
            }
            let _ = writeln!(text, "-D {name} {}", jump(name));
        }
        self.file(&text)
    }

    /// Deletes every rule of any state of the change from base chains.
    fn clear(&self, host: &mut dyn Host, family: Family, touched: &BTreeSet<&str>) {
        for name in self.base_chains(touched) {
            let mut known: BTreeMap<&str, usize> = BTreeMap::new();
            let states = self.states.iter().chain([&self.before]);
            for rule in states
                .filter_map(|state| state.get(name))
                .flat_map(|chain| &chain.rules)
            {
                *known.entry(&rule.spec).or_default() += 1;
            }
            for (spec, count) in known {
                self.delete(host, family, &format!("-D {name} {spec}\n"), count);
            }
        }
    }

    /// Deletes all copies of a rule. There should be no more than `count`; the bound stops it if iptables-restore reports
    /// success without deleting anything.
    fn delete(&self, host: &mut dyn Host, family: Family, line: &str, count: usize) {
        let file = self.file(line);
        for _ in 0..count + 8 {
            if host.restore(family, &file).is_err() {
                return;
            }
        }
    }

    fn changes_policy(&self, name: &str) -> bool {
        let policy = |chains: &LiveChains| chains.get(name).and_then(|chain| chain.policy.clone());
        let before = policy(&self.before);
        self.states.iter().any(|state| policy(state) != before)
    }

    fn file(&self, lines: &str) -> String {
        format!("*{}\n{lines}COMMIT\n", self.table)
    }
}

/// The name of the chain that holds the old rules of a base chain for now.
fn back(name: &str) -> String {
    format!("FWC-BACK-{name}")
}

/// The target of the rule that jumps there.
fn jump(name: &str) -> String {
    format!("-j {}", back(name))
}

/// The policy and the rules of a chain, without counters.
fn content(chain: &LiveChain) -> (Option<&str>, Vec<&str>) {
    let specs = chain.rules.iter().map(|rule| rule.spec.as_str());
    (chain.policy.as_deref(), specs.collect())
}
