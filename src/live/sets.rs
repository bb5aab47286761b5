//! ipsets in the format of `ipset save`: fwc's own sets with all members, sets of other programs as far as rules need
//! them.
//!
//! fwc's sets have one of four types of addresses and the names `fwc4-NAME` and `fwc6-NAME`. A name ending in `~` is never that of
//! a policy's set: such a set is filled and then swapped with the real one, so that rules never see it half filled.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Error, Host};
use crate::net::{Family, IntervalSet, Protocol, number_of};

/// The types of the sets that fwc creates.
const OWN_TYPES: [&str; 4] = ["hash:net", "hash:ip", "hash:net,port", "hash:ip,port"];

/// The option of a set that counts the packets and bytes of each member.
const COUNTERS: &str = "counters";

/// The option of a set whose members may have comments; of a member, the word before its comment.
const COMMENT: &str = "comment";

/// The type and the options of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpsetHeader {
    /// The type, such as `hash:net`.
    pub kind: String,
    /// The options in the kernel's order, without those that only describe the memory layout.
    options: Vec<String>,
}

impl IpsetHeader {
    fn new<'a>(kind: &str, words: impl Iterator<Item = &'a str>) -> Self {
        let mut words = words.map(str::to_owned);
        let mut options = Vec::new();
        while let Some(word) = words.next() {
            match word.as_str() {
                // They change by themselves as a set grows, or are random, so two equal sets may differ in them.
                "hashsize" | "bucketsize" | "initval" => drop(words.next()),
                // An option of the command, not of the set.
                "-exist" | "-!" => {}
                _ => options.push(word),
            }
        }
        Self {
            kind: kind.to_owned(),
            options,
        }
    }

    /// Returns the value of an option.
    pub fn value(&self, option: &str) -> Option<&str> {
        let at = self.options.iter().position(|word| word == option)?;
        self.options.get(at + 1).map(String::as_str)
    }

    /// Returns the most members that the set holds.
    pub fn size(&self) -> Option<usize> {
        self.value("maxelem")?.parse().ok()
    }

    /// The family of the members; `None` where the type has none (`bitmap:port`, `list:set`).
    fn family(&self) -> Option<Family> {
        match self.kind.as_str() {
            "hash:mac" => None,
            kind if kind.starts_with("bitmap:ip") => Some(Family::V4),
            kind if kind.starts_with("hash:") => Some(match self.value("family") {
                Some("inet6") => Family::V6,
                _ => Family::V4,
            }),
            _ => None,
        }
    }

    /// Returns `true` if both sets have the same type, keep members for the same time, hold equally many, and know the same
    /// about each.
    fn keeps_like(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.timeout() == other.timeout()
            && self.size() == other.size()
            && [COUNTERS, COMMENT]
                .iter()
                .all(|option| self.has(option) == other.has(option))
    }

    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|word| word == option)
    }

    /// Returns the default timeout of members in seconds. `None` means that members do not expire and cannot be given a
    /// timeout.
    pub fn timeout(&self) -> Option<&str> {
        self.value("timeout")
    }
}

impl fmt::Display for IpsetHeader {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.kind, self.options.join(" "))
    }
}

/// A member of a set of addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IpsetMember {
    /// The address or network.
    pub network: IpNet,
    /// The port of a member that has one, with its protocol: `tcp:443`, `icmp:echo-request`.
    port: Option<String>,
    /// The words after it: `nomatch`, `timeout 12`, `packets 3 bytes 180`, `comment "an entry"`.
    options: Vec<String>,
}

impl IpsetMember {
    /// Reads the words of `add` after the name of a set of the type `kind`.
    fn new(kind: &str, text: &str) -> Option<Self> {
        let mut words = split_words(text).into_iter();
        let (text, port) = match (words.next()?, kind) {
            (text, "hash:net,port" | "hash:ip,port") => {
                let (text, port) = text.split_once(',')?;
                (text, Some(port.to_owned()))
            }
            (text, _) => (text, None),
        };
        let network = match text.parse::<IpAddr>() {
            Ok(address) => address.into(),
            Err(_) => text.parse::<IpNet>().ok()?.trunc(),
        };
        Some(Self {
            network,
            port,
            options: words.map(str::to_owned).collect(),
        })
    }

