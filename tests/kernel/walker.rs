//! The plain walk over the rules that were rendered, read back from their text.

use std::collections::HashMap;

use fwc::iptables::{
    Match, NatKind, RuleId, Ruleset, TableName, Target, WalkVerdict as Walked, walk,
};
use fwc::net::{AddressRange, Family, Hook, Packet, PerFamily, number_of};
use fwc::policy::NatChain;

use crate::circumstances::Circumstances;
use crate::compile::Rules;
use crate::counters::Verdict;
use crate::probe::Translation;

/// The rules of both families, read.
pub struct Walker {
    families: PerFamily<Option<Read>>,
    sets: Sets,
}

/// The members of the sets that the policy itself fills, by the set's name.
type Sets = HashMap<String, Vec<AddressRange>>;

struct Read {
    text: String,
    rules: Ruleset,
    /// The raw table's PREROUTING, as if it stood in INPUT: a packet is known by one hook only.
    arrival: Ruleset,
    arrival_text: String,
}

impl Walker {
    /// Reads `iptables-restore` and `ipset restore` text.
    pub fn new(rules: &Rules) -> Result<Self, String> {
        let mut walker = Self {
            families: PerFamily::default(),
            sets: members(&rules.sets)?,
        };
        for (family, text) in rules.texts.iter() {
            let arrival_text = arrival(text);
            walker.families[family] = Some(Read {
                rules: read(text, family)?,
                text: text.clone(),
                arrival: read(&arrival_text, family)?,
                arrival_text,
            });
        }
        Ok(walker)
    }

    /// What becomes of a packet, and the rules that match it on the way, in the words of the text.
    pub fn walk(
        &self,
        packet: &Packet,
        circumstances: &Circumstances,
    ) -> Result<(Verdict, Vec<String>), String> {
        let read = self.families[packet.family].as_ref().ok_or("no rules")?;
        let hook = match packet.hook {
            Hook::Output => Hook::Output,
            Hook::Input | Hook::Forward => Hook::Input,
        };
        let arriving = Packet {
            hook,
            ..packet.clone()
        };
        let (verdict, lines) =
            self.walk_filter(&read.arrival, &read.arrival_text, &arriving, circumstances)?;
        if verdict != Verdict::Accept {
            return Ok((verdict, lines));
        }
        self.walk_filter(&read.rules, &read.text, packet, circumstances)
    }

    /// What one chain of the nat table makes of a packet.
    pub fn translate(
        &self,
        packet: &Packet,
        chain: NatChain,
        circumstances: &Circumstances,
    ) -> Result<Translation, String> {
        let read = self.families[packet.family].as_ref().ok_or("no rules")?;
        let chain = match chain {
            NatChain::Prerouting => "PREROUTING",
            NatChain::Output => "OUTPUT",
            NatChain::Postrouting => "POSTROUTING",
        };
        let mut rules = read.rules.clone();
        let tables = rules.tables.iter_mut();
        let nat = tables.filter(|table| table.name == TableName::Nat);
        // The walk goes by the packet's hook.
        for other in nat.flat_map(|table| &mut table.chains) {
            if &*other.name == chain {
                other.name = packet.hook.chain().into();
            } else if &*other.name == packet.hook.chain() {
                other.name = "elsewhere".into();
            }
        }
        let mut oracle = |_: RuleId, condition: &Match| match condition {
            Match::Other(module) => circumstances.module_holds(module, packet),
            Match::Set(set) => Some(circumstances.set_holds(set)),
            // Probes are for this host where they ask.
            Match::AddressType(_) => Some(true),
            _ => None,
        };
        let walked = walk(&rules, TableName::Nat, packet, &mut oracle);
        let walked = walked.map_err(|error| error.to_string())?;
        match walked.verdict {
            Walked::Accept => Ok(Translation::None),
            Walked::Other(target) => match &*target {
                Target::Nat(nat) => Ok(match nat.kind {
                    NatKind::Masquerade => Translation::Masquerade,
                    NatKind::Snat => Translation::Snat,
                    NatKind::Redirect => Translation::Redirect,
                    NatKind::Dnat | NatKind::Netmap => Translation::Dnat,
                }),
                other => Err(format!("no translation: {other:?}")),
            },
            other => Err(format!("no translation: {other:?}")),
        }
    }

    fn walk_filter(
        &self,
        rules: &Ruleset,
        text: &str,
        packet: &Packet,
        circumstances: &Circumstances,
    ) -> Result<(Verdict, Vec<String>), String> {
        let mut oracle = |_: RuleId, condition: &Match| match condition {
            Match::Set(set) => {
                let address = match set.from_source[0] {
                    true => packet.source,
                    false => packet.destination,
                };
                let Some(members) = self.sets.get(&*set.name) else {
                    return Some(circumstances.set_holds(set));
                };
                let number = number_of(address);
                let is_member = |range: &AddressRange| (range.first..=range.last).contains(&number);
                Some(members.iter().any(is_member) != set.negated)
            }
            other => circumstances.match_holds(other, packet),
        };
        let walked = walk(rules, TableName::Filter, packet, &mut oracle)
            .map_err(|error| error.to_string())?;
        let verdict = match walked.verdict {
            Walked::Accept => Verdict::Accept,
            Walked::Drop => Verdict::Drop,
            Walked::Reject(_) => Verdict::Reject,
            Walked::Other(target) => return Err(format!("no verdict: {target:?}")),
        };
        let filter = rules.table(TableName::Filter).ok_or("no filter table")?;
        let lines: Vec<&str> = text.lines().collect();
        let line_of = |id: &RuleId| {
            let line = filter.chains[id.chain].rules[id.rule].line as usize;
            lines[line - 1].to_owned()
        };
        Ok((verdict, walked.counted.iter().map(line_of).collect()))
    }
}

/// The members of each set of `ipset restore` text that has some.
fn members(text: &str) -> Result<Sets, String> {
    let mut sets = Sets::new();
    for line in text.lines() {
        if let ["add", name, member] = line.split(' ').collect::<Vec<_>>()[..] {
            let range = AddressRange::parse(member);
            let range = range.map_err(|error| format!("{line}: {error:?}"))?;
            sets.entry(name.to_owned()).or_default().push(range);
        }
    }
    Ok(sets)
}

fn read(text: &str, family: Family) -> Result<Ruleset, String> {
    Ruleset::from_text(text, family).map_err(|error| format!("{family}: {error}"))
}

/// The raw table alone, PREROUTING renamed.
fn arrival(text: &str) -> String {
    let raw = text.lines().skip_while(|line| *line != "*raw").skip(1);
    let lines: Vec<_> = raw
        .take_while(|line| *line != "COMMIT")
        // What is tracked or not decides nothing here, and is the packet's own state.
        .filter(|line| !line.contains(" -j CT --"))
        .map(|line| line.replace("PREROUTING", "INPUT"))
        .collect();
    format!("*filter\n{}\nCOMMIT\n", lines.join("\n"))
}
