//! What `[[mangle]]` changes in one packet, entry by entry.

use super::places::EndpointPair;
use super::rule::Shows;
use super::{Circumstance, Way, raw};
use crate::net::{Hook, MarkMatch, Packet, Protocol, State};
use crate::policy::{HopLimitChange, MangleChange, Policy, PolicyMangle, PolicyRule, Proxy};
use crate::source::Located;

/// When a packet meets the mangle table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Moment {
    /// As it comes in, before routing; a packet of OUTPUT never is.
    Arrival,
    /// In its hook.
    Hook,
}

/// What the entries do to a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mangled {
    /// The entries that fit, in their order, by their index in [`Policy::mangle`].
    pub entries: Vec<usize>,
    /// The packet's mark then.
    pub mark: u32,
    /// The connection's mark then.
    pub connection_mark: u32,
    /// The packet's hop limit then.
    pub hop_limit: u8,
}

/// Takes a packet of a connection with a mark through the entries that are asked at a moment, each in turn: a later one
/// sees the mark that an earlier one set. A transparent proxy ends it.
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
    // Of no connection there is no mark.
    let tracked = matches!(
        packet.state,
        State::New | State::Established | State::Related
    );
    let put = |old: u32, new: u32, mask: u32| old & !mask | new & mask;
    for (index, entry) in policy.mangle.iter().enumerate() {
        let way = Way {
            policy,
            packet: &packet,
            holds,
        };
        if !way.meets(entry, moment) {
            continue;
        }
        mangled.entries.push(index);
        match entry.change.as_ref().map(|change| change.value) {
            Some(MangleChange::SetMark(MarkMatch { value, mask })) => {
                packet.mark = put(packet.mark, value, mask);
            }
            Some(MangleChange::SaveMark(mask)) if tracked => {
                mangled.connection_mark = put(mangled.connection_mark, packet.mark, mask);
            }
            Some(MangleChange::RestoreMark(mask)) if tracked => {
                packet.mark = put(packet.mark, mangled.connection_mark, mask);
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
                    packet.mark = put(packet.mark, value, mask);
                }
                break;
            }
            _ => {}
        }
    }
    (mangled.mark, mangled.hop_limit) = (packet.mark, packet.hop_limit);
    mangled
}

impl Way<'_> {
    /// Returns whether the entry has the packet at a moment.
    fn meets(&self, entry: &PolicyMangle, moment: Moment) -> bool {
        let PolicyMangle {
            span: _,
            packets,
            change,
        } = entry;
        let Some(change) = change.as_ref().map(|change| change.value) else {
            return false;
        };
        let fits = self.fits(packets, Shows::Everything) && self.is_there(packets, change, moment);
        (fits || self.is_clamped_answer(packets, change, moment))
            && self.has_flags(change)
            && self.has_family(change)
            && !self.is_left_alone(packets, change)
    }

    /// Returns whether the packet goes the way back of one whose segment size is clamped: what the other end may send is said by
    /// the answer. What comes to this host is clamped by nobody.
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
        let request = raw::turned(self.packet);
        let swapped = |asked: Circumstance<'_>| (self.holds)(asked.turned());
        let way = Way {
            policy: self.policy,
            packet: &request,
            holds: &swapped,
        };
        let (from, to) = (written(&packets.from), written(&packets.to));
        let goes_back = |from: &str| to.iter().any(|to| self.goes(&EndpointPair::new(to, from)));
        way.fits(packets, Shows::Reply) && from.iter().any(|from| goes_back(from))
    }

    fn is_there(&self, packets: &PolicyRule, change: MangleChange, moment: Moment) -> bool {
        let (from, to) = (written(&packets.from), written(&packets.to));
        let marks = matches!(
            change,
            MangleChange::SetMark(_)
                | MangleChange::SaveMark(_)
                | MangleChange::RestoreMark(_)
                | MangleChange::Proxy(_)
        );
        // Routing looks at marks, so they are set before, unless somebody asks where the packet leaves.
        let early = marks && packets.to.is_none();
        let came_in = self.packet.hook != Hook::Output;
        match (early && came_in, moment) {
            (true, Moment::Arrival) => from.iter().any(|from| {
                *from != "host" && self.is_at(from, self.packet.in_device.as_deref(), true)
            }),
            (false, Moment::Hook) => from.iter().any(|from| {
                to.iter().any(|to| {
                    (!early || *from == "host") && self.goes(&EndpointPair::new(from, to))
                })
            }),
            _ => false,
        }
    }

    /// Returns whether the packet has the flags for a change: a segment size stands in the first packet each way.
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

    /// Hop limits of ICMPv6 are looked at where they arrive: only an entry that names ICMPv6 types changes them.
    fn is_left_alone(&self, packets: &PolicyRule, change: MangleChange) -> bool {
        let is_icmpv6 = self.packet.protocol == Protocol::ICMPV6.0 && self.packet.source.is_ipv6();
        matches!(change, MangleChange::HopLimit(_)) && is_icmpv6 && packets.service.is_none()
    }

    /// An address of a proxy is of one family.
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

/// Returns the places of `from` or `to`; not written, any.
fn written(places: &Option<Vec<Located<String>>>) -> Vec<&str> {
    match places {
        Some(names) => names.iter().map(|name| name.value.as_str()).collect(),
        None => vec!["any"],
    }
}
