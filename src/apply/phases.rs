//! Tables that depend on each other, changed in three phases.
//!
//! Each table is a commit of its own. Between the one of `nat` and the one of `filter` a packet would meet the new
//! translation and the old filter, and be lost though the old rules and the new ones let it through. So the filter goes first
//! to a bridge, which lets through what the old or the new filter does, then the other tables change, then the filter. Where
//! a packet would get through in between that neither ruleset lets through ([`opens`]), the bridge is the one that lets
//! through what both filters do.

use std::collections::BTreeMap;

use crate::analysis::{
    BaseChain, Behaviour, Budget, GaveUp, Path, Reading, Set, Space, TextError, Verdict,
};
use crate::iptables::{Chain, Invalid, Policy, Rule, Ruleset, Table, TableName, Target};
use crate::live::{self, Dump};
use crate::net::{Family, Hook};

/// Whether the change of these tables needs the three phases.
pub fn depend(changed: &[live::Table]) -> bool {
    let filter = changed.contains(&live::Table::Filter);
    filter && changed.len() > 1
}

/// What a bridge lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// What the old filter or the new one does.
    Either,
    /// What both do.
    Both,
}

/// The text of a filter table between the two, which refuses what `new` refuses in the words of `new`.
pub fn bridge(old: &Dump, new: &Dump, family: Family, width: Width) -> Result<String, Invalid> {
    let filter = |dump: &Dump| -> Result<Table, Invalid> {
        let text = dump.only(&[live::Table::Filter]).normal();
        let ruleset = Ruleset::from_text(&text, family)?;
        let table = ruleset.table(TableName::Filter).cloned();
        Ok(table.unwrap_or_else(|| Table::new(TableName::Filter)))
    };
    let (old, new) = (filter(old)?, filter(new)?);
    let mut ruleset = Ruleset::new(family);
    ruleset.tables.push(Builder::bridge(&old, &new, width));
    Ok(ruleset.to_string())
}

