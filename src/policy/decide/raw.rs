//! Applies `[[raw]]` to one packet, and decides replies to untracked requests.

use super::places::{EndpointPair, MemberCondition, members, pairs};
use super::rule::{self, Shows};
use super::{Circumstance, Evaluation, Logged, addresses, entry_log, services};
use crate::net::{Family, Hook, Packet, State};
use crate::policy::{
    Action, Helper, Policy, PolicyBlock, PolicyRaw, PolicyRule, RuleStage, Treatment,
};
use crate::source::Located;

/// An entry that matches a packet in the raw table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawTreatment<'p> {
    /// `antispoof` drops it.
    Antispoof,
    /// An entry of [`Policy::raw`], by its index.
    Entry(usize),
    /// A helper of a service that a rule accepts: the rule's index in [`Policy::rules`], and the helper.
    Service(usize, &'p Helper),
}

/// Returns the entries that match a packet in the raw table, in their order. The packet is as it is in PREROUTING or
/// OUTPUT. A packet that `antispoof` or an entry drops matches nothing after that.
pub fn raw<'p>(
    policy: &'p Policy,
    packet: &Packet,
    holds: &dyn Fn(Circumstance<'_>) -> bool,
) -> Vec<RawTreatment<'p>> {
    let evaluation = Evaluation {
        policy,
        packet,
        holds,
    };
    if evaluation.is_spoofed() {
        return vec![RawTreatment::Antispoof];
    }
    let has = |entry: &PolicyRaw| {
        let PolicyRaw {
            span: _,
            packets,
            treatment,
            // The place of the key; `treatment` has its value.
            answers: _,
        } = entry;
        match treatment.as_ref().map(|treatment| &treatment.value) {
            Some(Treatment::NoTrack { .. }) => {
                evaluation.is_request(packets) || evaluation.is_reply(entry)
            }
            Some(Treatment::Helper(helper)) => {
                helper.exists(packet.family)
                    && evaluation.fits(packets, Shows::Everything)
                    && evaluation.is_read(packets)
                    && !evaluation.is_left_out(packets)
            }
            Some(Treatment::Drop) => evaluation.is_dropped(packets),
            None => false,
        }
    };
    let mut all = Vec::new();
    for (index, entry) in policy.raw.iter().enumerate() {
        if !has(entry) {
            continue;
        }
        all.push(RawTreatment::Entry(index));
        if is_drop(entry) {
            return all;
        }
    }
    for (index, rule) in policy.rules.iter().enumerate() {
        let accepts = rule.action.as_ref().map_or(Action::Accept, |a| a.value) == Action::Accept;
        if accepts && evaluation.fits(rule, Shows::BeforeTracking) && evaluation.is_read(rule) {
            let items = rule.service.as_deref().unwrap_or_default();
            let helpers = services::helpers(policy, items, packet).into_iter();
            let helpers = helpers.filter(|helper| helper.exists(packet.family));
            all.extend(helpers.map(|helper| RawTreatment::Service(index, helper)));
        }
    }
    all
}

/// Returns the logs of the entries that match a packet, in their order.
pub(super) fn logs(evaluation: Evaluation<'_>) -> Vec<Logged> {
    let Evaluation {
        policy,
        packet,
        holds,
    } = evaluation;
    let entries = raw(policy, packet, holds).into_iter();
    let entries = entries.filter_map(|treatment| match treatment {
        RawTreatment::Entry(index) => policy.raw.get(index),
        RawTreatment::Antispoof | RawTreatment::Service(..) => None,
    });
    entries
        .filter_map(|entry| entry_log(&entry.packets))
        .collect()
}

/// Returns the entry that drops a packet, which is as it is in PREROUTING or OUTPUT.
pub(super) fn dropped(evaluation: Evaluation<'_>) -> Option<usize> {
    let mut entries = evaluation.policy.raw.iter();
    entries.position(|entry| is_drop(entry) && evaluation.is_dropped(&entry.packets))
}

fn is_drop(entry: &PolicyRaw) -> bool {
    let treatment = entry.treatment.as_ref();
    treatment.is_some_and(|treatment| treatment.value == Treatment::Drop)
}

/// Returns the entry by which an untracked reply is accepted, because a rule accepts its request.
pub(super) fn replied(evaluation: Evaluation<'_>) -> Option<usize> {
    if evaluation.packet.state != State::Untracked {
        return None;
    }
    let mut entries = evaluation.policy.raw.iter();
    let entry = entries.position(|entry| {
        let may = match entry.treatment.as_ref().map(|treatment| &treatment.value) {
            // Without a connection to check against, anyone can forge an answer to this host, so it needs `answers = true`.
            Some(Treatment::NoTrack { answers }) => {
                *answers || evaluation.packet.hook != Hook::Input
            }
            _ => false,
        };
        may && evaluation.answers(&entry.packets)
    })?;
    evaluation.request_is_accepted().then_some(entry)
}