    /// Returns what tells the member apart from the others of its set.
    pub fn element(&self) -> (IpNet, Option<&str>) {
        (self.network, self.port.as_deref())
    }

    /// Returns the words that add the member to a set with this header. The remaining timeout, the counters and the comment
    /// are kept as far as that set has them.
    pub fn words_for(&self, header: &IpsetHeader) -> String {
        // `ipset` takes no prefix length beside a port in sets of single addresses.
        let mut words = match header.kind.starts_with("hash:ip") {
            true => self.network.addr().to_string(),
            false => self.network.to_string(),
        };
        if let Some(port) = &self.port {
            words.push(',');
            words.push_str(port);
        }
        let mut options = self.options.iter();
        while let Some(option) = options.next() {
            match option.as_str() {
                "nomatch" => words.push_str(" nomatch"),
                "timeout" => {
                    if let (Some(left), true) = (options.next(), header.timeout().is_some()) {
                        words.push_str(" timeout ");
                        words.push_str(left);
                    }
                }
                option @ ("packets" | "bytes" | COMMENT) => {
                    let known = if option == COMMENT { COMMENT } else { COUNTERS };
                    if let (Some(value), true) = (options.next(), header.has(known)) {
                        words.push(' ');
                        words.push_str(option);
                        words.push(' ');
                        words.push_str(value);
                    }
                }
                // fwc's sets have nothing else.
                _ => {}
            }
        }
        words
    }
}

/// Returns the words of a line. A comment is one word with its quotes, which cannot be in it.
fn split_words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = line.trim_ascii_start();
    while !rest.is_empty() {
        let end = match rest.strip_prefix('"').and_then(|inner| inner.find('"')) {
            // Both quotes belong to the word.
            Some(length) => length + 2,
            None => rest
                .find(|c: char| c.is_ascii_whitespace())
                .unwrap_or(rest.len()),
        };
        let (word, behind) = rest.split_at(end);
        words.push(word);
        rest = behind.trim_ascii_start();
    }
    words
}

/// A set with its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipset {
    /// The type and options.
    pub header: IpsetHeader,
    /// The members that are addresses or networks.
    pub members: BTreeSet<IpsetMember>,
    /// Other members as `ipset` writes them: pairs, MAC addresses, names of sets.
    others: BTreeSet<String>,
}

impl Ipset {
    fn new(header: IpsetHeader) -> Self {
        Self {
            header,
            members: BTreeSet::new(),
            others: BTreeSet::new(),
        }
    }

    fn clear(&mut self) {
        self.members.clear();
        self.others.clear();
    }

    /// Returns the members as addresses; `None` if the set is not a plain set of addresses.
    pub fn addresses(&self) -> Option<IntervalSet> {
        if !self.is_plain() {
            return None;
        }
        let ends = |member: &IpsetMember| {
            let network = member.network;
            (number_of(network.network()), number_of(network.broadcast()))
        };
        Some(IntervalSet::from_intervals(self.members.iter().map(ends)))
    }

    /// Returns `true` if an address is in the set; `None` if the set is not a plain set of addresses.
    pub fn has(&self, address: IpAddr) -> Option<bool> {
        let mut members = self.members.iter();
        self.is_plain()
            .then(|| members.any(|member| member.network.contains(&address)))
    }

    /// Returns `true` if an address with a port of a protocol is in the set; `None` if the members are no such pairs, or the
    /// protocol is neither TCP nor UDP.
    pub fn has_with_port(&self, address: IpAddr, protocol: u8, port: u16) -> Option<bool> {
        let protocol = match Protocol(protocol) {
            Protocol::TCP => "tcp",
            Protocol::UDP => "udp",
            _ => return None,
        };
        let of_pairs = matches!(&*self.header.kind, "hash:net,port" | "hash:ip,port");
        let is_whole = ["netmask", "bitmask"]
            .iter()
            .all(|option| self.header.value(option).is_none());
        let is_exception =
            |member: &IpsetMember| member.options.iter().any(|word| word == "nomatch");
        if !of_pairs || !is_whole || self.members.iter().any(is_exception) {
            return None;
        }
        let port = format!("{protocol}:{port}");
        let is_it = |member: &IpsetMember| {
            member.port.as_ref() == Some(&port) && member.network.contains(&address)
        };
        Some(self.members.iter().any(is_it))
    }

