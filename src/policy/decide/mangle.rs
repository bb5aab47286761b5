//! Applies `[[mangle]]` to one packet, entry by entry.

use super::places::EndpointPair;
use super::rule::Shows;
use super::{Circumstance, Evaluation};
use crate::net::{Hook, MarkMatch, Packet, Protocol, State};
use crate::policy::{HopLimitChange, MangleChange, Policy, PolicyMangle, PolicyRule, Proxy};
use crate::source::Located;

/// The point at which a packet passes the mangle table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Moment {
    /// PREROUTING, before routing. Packets of this host do not pass it.
    Arrival,
    /// The chain of the packet's own hook.
    Hook,
    /// POSTROUTING, after routing. Packets to this host do not pass it.
    Departure,
}

/// The effect of mangle entries on a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mangled {
    /// The entries that match, in their order, by their index in [`Policy::mangle`].
    pub entries: Vec<usize>,
    /// The packet's mark afterwards.
    pub mark: u32,
    /// The connection's mark afterwards.
    pub connection_mark: u32,
    /// The packet's hop limit afterwards.
    pub hop_limit: u8,
    /// The entry that drops the packet, by its index in [`Policy::mangle`]; it is the last of `entries`.
    pub dropped: Option<usize>,
}

/// Applies the entries of a moment to a packet, in turn: a later entry sees the mark that an earlier one set. A
/// transparent proxy ends the table.
///
/// ```
/// use fwc::{diag::Sink, files::Access, net::*, policy::{self, Moment}, source::SourceMap};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("fwc.toml");
/// let text = r#"version = 1
/// [[mangle]]
/// type = "mark"
/// restore = true
/// [[mangle]]
/// type = "mark"
/// mark = "0/0xff"
/// service = "ssh"
/// set = "0x10/0xff"
/// "#;
/// std::fs::write(&path, text)?;
/// let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
/// let Some(policy) = policy::load(&path, Access::Read, &mut sources, &mut sink) else {
///     panic!("{sink:?}");
/// };
/// let packet = Packet {
///     family: Family::V4,
///     hook: Hook::Forward,
///     in_device: Some("eth0".into()),
///     out_device: Some("eth1".into()),
///     source: "198.51.100.7".parse()?,
///     destination: "192.0.2.1".parse()?,
///     protocol: Protocol::TCP.0,
///     source_port: Some(40000),
///     destination_port: Some(22),
///     icmp: None,
///     tcp_flags: Some(TcpFlags::SYN),
///     state: State::New,
///     hop_limit: 64,
///     mark: 0,
///     mac: None,
///     translated: Translated::default(),
/// };
/// let mangled = policy::mangle(&policy, &packet, 0x300, Moment::Arrival, &|one| one.usual());
/// assert_eq!((mangled.entries, mangled.mark), (vec![0, 1], 0x310));
/// let mangled = policy::mangle(&policy, &packet, 0x20, Moment::Arrival, &|one| one.usual());
/// assert_eq!((mangled.entries, mangled.mark), (vec![0], 0x20));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn mangle(
    policy: &Policy,
    packet: &Packet,
    connection_mark: u32,
    moment: Moment,
    holds: &dyn Fn(Circumstance<'_>) -> bool,
) -> Mangled {
    let mut packet = packet.clone();
    let mut mangled = Mangled {
        connection_mark,
        ..Mangled::default()
    };
    // Without a connection CONNMARK neither saves nor restores.
    let tracked = matches!(
        packet.state,
        State::New | State::Established | State::Related
    );
    let masked = |old: u32, new: u32, mask: u32| old & !mask | new & mask;
    for (index, entry) in policy.mangle.iter().enumerate() {
        let evaluation = Evaluation {
            policy,
            packet: &packet,
            holds,
        };
        if !evaluation.meets(entry, moment) {
            continue;
        }
        mangled.entries.push(index);
        match entry.change.as_ref().map(|change| change.value) {
            Some(MangleChange::SetMark(MarkMatch { value, mask })) => {
                packet.mark = masked(packet.mark, value, mask);
            }
            Some(MangleChange::SaveMark(mask)) if tracked => {
                mangled.connection_mark = masked(mangled.connection_mark, packet.mark, mask);
            }
            Some(MangleChange::RestoreMark(mask)) if tracked => {
                packet.mark = masked(packet.mark, mangled.connection_mark, mask);
            }
            Some(MangleChange::HopLimit(hops)) => {
                packet.hop_limit = match hops {
                    HopLimitChange::Set(hops) => hops,
                    HopLimitChange::Increase(more) => packet.hop_limit.saturating_add(more),
                    HopLimitChange::Decrease(less) => packet.hop_limit.saturating_sub(less),
                };
            }
            Some(MangleChange::Proxy(proxy)) => {
                if let Some(MarkMatch { value, mask }) = proxy.mark {
                    packet.mark = masked(packet.mark, value, mask);
                }
                break;
            }
            Some(MangleChange::Drop) => {
                mangled.dropped = Some(index);
                break;
            }
            _ => {}
        }
    }
    (mangled.mark, mangled.hop_limit) = (packet.mark, packet.hop_limit);
    mangled
}

