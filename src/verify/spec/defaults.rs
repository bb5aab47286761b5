//! `[defaults]`: what every hook begins with, and what becomes of packets that no rule decides.

use std::collections::BTreeMap;

use super::LogRequest;
use super::nat;
use super::rules::{SpecChain, Steps};
use crate::analysis::{Field, Flow, GaveUp, RuleStep, Set, Space, Verdict};
use crate::net::{Family, Hook, IntervalSet, Protocol, State};
use crate::policy::{DefaultAction, Icmp, InvalidAction, RuleStage};
use crate::resolve::{Plan, RuleAction};
use crate::verify::condition::Condition;

impl SpecChain<'_> {
    pub(super) fn preamble(&self, steps: &mut Steps<'_>) -> Result<(), GaveUp> {
        let (space, defaults) = (self.space, &self.plan.defaults);
        if defaults.loopback {
            match self.hook {
                Hook::Input => steps.accept(space.in_device("lo")?),
                Hook::Output => steps.accept(space.out_device("lo")?),
                Hook::Forward => {}
            }
        }
        self.rules(RuleStage::Early, steps)?;
        let goes_on = self.default_action() == DefaultAction::Continue;
        if defaults.established
            && (!goes_on
                || self.has_rules(|rule| rule.action == RuleAction::Accept)
                || nat::accepts_any(self.plan, self.hook)?)
        {
            steps.accept(space.states(&[State::Established, State::Related])?);
        }
        steps.accept(self.icmp()?);
        let invalid = space.states(&[State::Invalid])?;
        match defaults.invalid {
            _ if goes_on => {}
            InvalidAction::Drop => steps.drop(invalid),
            InvalidAction::Accept => steps.accept(invalid),
            InvalidAction::Off => {}
        }
        if defaults.dhcp_client {
            steps.accept(self.dhcp_client()?);
        }
        Ok(())
    }

    /// Adds what stands behind the rules; what falls through is for the chain's policy.
    pub(super) fn last(&self, default: DefaultAction, steps: &mut Steps<'_>) -> Result<(), GaveUp> {
        let defaults = &self.plan.defaults;
        if matches!(default, DefaultAction::Accept | DefaultAction::Continue) {
            return Ok(());
        }
        let denied = self.denied()?;
        if let Some(class) = defaults.log {
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

    /// Returns the packets that a default which denies is for: all of them, but where others forward too only what the
    /// policy's own devices are on both sides of.
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

    /// Returns the ICMP that needs no rule; in IPv4 IGMP too.
    fn icmp(&self) -> Result<Set, GaveUp> {
        let space = self.space;
        let word = self.plan.defaults.icmp;
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
                let link = self.types(&[(133, 136), (141, 142), (148, 149)])?;
                let from_the_link = space.range(Field::HopLimit, 255, 255)?;
                space.or(self.types(anywhere)?, space.and(link, from_the_link)?)
            }
        }
    }

    /// `all` holds for what comes to this host and what leaves it.
    fn all_icmp(&self) -> bool {
        self.plan.defaults.icmp == Icmp::All && self.hook != Hook::Forward
    }

    /// ICMP of the family, types from first to last.
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
        default_action(self.plan, self.hook)
    }

    fn output_denies(&self) -> bool {
        matches!(
            default_action(self.plan, Hook::Output),
            DefaultAction::Drop | DefaultAction::Reject
        )
    }
}

/// Whose source belongs to another interface's networks is dropped before anything else; the longest prefix decides.
pub(super) fn antispoof(plan: &Plan, space: &Space) -> Result<Option<Flow>, GaveUp> {
    if !plan.defaults.antispoof {
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
    // The smallest first.
    for ((size, first), devices) in prefixes {
        let network = IntervalSet::from_intervals([(first, first + size)]);
        let source = space.sources(&network)?;
        let behind = space.and(source, space.any(devices)?)?;
        steps.push(RuleStep::returns(behind));
        steps.push(RuleStep::verdict(source, Verdict::Drop));
    }
    Flow::from_rules(space, steps)?.as_chain(space).map(Some)
}

fn default_action(plan: &Plan, hook: Hook) -> DefaultAction {
    match hook {
        Hook::Input => plan.defaults.input,
        Hook::Forward => plan.defaults.forward,
        Hook::Output => plan.defaults.output,
    }
}
