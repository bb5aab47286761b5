//! Decides the preamble: one function for each key of the defaults.

use super::{Evaluation, PolicyVerdict, default_of};
use crate::net::{Family, Hook, Protocol, State};
use crate::policy::{DefaultAction, HookValues, Icmp, InvalidAction, PolicyFamilyDefaults};

impl Evaluation<'_> {
    /// Returns `true` if `loopback` accepts the packet. FORWARD has no such line.
    pub(super) fn loopback(&self) -> bool {
        let device = match self.packet.hook {
            Hook::Input => &self.packet.in_device,
            Hook::Output => &self.packet.out_device,
            Hook::Forward => return false,
        };
        self.has_in_preamble(|keys| &keys.loopback) && device.as_deref() == Some("lo")
    }

    /// Returns `true` if entries that drop leave packets on `lo` alone, because `loopback` accepts them where they are sent
    /// or arrive.
    pub(super) fn keeps_loopback(&self) -> bool {
        let hook = match self.packet.hook {
            Hook::Output => Hook::Output,
            Hook::Input | Hook::Forward => Hook::Input,
        };
        let written = self.default_key(|keys| keys.loopback[hook].as_ref());
        written.copied().unwrap_or(self.has_preamble())
    }

    /// Returns `true` if `established` accepts the packet.
    pub(super) fn established(&self) -> bool {
        self.has_in_preamble(|keys| &keys.established)
            && matches!(self.packet.state, State::Established | State::Related)
    }

    /// Returns `true` if `icmp` accepts the packet, whatever its state: conntrack calls errors about untracked packets
    /// INVALID.
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

    /// Returns the verdict of `invalid`, if the packet is INVALID.
    pub(super) fn invalid(&self) -> Option<PolicyVerdict> {
        let hook = self.packet.hook;
        let otherwise = match self.has_preamble() {
            true => InvalidAction::Drop,
            false => InvalidAction::Off,
        };
        let written = self.default_key(|keys| keys.invalid[hook].as_ref());
        match written.copied().unwrap_or(otherwise) {
            _ if self.packet.state != State::Invalid => None,
            InvalidAction::Drop => Some(PolicyVerdict::Drop),
            InvalidAction::Accept => Some(PolicyVerdict::Accept),
            InvalidAction::Off => None,
        }
    }

    /// Returns `true` if `dhcp-client` accepts the packet: an answer, or a request if OUTPUT denies.
    pub(super) fn dhcp_client(&self) -> bool {
        let packet = self.packet;
        let ports = (packet.source_port, packet.destination_port);
        let (client, server) = match packet.family {
            Family::V4 => (Some(68), Some(67)),
            Family::V6 => (Some(546), Some(547)),
        };
        let fits = match packet.hook {
            Hook::Forward => false,
            Hook::Input => ports == (server, client) && self.is_dhcp_client(),
            Hook::Output => ports == (client, server) && self.output_denies(),
        };
        self.has_in_preamble(|keys| &keys.dhcp_client) && packet.protocol == Protocol::UDP.0 && fits
    }

    /// Returns `true` if the packet's destination may be that of a DHCP answer. A DHCPv6 client asks from a link-local
    /// address, and the answer goes there, whatever address the server or relay has. A DHCPv4 answer may go to any
    /// address.
    fn is_dhcp_client(&self) -> bool {
        match self.packet.destination {
            std::net::IpAddr::V4(_) => true,
            std::net::IpAddr::V6(client) => client.segments()[0] & 0xffc0 == 0xfe80,
        }
    }

    fn ipv6_essential(&self) -> bool {
        let Some((kind, _)) = self.packet.icmp else {
            return false;
        };
        if self.packet.protocol != Protocol::ICMPV6.0 || !self.has_essentials() {
            return false;
        }
        let is_error = matches!(kind, 1..=4);
        if self.packet.hook == Hook::Forward {
            return is_error && self.packet.state == State::Related;
        }
        let is_echo = matches!(kind, 128 | 129);
        let from_the_link = matches!(kind, 133..=136 | 141 | 142 | 148 | 149);
        // RFC 4890, section 4.4, without redirects (137).
        let is_essential =
            is_error || matches!(kind, 128..=136 | 141..=143 | 148 | 149 | 151..=153);
        is_essential
            && !(is_echo && self.icmp() == Icmp::EssentialNoPing)
            && !(from_the_link && self.packet.hop_limit != 255)
    }

    fn ipv4_essential(&self) -> bool {
        if !self.has_essentials() {
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

    /// Returns `true` if the essentials have lines in the packet's hook: in OUTPUT only if it denies. FORWARD has the
    /// errors with `all`, too.
    fn has_essentials(&self) -> bool {
        self.icmp() != Icmp::None && (self.packet.hook != Hook::Output || self.output_denies())
    }

    fn output_denies(&self) -> bool {
        matches!(
            default_of(self.policy, Hook::Output, self.packet.family),
            DefaultAction::Drop | DefaultAction::Reject
        )
    }

    fn icmp(&self) -> Icmp {
        let hook = self.packet.hook;
        let otherwise = match self.has_preamble() {
            true => Icmp::Essential,
            false => Icmp::None,
        };
        let written = self.default_key(|keys| keys.icmp[hook].as_ref());
        written.copied().unwrap_or(otherwise)
    }

    /// Returns `true` if a key of the preamble is on in the packet's hook.
    fn has_in_preamble(&self, key: impl Fn(&PolicyFamilyDefaults) -> &HookValues<bool>) -> bool {
        let hook = self.packet.hook;
        let written = self.default_key(|keys| key(keys)[hook].as_ref());
        written.copied().unwrap_or(self.has_preamble())
    }

    /// Returns `false` if `preamble = "none"` turns off what is not written.
    fn has_preamble(&self) -> bool {
        self.policy.defaults.no_preamble.is_none()
    }
}
