//! Translates the matches of iptables rules to sets of packets (`iptables-extensions(8)`, and `xt_*.c` of the kernel).

use super::condition_keys::ConditionKeys;
use super::field::{Field, NO_MAC, mac_number};
use super::space::{Set, Space};
use super::text::BucketHolds;
use super::{GaveUp, address_types, writes::key_of};
use crate::iptables::{
    AddressTypes, Conntrack, FlagTest, HopLimitMatch, IcmpMatch, MarkMask, Match, Module,
    ModuleOption, Multiport, Negatable, Network, PacketType, PortMatch, PortSide, Ports,
    RangeMatch, States, Tcp, Tos,
};
use crate::net::{IntervalSet, State, number_of};

/// The most bits that a mask may leave free before its bits are asked one by one: `n` free bits make 2^n intervals.
const MOST_FREE_BITS: u32 = 12;

/// Modules whose settings are separate conditions, which all must hold. For another module the whole text is one
/// condition. Separate conditions let two rules share the part that they have in common.
const CONJUNCTIONS: [&str; 9] = [
    "owner", "physdev", "length", "dscp", "tos", "ecn", "helper", "realm", "devgroup",
];

/// Modules whose answer depends on earlier packets: each use has a memory of its own in the kernel.
pub(super) const WITH_MEMORY: [&str; 8] = [
    "limit",
    "hashlimit",
    "recent",
    "statistic",
    "quota",
    "connlimit",
    "rateest",
    "nfacct",
];

/// Returns the packets for which a match holds.
pub(super) fn set_of(
    space: &Space,
    condition: &Match,
    keys: &ConditionKeys<'_>,
) -> Result<Set, GaveUp> {
    let sets = Conditions { space, keys };
    match condition {
        Match::Source(network) => sets.network(Field::Source, network),
        Match::Destination(network) => sets.network(Field::Destination, network),
        Match::InInterface(name) => sets.not_if(name, |name| space.in_device(name.as_str())),
        Match::OutInterface(name) => sets.not_if(name, |name| space.out_device(name.as_str())),
        Match::Protocol(protocol) => sets.not_if(protocol, |number| {
            space.range(Field::Protocol, (*number).into(), (*number).into())
        }),
        Match::Fragment { negated } => {
            let later = match keys.fragments {
                true => space.range(Field::Fragment, 1, 1)?,
                false => space.none(),
            };
            match negated {
                true => space.not(later),
                false => Ok(later),
            }
        }
        Match::Tcp(tcp) => sets.tcp(tcp),
        Match::Udp(ports) => sets.ports(ports),
        Match::Sctp(ports, settings) => space.and(sets.ports(ports)?, sets.each("sctp", settings)?),
        Match::Dccp(ports, settings) => space.and(sets.ports(ports)?, sets.each("dccp", settings)?),
        Match::Multiport(multiport) => {
            sets.not_if(multiport, |multiport| sets.multiport(multiport))
        }
        Match::Icmp(kind) => sets.not_if(kind, |kind| match *kind {
            IcmpMatch::Any => Ok(space.all()),
            IcmpMatch::Type {
                kind,
                first_code,
                last_code,
            } => space.icmp_codes(kind, first_code, last_code),
        }),
        Match::Conntrack(conntrack) => sets.conntrack(conntrack),
        Match::State(states) => sets.states(states),
        Match::Comment(_) => Ok(space.all()),
        Match::AddressType(kinds) => {
            let side = |field, side: Option<Negatable<AddressTypes>>| match side {
                None => Ok(space.all()),
                Some(types) => sets.not_if(&types, |types| {
                    address_types::set(space, field, *types, kinds.limit)
                }),
            };
            space.and(
                side(Field::Source, kinds.source)?,
                side(Field::Destination, kinds.destination)?,
            )
        }
        Match::Mark(test) => {
            sets.not_if(test, |MarkMask { value, mask }| space.mark(*value, *mask))
        }
        Match::ConnectionMark(test) => {
            let set = sets.not_if(test, |MarkMask { value, mask }| {
                space.connection_mark(*value, *mask)
            })?;
            // Without a connection there is no mark to compare, so neither `--mark` nor `! --mark` matches.
            space.and(tracked(space)?, set)
        }
        Match::Mac(mac) => {
            let number = mac_number(mac.value);
            let inside = IntervalSet::from_intervals([(number, number)]);
            match mac.negated {
                // The kernel compares nothing if the packet has no MAC address, so neither the match nor its negation
                // holds then.
                false => space.values(Field::Mac, &inside),
                true => space.values(Field::Mac, &inside.complement(NO_MAC - 1)),
            }
        }
        Match::AddressRange(range) => sets.address_range(range),
        Match::Set(set) => {
            let known = keys.members(set);
            let field = match set.from_source.first() {
                Some(true) => Field::Source,
                _ => Field::Destination,
            };
            let plain = match known {
                Some(members) => space.values(field, members)?,
                None => {
                    let mut plain = set.clone();
                    plain.negated = false;
                    space.opaque(&Match::Set(plain).to_text(space.family()))?
                }
            };
            if set.negated {
                space.not(plain)
            } else {
                Ok(plain)
            }
        }
        Match::HopLimit(limit) => {
            let limits = |first, last| space.range(Field::HopLimit, first, last);
            match limit {
                HopLimitMatch::Equal(value) => {
                    sets.not_if(value, |value| limits((*value).into(), (*value).into()))
                }
                // No hop limit is below 0; the subtraction below would underflow.
                HopLimitMatch::Less(0) => Ok(space.none()),
                HopLimitMatch::Less(value) => limits(0, u128::from(*value) - 1),
                HopLimitMatch::Greater(value) => limits(u128::from(*value) + 1, u8::MAX.into()),
            }
        }
        Match::PacketType(kind) => sets.not_if(kind, |kind| {
            let number = match kind {
                PacketType::Unicast => 0,
                PacketType::Broadcast => 1,
                PacketType::Multicast => 2,
            };
            space.range(Field::PacketType, number, number)
        }),
        Match::Other(module) => sets.module(condition, module),
        Match::Unknown(_) => sets.opaque(condition, true),
    }
}

