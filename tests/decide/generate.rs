//! Random policies in the policy's own words, and packets at their borders.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fwc::net::{Family, Hook, Packet, State, TcpFlags, Translated, address_of};

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same on every machine.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// From one to `most` elements, each at most once.
    pub fn some<'a, T>(&mut self, from: &'a [T], most: usize) -> Vec<&'a T> {
        let mut left: Vec<&T> = from.iter().collect();
        let count = 1 + self.below(most.min(from.len()));
        (0..count)
            .map(|_| left.swap_remove(self.below(left.len())))
            .collect()
    }
}

/// Matches of iptables that a packet shows, for `match`.
pub const MATCHES: [&str; 2] = [
    "-m conntrack --ctstate DNAT",
    "-m conntrack ! --ctstate DNAT",
];

/// Matches of iptables that hold for no packet, for `match` of entries; the last one counts.
const NEVER: [&str; 3] = [
    "-m length --length 1:10",
    "-m string --algo bm --string nothing-says-this",
    "-m recent --name nobody --rcheck",
];

/// Returns `true` if a packet shows whether a generated match holds.
pub fn is_shown(text: &str) -> bool {
    MATCHES.contains(&text)
}

/// Returns `true` if one of [`MATCHES`] or [`NEVER`] holds for a packet.
pub fn matches_hold(text: &str, packet: &Packet) -> bool {
    let is_tracked = !matches!(packet.state, State::Invalid | State::Untracked);
    let is_translated = is_tracked && packet.translated.destination;
    match MATCHES.iter().position(|one| *one == text) {
        Some(0) => is_translated,
        Some(1) => !is_translated,
        _ if NEVER.contains(&text) => false,
        _ => panic!("no generated match: {text}"),
    }
}

/// A policy, and the values at which its packets change.
pub struct Sample {
    pub text: String,
    addresses: [Vec<u128>; 2],
    devices: Vec<String>,
    ports: Vec<u16>,
}

const DEVICES: [&str; 5] = ["eth0", "eth1", "wg+", "br-lan", "lo"];
const NEAR_DEVICES: [&str; 9] = [
    "eth0", "eth1", "eth10", "wg", "wg0", "wgx", "br-lan", "lo", "dummy0",
];
pub const PORT_LITERALS: [&str; 12] = [
    "22/tcp",
    "80/tcp",
    "80-90/tcp",
    "85-95/tcp",
    "53/udp",
    "67-68/udp",
    "546/udp",
    "53/tcp",
    "1-65535/udp",
    "500/sctp",
    "1024-65535/tcp",
    "22/udplite",
];
const PORT_BORDERS: [u16; 24] = [
    0, 1, 21, 22, 23, 52, 53, 54, 66, 67, 68, 69, 79, 80, 84, 85, 90, 91, 95, 96, 545, 546, 547,
    1024,
];
const BUILT_IN: [&str; 8] = [
    "ssh", "dns", "ping", "http", "igmp", "ntp", "domain", "mdns",
];
const ICMP: [&str; 7] = [
    "echo-request",
    "0",
    "3/4",
    "destination-unreachable",
    "13",
    "12/1",
    "redirect",
];
const ICMPV6: [&str; 8] = [
    "128",
    "neighbour-solicitation",
    "1/4",
    "2",
    "packet-too-big",
    "137",
    "130",
    "153",
];

