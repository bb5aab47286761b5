//! The specification of `[defaults]`: the preamble of each hook, antispoof, and the default for packets that no rule decides.

use std::collections::BTreeMap;

use super::LogRequest;
use super::nat;
use super::rules::{SpecChain, Steps};
use crate::analysis::{Field, Flow, GaveUp, RuleStep, Set, Space, Verdict};
use crate::net::{Family, Hook, IntervalSet, Protocol, State};
use crate::policy::{DefaultAction, Icmp, InvalidAction, RuleStage};
use crate::resolve::{Plan, PlannedRule};
use crate::verify::condition::Condition;

impl SpecChain<'_> {
    /// Adds the steps before the rules.
    pub(super) fn preamble(&self, steps: &mut Steps<'_>) -> Result<(), GaveUp> {
        let (space, hook) = (self.space, self.hook);
        let defaults = &self.plan.defaults[space.family()];
        if defaults.loopback[hook] {
            match hook {
                Hook::Input => steps.accept(space.in_device("lo")?),
                Hook::Output => steps.accept(space.out_device("lo")?),
                Hook::Forward => {}
            }
        }
        self.rules(RuleStage::Early, steps)?;
        let continues = self.default_action() == DefaultAction::Continue;
        if defaults.established[hook]
            && (!continues
                || self.has_rules(PlannedRule::accepts)
                || nat::accepts_any(self.plan, self.hook)?)
        {
            steps.accept(space.states(&[State::Established, State::Related])?);
        }
        steps.accept(self.icmp()?);
        let invalid = space.states(&[State::Invalid])?;
        match defaults.invalid[hook] {
            _ if continues => {}
            InvalidAction::Drop => steps.drop(invalid),
            InvalidAction::Accept => steps.accept(invalid),
            InvalidAction::Off => {}
        }
        if defaults.dhcp_client[hook] {
            steps.accept(self.dhcp_client()?);
        }
        Ok(())
    }

    /// Adds the default as steps after the rules; the chain policy decides the packets that are left.
    pub(super) fn last(&self, default: DefaultAction, steps: &mut Steps<'_>) -> Result<(), GaveUp> {
        let defaults = &self.plan.defaults[self.space.family()];
        if matches!(default, DefaultAction::Accept | DefaultAction::Continue) {
            return Ok(());
        }
        let denied = self.denied()?;
        if let Some(class) = defaults.log[self.hook] {
            let (hook, rule) = (self.hook, None);
            steps.log(denied, LogRequest { hook, rule, class });
        }
        if default == DefaultAction::Reject {
            self.reject(denied, defaults.reject_with, steps)?;
        } else {
            steps.drop(denied);
        }
        Ok(())
    }

    /// Returns the packets that a default of drop or reject applies to. In shared mode FORWARD also has packets of other
    /// programs (containers, for example), so there it only applies between interfaces of the policy.
    fn denied(&self) -> Result<Set, GaveUp> {
        let space = self.space;
        if !self.plan.is_shared() || self.hook != Hook::Forward {
            return Ok(space.all());
        }
        let (mut came, mut leaves) = (space.none(), space.none());
        for device in self.plan.interfaces.iter().flat_map(|one| &one.devices) {
            came = space.or(came, space.in_device(device.as_str())?)?;
            leaves = space.or(leaves, space.out_device(device.as_str())?)?;
        }
        space.and(came, leaves)
    }

    /// Returns the ICMP packets that `icmp` accepts; in IPv4 IGMP too.
    fn icmp(&self) -> Result<Set, GaveUp> {
        let space = self.space;
        let word = self.plan.defaults[space.family()].icmp[self.hook];
        if self.all_icmp() {
            return match space.family() {
                Family::V4 => space.or(
                    space.protocol(Protocol::ICMP)?,
                    space.protocol(Protocol::IGMP)?,
                ),
                Family::V6 => space.protocol(Protocol::ICMPV6),
            };
        }
        if word == Icmp::None || (self.hook == Hook::Output && !self.output_denies()) {
            return Ok(space.none());
        }
        if self.hook == Hook::Forward {
            let errors = match space.family() {
                Family::V4 => self.types(&[(3, 3), (11, 12)])?,
                Family::V6 => self.types(&[(1, 4)])?,
            };
            return space.and(errors, space.states(&[State::Related])?);
        }
        let echo = word != Icmp::EssentialNoPing;
        match space.family() {
            Family::V4 => {
                let types: &[_] = if echo {
                    &[(3, 3), (8, 8), (11, 12)]
                } else {
                    &[(3, 3), (11, 12)]
                };
                space.or(self.types(types)?, space.protocol(Protocol::IGMP)?)
            }
            Family::V6 => {
                let anywhere: &[_] = if echo {
                    &[(1, 4), (128, 132), (143, 143), (151, 153)]
                } else {
                    &[(1, 4), (130, 132), (143, 143), (151, 153)]
                };
                // Receivers accept these only from the link, that is with the hop limit 255.
                let link = self.types(&[(133, 136), (141, 142), (148, 149)])?;
                let from_the_link = space.range(Field::HopLimit, 255, 255)?;
                space.or(self.types(anywhere)?, space.and(link, from_the_link)?)
            }
        }
    }

    /// Returns `true` if `icmp = "all"` applies, which it does in INPUT and OUTPUT only.
    fn all_icmp(&self) -> bool {
        self.plan.defaults[self.space.family()].icmp[self.hook] == Icmp::All
            && self.hook != Hook::Forward
    }

    /// Returns the ICMP packets of the family with types in these ranges.
    fn types(&self, types: &[(u128, u128)]) -> Result<Set, GaveUp> {
        let protocol = match self.space.family() {
            Family::V4 => Protocol::ICMP,
            Family::V6 => Protocol::ICMPV6,
        };
        let with_codes = types
            .iter()
            .map(|(first, last)| (first << 8, last << 8 | 0xff));
        let types = IntervalSet::from_intervals(with_codes);
        let space = self.space;
        space.and(
            space.protocol(protocol)?,
            space.values(Field::Icmp, &types)?,
        )
    }

    /// Returns the packets that `dhcp-client` accepts. Only the answers of DHCPv6 are restricted by address: they go to the
    /// link-local address of the client.
    fn dhcp_client(&self) -> Result<Set, GaveUp> {
        let space = self.space;
        let (client, server) = match space.family() {
            Family::V4 => (68, 67),
            Family::V6 => (546, 547),
        };
        let (from, to) = match self.hook {
            Hook::Input => (server, client),
            Hook::Output if self.output_denies() => (client, server),
            Hook::Output | Hook::Forward => return Ok(space.none()),
        };
        let destination = match (self.hook, space.family()) {
            (Hook::Input, Family::V6) => {
                space.range(Field::Destination, 0xfe80 << 112, (0xfec0 << 112) - 1)?
            }
            _ => space.all(),
        };
        space.every([
            destination,
            space.protocol(Protocol::UDP)?,
            space.source_port(from, from)?,
            space.destination_port(to, to)?,
        ])
    }

    pub(super) fn default_action(&self) -> DefaultAction {
        self.plan.defaults[self.space.family()].actions[self.hook]
    }

    fn output_denies(&self) -> bool {
        matches!(
            self.plan.defaults[self.space.family()].actions.output,
            DefaultAction::Drop | DefaultAction::Reject
        )
    }
}