/// Returns `true` if a match has a memory, so that its answer depends on earlier packets. An unknown module may have
/// one.
pub fn has_memory(condition: &Match) -> bool {
    match condition {
        Match::Other(module) => WITH_MEMORY.contains(&module.name),
        Match::Unknown(_) => true,
        _ => false,
    }
}

/// Returns the packets whose connection is tracked.
pub(super) fn tracked(space: &Space) -> Result<Set, GaveUp> {
    space.states(&[State::New, State::Established, State::Related])
}

/// Returns the packets with an address of a network.
pub(super) fn network_set(space: &Space, field: Field, network: &Network) -> Result<Set, GaveUp> {
    let (value, mask) = (network.address(), network.mask());
    space.under_mask(field, number_of(value), number_of(mask))
}

impl Space {
    /// Returns the packets with an address that has a value under a mask, as a rule with this mask matches them. With few
    /// bits that the mask leaves free these are intervals, else [`Space::masked`]: both sides of a comparison must choose the
    /// same.
    ///
    /// # Errors
    ///
    /// If the packet sets become too large.
    pub fn under_mask(&self, field: Field, value: u128, mask: u128) -> Result<Set, GaveUp> {
        match intervals_of((value, mask), self.family().last_address()) {
            Some(addresses) => self.values(field, &addresses),
            None => self.masked(field, value, mask),
        }
    }
}

struct Conditions<'a> {
    space: &'a Space,
    keys: &'a ConditionKeys<'a>,
}