impl Evaluation<'_> {
    /// Returns `true` if the packet matches an entry of drop: all that arrives by `from`, wherever it goes, or that this host
    /// sends to `to`. What is on lo is left to `loopback`.
    fn is_dropped(&self, rule: &PolicyRule) -> bool {
        let packet = self.packet;
        let names = |places: &Option<Vec<Located<String>>>| match places {
            Some(places) => places.iter().map(|place| place.value.clone()).collect(),
            None => vec!["any".to_owned()],
        };
        let (from, to): (Vec<String>, Vec<String>) = (names(&rule.from), names(&rule.to));
        let (came, leaves) = (packet.in_device.as_deref(), packet.out_device.as_deref());
        let (device, passes) = match packet.hook {
            Hook::Output => {
                let is_to = to.iter().any(|to| self.is_at(to, leaves, false));
                (leaves, is_to && from.iter().any(|from| from == "host"))
            }
            Hook::Input | Hook::Forward => {
                let mut from = from.iter().filter(|from| *from != "host");
                (came, from.any(|from| self.is_at(from, came, true)))
            }
        };
        let is_kept = device == Some("lo") && self.keeps_loopback();
        passes && !is_kept && !self.is_left_out(rule) && self.fits(rule, Shows::Everything)
    }

    /// Returns `true` if the packet matches an entry of notrack.
    fn is_request(&self, rule: &PolicyRule) -> bool {
        self.fits(rule, Shows::Everything)
            && pairs(rule).iter().any(|pair| self.passes(pair))
            && !self.is_left_out(rule)
    }

    /// Returns `true` if the packet matches the places of a helper's entry. The outgoing device is not known before
    /// routing: an interface without networks matches all addresses that are in the networks of no interface.
    fn is_read(&self, rule: &PolicyRule) -> bool {
        let elsewhere = |pair: &EndpointPair<'_>| {
            let unsaid = members(self.policy, pair.to()).iter().any(|member| {
                let named = member.interface.filter(|_| member.networks.is_none());
                let interface = named.and_then(|name| self.policy.interfaces.get(name));
                interface.is_some_and(|one| {
                    one.value.networks.is_empty() && one.value.scope.has(self.packet.family)
                })
            });
            let mut all = self.policy.interfaces.iter();
            let somewhere = all.any(|one| {
                let mut networks = one.value.networks.iter();
                networks.any(|network| addresses::within(&network.value, self.packet.destination))
            });
            pair.hook() == Some(Hook::Forward)
                && self.packet.hook != Hook::Output
                && unsaid
                && !somewhere
                && !(self.holds)(Circumstance::ToThisHost)
                && self.is_at(pair.from(), self.packet.in_device.as_deref(), true)
        };
        let pairs = pairs(rule);
        pairs
            .iter()
            .any(|pair| self.passes(pair) || elsewhere(pair))
    }

    /// Returns `true` if the packet is a reply whose request matches the keys of a rule that a reply shows. The caller
    /// compares `from` and `to`.
    pub(super) fn request_fits(&self, rule: &PolicyRule) -> bool {
        let request = reversed(self.packet);
        let swapped = |asked: Circumstance<'_>| (self.holds)(asked.reversed());
        let evaluation = Evaluation {
            policy: self.policy,
            packet: &request,
            holds: &swapped,
        };
        evaluation.fits(rule, Shows::Reply)
    }

    /// Returns `true` if the packet is a reply to one that matches an entry of notrack, in the raw table.
    fn is_reply(&self, entry: &PolicyRaw) -> bool {
        self.request_fits(&entry.packets)
            && pairs(&entry.packets)
                .iter()
                .any(|pair| self.passes(&pair.reversed()))
            && !self.is_reply_left_out(&entry.packets)
    }

    /// Returns `true` if the packet is a reply to one that matches the rule, in the filter table.
    fn answers(&self, rule: &PolicyRule) -> bool {
        self.request_fits(rule)
            && pairs(rule).iter().any(|pair| self.goes(&pair.reversed()))
            && !self.is_reply_left_out(rule)
    }

    /// Returns `true` if the first rule that matches the request accepts it. A reply does not show all of its request:
    /// its mark, its sender's MAC address or user, its flags, its rate. A rule with such a key may have matched the
    /// request or not: it counts if it accepts, and not if it denies.
    fn request_is_accepted(&self) -> bool {
        let in_stages = [RuleStage::Early, RuleStage::Main].into_iter();
        for (index, rule) in in_stages.flat_map(|stage| rule::in_order(self.policy, stage)) {
            if !may_be_untracked(rule) || !self.answers(rule) {
                continue;
            }
            if let Some(block) = &rule.block {
                if self.request_is_accepted_in(index, block) {
                    return true;
                }
                continue;
            }
            match rule.action.as_ref().map_or(Action::Accept, |a| a.value) {
                Action::Accept => return true,
                Action::Drop | Action::Reject
                    if !rule::is_hidden_from_replies(self.policy, rule) =>
                {
                    return false;
                }
                _ => {}
            }
        }
        false
    }

    /// Returns `true` if a rule of a block accepts the request, or the block's end. Rules of a block that deny do not count.
    fn request_is_accepted_in(&self, index: usize, block: &PolicyBlock) -> bool {
        let rules = self.policy.rules.iter().enumerate();
        let mut rules = rules.filter(|(_, rule)| rule.in_block == Some(index));
        rule::finally(block) == Some(Action::Accept)
            || rules.any(|(inner, rule)| {
                may_be_untracked(rule)
                    && self.request_fits(rule)
                    && match &rule.block {
                        Some(block) => self.request_is_accepted_in(inner, block),
                        None => rule
                            .action
                            .as_ref()
                            .is_none_or(|own| own.value == Action::Accept),
                    }
            })
    }

    /// Returns `true` if the packet matches a pair as the raw table sees it: an arriving packet has no outgoing device
    /// yet, so that an interface in `to` is matched by its networks.
    fn passes(&self, pair: &EndpointPair<'_>) -> bool {
        let packet = self.packet;
        match (pair.hook(), packet.hook) {
            (None, _) => false,
            (Some(Hook::Output), Hook::Output) => self.goes(pair),
            (Some(Hook::Output), _) | (_, Hook::Output) => false,
            _ => {
                self.is_at(pair.from(), packet.in_device.as_deref(), true)
                    && self.heads_for(pair.to())
            }
        }
    }

    fn heads_for(&self, to: &str) -> bool {
        let here = (self.holds)(Circumstance::ToThisHost);
        match to {
            "host" => here,
            "any" => !here,
            place => {
                let all = members(self.policy, place);
                !here && all.iter().any(|member| self.is_behind(member))
            }
        }
    }

    /// Returns `true` if the destination is in the networks of a zone member.
    fn is_behind(&self, member: &MemberCondition<'_>) -> bool {
        let (destination, family) = (self.packet.destination, self.packet.family);
        let interface = member
            .interface
            .and_then(|name| self.policy.interfaces.get(name));
        let carries = interface.is_none_or(|interface| interface.value.scope.has(family));
        carries
            && match (member.networks, interface) {
                (Some(networks), _) => self.is_any(networks, destination, false),
                (None, Some(interface)) => {
                    let mut networks = interface.value.networks.iter();
                    networks.any(|network| addresses::within(&network.value, destination))
                }
                (None, None) => true,
            }
    }
}

