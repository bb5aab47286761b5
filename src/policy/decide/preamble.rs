//! What stands before the rules: one question for each line of the defaults.

use super::{PolicyVerdict, Way, default_of};
use crate::net::{Family, Hook, Protocol, State};
use crate::policy::{DefaultAction, Icmp, InvalidAction};
use crate::source::Located;

impl Way<'_> {
    /// Everything on the loopback device passes; nothing that is forwarded is on it.
    pub(super) fn loopback(&self) -> bool {
        let device = match self.packet.hook {
            Hook::Input => &self.packet.in_device,
            Hook::Output => &self.packet.out_device,
            Hook::Forward => return false,
        };
        said(&self.policy.defaults.loopback, true) && device.as_deref() == Some("lo")
    }

    /// What belongs to a connection passes.
    pub(super) fn established(&self) -> bool {
        said(&self.policy.defaults.established, true)
            && matches!(self.packet.state, State::Established | State::Related)
    }

    /// Returns whether the packet is ICMP that passes without a rule, whatever conntrack calls it.
    pub(super) fn icmp_accepted(&self) -> bool {
        let everything = self.icmp() == Icmp::All && self.packet.hook != Hook::Forward;
        match self.packet.family {
            Family::V4 if everything => {
                [Protocol::ICMP.0, Protocol::IGMP.0].contains(&self.packet.protocol)
            }
            Family::V4 => self.ipv4_essential(),
            Family::V6 if everything => self.packet.protocol == Protocol::ICMPV6.0,
            Family::V6 => self.ipv6_essential(),
        }
    }

    /// What conntrack calls INVALID.
    pub(super) fn invalid(&self) -> Option<PolicyVerdict> {
        match said(&self.policy.defaults.invalid, InvalidAction::Drop) {
            _ if self.packet.state != State::Invalid => None,
            InvalidAction::Drop => Some(PolicyVerdict::Drop),
            InvalidAction::Accept => Some(PolicyVerdict::Accept),
            InvalidAction::Off => None,
        }
    }

    /// The answers to this host's DHCP client, and its questions where not everything may leave.
    pub(super) fn dhcp_client(&self) -> bool {
        let packet = self.packet;
        let ports = (packet.source_port, packet.destination_port);
        let (client, server) = match packet.family {
            Family::V4 => (Some(68), Some(67)),
            Family::V6 => (Some(546), Some(547)),
        };
        let fits = match packet.hook {
            Hook::Forward => false,
            Hook::Input => ports == (server, client) && self.may_be_answered(),
            Hook::Output => ports == (client, server) && self.output_denies(),
        };
        said(&self.policy.defaults.dhcp_client, true) && packet.protocol == Protocol::UDP.0 && fits
    }

    /// Returns whether a DHCP answer may have the packet's destination: a DHCPv6 client asks from a link-local address, and
    /// the answer goes there, whatever address the server or relay has. A DHCPv4 answer may go to any address.
    fn may_be_answered(&self) -> bool {
        match self.packet.destination {
            std::net::IpAddr::V4(_) => true,
            std::net::IpAddr::V6(client) => client.segments()[0] & 0xffc0 == 0xfe80,
        }
    }

    fn ipv6_essential(&self) -> bool {
        let Some((kind, _)) = self.packet.icmp else {
            return false;
        };
        if self.packet.protocol != Protocol::ICMPV6.0 || !self.essentials_stand_here() {
            return false;
        }
        let is_error = matches!(kind, 1..=4);
        if self.packet.hook == Hook::Forward {
            return is_error && self.packet.state == State::Related;
        }
        let is_echo = matches!(kind, 128 | 129);
        let from_the_link = matches!(kind, 133..=136 | 141 | 142 | 148 | 149);
        // RFC 4890 section 4.4, without redirects (137).
        let is_essential =
            is_error || matches!(kind, 128..=136 | 141..=143 | 148 | 149 | 151..=153);
        is_essential
            && !(is_echo && self.icmp() == Icmp::EssentialNoPing)
            && !(from_the_link && self.packet.hop_limit != 255)
    }

    fn ipv4_essential(&self) -> bool {
        if !self.essentials_stand_here() {
            return false;
        }
        let kind = match (self.packet.protocol, self.packet.icmp) {
            (protocol, Some((kind, _))) if protocol == Protocol::ICMP.0 => kind,
            (protocol, _) => {
                return protocol == Protocol::IGMP.0 && self.packet.hook != Hook::Forward;
            }
        };
        // Destination unreachable, time exceeded, parameter problem.
        let is_error = matches!(kind, 3 | 11 | 12);
        if self.packet.hook == Hook::Forward {
            return is_error && self.packet.state == State::Related;
        }
        let is_ping = kind == 8;
        is_error || (is_ping && self.icmp() != Icmp::EssentialNoPing)
    }

    /// Of OUTPUT only where it denies. FORWARD has its errors under `all` too.
    fn essentials_stand_here(&self) -> bool {
        self.icmp() != Icmp::None && (self.packet.hook != Hook::Output || self.output_denies())
    }

    fn output_denies(&self) -> bool {
        matches!(
            default_of(self.policy, Hook::Output),
            DefaultAction::Drop | DefaultAction::Reject
        )
    }

    fn icmp(&self) -> Icmp {
        said(&self.policy.defaults.icmp, Icmp::Essential)
    }
}

/// What was written, else what holds when nothing is.
fn said<T: Copy>(written: &Option<Located<T>>, otherwise: T) -> T {
    written.as_ref().map_or(otherwise, |written| written.value)
}
