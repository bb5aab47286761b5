//! What a whole ruleset of one family does: per table and base chain, comparable.

use std::collections::{BTreeMap, BTreeSet};

use super::field::Field;
use super::flow::{Effect, Flow};
use super::space::{Set, Space};
use super::verdicts::Verdict;
use super::{GaveUp, text::TextError};
use crate::iptables::{Policy, TableName};
use crate::net::Hook;

/// A base chain: where in the kernel a table is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BaseChain {
    /// Before routing.
    Prerouting,
    /// To this host.
    Input,
    /// Through this host.
    Forward,
    /// From this host.
    Output,
    /// After routing.
    Postrouting,
}

impl BaseChain {
    /// All, in the order in which a packet may pass them.
    pub const ALL: [Self; 5] = [
        Self::Prerouting,
        Self::Input,
        Self::Forward,
        Self::Output,
        Self::Postrouting,
    ];

    /// The chain's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output => "OUTPUT",
            Self::Postrouting => "POSTROUTING",
        }
    }

    /// The base chain of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|chain| chain.as_str() == name)
    }

    /// What every packet here has none of: a device that it came in by, or that it leaves by.
    pub(super) fn without(self) -> &'static [Field] {
        match self {
            Self::Prerouting | Self::Input => &[Field::OutDevice],
            Self::Output => &[Field::InDevice],
            Self::Forward | Self::Postrouting => &[],
        }
    }
}

impl From<Hook> for BaseChain {
    fn from(hook: Hook) -> Self {
        match hook {
            Hook::Input => Self::Input,
            Hook::Forward => Self::Forward,
            Hook::Output => Self::Output,
        }
    }
}

/// What can be observed of a packet in a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Observable {
    /// How the table ends for it.
    Verdict(Verdict),
    /// What happens to it on the way.
    Effect(Effect),
}

/// What a ruleset of one family does with every packet in each table and base chain.
///
/// ```
/// use fwc::analysis::{BaseChain, Behaviour, Reading, Space, Verdict};
/// use fwc::iptables::{Ruleset, TableName};
/// use fwc::net::Family;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let space = Space::new(Family::V4);
/// let read = |rules: &str| -> Result<Behaviour, Box<dyn std::error::Error>> {
///     let text = format!("*filter\n:INPUT DROP [0:0]\n{rules}COMMIT\n");
///     let ruleset = Ruleset::from_text(&text, Family::V4)?;
///     Ok(Behaviour::of(&space, &ruleset, &Reading::default())?)
/// };
/// let before = read("-A INPUT -s 192.0.2.0/25 -j ACCEPT\n-A INPUT -s 192.0.2.128/25 -j ACCEPT\n")?;
/// let after = read("-A INPUT -s 192.0.2.0/24 -j ACCEPT\n")?;
/// assert!(before.differences(&space, &after)?.is_empty());
///
/// let open = read("-A INPUT -s 192.0.2.0/23 -j ACCEPT\n")?;
/// let differences = before.differences(&space, &open)?;
/// assert_eq!(differences.len(), 1);
/// assert_eq!(differences[0].chain, BaseChain::Input);
/// let packet = space.witness(differences[0].packets, BaseChain::Input, &[])?.unwrap();
/// assert_eq!(packet.packet.source.to_string(), "192.0.3.1");
/// let input = (TableName::Filter, BaseChain::Input);
/// assert_eq!(before.fate(&space, input, packet.value()).verdict, Verdict::Drop);
/// assert_eq!(open.fate(&space, input, packet.value()).verdict, Verdict::Accept);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// What happens to packets; a table or base chain that is not here accepts everything.
    pub flows: BTreeMap<(TableName, BaseChain), Flow>,
    /// What the file says that no packet shows.
    pub structure: Structure,
}

/// What a ruleset declares, whether packets show it or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Structure {
    /// The policies of the base chains.
    pub policies: BTreeMap<(TableName, BaseChain), Policy>,
    /// The user-defined chains.
    pub chains: BTreeSet<(TableName, Box<str>)>,
}

/// Packets that two behaviours treat differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The table.
    pub table: TableName,
    /// The base chain.
    pub chain: BaseChain,
    /// The effect that only one side has; `None` where verdict or mark differ.
    pub effect: Option<Effect>,
    /// The packets; never none.
    pub packets: Set,
}

