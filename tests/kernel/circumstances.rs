//! What a packet does not tell, and a probe says: who sends it, what sets it is in, what came before, what time it is.

use std::net::IpAddr;

use fwc::iptables::{Match, Module, ModuleOption, SetMatch};
use fwc::net::{AddressRange, Family, Packet, State, number_of};
use jiff::civil::DateTime;

/// The circumstances of one packet. Not said: nobody known sends it, it is in no set that others fill, limits are not
/// used up, and it is time.
#[derive(Clone, Debug, Default)]
pub struct Circumstances {
    /// The user of the process that sends it.
    pub user: Option<u32>,
    /// Its group.
    pub group: Option<u32>,
    /// The sets that others fill and that have it: dynamic ones, by the policy's name, have its source; foreign ones, by their own,
    /// have what the rules ask for.
    pub member_of: Vec<String>,
    /// How many packets like it came before it.
    pub earlier: usize,
    /// Those were too many.
    pub beyond: bool,
    /// How many came before, where the burst says whether those were too many.
    pub before: Option<usize>,
    /// What those that came before have instead of the packet's own.
    pub others: Others,
    /// In UTC.
    pub at: Option<DateTime>,
    /// The extension header of IPv6 that stands before its protocol, by its number.
    pub extension_header: Option<u8>,
    /// The bytes of the IP packet; not said, it is as long as it happens to be.
    pub length: Option<u16>,
    /// Where the first packet of its connection was sent to; not said, where this packet goes.
    pub original: Original,
    /// It came out of IPsec.
    pub from_ipsec: bool,
    /// It will go into IPsec.
    pub into_ipsec: bool,
}

/// What is known of the first packet of a connection, if it differs from a later one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Original {
    pub destination: Option<IpAddr>,
    pub port: Option<u16>,
    /// The packet goes in the other direction.
    pub is_reply: bool,
}

/// Where the packets before one differ from it; not said, nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Others {
    pub source: Option<IpAddr>,
    pub destination: Option<IpAddr>,
    pub destination_port: Option<u16>,
}

impl Others {
    /// The packet as one before it was, but for its source port.
    pub fn of(&self, packet: &Packet) -> Packet {
        Packet {
            source: self.source.unwrap_or(packet.source),
            destination: self.destination.unwrap_or(packet.destination),
            destination_port: self.destination_port.or(packet.destination_port),
            ..packet.clone()
        }
    }

    /// Whether the packets before one took from its bucket, which those share that have these bits and the port in common.
    pub fn take_from_bucket(
        &self,
        packet: &Packet,
        source: Option<u8>,
        destination: Option<u8>,
        destination_port: bool,
    ) -> bool {
        let other = self.of(packet);
        let whole = packet.family.bits();
        let is_near = |bits: Option<u8>, one: IpAddr, two: IpAddr| {
            let differ = number_of(one) ^ number_of(two);
            bits.is_none_or(|bits| differ.checked_shr((whole - bits).into()).unwrap_or(0) == 0)
        };
        is_near(source, packet.source, other.source)
            && is_near(destination, packet.destination, other.destination)
            && (!destination_port || packet.destination_port == other.destination_port)
    }
}

impl Circumstances {
    /// Whether the packet is in this set, which others fill.
    pub fn is_member(&self, set: &str) -> bool {
        self.member_of.iter().any(|name| name == set)
    }

    /// Whether a limit with this burst is used up; without one it is that of iptables.
    pub fn is_beyond(&self, burst: Option<u32>) -> bool {
        let burst = burst.unwrap_or(5) as usize;
        self.before.map_or(self.beyond, |before| before >= burst)
    }

    /// Whether an authentication header stands before its protocol.
    pub fn has_auth_header(&self) -> bool {
        self.extension_header == Some(51)
    }

    /// Whether a match of a rule holds, by what is said about the packet, in the words of iptables-extensions(8).
    pub fn match_holds(&self, condition: &Match, packet: &Packet) -> Option<bool> {
        match condition {
            Match::Other(module) => self.module_holds(module, packet),
            Match::AddressType(types) if types.source.is_none() && types.limit.is_none() => {
                let types = types.destination.as_ref()?;
                let mut names = types.value.names();
                let is_multicast = names.next() == Some("MULTICAST") && names.next().is_none();
                is_multicast.then(|| packet.destination.is_multicast() != types.negated)
            }
            // The state was compared before. Without a connection nothing else is compared with it, and nothing holds
            // without it (`conntrack_mt` of `xt_conntrack.c`).
            Match::Conntrack(conntrack)
                if [State::Invalid, State::Untracked].contains(&packet.state) =>
            {
                Some(conntrack.states.is_some())
            }
            Match::Conntrack(conntrack) => {
                let settings = conntrack.settings.iter();
                let answers = settings.map(|one| self.connection_holds(one, packet));
                let answers: Option<Vec<bool>> = answers.collect();
                answers.map(|all| all.into_iter().all(|one| one))
            }
            _ => None,
        }
    }

    fn connection_holds(&self, setting: &ModuleOption, packet: &Packet) -> Option<bool> {
        let plain = match setting.name {
            "ctdir" => (&*setting.value == "REPLY") == self.original.is_reply,
            "ctproto" => setting.value.parse() == Ok(packet.protocol),
            "ctorigdst" => {
                let range = AddressRange::parse(&setting.value).ok()?;
                self.was_sent_to(range, packet)
            }
            "ctorigdstport" => {
                let (first, last) = setting
                    .value
                    .split_once(':')
                    .unwrap_or((&setting.value, &setting.value));
                let ports = first.parse().ok()?..=last.parse().ok()?;
                let port = self.original.port.or(packet.destination_port);
                port.is_some_and(|port: u16| ports.contains(&port))
            }
            _ => return None,
        };
        Some(plain != setting.negated)
    }