/// A policy of the seed. Not every one is taken by `resolve`.
pub fn sample(random: &mut Random) -> Sample {
    let mut sample = Sample {
        text: String::from("version = 1\n"),
        addresses: [
            vec![0, 0xe000_0001, u128::from(u32::MAX)],
            vec![0, 0xff02 << 112, u128::MAX],
        ],
        devices: NEAR_DEVICES.map(str::to_owned).to_vec(),
        ports: PORT_BORDERS.to_vec(),
    };
    // fe80::/10, from where DHCPv6 answers come.
    sample.border(Family::V6, 0xfe80 << 112, 10);
    let interfaces = sample.interfaces(random);
    sample.defaults(random);
    let groups = sample.groups(random);
    let places = sample.zones(random, &interfaces, &groups);
    let services = sample.services(random);
    if random.once_in(3) {
        sample.line(
            "[log.audit]\ntarget = \"NFLOG\"\ngroup = 3\nprefix = \"audit \"\nrate = \"2/second\"",
        );
        let more = random.pick(&["", "size = 128", "threshold = 20"]);
        sample.line(more);
    } else if random.once_in(2) {
        let more = random.pick(&[
            "burst = 5",
            "rate = false",
            "rate = false\noptions = [\"uid\", \"tcp-sequence\"]",
            "options = [\"macdecode\", \"tcp-options\", \"ip-options\"]",
        ]);
        sample.line(&format!("[log.audit]\nlevel = \"info\"\n{more}"));
    } else {
        // Signs that mean something to shells, to quotes and to iptables.
        let target = random.pick(&["LOG", "NFLOG"]);
        let prefix = random.pick(&["a\"b\\c $x ", "it's #1", "-j ACCEPT", " ", "x", "!"]);
        sample.line(&format!(
            "[log.audit]\ntarget = \"{target}\"\nprefix = {prefix:?}"
        ));
    }
    sample.named_limits();
    if sample.text.contains("icmp = \"none\"") {
        sample.line(
            "[[rules]]\nfrom = [\"any\", \"host\"]\nto = [\"any\", \"host\"]\nservice = \"nd\"",
        );
    }
    for _ in 0..random.below(10) {
        sample.rule(random, &places, &groups, &services);
    }
    if random.once_in(2) {
        let known = sample.with_networks();
        for _ in 0..1 + random.below(3) {
            sample.nat(random, &places, &known, &groups);
        }
    }
    if random.once_in(2) {
        for _ in 0..random.below(6) {
            sample.mangle(random, &places, &groups, &services);
        }
    }
    if random.once_in(3) {
        for _ in 0..1 + random.below(3) {
            sample.raw(random, &places, &groups, &services);
        }
    }
    // From numbers of its own, so that what stands above stays what it was.
    sample.blocks(&mut Random(random.0.rotate_left(37)));
    sample.helpers(&mut Random(random.0.rotate_left(17)), &places, &groups);
    sample.defaults_in_part(&mut Random(random.0.rotate_left(29)));
    sample.more_of_entries(&mut Random(random.0.rotate_left(41)));
    sample
}

/// Whether a key of an entry may be negated, by the other keys of the entry.
fn may_negate(section: &str, key: &str) -> bool {
    let has = |text: &str| section.contains(text);
    let of_type = |types: &[&str]| types.iter().any(|one| has(&format!("type = \"{one}\"")));
    let has_ports = has("to-port") || has("ports = ") || has(":80") || has(":23") || has(":85");
    let changes_source = of_type(&["masquerade", "snat", "no-snat"]) || has("to-source");
    match key {
        "from" if has("type = \"notrack\"") => !has("\nto = "),
        "from" => !changes_source && !has("hairpin") && !of_type(&["checksum"]),
        "to" if has("[[raw]]") => false,
        "to" => !of_type(&["redirect", "no-dnat", "netmap", "tproxy"]) && !has("hairpin"),
        "service" if has("[[raw]]") => of_type(&["drop"]),
        "service" => {
            !has_ports && !has(":1024") && !has(":7777") && !of_type(&["tproxy", "checksum"])
        }
        _ => false,
    }
}

/// A network's family, an address in it and its length: few different ones, so that they overlap.
fn near(random: &mut Random) -> (Family, u128, u8) {
    let family = *random.pick(&Family::ALL);
    let (near, lengths): (u128, &[u8]) = match family {
        Family::V4 => (0x0a00_0000, &[1, 8, 9, 16, 24, 30, 31, 32]),
        Family::V6 => (0xfd00 << 112, &[7, 8, 32, 48, 64, 126, 127, 128]),
    };
    let net = u128::from(random.next() & 3) << (family.bits() - 16);
    let address = near | net | u128::from(random.next() & 7);
    (family, address, *random.pick(lengths))
}