/// What one packet meets in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// How the table ends.
    pub verdict: Verdict,
    /// The mark that it has then.
    pub mark: u32,
    /// What happens to it on the way.
    pub effects: Vec<Effect>,
}

impl Behaviour {
    /// What a ruleset does. The space must be of its family.
    pub fn of(
        space: &Space,
        ruleset: &crate::iptables::Ruleset,
        reading: &super::Reading<'_>,
    ) -> Result<Self, TextError> {
        super::text::behaviour(space, ruleset, reading)
    }

    /// What happens in a table at a base chain.
    pub fn flow(&self, space: &Space, place: (TableName, BaseChain)) -> Flow {
        let accepts = || Flow::of(space.verdict(Verdict::Accept));
        self.flows.get(&place).cloned().unwrap_or_else(accepts)
    }

    /// The same without what only tells of packets. What is written into them stays, for the rest of a way depends on it.
    pub fn silent(&self) -> Self {
        let mut silent = self.clone();
        for flow in silent.flows.values_mut() {
            flow.effects.clear();
        }
        silent
    }

    /// Adds what happens at a base chain: what its fields are there is filled in. The flow must decide everything.
    pub fn insert(
        &mut self,
        space: &Space,
        place: (TableName, BaseChain),
        mut flow: Flow,
    ) -> Result<(), GaveUp> {
        for field in place.1.without() {
            flow = flow.with(space, *field, 0)?;
        }
        self.flows.insert(place, flow);
        Ok(())
    }

    /// The packets of each observable.
    pub fn observables(
        &self,
        space: &Space,
        place: (TableName, BaseChain),
    ) -> Result<BTreeMap<Observable, Set>, GaveUp> {
        let flow = self.flow(space, place);
        let verdicts = space.parts(flow.verdicts)?.into_iter();
        let verdicts =
            verdicts.filter_map(|(verdict, set)| Some((Observable::Verdict(verdict?), set)));
        let effects = flow.effects.into_iter();
        Ok(verdicts
            .chain(effects.map(|(effect, set)| (Observable::Effect(effect), set)))
            .collect())
    }

    /// All packets that the two treat differently, per table, base chain and effect. Both must be of the same space.
    ///
    /// No difference means: the same for every packet, whatever the opaque conditions say. Exact, where `==` may take
    /// two changes of marks for different that no packet tells apart.
    pub fn differences(&self, space: &Space, other: &Self) -> Result<Vec<Difference>, GaveUp> {
        let places: BTreeSet<_> = self
            .flows
            .keys()
            .chain(other.flows.keys())
            .copied()
            .collect();
        let mut all = Vec::new();
        for (table, chain) in places {
            let (left, right) = (
                self.flow(space, (table, chain)),
                other.flow(space, (table, chain)),
            );
            if left == right {
                continue;
            }
            let mut add = |effect, packets| {
                if packets != space.none() {
                    all.push(Difference {
                        table,
                        chain,
                        effect,
                        packets,
                    });
                }
            };
            add(None, space.differ(left.verdicts, right.verdicts)?);
            let effects: BTreeSet<&Effect> =
                left.effects.keys().chain(right.effects.keys()).collect();
            for effect in effects {
                let side = |flow: &Flow| flow.effects.get(effect).copied().unwrap_or(space.none());
                let (left, right) = (side(&left), side(&right));
                let packets = space.or(space.minus(left, right)?, space.minus(right, left)?)?;
                add(Some(effect.clone()), packets);
            }
        }
        Ok(all)
    }

    /// What happens to one packet, by its fields' values.
    pub fn fate(
        &self,
        space: &Space,
        place: (TableName, BaseChain),
        value: impl Fn(Field) -> u128,
    ) -> Fate {
        let flow = self.flow(space, place);
        let (verdict, mark) = space.verdict_of(flow.verdicts, &value);
        let effects = flow.effects.into_iter();
        Fate {
            verdict: verdict.unwrap_or(Verdict::Accept),
            mark,
            effects: effects
                .filter(|(_, set)| space.contains(*set, &value))
                .map(|(effect, _)| effect)
                .collect(),
        }
    }
}