impl Conditions<'_> {
    fn not_if<T>(
        &self,
        operand: &Negatable<T>,
        plain: impl FnOnce(&T) -> Result<Set, GaveUp>,
    ) -> Result<Set, GaveUp> {
        let plain = plain(&operand.value)?;
        if operand.negated {
            self.space.not(plain)
        } else {
            Ok(plain)
        }
    }

    fn network(&self, field: Field, network: &Negatable<Network>) -> Result<Set, GaveUp> {
        self.not_if(network, |network| network_set(self.space, field, network))
    }

    fn tcp(&self, tcp: &Tcp) -> Result<Set, GaveUp> {
        let space = self.space;
        let mut set = self.ports(&tcp.ports)?;
        if let Some(flags) = &tcp.flags {
            let flags =
                self.not_if(flags, |FlagTest { mask, set }| space.tcp_flags(*mask, *set))?;
            set = space.and(set, flags)?;
        }
        if let Some(option) = &tcp.option {
            let key = |number: &u8| space.opaque(&format!("tcp option {number}"));
            set = space.and(set, self.not_if(option, key)?)?;
        }
        Ok(set)
    }

    fn ports(&self, ports: &Ports) -> Result<Set, GaveUp> {
        let side = |field, test: &Option<Negatable<PortMatch>>| match test {
            None => Ok(self.space.all()),
            Some(test) => self.not_if(test, |range| {
                self.space
                    .range(field, range.first.into(), range.last.into())
            }),
        };
        let source = side(Field::SourcePort, &ports.source)?;
        self.space
            .and(side(Field::DestinationPort, &ports.destination)?, source)
    }

    fn multiport(&self, multiport: &Multiport) -> Result<Set, GaveUp> {
        let ranges = multiport.ports.iter();
        let ports = ranges.map(|range| (range.first.into(), range.last.into()));
        let ports = IntervalSet::from_intervals(ports);
        let side = |field| self.space.values(field, &ports);
        match multiport.side {
            PortSide::Source => side(Field::SourcePort),
            PortSide::Destination => side(Field::DestinationPort),
            PortSide::Either => self
                .space
                .or(side(Field::SourcePort)?, side(Field::DestinationPort)?),
        }
    }

    fn states(&self, states: &Negatable<States>) -> Result<Set, GaveUp> {
        let space = self.space;
        self.not_if(states, |states| {
            let plain: Vec<State> = states.iter().collect();
            let mut set = space.states(&plain)?;
            let translated = [
                (states.has_snat(), Field::SourceTranslated),
                (states.has_dnat(), Field::DestinationTranslated),
            ];
            for (_, field) in translated.into_iter().filter(|(asked, _)| *asked) {
                let with = space.and(tracked(space)?, space.range(field, 1, 1)?)?;
                set = space.or(set, with)?;
            }
            Ok(set)
        })
    }

    /// A packet without a connection is judged by its state alone (`conntrack_mt` of `xt_conntrack.c`): the other
    /// settings are skipped if a state is asked, and fail if none is.
    fn conntrack(&self, conntrack: &Conntrack) -> Result<Set, GaveUp> {
        let space = self.space;
        let states = match &conntrack.states {
            Some(states) => self.states(states)?,
            None => space.all(),
        };
        if conntrack.settings.is_empty() {
            return Ok(states);
        }
        let without = match conntrack.states {
            Some(_) => space.all(),
            None => space.none(),
        };
        let settings = self.each("conntrack", &conntrack.settings)?;
        space.and(states, space.ite(tracked(space)?, settings, without)?)
    }

    fn address_range(&self, range: &RangeMatch) -> Result<Set, GaveUp> {
        let side = |field, range: &Option<Negatable<_>>| match range {
            None => Ok(self.space.all()),
            Some(range) => self.not_if(range, |(first, last)| {
                self.space.range(field, number_of(*first), number_of(*last))
            }),
        };
        let destination = side(Field::Destination, &range.destination)?;
        self.space
            .and(side(Field::Source, &range.source)?, destination)
    }

    fn module(&self, condition: &Match, module: &Module) -> Result<Set, GaveUp> {
        if let Some(ipsec) = with_ipsec(module) {
            return self.space.not(self.opaque(&Match::Other(ipsec), false)?);
        }
        if CONJUNCTIONS.contains(&module.name) {
            return self.each(module.name, &module.settings);
        }
        match found(module) {
            Some(found) => {
                let found = self.opaque(&Match::Other(Box::new(found)), false)?;
                self.space.not(found)
            }
            None => self.opaque(condition, WITH_MEMORY.contains(&module.name)),
        }
    }

    /// Returns the packets for which all settings hold, each of which is a condition without memory.
    fn each(&self, module: &str, settings: &[ModuleOption]) -> Result<Set, GaveUp> {
        let one = |setting: &ModuleOption| {
            let set = match Tos::asked(module, setting.name, &setting.value) {
                // The mask never shows these bits.
                Some(Tos { value, mask }) if value & !mask != 0 => self.space.none(),
                // What is written into the type of service counts here, too.
                Some(asked) if module == "ecn" => self.space.opaque(&key_of(asked))?,
                _ => {
                    let key = format!("{module} {} {}", setting.name, setting.value);
                    self.space.opaque(&key)?
                }
            };
            if setting.negated {
                self.space.not(set)
            } else {
                Ok(set)
            }
        };
        let sets: Result<Vec<Set>, GaveUp> = settings.iter().map(one).collect();
        self.space.every(sets?)
    }

    fn opaque(&self, condition: &Match, memory: bool) -> Result<Set, GaveUp> {
        let text = condition.to_text(self.space.family());
        match memory {
            true => {
                let set = self.space.opaque(&self.keys.with_memory(&text))?;
                match self.keys.holds() {
                    BucketHolds::True => Ok(set),
                    BucketHolds::False => self.space.not(set),
                    BucketHolds::Always => Ok(self.space.all()),
                }
            }
            false => self.space.opaque(&text),
        }
    }
}