    /// Returns `true` if the set contains exactly the addresses that its members name: neither a netmask nor `nomatch`
    /// changes them.
    fn is_plain(&self) -> bool {
        let is_whole = |option: &&str| self.header.value(option).is_none();
        let of_addresses = match self.header.kind.as_str() {
            "hash:net" => true,
            "hash:ip" | "bitmap:ip" => ["netmask", "bitmask"].iter().all(is_whole),
            _ => false,
        };
        let is_exception =
            |member: &IpsetMember| member.options.iter().any(|word| word == "nomatch");
        of_addresses && self.others.is_empty() && !self.members.iter().any(is_exception)
    }

    /// Returns `true` for a set of a policy that other programs fill: all other sets of a policy have members.
    pub fn is_dynamic(&self) -> bool {
        self.members.is_empty() && self.others.is_empty()
    }
}

/// A set as `ipset list -terse` shows it, without members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedIpset {
    /// The type and options.
    pub header: IpsetHeader,
    /// The number of rules and sets that use it.
    pub references: usize,
}

/// A line that `ipset restore` would refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: not a command that `ipset restore` takes here: `{text}`")]
pub struct SetsError {
    /// The number of the line, from 1.
    pub line: usize,
    /// The text of the line.
    pub text: String,
}

/// Sets by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ipsets(pub BTreeMap<String, Ipset>);

impl Ipsets {
    /// Reads what `ipset save` prints or `ipset restore` accepts. Sets of every type are read; a member that is not an
    /// address or a network is kept as text.
    ///
    /// # Errors
    ///
    /// A line that `ipset restore` would refuse: an unknown command, or one for a set that was not created.
    pub fn parse(text: &str) -> Result<Self, SetsError> {
        let mut sets = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            read_line(&mut sets, line).ok_or_else(|| SetsError {
                line: index + 1,
                text: line.to_owned(),
            })?;
        }
        Ok(Self(sets))
    }

    /// Drops the sets with members of the other family.
    pub fn keep_only(&mut self, family: Family) {
        let of = |set: &Ipset| set.header.family();
        self.0
            .retain(|_, set| of(set).is_none_or(|of| of == family));
    }

    /// Returns commands for `ipset restore` that create these sets. They have one order, so that they also serve to
    /// compare and to show.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, set) in &self.0 {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "create {name} {}", set.header);
            for member in &set.members {
                let words = member.words_for(&set.header);
                let _ = writeln!(text, "add {name} {words}");
            }
            for member in &set.others {
                let _ = writeln!(text, "add {name} {member}");
            }
        }
        text
    }

    /// Returns the live sets as far as they can differ from those of a policy. A set that other programs fill is
    /// returned without members, because only its options can differ. Of fwc's sets that are not in the
    /// policy, those that `obsolete` selects are returned.
    pub fn live(
        host: &dyn Host,
        listed: &BTreeMap<String, ListedIpset>,
        wanted: &Self,
        obsolete: impl Fn(&str, &ListedIpset) -> bool,
    ) -> Result<Self, Error> {
        let mut live = Self::default();
        for (name, listed) in listed
            .iter()
            .filter(|(name, set)| is_own(name, &set.header))
        {
            let set = match wanted.0.get(name) {
                Some(set) if !set.is_dynamic() => host.save_set(name)?,
                // Members of a dynamic set belong to other programs and never count as a difference.
                Some(set) if set.header.keeps_like(&listed.header) => set.clone(),
                Some(_) => listed.empty(),
                None if obsolete(name, listed) => listed.empty(),
                None => continue,
            };
            live.0.insert(name.clone(), set);
        }
        Ok(live)
    }
}

impl ListedIpset {
    fn empty(&self) -> Ipset {
        Ipset::new(self.header.clone())
    }
}

