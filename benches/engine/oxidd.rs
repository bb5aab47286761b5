//! This crate's diagrams beside oxidd's on the same rules.

use fwc::analysis::{BaseChain, Field, Space, Verdict};
use fwc::iptables::{Ruleset, TableName};
use fwc::net::Family;
use oxidd::bdd::{BDDFunction, BDDManagerRef, new_manager};
use oxidd::{BooleanFunction, Manager, ManagerRef};

use crate::rules::{Numbers, Rule, text};
use crate::{behaviour, median};

const INPUT: (TableName, BaseChain) = (TableName::Filter, BaseChain::Input);

/// The same rules as plain bits of interval numbers.
struct Oxidd {
    manager: BDDManagerRef,
    sources: Vec<u128>,
    destinations: Vec<u128>,
    ports: Vec<u128>,
}

fn ends((address, length): (u128, u8), family: Family) -> (u128, u128) {
    let host = (1u128 << (family.bits() - length)) - 1;
    (address, address | host)
}

fn starts(ranges: impl Iterator<Item = (u128, u128)>) -> Vec<u128> {
    let mut all: Vec<u128> = ranges
        .flat_map(|(first, last)| [first, last + 1])
        .chain([0])
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn bits(starts: &[u128]) -> u32 {
    usize::BITS - (starts.len() - 1).leading_zeros()
}

impl Oxidd {
    fn new(family: Family, rules: &[Rule], nodes: usize) -> Self {
        let sources = starts(rules.iter().map(|rule| ends(rule.source, family)));
        let to = rules.iter().filter_map(|rule| rule.destination);
        let destinations = starts(to.map(|prefix| ends(prefix, family)));
        let ports = starts(
            rules
                .iter()
                .map(|rule| (rule.ports.0.into(), rule.ports.1.into())),
        );
        let manager = new_manager(nodes, nodes, 1);
        let count = bits(&sources) + bits(&destinations) + 8 + bits(&ports);
        manager.with_manager_exclusive(|manager| manager.add_vars(count));
        Self {
            manager,
            sources,
            destinations,
            ports,
        }
    }

    fn constant(&self, value: bool) -> BDDFunction {
        self.manager.with_manager_shared(|manager| match value {
            true => BDDFunction::t(manager),
            false => BDDFunction::f(manager),
        })
    }

    /// Numbers of `count` bits, the highest the variable `first`, from `low` to `high`.
    fn range(&self, first: u32, count: u32, low: usize, high: usize) -> BDDFunction {
        // From the lowest bit: at least `low`, at most `high`.
        let (mut least, mut most) = (self.constant(true), self.constant(true));
        for bit in 0..count {
            let variable = first + count - 1 - bit;
            let one = self
                .manager
                .with_manager_shared(|manager| BDDFunction::var(manager, variable))
                .unwrap();
            least = match low >> bit & 1 {
                1 => one.and(&least),
                _ => one.or(&least),
            }
            .unwrap();
            most = match high >> bit & 1 {
                1 => one.not().unwrap().or(&most),
                _ => one.not().unwrap().and(&most),
            }
            .unwrap();
        }
        least.and(&most).unwrap()
    }

    fn atoms(&self, first: u32, starts: &[u128], (low, high): (u128, u128)) -> BDDFunction {
        let of = |value| starts.partition_point(|start| *start <= value) - 1;
        self.range(first, bits(starts), of(low), of(high))
    }

    /// What the rules match and what they accept, as a balanced tree.
    fn accepted(&self, family: Family, rules: &[Rule]) -> BDDFunction {
        let (source, destination) = (0, bits(&self.sources));
        let protocol = destination + bits(&self.destinations);
        let leaf = |rule: &Rule| {
            let port = self.atoms(
                protocol + 8,
                &self.ports,
                (rule.ports.0.into(), rule.ports.1.into()),
            );
            let mut set = self
                .range(protocol, 8, rule.protocol.into(), rule.protocol.into())
                .and(&port)
                .unwrap();
            if let Some(prefix) = rule.destination {
                set = self
                    .atoms(destination, &self.destinations, ends(prefix, family))
                    .and(&set)
                    .unwrap();
            }
            set = self
                .atoms(source, &self.sources, ends(rule.source, family))
                .and(&set)
                .unwrap();
            let accepted = if rule.accept {
                set.clone()
            } else {
                self.constant(false)
            };
            (set, accepted)
        };
        let mut all: Vec<(BDDFunction, BDDFunction)> = rules.iter().map(leaf).collect();
        while all.len() > 1 {
            all = all
                .chunks(2)
                .map(|pair| match pair {
                    [(matched, accepted), (next, then)] => {
                        let new = then.and(&matched.not().unwrap()).unwrap();
                        (matched.or(next).unwrap(), accepted.or(&new).unwrap())
                    }
                    pair => pair[0].clone(),
                })
                .collect();
        }
        all.pop().unwrap().1
    }

    fn accepts(&self, accepted: &BDDFunction, at: [u128; 4]) -> bool {
        let [source, destination, protocol, port] = at;
        let of = |starts: &[u128], value| starts.partition_point(|start| *start <= value) - 1;
        let fields = [
            (of(&self.sources, source), bits(&self.sources)),
            (
                of(&self.destinations, destination),
                bits(&self.destinations),
            ),
            (protocol as usize, 8),
            (of(&self.ports, port), bits(&self.ports)),
        ];
        let mut variable = 0;
        let mut values = Vec::new();
        for (value, count) in fields {
            for bit in (0..count).rev() {
                values.push((variable, value >> bit & 1 == 1));
                variable += 1;
            }
        }
        accepted.eval(values)
    }
}

pub fn beside(name: &str, family: Family, rules: &[Rule], nodes: usize) {
    let ruleset = Ruleset::from_text(&text(family, rules), family).unwrap();
    let ours = median(5, || drop(behaviour(&Space::new(family), &ruleset)));
    let start = median(5, || drop(Oxidd::new(family, rules, nodes)));
    let theirs = median(5, || {
        let oxidd = Oxidd::new(family, rules, nodes);
        drop(oxidd.accepted(family, rules));
    });
    let space = Space::new(family);
    let both = behaviour(&space, &ruleset);
    let accepted = space
        .decided(both.flow(&space, INPUT).verdicts, &Verdict::Accept)
        .unwrap();
    let oxidd = Oxidd::new(family, rules, nodes);
    let function = oxidd.accepted(family, rules);
    let mut numbers = Numbers(7);
    for _ in 0..20_000 {
        let mut rule = || &rules[numbers.below(rules.len() as u128) as usize];
        let (one, two, three) = (rule(), rule(), rule());
        let source = ends(one.source, family).0;
        let destination = two.destination.map_or(0, |prefix| ends(prefix, family).1);
        let (protocol, port) = (three.protocol.into(), u128::from(three.ports.1));
        let ours = space.contains(accepted, |field| match field {
            Field::Source => source,
            Field::Destination => destination,
            Field::Protocol => protocol,
            Field::DestinationPort => port,
            _ => 0,
        });
        assert_eq!(
            ours,
            oxidd.accepts(&function, [source, destination, protocol, port])
        );
    }
    let their_nodes = oxidd::Function::node_count(&function);
    println!(
        "{name} {family} {} rules: this crate {ours:.1?} ({:?} nodes, edges built); oxidd {theirs:.1?}, of that start-up {start:.1?} ({their_nodes} nodes left)",
        rules.len(),
        space.size(),
    );
}