/// Returns `-m policy --pol ipsec` for `-m policy --pol none`, which matches exactly the other packets (`policy_mt` of
/// `xt_policy.c`; `none` takes no further options); `None` for other matches.
fn with_ipsec(module: &Module) -> Option<Box<Module>> {
    let is_none = |setting: &ModuleOption| setting.name == "pol" && &*setting.value == "none";
    if module.name != "policy" || !module.settings.iter().any(is_none) {
        return None;
    }
    let mut ipsec = module.clone();
    for setting in ipsec.settings.iter_mut().filter(|setting| is_none(setting)) {
        setting.value = "ipsec".into();
    }
    Some(Box::new(ipsec))
}

/// Returns the `string` match that a negated one is the opposite of (`string_mt` of `xt_string.c`); `None` for other matches.
fn found(module: &Module) -> Option<Module> {
    let is_text = |one: &ModuleOption| one.name == "string" || one.name == "hex-string";
    let is_negated = |one: &ModuleOption| is_text(one) && one.negated;
    if module.name != "string" || !module.settings.iter().any(is_negated) {
        return None;
    }
    let mut found = module.clone();
    for setting in &mut found.settings {
        setting.negated &= !is_text(setting);
    }
    Some(found)
}

/// Returns the addresses that match an address and a mask; `None` if the mask leaves too many bits free.
fn intervals_of((address, mask): (u128, u128), last: u128) -> Option<IntervalSet> {
    let host = mask.trailing_zeros().min(last.count_ones());
    let tail = 1u128.checked_shl(host).map_or(u128::MAX, |size| size - 1) & last;
    let free = !mask & last & !tail;
    if free.count_ones() > MOST_FREE_BITS {
        return None;
    }
    let mut starts = vec![address];
    for bit in (0..128).filter(|bit| free >> bit & 1 == 1) {
        let more: Vec<u128> = starts.iter().map(|start| start | 1 << bit).collect();
        starts.extend(more);
    }
    Some(IntervalSet::from_intervals(
        starts.into_iter().map(|start| (start, start | tail)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_with_holes_are_intervals() {
        let network = (0x0a00_0001, 0xff00_00ff);
        assert_eq!(intervals_of(network, u32::MAX.into()), None);
        let network = (0x0a00_0100, 0xffff_f5ff);
        let addresses = intervals_of(network, u32::MAX.into()).unwrap();
        for address in 0x0a00_0000..0x0a00_2000u128 {
            assert_eq!(
                addresses.contains(address),
                address & 0xffff_f5ff == 0x0a00_0100
            );
        }
        assert_eq!(
            intervals_of((0, 0), u128::MAX).unwrap().intervals(),
            [(0, u128::MAX)]
        );
    }
}