fn read_line(sets: &mut BTreeMap<String, Ipset>, line: &str) -> Option<()> {
    let mut words = split_words(line)
        .into_iter()
        .filter(|word| !matches!(*word, "-exist" | "-!"));
    match words.next()? {
        "create" | "-N" | "--create" => {
            let (name, kind) = (words.next()?, words.next()?);
            let set = Ipset::new(IpsetHeader::new(kind, words));
            sets.entry(name.to_owned()).or_insert(set);
        }
        "add" | "-A" | "--add" => {
            let set = sets.get_mut(words.next()?)?;
            let text = words.collect::<Vec<_>>().join(" ");
            match IpsetMember::new(&set.header.kind, &text) {
                Some(member) => drop(set.members.insert(member)),
                None if text.is_empty() => return None,
                None => drop(set.others.insert(text)),
            }
        }
        "del" | "-D" | "--del" => {
            let set = sets.get_mut(words.next()?)?;
            let text = words.collect::<Vec<_>>().join(" ");
            match IpsetMember::new(&set.header.kind, &text) {
                Some(gone) => set.members.retain(|one| one.element() != gone.element()),
                // The options of a member, such as a time-out, do not tell members apart.
                None => set
                    .others
                    .retain(|one| one.split(' ').next() != text.split(' ').next()),
            }
        }
        "flush" | "-F" | "--flush" => match words.next() {
            Some(name) => sets.get_mut(name)?.clear(),
            None => sets.values_mut().for_each(Ipset::clear),
        },
        "destroy" | "-X" | "--destroy" => match words.next() {
            Some(name) => drop(sets.remove(name)?),
            None => sets.clear(),
        },
        "swap" | "-W" | "--swap" => {
            let (one, other) = (words.next()?, words.next()?);
            let (first, second) = (sets.remove(one)?, sets.remove(other)?);
            sets.insert(one.to_owned(), second);
            sets.insert(other.to_owned(), first);
        }
        "rename" | "-E" | "--rename" => {
            let (old, new) = (words.next()?, words.next()?);
            let set = sets.remove(old)?;
            sets.insert(new.to_owned(), set);
        }
        "COMMIT" => {}
        _ => return None,
    }
    Some(())
}

/// Returns `true` for a set with a name and a type that fwc gives.
pub fn is_own(name: &str, header: &IpsetHeader) -> bool {
    let family = match name.get(..5) {
        Some("fwc4-") => "inet",
        Some("fwc6-") => "inet6",
        _ => return false,
    };
    OWN_TYPES.contains(&&*header.kind) && header.value("family") == Some(family)
}

