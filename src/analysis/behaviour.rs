//! The behaviour of a whole ruleset of one family: a flow for each table and base chain, which can be compared.

use std::collections::{BTreeMap, BTreeSet};

use super::field::Field;
use super::flow::{Effect, Flow};
use super::space::{Set, Space};
use super::verdicts::Verdict;
use super::{GaveUp, TextError};
use crate::iptables::{ChainPolicy, TableName};
use crate::net::Hook;

/// A base chain: the netfilter hook at which a table's rules run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BaseChain {
    /// PREROUTING: packets that arrive, before routing.
    Prerouting,
    /// INPUT: packets to this host.
    Input,
    /// FORWARD: packets through this host.
    Forward,
    /// OUTPUT: packets from this host.
    Output,
    /// POSTROUTING: packets that leave, after routing.
    Postrouting,
}

impl BaseChain {
    /// All base chains, in the order in which a packet may pass them.
    pub const ALL: [Self; 5] = [
        Self::Prerouting,
        Self::Input,
        Self::Forward,
        Self::Output,
        Self::Postrouting,
    ];

    /// Returns the chain's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output => "OUTPUT",
            Self::Postrouting => "POSTROUTING",
        }
    }

    /// Returns the base chain of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|chain| chain.as_str() == name)
    }

    /// Returns the fields that no packet has at this hook: the in-device or the out-device.
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

/// An observable fact about a packet in a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Observable {
    /// The verdict of the table.
    Verdict(Verdict),
    /// An effect of one of its rules.
    Effect(Effect),
}

/// The result of a ruleset of one family for every packet, in each table and base chain.
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
    /// The flow of each base chain with rules; any other table and base chain accepts everything.
    pub flows: BTreeMap<(TableName, BaseChain), Flow>,
    /// Facts of the file that no packet can show.
    pub structure: Structure,
}

/// The declarations of a ruleset, whether any packet shows them or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Structure {
    /// The policies of the base chains.
    pub policies: BTreeMap<(TableName, BaseChain), ChainPolicy>,
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
    /// The effect that only one side has; `None` if verdicts or marks differ.
    pub effect: Option<Effect>,
    /// The packets; never an empty set.
    pub packets: Set,
}

/// What happens to one packet in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFate {
    /// The verdict of the table.
    pub verdict: Verdict,
    /// The packet's mark after the table.
    pub mark: u32,
    /// The effects of the rules that it matched.
    pub effects: Vec<Effect>,
}

impl Behaviour {
    /// Computes the behaviour of a ruleset. The space must be of its family.
    pub fn of(
        space: &Space,
        ruleset: &crate::iptables::Ruleset,
        reading: &super::Reading<'_>,
    ) -> Result<Self, TextError> {
        super::text::behaviour(space, ruleset, reading)
    }

    /// Returns the flow of a table at a base chain; one that accepts everything if the ruleset has none.
    pub fn flow(&self, space: &Space, place: (TableName, BaseChain)) -> Flow {
        let accepts = || Flow::of(space.verdict(Verdict::Accept));
        self.flows.get(&place).cloned().unwrap_or_else(accepts)
    }

    /// Returns the behaviour without effects. Writes are kept, because the packet's path through later tables depends
    /// on them.
    pub fn silent(&self) -> Self {
        let mut silent = self.clone();
        for flow in silent.flows.values_mut() {
            flow.effects.clear();
        }
        silent
    }

    /// Adds the flow of a base chain, with the fields that no packet has there fixed. The flow must decide every
    /// packet.
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

    /// Returns the packets of each observable fact.
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

    /// Returns all packets that two behaviours of one space treat differently, by table, base chain and effect.
    ///
    /// An empty list is a proof: both do the same with every packet, whatever the opaque conditions answer. It is
    /// exact, unlike `==`, which may take two writes for different that no packet tells apart.
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

    /// Returns what happens to one packet, given by its fields' values.
    pub fn fate(
        &self,
        space: &Space,
        place: (TableName, BaseChain),
        value: impl Fn(Field) -> u128,
    ) -> TableFate {
        let flow = self.flow(space, place);
        let (verdict, mark) = space.verdict_of(flow.verdicts, &value);
        let effects = flow.effects.into_iter();
        TableFate {
            verdict: verdict.unwrap_or(Verdict::Accept),
            mark,
            effects: effects
                .filter(|(_, set)| space.contains(*set, &value))
                .map(|(effect, _)| effect)
                .collect(),
        }
    }
}