/// Returns the steps of antispoof; `None` if it is off. A packet is dropped if its source is in a network of another
/// interface. The longest prefix decides, so that a network inside another one can have its own interface.
pub(super) fn antispoof(plan: &Plan, space: &Space) -> Result<Option<Flow>, GaveUp> {
    if !plan.defaults[space.family()].antispoof {
        return Ok(None);
    }
    let mut prefixes: BTreeMap<(u128, u128), Vec<Set>> = BTreeMap::new();
    for interface in &plan.interfaces {
        let networks = interface.networks.iter();
        for network in networks.filter(|network| network.family == space.family()) {
            let size = network.last - network.first;
            let devices = prefixes.entry((size, network.first)).or_default();
            for device in &interface.devices {
                devices.push(space.in_device(device.as_str())?);
            }
        }
    }
    let mut steps = vec![
        RuleStep::returns(space.in_device("lo")?),
        RuleStep::returns(Condition::FromIpsec.set(space)?),
    ];
    // Sorted by size, so the longest prefix comes first.
    for ((size, first), devices) in prefixes {
        let network = IntervalSet::from_intervals([(first, first + size)]);
        let source = space.sources(&network)?;
        let behind = space.and(source, space.any(devices)?)?;
        steps.push(RuleStep::returns(behind));
        steps.push(RuleStep::verdict(source, Verdict::Drop));
    }
    Flow::from_rules(space, steps)?.as_chain(space).map(Some)
}