/// Reads the output of `ipset list -terse`.
pub(super) fn read_list(text: &str) -> BTreeMap<String, ListedIpset> {
    let mut sets = BTreeMap::new();
    for block in text.split("\n\n") {
        let field = |name: &str| {
            let mut lines = block.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        if let (Some(name), Some(kind)) = (field("Name"), field("Type")) {
            let options = field("Header").unwrap_or_default();
            let listed = ListedIpset {
                header: IpsetHeader::new(kind, options.split_ascii_whitespace()),
                references: field("References")
                    .and_then(|number| number.parse().ok())
                    .unwrap_or(0),
            };
            sets.insert(name.to_owned(), listed);
        }
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::{Ipsets, is_own, read_list};

    #[test]
    fn same_set_in_two_spellings_is_equal() {
        let written = "# by hand\ncreate fwc4-a hash:net family inet maxelem 65536\nadd fwc4-a 192.0.2.1/32\nadd fwc4-a 10.0.0.0/8\n";
        let saved = "create fwc4-a hash:net family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x1\nadd fwc4-a 10.0.0.0/8\nadd fwc4-a 192.0.2.1\n";
        let sets = Ipsets::parse(written).unwrap();
        assert_eq!(sets, Ipsets::parse(saved).unwrap());
        assert_eq!(Ipsets::parse(&sets.text()).unwrap(), sets);
        let other = saved.replace("192.0.2.1", "192.0.2.2");
        assert_ne!(sets, Ipsets::parse(&other).unwrap());
        let exception = saved.replace("192.0.2.1", "192.0.2.1 nomatch");
        assert_ne!(sets, Ipsets::parse(&exception).unwrap());
        let larger = saved.replace("65536", "131072");
        assert_ne!(sets, Ipsets::parse(&larger).unwrap());
    }

    /// One member for each set type of ipset 7.17 (`ipset help`), as `ipset save` prints it.
    #[test]
    fn sets_of_every_type_are_read() {
        for (kind, member) in [
            (
                "bitmap:ip,mac range 10.0.0.0-10.0.0.255",
                "10.0.0.5,02:00:00:00:00:01",
            ),
            ("bitmap:port range 0-65535", "22"),
            ("hash:mac", "02:00:00:00:00:01"),
            ("hash:ip,mac family inet", "10.0.0.5,02:00:00:00:00:01"),
            ("hash:net,net family inet", "10.0.0.0/8,192.0.2.0/24"),
            ("hash:net,port family inet", "203.0.113.0/24,tcp:443"),
            ("hash:ip,port family inet6", "2001:db8::1,udp:53"),
            ("hash:ip,port,ip family inet", "10.0.0.1,tcp:80,10.0.0.2"),
            (
                "hash:ip,port,net family inet",
                "10.0.0.1,tcp:80,10.2.0.0/16",
            ),
            (
                "hash:net,port,net family inet",
                "10.1.0.0/16,tcp:80,10.2.0.0/16",
            ),
            (
                "hash:ip,mark family inet markmask 0xffffffff",
                "10.0.0.5,0x00000001",
            ),
            (
                "hash:net,iface family inet",
                "10.0.0.0/8,physdev:eth0 nomatch",
            ),
            ("list:set size 8", "a"),
            ("hash:what-comes family inet", "x=1 timeout 7"),
        ] {
            let text = format!(
                "create a hash:ip family inet\nadd a 192.0.2.1\ncreate b {kind}\nadd b {member}\n"
            );
            let sets = Ipsets::parse(&text).unwrap_or_else(|error| panic!("{kind}: {error}"));
            assert!(sets.0["a"].addresses().is_some(), "{kind}");
            assert_eq!(sets.0["b"].addresses(), None, "{kind}");
            assert!(!sets.0["b"].is_dynamic(), "{kind}");
            assert_eq!(Ipsets::parse(&sets.text()), Ok(sets), "{kind}");
        }
        let range = "create c bitmap:ip range 10.0.0.0/24\nadd c 10.0.0.5\n";
        let sets = Ipsets::parse(range).unwrap();
        let five = (0x0a00_0005, 0x0a00_0005);
        assert_eq!(sets.0["c"].addresses().unwrap().intervals(), [five]);
        let masked = range.replace("10.0.0.0/24", "10.0.0.0/24 netmask 30");
        assert_eq!(Ipsets::parse(&masked).unwrap().0["c"].addresses(), None);
    }

    #[test]
    fn a_file_for_restore_may_change_its_sets() {
        let sets = Ipsets::parse(
            "create a hash:ip family inet -exist\nflush a\nadd a 192.0.2.1 -exist\nadd a 192.0.2.2 -exist\n\
             -N new hash:ip family inet\n-A new 192.0.2.3\nswap a new\ndestroy new\n\
             create old hash:ip family inet\ndel a 192.0.2.9\nrename old b\nCOMMIT\n",
        )
        .unwrap();
        let wanted =
            "create a hash:ip family inet\nadd a 192.0.2.3\ncreate b hash:ip family inet\n";
        assert_eq!(sets, Ipsets::parse(wanted).unwrap());
    }

    #[test]
    fn a_deleted_member_takes_no_other_along() {
        let left = |kind: &str, members: [&str; 2]| {
            let [one, other] = members;
            let text = format!("create s {kind}\nadd s {one}\nadd s {other}\ndel s {one}\n");
            let wanted = format!("create s {kind}\nadd s {other}\n");
            assert_eq!(
                Ipsets::parse(&text).unwrap(),
                Ipsets::parse(&wanted).unwrap()
            );
        };
        left("bitmap:port range 0-65535", ["22", "2222"]);
        left(
            "hash:ip,port family inet",
            ["10.0.0.1,tcp:8", "10.0.0.1,tcp:80"],
        );
    }

    #[test]
    fn what_restore_refuses_is_an_error() {
        for text in [
            "add a 192.0.2.1\n",
            "create a\n",
            "create a hash:ip\nadd a\n",
            "flush a\n",
            "*filter\n",
        ] {
            assert!(Ipsets::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn members_keep_their_time_where_the_set_knows_times() {
        let sets = Ipsets::parse(
            "create a hash:net family inet timeout 60\nadd a 192.0.2.1 timeout 7 comment \"x\"\nadd a 192.0.2.2 timeout 0\ncreate b hash:net family inet\n",
        )
        .unwrap();
        let words = |of: &str, into: &str| -> Vec<_> {
            let header = &sets.0[into].header;
            let members = sets.0[of].members.iter();
            members.map(|member| member.words_for(header)).collect()
        };
        assert_eq!(
            words("a", "a"),
            ["192.0.2.1/32 timeout 7", "192.0.2.2/32 timeout 0"]
        );
        assert_eq!(words("a", "b"), ["192.0.2.1/32", "192.0.2.2/32"]);
    }

    #[test]
    fn members_keep_counters_and_comments_where_the_set_has_them() {
        let sets = Ipsets::parse(
            "create a hash:ip,port family inet timeout 60 counters comment\n\
             add a 192.0.2.1,tcp:80 timeout 7 packets 3 bytes 180 comment \"a  b # c; -exist\" -exist\n\
             add a 192.0.2.1,icmp:echo-request timeout 0 packets 0 bytes 0\n\
             create b hash:ip,port family inet comment\ncreate c hash:net,port family inet counters\n",
        )
        .unwrap();
        let words = |into: &str| -> Vec<_> {
            let header = &sets.0[into].header;
            let members = sets.0["a"].members.iter();
            members.map(|member| member.words_for(header)).collect()
        };
        assert_eq!(
            words("a"),
            [
                "192.0.2.1,icmp:echo-request timeout 0 packets 0 bytes 0",
                "192.0.2.1,tcp:80 timeout 7 packets 3 bytes 180 comment \"a  b # c; -exist\"",
            ]
        );
        assert_eq!(
            words("b"),
            [
                "192.0.2.1,icmp:echo-request",
                "192.0.2.1,tcp:80 comment \"a  b # c; -exist\"",
            ]
        );
        assert_eq!(
            words("c"),
            [
                "192.0.2.1/32,icmp:echo-request packets 0 bytes 0",
                "192.0.2.1/32,tcp:80 packets 3 bytes 180",
            ]
        );
        assert_eq!(Ipsets::parse(&sets.text()).unwrap(), sets);
    }

    #[test]
    fn pairs_of_address_and_port_are_found() {
        let text = "create a hash:net,port family inet\nadd a 192.0.2.0/24,tcp:22\nadd a 198.51.100.7,udp:53\n";
        let has = |text: &str, address: &str, protocol, port| {
            let sets = Ipsets::parse(text).unwrap();
            sets.0["a"].has_with_port(address.parse().unwrap(), protocol, port)
        };
        assert_eq!(has(text, "192.0.2.9", 6, 22), Some(true));
        assert_eq!(has(text, "192.0.2.9", 6, 222), Some(false));
        assert_eq!(has(text, "192.0.2.9", 17, 22), Some(false));
        assert_eq!(has(text, "198.51.100.7", 17, 53), Some(true));
        assert_eq!(has(text, "198.51.100.8", 17, 53), Some(false));
        assert_eq!(has(text, "192.0.2.9", 132, 22), None);
        let except = format!("{text}add a 192.0.2.9,tcp:22 nomatch\n");
        assert_eq!(has(&except, "192.0.2.9", 6, 22), None);
        let plain = "create a hash:net family inet\nadd a 192.0.2.9\n";
        assert_eq!(has(plain, "192.0.2.9", 6, 22), None);
    }

    #[test]
    fn lists_tell_type_and_references() {
        let text = "Name: fwc4-a\nType: hash:net\nRevision: 7\nHeader: family inet hashsize 1024 maxelem 65536 timeout 60 bucketsize 12 initval 0x8\nSize in memory: 552\nReferences: 3\nNumber of entries: 2\n\nName: fwc6-b\nType: bitmap:port\nRevision: 3\nHeader: range 0-100\nSize in memory: 88\nReferences: 0\nNumber of entries: 0\n";
        let list = read_list(text);
        assert_eq!(list["fwc4-a"].references, 3);
        assert_eq!(list["fwc4-a"].header.timeout(), Some("60"));
        assert!(is_own("fwc4-a", &list["fwc4-a"].header));
        assert!(!is_own("fwc6-a", &list["fwc4-a"].header));
        assert!(!is_own("fwc6-b", &list["fwc6-b"].header));
        assert_eq!(list["fwc6-b"].header.to_string(), "bitmap:port range 0-100");
    }
}