impl Evaluation<'_> {
    /// Returns `true` if the entry matches the packet at a moment.
    fn meets(&self, entry: &PolicyMangle, moment: Moment) -> bool {
        let PolicyMangle {
            span: _,
            packets,
            change,
        } = entry;
        let Some(change) = change.as_ref().map(|change| change.value) else {
            return false;
        };
        let fits = self.fits(packets, Shows::Everything) && self.has_path(packets, change, moment);
        (fits || self.is_clamped_answer(packets, change, moment))
            && self.has_flags(change)
            && self.has_family(change)
            && !self.is_left_alone(packets, change)
    }

    /// Returns `true` if the packet answers one whose segment size is clamped. Each end announces in its own SYN what it
    /// receives, so forwarded answers are clamped too.
    fn is_clamped_answer(
        &self,
        packets: &PolicyRule,
        change: MangleChange,
        moment: Moment,
    ) -> bool {
        let is_forwarded = (moment, self.packet.hook) == (Moment::Hook, Hook::Forward);
        if !matches!(change, MangleChange::ClampMss(_)) || !is_forwarded {
            return false;
        }
        let (from, to) = (written(&packets.from), written(&packets.to));
        let goes_back = |from: &str| to.iter().any(|to| self.goes(&EndpointPair::new(to, from)));
        // A match asks about the packet as it is.
        let matches = packets.matches.as_ref();
        self.request_fits(packets)
            && matches.is_none_or(|text| (self.holds)(Circumstance::Matches(text)))
            && !self.is_reply_left_out(packets)
            && from.iter().any(|from| goes_back(from))
    }

    /// Returns `true` if the packet takes a path of the entry at a moment.
    fn has_path(&self, packets: &PolicyRule, change: MangleChange, moment: Moment) -> bool {
        let (from, to) = (written(&packets.from), written(&packets.to));
        let (came, leaves) = (
            self.packet.in_device.as_deref(),
            self.packet.out_device.as_deref(),
        );
        if change == MangleChange::Checksum {
            // POSTROUTING does not show where a packet came from.
            return moment == Moment::Departure
                && self.packet.hook != Hook::Input
                && !self.is_at_any_of(packets.not_to.as_ref(), leaves, false)
                && to.iter().any(|to| self.is_at(to, leaves, false));
        }
        // `loopback` accepts everything on lo.
        let device = match (moment, self.packet.hook) {
            (Moment::Hook, Hook::Forward) | (Moment::Departure, _) => None,
            (Moment::Hook, Hook::Output) => leaves,
            (Moment::Arrival, _) | (Moment::Hook, Hook::Input) => came,
        };
        let is_kept = device == Some("lo") && self.keeps_loopback();
        if change == MangleChange::Drop && is_kept {
            return false;
        }
        let marks = matches!(
            change,
            MangleChange::SetMark(_)
                | MangleChange::SaveMark(_)
                | MangleChange::RestoreMark(_)
                | MangleChange::Proxy(_)
                | MangleChange::Drop
        );
        // `ip rule` can route by marks, so they are set before routing, unless `to` needs the outgoing device. What drops by
        // marks stands with what sets them.
        let early = marks && packets.to.is_none() && packets.not_to.is_none();
        let came_in = self.packet.hook != Hook::Output;
        match (early && came_in, moment) {
            (true, Moment::Arrival) => {
                !self.is_at_any_of(packets.not_from.as_ref(), came, true)
                    && from
                        .iter()
                        .any(|from| *from != "host" && self.is_at(from, came, true))
            }
            (false, Moment::Hook) => {
                !self.is_left_out(packets)
                    && from.iter().any(|from| {
                        to.iter().any(|to| {
                            (!early || *from == "host") && self.goes(&EndpointPair::new(from, to))
                        })
                    })
            }
            _ => false,
        }
    }

    /// Returns `true` if the packet has the flags for a change. Only packets with SYN carry a segment size.
    fn has_flags(&self, change: MangleChange) -> bool {
        const SYN: u8 = 2;
        const RST: u8 = 4;
        match (change, self.packet.tcp_flags) {
            (MangleChange::ClampMss(_), flags) => {
                flags.is_some_and(|flags| flags.0 & (SYN | RST) == SYN)
            }
            _ => true,
        }
    }

    /// Returns `true` if the change must not touch the packet: receivers check the hop limit of ICMPv6 (neighbour
    /// discovery needs 255), so that only an entry with a service changes it.
    fn is_left_alone(&self, packets: &PolicyRule, change: MangleChange) -> bool {
        let is_icmpv6 = self.packet.protocol == Protocol::ICMPV6.0 && self.packet.source.is_ipv6();
        matches!(change, MangleChange::HopLimit(_)) && is_icmpv6 && packets.service.is_none()
    }

    /// Returns `true` if the change exists in the packet's family: the address of a proxy has one family.
    fn has_family(&self, change: MangleChange) -> bool {
        match change {
            MangleChange::Proxy(Proxy {
                address: Some(address),
                ..
            }) => address.is_ipv4() == self.packet.source.is_ipv4(),
            _ => true,
        }
    }
}

/// Returns the names of `from` or `to`; `any` if the key is not written.
fn written(places: &Option<Vec<Located<String>>>) -> Vec<&str> {
    match places {
        Some(names) => names.iter().map(|name| name.value.as_str()).collect(),
        None => vec!["any"],
    }
}
