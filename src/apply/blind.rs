//! Taking a change back where live cannot be read: somebody put a rule into a table that iptables has no words for, or
//! `iptables-save` fails, hangs or leaves something out.
//!
//! What cannot be read must not keep a change in force. fwc knows what it wrote, and `iptables-restore --noflush` needs no
//! reading: the chains that the change touched are filled again with what was in them before. What others put into these very
//! chains since is lost; all other chains stay as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::bridge::Rest;
use super::owned::Owned;
use super::panic;
use crate::iptables::TableName;
use crate::live::{self, Chain, Chains, Dump, Host};
use crate::net::Family;

/// Takes a change from `before` to one of `states` back, in the tables of one family.
pub(super) fn take_back(
    host: &mut dyn Host,
    owned: &Owned,
    family: Family,
    before: &Dump,
    states: &[&Dump],
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
    before: Chains,
    states: Vec<Chains>,
    /// In base chains where others have rules, too: who decides what fwc leaves undecided.
    rest: Option<Rest>,
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
            for line in self.deletions(&touched) {
                // Somebody may have deleted the rule already.
                let _ = host.restore(family, &self.file(&line));
            }
        }
        for name in touched
            .iter()
            .filter(|name| !self.before.contains_key(**name))
        {
            // Where a rule of others leads into it, it stays, and is empty.
            let _ = host.restore(family, &self.file(&format!(":{name} - [0:0]\n-X {name}\n")));
        }
        Ok(())
    }

    /// The chains that are not the same in all states.
    fn touched(&self) -> BTreeSet<&str> {
        let all = self.states.iter().chain([&self.before]);
        let names: BTreeSet<&str> = all.flat_map(Chains::keys).map(String::as_str).collect();
        let is_touched = |name: &&str| {
            let before = self.before.get(*name).map(content);
            let mut states = self.states.iter();
            states.any(|state| state.get(*name).map(content) != before)
        };
        names.into_iter().filter(is_touched).collect()
    }

    /// Fills chains with what was in them. In base chains beside others fwc's rules are added: behind others' where the chain's
    /// policy decides the rest, else first.
    fn refill(&self, touched: &BTreeSet<&str>, panic: bool) -> String {
        let mut text = String::new();
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
        for name in touched {
            let Some(chain) = self.before.get(*name) else {
                continue;
            };
            let is_base = chain.policy.is_some();
            if is_base && self.rest.is_none() {
                let _ = writeln!(text, "-F {name}");
            }
            if panic && is_base && self.rest.is_none() {
                let _ = writeln!(text, "-A {name} -j {}", panic::CHAIN);
            }
            let is_first = is_base && self.rest == Some(Rest::Others);
            for (index, rule) in chain.rules.iter().enumerate() {
                let place = match is_first {
                    true => format!("-I {name} {}", index + 1 + usize::from(panic)),
                    false => format!("-A {name}"),
                };
                let _ = writeln!(text, "{} {place} {}", rule.counters, rule.spec);
            }
        }
        self.file(&text)
    }

    fn changes_policy(&self, name: &str) -> bool {
        let policy = |chains: &Chains| chains.get(name).and_then(|chain| chain.policy.clone());
        let before = policy(&self.before);
        self.states.iter().any(|state| policy(state) != before)
    }

    /// What deletes the rules of the change from base chains, one at a time. Of two rules of the same text it deletes the first,
    /// so that one of them stays when what was there before has the same rule.
    fn deletions(&self, touched: &BTreeSet<&str>) -> Vec<String> {
        let mut lines = Vec::new();
        for name in touched {
            let is_base = self
                .before
                .get(*name)
                .is_some_and(|chain| chain.policy.is_some());
            if !is_base {
                continue;
            }
            // As often as one of the states has the rule.
            let mut most: BTreeMap<&str, usize> = BTreeMap::new();
            for chain in self.states.iter().filter_map(|state| state.get(*name)) {
                for rule in &chain.rules {
                    let same = chain.rules.iter().filter(|other| other.spec == rule.spec);
                    let count = same.count();
                    let known = most.entry(&rule.spec).or_default();
                    *known = count.max(*known);
                }
            }
            for (spec, count) in most {
                lines.extend((0..count).map(|_| format!("-D {name} {spec}\n")));
            }
        }
        lines
    }

    fn file(&self, lines: &str) -> String {
        format!("*{}\n{lines}COMMIT\n", self.table)
    }
}

/// What two chains have to have in common.
fn content(chain: &Chain) -> (Option<&str>, Vec<&str>) {
    let specs = chain.rules.iter().map(|rule| rule.spec.as_str());
    (chain.policy.as_deref(), specs.collect())
}