/// Whether some packet gets through in between that neither ruleset lets through.
///
/// `tables` are those that change, in their order; the bridge comes before all, the new filter after all.
pub fn opens(
    old: &Dump,
    new: &Dump,
    bridge: &Dump,
    tables: &[live::Table],
    family: Family,
) -> Result<bool, Unknown> {
    let space = Space::with_budget(family, BUDGET);
    let let_through = |dump: &Dump, hook: Hook| -> Result<Set, Unknown> {
        let ruleset = Ruleset::from_text(&dump.normal(), family)?;
        let behaviour = Behaviour::of(&space, &ruleset, &Reading::default())?;
        let arriving = space.valid(BaseChain::from(hook))?;
        let path = Path::of(&space, &behaviour, hook, arriving)?;
        let refused = |verdict: &Verdict| matches!(verdict, Verdict::Drop | Verdict::Reject(_));
        Ok(path.may(&space, |end| !refused(&end.verdict))?)
    };
    let mut states = Vec::new();
    let mut state = old.clone();
    *state.table_mut(live::Table::Filter) = bridge.table(live::Table::Filter);
    states.push(state.clone());
    for &table in tables.iter().filter(|table| **table != live::Table::Filter) {
        *state.table_mut(table) = new.table(table);
        states.push(state.clone());
    }
    for hook in [Hook::Input, Hook::Forward, Hook::Output] {
        let either = space.or(let_through(old, hook)?, let_through(new, hook)?)?;
        for state in &states {
            if !space.is_subset(let_through(state, hook)?, either)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// About a second.
const BUDGET: Budget = Budget {
    edges: 6_000_000,
    steps: 40_000_000,
};

/// Why nobody can tell.
#[derive(Debug, thiserror::Error)]
pub enum Unknown {
    /// A rule that only the kernel understands.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The analysis has no answer.
    #[error(transparent)]
    Text(#[from] TextError),
    /// It is too large.
    #[error(transparent)]
    GaveUp(#[from] GaveUp),
}

/// What becomes of the verdicts of one side.
#[derive(Clone)]
struct Mode {
    /// The target in place of what throws the packet away; `None` leaves it.
    refused: Option<Target>,
    /// The target in place of what lets it through; `None` leaves it.
    accepted: Option<Target>,
    /// The target for what the base chain's policy decides.
    policy: Target,
}

impl Mode {
    fn of(chain: &Chain, refused: Option<Target>, accepted: Option<Target>) -> Self {
        let policy = match chain.policy {
            Some(Policy::Drop) => refused.clone().unwrap_or(Target::Drop),
            _ => accepted.clone().unwrap_or(Target::Accept),
        };
        Self {
            refused,
            accepted,
            policy,
        }
    }
}

#[derive(Default)]
struct Builder {
    /// The chains made so far.
    made: Vec<Chain>,
}

impl Builder {
    fn bridge(old: &Table, new: &Table, width: Width) -> Table {
        let mut builder = Self::default();
        let mut bridge = Table::new(TableName::Filter);
        for base in &mut bridge.chains {
            let (Some(old_base), Some(new_base)) = (old.chain(&base.name), new.chain(&base.name))
            else {
                continue;
            };
            base.policy = old_base.policy;
            let after = Mode::of(new_base, None, None);
            let entry = builder.base(new, new_base, &after);
            let entry = builder.add(entry);
            let next = Some(Target::Goto(entry));
            let before = match width {
                Width::Either => Mode::of(old_base, next, None),
                Width::Both => Mode::of(old_base, None, next),
            };
            base.rules = builder.base(old, old_base, &before);
        }
        // What stays in use later keeps its place and its counters.
        let base = TableName::Filter.base_chains();
        let users = old
            .chains
            .iter()
            .filter(|chain| !base.contains(&&*chain.name));
        bridge.chains.extend(users.cloned());
        bridge.chains.extend(builder.made);
        bridge
    }

    /// A chain with these rules; its name.
    fn add(&mut self, rules: Vec<Rule>) -> Box<str> {
        let name: Box<str> = format!("fwc~{}", self.made.len() + 1).into();
        let mut chain = Chain::new(&name, None);
        chain.rules = rules;
        self.made.push(chain);
        name
    }

    /// The rules of a base chain, at whose end nothing is left to decide.
    fn base(&mut self, table: &Table, chain: &Chain, mode: &Mode) -> Vec<Rule> {
        let mut copies = BTreeMap::new();
        let mut rules = Vec::new();
        for rule in &chain.rules {
            let target = match &rule.target {
                Target::Return => mode.policy.clone(),
                // What comes back from there comes to the policy.
                Target::Goto(name) => {
                    let inner = self.copy(table, name, mode, &mut copies);
                    let steps = [Target::Jump(inner), mode.policy.clone()];
                    Target::Goto(self.add(steps.map(plain).to_vec()))
                }
                target => self.target(table, target, mode, &mut copies),
            };
            rules.push(with_target(rule, target));
        }
        rules.push(plain(mode.policy.clone()));
        rules
    }

    /// A copy of a user's chain; its name.
    fn copy(
        &mut self,
        table: &Table,
        name: &str,
        mode: &Mode,
        copies: &mut BTreeMap<Box<str>, Box<str>>,
    ) -> Box<str> {
        if let Some(copy) = copies.get(name) {
            return copy.clone();
        }
        let rules: Vec<Rule> = match table.chain(name) {
            Some(chain) => chain
                .rules
                .iter()
                .map(|rule| with_target(rule, self.target(table, &rule.target, mode, copies)))
                .collect(),
            None => Vec::new(),
        };
        let copy = self.add(rules);
        copies.insert(name.into(), copy.clone());
        copy
    }

    fn target(
        &mut self,
        table: &Table,
        target: &Target,
        mode: &Mode,
        copies: &mut BTreeMap<Box<str>, Box<str>>,
    ) -> Target {
        match target {
            Target::Drop | Target::Reject(_) => {
                mode.refused.clone().unwrap_or_else(|| target.clone())
            }
            Target::Accept => mode.accepted.clone().unwrap_or(Target::Accept),
            Target::Jump(name) => Target::Jump(self.copy(table, name, mode, copies)),
            Target::Goto(name) => Target::Goto(self.copy(table, name, mode, copies)),
            target => target.clone(),
        }
    }
}

fn with_target(rule: &Rule, target: Target) -> Rule {
    Rule {
        target,
        ..rule.clone()
    }
}

fn plain(target: Target) -> Rule {
    Rule {
        matches: Vec::new(),
        target,
        counters: None,
        line: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::{Width, bridge, opens};
    use crate::analysis::{BaseChain, Behaviour, Reading, Space, Verdict};
    use crate::iptables::{Ruleset, TableName};
    use crate::live::Dump;
    use crate::net::Family;

    /// The packets that a filter lets through at a base chain, by the engine.
    fn accepted(space: &Space, text: &str, chain: BaseChain) -> crate::analysis::Set {
        let ruleset = Ruleset::from_text(text, Family::V4).unwrap();
        let behaviour = Behaviour::of(space, &ruleset, &Reading::default()).unwrap();
        let parts = space
            .parts(behaviour.flow(space, (TableName::Filter, chain)).verdicts)
            .unwrap();
        parts
            .get(&Some(Verdict::Accept))
            .copied()
            .unwrap_or(space.none())
    }

    const OLD: &str = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:old - [0:0]\n:same - [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -p tcp -g old\n-A INPUT -j same\n-A INPUT -p udp -j RETURN\n-A INPUT -s 192.0.2.0/24 -j ACCEPT\n-A FORWARD -d 10.0.0.1/32 -j ACCEPT\n-A FORWARD -d 10.0.0.0/8 -j REJECT\n-A FORWARD -i eth0 -j ACCEPT\n-A OUTPUT -d 192.0.2.66/32 -j DROP\n-A old -p tcp -m tcp --dport 22 -j ACCEPT\n-A old -p tcp -m tcp --dport 23 -j RETURN\n-A same -s 198.51.100.0/24 -j DROP\nCOMMIT\n";
    const NEW: &str = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT DROP [0:0]\n:same - [0:0]\n-A INPUT -j same\n-A INPUT -p tcp -m tcp --dport 22 -j DROP\n-A INPUT -s 203.0.113.0/24 -j DROP\n-A FORWARD -d 10.0.0.2/32 -j ACCEPT\n-A OUTPUT -d 192.0.2.0/24 -j ACCEPT\n-A OUTPUT -p udp -j RETURN\n-A same -p tcp -m tcp --dport 23 -j DROP\nCOMMIT\n";

    #[test]
    fn bridge_lets_through_what_either_or_what_both_do() {
        for (old, new) in [(OLD, NEW), (NEW, OLD), (OLD, OLD), ("", NEW), (OLD, "")] {
            let dump = |text| Dump::parse(text).unwrap();
            for width in [Width::Either, Width::Both] {
                let between = bridge(&dump(old), &dump(new), Family::V4, width).unwrap();
                let space = Space::new(Family::V4);
                for chain in [BaseChain::Input, BaseChain::Forward, BaseChain::Output] {
                    let of = |text: &str| accepted(&space, text, chain);
                    let wanted = match width {
                        Width::Either => space.or(of(old), of(new)),
                        Width::Both => space.and(of(old), of(new)),
                    };
                    assert!(of(&between) == wanted.unwrap(), "{chain:?}\n{between}");
                }
            }
        }
    }

    /// A ruleset that translates port 80 to this port of a server, and lets this port of it through.
    fn forwards(translated: u16, open: u16) -> Dump {
        let text = format!(
            "*nat\n-A PREROUTING -i eth0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.2:{translated}\nCOMMIT\n*filter\n:FORWARD DROP [0:0]\n-A FORWARD -i eth0 -d 10.0.0.2/32 -p tcp -m tcp --dport {open} -j ACCEPT\nCOMMIT\n"
        );
        Dump::parse(&text).unwrap()
    }

    #[test]
    fn engine_tells_whether_a_bridge_opens() {
        use crate::live::Table::{Filter, Nat};
        let opens = |old: &Dump, new: &Dump, width| {
            let between = bridge(old, new, Family::V4, width).unwrap();
            let between = Dump::parse(&between).unwrap();
            opens(old, new, &between, &[Nat, Filter], Family::V4).unwrap()
        };
        // Each translates to what it lets through.
        let (old, new) = (forwards(8080, 8080), forwards(8081, 8081));
        assert!(!opens(&old, &new, Width::Either));
        // Each translates to what the other one alone lets through: in between port 80 would be open.
        let (old, new) = (forwards(8080, 8081), forwards(8081, 8080));
        assert!(opens(&old, &new, Width::Either));
        assert!(!opens(&old, &new, Width::Both));
    }
}