    /// Whether the first packet of the connection was sent to an address of a range.
    pub fn was_sent_to(&self, range: AddressRange, packet: &Packet) -> bool {
        let address = self.original.destination.unwrap_or(packet.destination);
        Family::of(address) == range.family
            && (range.first..=range.last).contains(&number_of(address))
    }

    /// Whether a match of a module holds that a packet alone does not decide.
    pub fn module_holds(&self, module: &Module, packet: &Packet) -> Option<bool> {
        let number = |name: &str| module.setting(name)?.value.parse::<u32>().ok();
        match module.name {
            "limit" => Some(!self.is_beyond(number("limit-burst"))),
            "hashlimit" => {
                let above = module.setting("hashlimit-above").is_some();
                let mode = module.setting("hashlimit-mode");
                let has = |part: &str| {
                    mode.is_some_and(|mode| mode.value.split(',').any(|one| one == part))
                };
                let whole = Some(u32::from(packet.family.bits()));
                let bits = |part: &str, mask: &str| {
                    let bits = number(mask).or(whole).filter(|_| has(part))?;
                    u8::try_from(bits).ok()
                };
                let share = self.others.take_from_bucket(
                    packet,
                    bits("srcip", "hashlimit-srcmask"),
                    bits("dstip", "hashlimit-dstmask"),
                    has("dstport"),
                );
                Some((share && self.is_beyond(number("hashlimit-burst"))) == above)
            }
            "connlimit" => {
                let above = module.setting("connlimit-above").is_some();
                Some(self.beyond == above)
            }
            "owner" => {
                let fits = |name: &str, own: Option<u32>| {
                    let setting = module.setting(name);
                    setting.is_none_or(|one| (number(name) == own) != one.negated)
                };
                Some(fits("uid-owner", self.user) && fits("gid-owner", self.group))
            }
            "time" => Some(self.at.is_none_or(|at| time_holds(module, at))),
            "ah" if module.settings.is_empty() => Some(self.has_auth_header()),
            "policy" => {
                let has = match &*module.setting("dir")?.value {
                    "in" => self.from_ipsec,
                    _ => self.into_ipsec,
                };
                // No policy asks for more than that.
                Some(has == (&*module.setting("pol")?.value == "ipsec"))
            }
            "recent" => Some(self.recent_holds(module, packet)),
            // Counters are fresh, and the numbers of probes are large: no turn has come, and no quota is used up.
            "statistic" => Some(false),
            "quota" => Some(true),
            "length" => {
                let setting = module.setting("length")?;
                let (first, last) = setting
                    .value
                    .split_once(':')
                    .unwrap_or((&setting.value, &setting.value));
                let range = first.parse::<u16>().ok()?..=last.parse().ok()?;
                self.length
                    .map(|length| range.contains(&length) != setting.negated)
            }
            _ => None,
        }
    }

    /// Whether a match of `recent` holds: `--set` always does. A list that the packets before had a part in has those of
    /// them that share the packet's address under the mask, and the packet itself, which `--set` recorded just before;
    /// all other lists are empty.
    fn recent_holds(&self, module: &Module, packet: &Packet) -> bool {
        let setting = |name: &str| module.setting(name);
        if let Some(set) = setting("set") {
            return !set.negated;
        }
        let is_negated = module.settings.iter().any(|one| one.negated);
        let is_own = setting("name").is_some_and(|name| name.value.starts_with("fwc"));
        let mask = setting("mask").and_then(|mask| mask.value.parse::<IpAddr>().ok());
        let bits = mask.map(|mask| number_of(mask).count_ones() as u8);
        let (source, destination) = match setting("rdest") {
            Some(_) => (None, bits),
            None => (bits, None),
        };
        let hits = setting("hitcount").and_then(|hits| hits.value.parse::<u32>().ok());
        let share = self
            .others
            .take_from_bucket(packet, source, destination, false);
        let is_over = is_own && share && self.is_beyond(hits.map(|hits| hits - 1));
        is_over != is_negated
    }

    /// Whether a match of a set that others fill holds.
    pub fn set_holds(&self, set: &SetMatch) -> bool {
        let own = ["fwc4-", "fwc6-"]
            .iter()
            .find_map(|prefix| set.name.strip_prefix(prefix));
        let is_member = match own {
            Some(dynamic) => {
                let is_of_source = matches!(&set.from_source[..], [true] | [true, false]);
                is_of_source && self.is_member(dynamic)
            }
            None => self.is_member(&set.name),
        };
        is_member != set.negated
    }
}

fn time_holds(module: &Module, at: DateTime) -> bool {
    let text = |name| module.setting(name).map(|setting| &*setting.value);
    let now = at.time().to_string();
    let (start, stop) = (
        text("timestart").unwrap_or("00:00:00"),
        text("timestop").unwrap_or("23:59:59"),
    );
    let mut day = at.date();
    let is_hour = match start <= stop {
        true => (start..=stop).contains(&now.as_str()),
        false => now.as_str() >= start || now.as_str() <= stop,
    };
    if module.setting("contiguous").is_some() && stop < start && now.as_str() <= stop {
        day = day.yesterday().expect("a day before");
    }
    let day = &format!("{:?}", day.weekday())[..3];
    let is_day = text("weekdays").is_none_or(|days| days.split(',').any(|it| it == day));
    let is_before = text("datestop").is_none_or(|last| at.to_string().as_str() <= last);
    is_hour && is_day && is_before
}
