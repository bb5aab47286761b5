//! What `[[raw]]` does to one packet, and which replies pass because their requests do.

use super::places::{EndpointPair, MemberCondition, members, pairs};
use super::rule::{self, Shows};
use super::{Circumstance, Way, addresses, services};
use crate::net::{Family, Hook, Packet, State};
use crate::policy::{Action, Helper, Policy, PolicyRaw, PolicyRule, RuleStage, Treatment};

/// What has a packet in the raw table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawTreatment<'p> {
    /// An entry of [`Policy::raw`], by its index.
    Entry(usize),
    /// A helper of a service that a rule accepts: the rule's index in [`Policy::rules`], and the helper.
    Service(usize, &'p Helper),
}

/// Returns what has a packet in the raw table, as it comes in or in OUTPUT, in its order. What `antispoof` drops meets nothing.
pub fn raw<'p>(
    policy: &'p Policy,
    packet: &Packet,
    holds: &dyn Fn(Circumstance<'_>) -> bool,
) -> Vec<RawTreatment<'p>> {
    let way = Way {
        policy,
        packet,
        holds,
    };
    if way.is_spoofed() {
        return Vec::new();
    }
    let has = |entry: &PolicyRaw| {
        let PolicyRaw {
            span: _,
            packets,
            treatment,
            // Its place; the treatment has its value.
            answers: _,
        } = entry;
        match treatment.as_ref().map(|treatment| &treatment.value) {
            Some(Treatment::NoTrack { .. }) => way.is_request(packets) || way.is_reply(entry),
            Some(Treatment::Helper(helper)) => {
                helper.exists(packet.family)
                    && way.fits(packets, Shows::Everything)
                    && way.is_read(packets)
            }
            None => false,
        }
    };
    let entries = policy.raw.iter().enumerate();
    let entries = entries.filter(|(_, entry)| has(entry));
    let mut all: Vec<_> = entries
        .map(|(index, _)| RawTreatment::Entry(index))
        .collect();
    for (index, rule) in policy.rules.iter().enumerate() {
        let accepts = rule.action.as_ref().map_or(Action::Accept, |a| a.value) == Action::Accept;
        if accepts && way.fits(rule, Shows::BeforeTracking) && way.is_read(rule) {
            let items = rule.service.as_deref().unwrap_or_default();
            let helpers = services::helpers(policy, items, packet).into_iter();
            let helpers = helpers.filter(|helper| helper.exists(packet.family));
            all.extend(helpers.map(|helper| RawTreatment::Service(index, helper)));
        }
    }
    all
}

/// Returns the entry because of which a reply of no connection passes: the rules accept the requests.
pub(super) fn replied(way: Way<'_>) -> Option<usize> {
    if way.packet.state != State::Untracked {
        return None;
    }
    let mut entries = way.policy.raw.iter();
    let entry = entries.position(|entry| {
        let may = match entry.treatment.as_ref().map(|treatment| &treatment.value) {
            // Anyone could send what looks like an answer to this host.
            Some(Treatment::NoTrack { answers }) => *answers || way.packet.hook != Hook::Input,
            _ => false,
        };
        may && way.answers(&entry.packets)
    })?;
    way.request_is_accepted().then_some(entry)
}

impl Way<'_> {
    /// Returns whether the packet is one of those that an entry names, on its way in or out.
    fn is_request(&self, rule: &PolicyRule) -> bool {
        self.fits(rule, Shows::Everything) && pairs(rule).iter().any(|pair| self.passes(pair))
    }

    /// Returns whether a helper reads it, by where it comes from and goes: a device that says no networks stands for what is in
    /// nobody's, since the kernel does not know yet by which one the packet will leave.
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

    /// Returns whether it is the answer to one, on its way in or out.
    fn is_reply(&self, entry: &PolicyRaw) -> bool {
        let request = turned(self.packet);
        let swapped = |asked: Circumstance<'_>| (self.holds)(asked.turned());
        let way = Way {
            policy: self.policy,
            packet: &request,
            holds: &swapped,
        };
        way.fits(&entry.packets, Shows::Reply)
            && pairs(&entry.packets)
                .iter()
                .any(|pair| self.passes(&pair.turned()))
    }

    /// Returns whether it goes the way back of a rule's packets in its hook.
    fn answers(&self, rule: &PolicyRule) -> bool {
        let request = turned(self.packet);
        let swapped = |asked: Circumstance<'_>| (self.holds)(asked.turned());
        let way = Way {
            policy: self.policy,
            packet: &request,
            holds: &swapped,
        };
        way.fits(rule, Shows::Reply) && pairs(rule).iter().any(|pair| self.goes(&pair.turned()))
    }

    /// Returns whether the first rule that has the request accepts it. What a reply does not show of its request (its mark, its
    /// sender's MAC address or user, its flags, how many there were) may have been as the rule asks: such a rule accepts,
    /// and does not deny.
    fn request_is_accepted(&self) -> bool {
        let in_stages = [RuleStage::Early, RuleStage::Main].into_iter();
        for (_, rule) in in_stages.flat_map(|stage| rule::in_order(self.policy, stage)) {
            let mut states = rule.state.iter().flatten();
            let untracked =
                rule.state.is_none() || states.any(|state| state.value == State::Untracked);
            if !untracked || !self.answers(rule) {
                continue;
            }
            match rule.action.as_ref().map_or(Action::Accept, |a| a.value) {
                Action::Accept => return true,
                Action::Drop | Action::Reject if !rule::is_hidden_from_replies(rule) => {
                    return false;
                }
                _ => {}
            }
        }
        false
    }

    /// Returns whether the packet goes from the one to the other, as far as the raw table sees it: what comes in has no
    /// out-device yet, so that an interface stands for its networks.
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

    /// Returns whether the destination is in the networks of a part of a zone.
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

/// Returns the request that a reply answers, as it would be in the hook of the way there. Of its marks and flags nothing is
/// known.
pub(super) fn turned(reply: &Packet) -> Packet {
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