/// Returns the request of a reply, in the hook that the request passes. Its mark and flags are not known.
fn reversed(reply: &Packet) -> Packet {
    Packet {
        hook: match reply.hook {
            Hook::Input => Hook::Output,
            Hook::Forward => Hook::Forward,
            Hook::Output => Hook::Input,
        },
        in_device: reply.out_device.clone(),
        out_device: reply.in_device.clone(),
        source: reply.destination,
        destination: reply.source,
        source_port: reply.destination_port,
        destination_port: reply.source_port,
        icmp: reply
            .icmp
            .and_then(|(kind, code)| Some((asked_by(reply.family, kind)?, code))),
        tcp_flags: None,
        mark: 0,
        mac: None,
        ..reply.clone()
    }
}

/// Returns the ICMP type to which another is the answer (RFC 792, RFC 950, RFC 4443).
fn asked_by(family: Family, answer: u8) -> Option<u8> {
    match (family, answer) {
        (Family::V4, 0) => Some(8),
        (Family::V4, 14) => Some(13),
        (Family::V4, 16) => Some(15),
        (Family::V4, 18) => Some(17),
        (Family::V6, 129) => Some(128),
        _ => None,
    }
}

/// Returns `true` if the keys of a rule let it match an untracked packet: `original` never does.
fn may_be_untracked(rule: &PolicyRule) -> bool {
    let mut states = rule.state.iter().flatten();
    rule.original.is_none()
        && (rule.state.is_none() || states.any(|state| state.value == State::Untracked))
}