fn show(family: Family, number: u128) -> String {
    match family {
        Family::V4 => Ipv4Addr::from_bits(number as u32).to_string(),
        Family::V6 => Ipv6Addr::from_bits(number).to_string(),
    }
}

impl Sample {
    pub fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// Writes `key = "word"` once in `times`.
    fn maybe(&mut self, random: &mut Random, times: usize, key: &str, words: &[&str]) {
        if random.once_in(times) {
            let word = random.pick(words);
            self.line(&format!("{key} = {word}"));
        }
    }

    fn border(&mut self, family: Family, base: u128, length: u8) {
        let size = 1u128 << (family.bits() - length).min(127);
        let at = &mut self.addresses[usize::from(family == Family::V6)];
        for near in [
            Some(base),
            base.checked_sub(1),
            base.checked_add(size - 1),
            base.checked_add(size),
        ] {
            at.extend(near.filter(|number| *number <= family.last_address()));
        }
    }

    /// Logs, matches of iptables and negations of some entries of nat, mangle and raw.
    fn more_of_entries(&mut self, random: &mut Random) {
        let text = std::mem::take(&mut self.text);
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let end = rest[1..].find("\n[").map_or(rest.len(), |at| at + 2);
            let (section, after) = rest.split_at(end);
            rest = after;
            let heads = ["[[nat]]", "[[mangle]]", "[[raw]]"];
            let is_entry =
                heads.iter().any(|head| section.starts_with(head)) && random.below(4) > 0;
            for line in section.lines() {
                let negated = line.split_once(" = [").filter(|(key, names)| {
                    may_negate(section, key)
                        && !names.contains("\"any\"")
                        && !names.contains("\"host\"")
                });
                match negated.filter(|_| is_entry && random.once_in(2)) {
                    Some((key, names)) => self.line(&format!("{key} = {{ not = [{names} }}")),
                    None => self.line(line),
                }
            }
            if is_entry && random.once_in(2) {
                let class = *random.pick(&["true", "\"audit\""]);
                self.line(&format!("log = {class}"));
            }
            if is_entry && random.once_in(4) {
                let matches = random.pick(&NEVER);
                self.line(&format!("match = {matches:?}"));
            }
        }
    }

    fn defaults(&mut self, random: &mut Random) {
        const ACTIONS: &[&str] = &["\"drop\"", "\"reject\"", "\"accept\""];
        const SWITCH: &[&str] = &["true", "false"];
        let others: &[&str] = &["\"drop\"", "\"reject\"", "\"accept\"", "\"continue\""];
        let is_shared = random.once_in(4);
        if is_shared {
            self.line("[ownership]\nmode = \"shared\"");
        } else if random.once_in(4) {
            // What stays of others is for `apply`: the rules are the same.
            self.line(
                "[ownership]\npreserve = [\"f2b-*\", { chain = \"DOCKER*\" }, \
                 { device = \"docker0\" }, { target = \"KUBE-*\" }, { text = \"10.8.0.0/24\" }]",
            );
        }
        let others = if is_shared { others } else { ACTIONS };
        self.line("[defaults]");
        self.maybe(random, 2, "input", ACTIONS);
        self.maybe(random, 2, "forward", others);
        self.maybe(random, 2, "output", others);
        if !is_shared {
            self.maybe(random, 3, "enforce", &["\"policy\"", "\"rule\""]);
        }
        self.maybe(random, 3, "loopback", SWITCH);
        self.maybe(random, 3, "established", SWITCH);
        self.maybe(random, 3, "invalid", &["\"drop\"", "\"accept\"", "\"off\""]);
        let icmp = [
            "\"essential\"",
            "\"essential-no-ping\"",
            "\"all\"",
            "\"none\"",
        ];
        self.maybe(random, 2, "icmp", &icmp);
        self.maybe(random, 4, "dhcp-client", SWITCH);
        if self.text.contains("networks") {
            self.maybe(random, 2, "antispoof", SWITCH);
        }
        self.maybe(random, 3, "log", &["false", "\"audit\"", "true"]);
        let answers = [
            "\"default\"",
            "\"port-unreachable\"",
            "\"host-unreachable\"",
            "\"net-unreachable\"",
            "\"admin-prohibited\"",
            "\"net-prohibited\"",
            "\"proto-unreachable\"",
            "\"policy-fail\"",
            "\"reject-route\"",
        ];
        self.maybe(random, 3, "reject-with", &answers);
        self.maybe(random, 4, "comments", SWITCH);
        self.line("[users]\nweb = 33\n[groups]\nweb = 5");
    }

    /// Defaults of some hooks, and of one family; no preamble; a host with one family.
    fn defaults_in_part(&mut self, random: &mut Random) {
        const BOOLEANS: &[&str] = &["true", "false"];
        let in_part: [(&str, &[&str], &[&str]); 6] = [
            ("loopback", BOOLEANS, &["input", "output"]),
            ("established", BOOLEANS, &["input", "forward", "output"]),
            (
                "invalid",
                &["\"drop\"", "\"accept\"", "\"off\""],
                &["input", "forward", "output"],
            ),
            (
                "icmp",
                &["\"essential\"", "\"essential-no-ping\"", "\"all\""],
                &["input", "forward", "output"],
            ),
            ("dhcp-client", BOOLEANS, &["input", "output"]),
            (
                "log",
                &["false", "\"audit\"", "true"],
                &["input", "forward", "output"],
            ),
        ];
        let keys = |random: &mut Random, taken: &str, times: usize| {
            let mut lines = String::new();
            for (key, words, hooks) in in_part {
                if !random.once_in(times) || taken.contains(&format!("\n{key} = ")) {
                    continue;
                }
                let values: Vec<String> = random
                    .some(hooks, hooks.len())
                    .into_iter()
                    .map(|hook| format!("{hook} = {}", random.pick(words)))
                    .collect();
                lines += &format!("{key} = {{ {} }}\n", values.join(", "));
            }
            lines
        };
        let Some(end) = self.text.find("[users]") else {
            return;
        };
        let mut added = String::new();
        if random.once_in(4) {
            added += &keys(random, &self.text[..end], 4);
        }
        if random.once_in(8) {
            added += "preamble = \"none\"\n";
        }
        let only = match random.below(12) {
            0 => Some("ipv4"),
            1 => Some("ipv6"),
            _ => None,
        };
        match only {
            Some(only) => added += &format!("families = \"{only}\"\n"),
            None if random.once_in(3) => {
                added += &format!("[defaults.{}]\n", random.pick(&["ipv4", "ipv6"]));
                for hook in ["input", "forward", "output"] {
                    if random.once_in(3) {
                        let action = random.pick(&["drop", "reject", "accept"]);
                        added += &format!("{hook} = \"{action}\"\n");
                    }
                }
                if random.once_in(3) {
                    added += "reject-with = \"admin-prohibited\"\n";
                }
                if self.text.contains("networks") {
                    let word = random.pick(BOOLEANS);
                    added += &format!("antispoof = {word}\n");
                }
                added += &keys(random, "", 2);
            }
            None => {}
        }
        self.text.insert_str(end, &added);
        if only.is_some() {
            // Every rule is for the family; a `scope` is left out.
            let lines = self.text.lines();
            let lines = lines.filter(|line| !line.starts_with("scope = "));
            let lines = lines.map(|line| {
                let line = line.replace(", scope = \"ipv4\"", "");
                line.replace(", scope = \"ipv6\"", "") + "\n"
            });
            self.text = lines.collect();
        }
    }

    fn interfaces(&mut self, random: &mut Random) -> Vec<String> {
        if random.once_in(4) {
            return Vec::new();
        }
        self.line("[interfaces]");
        let devices = random.some(&DEVICES, 4);
        let mut names = Vec::new();
        let mut at = 0;
        while at < devices.len() {
            let count = if random.once_in(4) { 2 } else { 1 };
            let own = &devices[at..(at + count).min(devices.len())];
            at += own.len();
            let name = ["lan", "wan", "vpn", "dmz"][names.len()];
            let scope = match random.below(4) {
                0 => ", scope = \"ipv4\"",
                1 => ", scope = \"ipv6\"",
                _ => "",
            };
            let networks: Vec<String> = match random.below(3) {
                0 => (0..1 + random.below(2))
                    .map(|_| self.prefix(random))
                    .collect(),
                _ => Vec::new(),
            };
            let networks = match networks.is_empty() {
                true => String::new(),
                false => format!(", networks = {networks:?}"),
            };
            self.line(&format!("{name} = {{ device = {own:?}{scope}{networks} }}"));
            names.push(name.to_owned());
        }
        names
    }

    /// The interfaces that have networks, and the zones that have.
    fn with_networks(&self) -> Vec<String> {
        let lines = self
            .text
            .lines()
            // What leaves does not show whether it came out of IPsec.
            .filter(|line| line.contains("networks = ") && !line.contains("ipsec = "));
        lines
            .filter_map(|line| Some(line.split_once(" = ")?.0.to_owned()))
            .collect()
    }

    /// A host at the policy's borders.
    pub fn host(&mut self, random: &mut Random) -> (Family, String) {
        let (family, address, _) = near(random);
        self.border(family, address, family.bits());
        (family, show(family, address))
    }

    /// A network of IPv4 of 24 bits.
    pub fn twenty_four(&mut self, random: &mut Random) -> String {
        let base = 0x0a00_0000 | u128::from(random.next() & 3) << 16;
        self.border(Family::V4, base, 24);
        format!("{}/24", show(Family::V4, base))
    }

    /// A network; its borders are kept.
    fn prefix(&mut self, random: &mut Random) -> String {
        let (family, near, length) = near(random);
        let host_bits = u32::from(family.bits() - length);
        let base = near >> host_bits << host_bits;
        self.border(family, base, length);
        format!("{}/{length}", show(family, base))
    }

    /// A prefix, a host or a range; its borders are kept.
    fn literal(&mut self, random: &mut Random) -> String {
        if random.once_in(4) {
            let (family, first, _) = near(random);
            let last = first + u128::from(random.next() & 15);
            self.border(family, first, family.bits());
            self.border(family, last, family.bits());
            return format!("{}-{}", show(family, first), show(family, last));
        }
        if random.once_in(40) {
            return (*random.pick(&["0.0.0.0/0", "::/0"])).to_owned();
        }
        self.prefix(random)
    }

    /// A host under any prefix; its borders are kept.
    pub fn mask(&mut self, random: &mut Random) -> String {
        let (family, address, _) = near(random);
        self.border(family, address, family.bits());
        let mask = match family {
            Family::V4 => *random.pick(&[0xff00_00ffu128, 0x0000_ffff, 0xffff_00fe]),
            Family::V6 => *random.pick(&[u128::from(u64::MAX), 0xffff_ffff << 96 | 0xffff]),
        };
        format!("{}/{}", show(family, address & mask), show(family, mask))
    }

    /// Zones; then the names of zones and interfaces.
    fn zones(
        &mut self,
        random: &mut Random,
        interfaces: &[String],
        groups: &[String],
    ) -> Vec<String> {
        let mut places = interfaces.to_vec();
        let mut of_ipsec = Random(random.0.rotate_left(23));
        self.line("[zones]");
        let plain: Vec<String> = groups
            .iter()
            .filter(|name| *name != "banned")
            .cloned()
            .collect();
        for name in &["inside", "partner", "all"][..random.below(4)] {
            let union = (!places.is_empty() && random.once_in(2)).then(|| random.some(&places, 2));
            if let Some(union) = union {
                self.line(&format!("{name} = {union:?}"));
            } else {
                let mut parts = Vec::new();
                if !interfaces.is_empty() && random.once_in(2) {
                    parts.push(format!("interfaces = {:?}", random.some(interfaces, 2)));
                }
                if parts.is_empty() || random.once_in(2) {
                    parts.push(format!(
                        "networks = {:?}",
                        self.address_list(random, &plain)
                    ));
                }
                if of_ipsec.once_in(3) {
                    let with = of_ipsec.once_in(2);
                    parts.push(format!("ipsec = {with}"));
                    if of_ipsec.once_in(4) {
                        parts.retain(|part| !part.starts_with("networks"));
                    }
                }
                self.line(&format!("{name} = {{ {} }}", parts.join(", ")));
            }
            places.push((*name).to_owned());
        }
        places
    }

    /// Names of groups and literals.
    pub fn address_list(&mut self, random: &mut Random, groups: &[String]) -> Vec<String> {
        let count = 1 + random.below(3);
        (0..count)
            .map(|_| match groups {
                [] => self.literal(random),
                _ if random.once_in(2) => self.literal(random),
                _ => random.pick(groups).clone(),
            })
            .collect()
    }

    fn groups(&mut self, random: &mut Random) -> Vec<String> {
        self.line("[addresses]");
        let mut names: Vec<String> = Vec::new();
        for name in &["office", "admins", "bad"][..random.below(4)] {
            let include = self.address_list(random, &names);
            if random.once_in(3) {
                let exclude = self.address_list(random, &names);
                let set = if random.once_in(3) {
                    ", set = true"
                } else {
                    ""
                };
                self.line(&format!(
                    "{name} = {{ include = {include:?}, exclude = {exclude:?}{set} }}"
                ));
            } else if random.once_in(3) {
                self.line(&format!("{name} = {{ include = {include:?}, set = true }}"));
            } else {
                self.line(&format!("{name} = {include:?}"));
            }
            names.push((*name).to_owned());
        }
        if random.once_in(4) {
            let timeout = if random.once_in(2) {
                ", timeout = \"1h\""
            } else {
                ""
            };
            let mut own = Random(random.0.rotate_left(11));
            let kind = match own.below(6) {
                0 => ", type = \"address\"",
                1 => ", type = \"net,port\"",
                2 => ", type = \"address,port\", size = 1000",
                _ => "",
            };
            let counters = if own.once_in(4) {
                ", counters = true"
            } else {
                ""
            };
            let comments = if own.once_in(4) {
                ", comments = true"
            } else {
                ""
            };
            self.line(&format!(
                "banned = {{ set = \"dynamic\"{timeout}{kind}{counters}{comments} }}"
            ));
            names.push("banned".to_owned());
        }
        names
    }

    /// Services; then their names, those of the catalog first.
    fn services(&mut self, random: &mut Random) -> Vec<String> {
        self.line("[services]");
        self.line("nd = { icmpv6 = [133, 134, 135, 136] }");
        let mut names: Vec<String> = BUILT_IN.map(str::to_owned).to_vec();
        for name in &["app", "mix", "http", "dns"][..random.below(5)] {
            let mut parts = Vec::new();
            match random.below(6) {
                0..=2 => parts.push(format!("ports = {:?}", random.some(&PORT_LITERALS, 4))),
                3 => parts.push(format!(
                    "source-ports = {:?}",
                    random.some(&PORT_LITERALS, 3)
                )),
                4 => {
                    // Both are of the same protocols.
                    let of_udp = ["53/udp", "67-68/udp", "1-65535/udp"];
                    let ports = random.some(&of_udp, 2);
                    let sources = random.some(&["546/udp", "1024-65535/udp"], 2);
                    parts.push(format!("ports = {ports:?}, source-ports = {sources:?}"));
                }
                _ => parts.push(format!(
                    "protocol = \"{}\"",
                    random.pick(&["gre", "tcp", "2", "ah"])
                )),
            }
            if random.once_in(3) {
                let types = random.some(&ICMP, 3);
                parts.push(match types.len() {
                    1 => "icmp = \"any\"".to_owned(),
                    _ => format!("icmp = {types:?}"),
                });
            }
            if random.once_in(3) {
                let types = random.some(&ICMPV6, 3);
                parts.push(match types.len() {
                    1 => "icmpv6 = \"any\"".to_owned(),
                    _ => format!("icmpv6 = {types:?}"),
                });
            }
            if random.once_in(4) {
                let others: Vec<&String> = names.iter().filter(|other| other != name).collect();
                parts.push(format!("include = {:?}", random.some(&others, 2)));
            }
            self.line(&format!("{name} = {{ {} }}", parts.join(", ")));
            names.push((*name).to_owned());
        }
        names
    }

    /// Addresses at the policy's borders.
    pub fn some_addresses(&self, random: &mut Random, family: Family, most: usize) -> Vec<IpAddr> {
        let all = &self.addresses[usize::from(family == Family::V6)];
        let some = random.some(all, most).into_iter();
        some.map(|number| address_of(family, *number)).collect()
    }

    /// A packet at the policy's borders.
    pub fn packet(&self, random: &mut Random) -> Packet {
        let family = *random.pick(&Family::ALL);
        let hook = *random.pick(&Hook::ALL);
        let icmp_number = match family {
            Family::V4 => 1,
            Family::V6 => 58,
        };
        let protocol = *random.pick(&[
            6,
            6,
            6,
            17,
            17,
            17,
            icmp_number,
            icmp_number,
            1,
            58,
            2,
            47,
            50,
            132,
            136,
        ]);
        let has_ports = [6, 17, 33, 132, 136].contains(&protocol);
        let port = |random: &mut Random| has_ports.then(|| *random.pick(&self.ports));
        let (source_port, destination_port) = match random.below(6) {
            0 if has_ports => (Some(67), Some(68)),
            1 if has_ports => (Some(547), Some(546)),
            2 if has_ports => (Some(546), Some(547)),
            3 if has_ports => (Some(68), Some(67)),
            _ => (port(random), port(random)),
        };
        let kinds: &[u8] = match family {
            Family::V4 => &[0, 3, 3, 4, 5, 8, 11, 12, 13],
            Family::V6 => &[
                0, 1, 2, 3, 4, 5, 127, 128, 129, 130, 132, 133, 134, 135, 136, 137, 138, 140, 141,
                142, 143, 144, 147, 148, 149, 150, 151, 152, 153, 154,
            ],
        };
        let address = |random: &mut Random| -> IpAddr {
            let number = *random.pick(&self.addresses[usize::from(family == Family::V6)]);
            match family {
                Family::V4 => Ipv4Addr::from_bits(number as u32).into(),
                Family::V6 => Ipv6Addr::from_bits(number).into(),
            }
        };
        let device = |random: &mut Random| random.pick(&self.devices).clone();
        let state = *random.pick(&[
            State::New,
            State::New,
            State::New,
            State::Established,
            State::Related,
            State::Invalid,
            State::Untracked,
        ]);
        let is_tracked = !matches!(state, State::Invalid | State::Untracked);
        Packet {
            family,
            hook,
            in_device: (hook != Hook::Output).then(|| device(random)),
            out_device: (hook != Hook::Input).then(|| device(random)),
            source: address(random),
            destination: address(random),
            protocol,
            source_port,
            destination_port,
            icmp: (protocol == icmp_number).then(|| (*random.pick(kinds), random.below(6) as u8)),
            tcp_flags: (protocol == 6).then(|| TcpFlags(random.below(64) as u8)),
            state,
            hop_limit: *random.pick(&[1, 64, 254, 255, 255]),
            mark: *random.pick(&[0, 0, 0x10, 0x110, 1, 0x11, 0x100]),
            mac: (hook != Hook::Output && random.once_in(2))
                .then(|| [2, 0, 0x5e, 0x10, 0, *random.pick(&[1, 2])]),
            translated: Translated {
                source: false,
                destination: is_tracked && random.once_in(3),
            },
        }
    }
}
