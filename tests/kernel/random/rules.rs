//! Random rules over what the walker knows.

use fwc::net::{Family, Hook};

/// A small generator of numbers (xorshift64*): the same seed, the same rules and packets.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        // Seeds that differ by one shall not begin alike.
        let mixed = (seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Self((mixed ^ mixed >> 29) | 1)
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        number as usize % end.max(1)
    }

    pub fn of<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// The devices with a wire; `lo` is there, too.
pub const WIRES: [&str; 6] = ["eth0", "eth1", "eth10", "wg0", "wgx", "ppp0"];
const DEVICES: [&str; 10] = [
    "eth0", "eth1", "eth+", "eth1+", "wg0", "wg+", "e+", "lo", "+", "ppp",
];

/// Addresses around which rules and packets gather.
pub const V4: [&str; 8] = [
    "10.1.2.3",
    "10.1.2.4",
    "10.1.3.0",
    "192.0.2.0",
    "192.0.2.1",
    "172.16.5.5",
    "128.0.0.1",
    "223.255.255.254",
];
pub const V6: [&str; 8] = [
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8:1::",
    "2001:db8:1:2::3",
    "fd00::1",
    "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "2000::",
    "3fff::8000:0:0:1",
];
/// IPv4 addresses of the host itself.
pub const LOCAL: [&str; 2] = ["10.1.2.3", "172.16.5.5"];

pub const fn addresses(family: Family) -> &'static [&'static str; 8] {
    match family {
        Family::V4 => &V4,
        Family::V6 => &V6,
    }
}

/// The ipsets of one dimension and their members.
pub const fn sets(family: Family) -> [(&'static str, &'static [&'static str]); 2] {
    match family {
        Family::V4 => [
            ("nets", &["10.1.0.0/16", "192.0.2.0/31", "172.16.5.5/32"]),
            ("few", &["10.1.2.4/32", "223.255.255.254/32"]),
        ],
        Family::V6 => [
            ("nets", &["2001:db8::/48", "fd00::/8", "2000::/128"]),
            ("few", &["2001:db8::2/128", "3fff::8000:0:0:1/128"]),
        ],
    }
}

/// The set of addresses and ports.
pub const SERVICES: &str = "services";
pub const SERVICE_PORT: u16 = 22;

const USER_CHAINS: [&str; 6] = ["A", "B", "C", "D", "E", "F"];

/// The filter table for one hook, as `iptables-restore` reads it.
pub fn ruleset(numbers: &mut Numbers, family: Family, hook: Hook) -> String {
    let mut text = String::from("*filter\n");
    for base in Hook::ALL {
        let policy = numbers.of(&["ACCEPT", "DROP"]);
        text += &format!(":{base} {policy} [0:0]\n");
    }
    for name in USER_CHAINS {
        text += &format!(":{name} - [0:0]\n");
    }
    let mut rules = Rules {
        numbers,
        family,
        hook,
    };
    for position in 0..=USER_CHAINS.len() {
        let (count, name) = match position {
            0 => (6 + rules.numbers.below(10), hook.chain()),
            _ => (rules.numbers.below(7), USER_CHAINS[position - 1]),
        };
        for _ in 0..count {
            let rule = rules.rule(position);
            text += &format!("-A {name}{rule}\n");
        }
    }
    text + "COMMIT\n"
}

struct Rules<'a> {
    numbers: &'a mut Numbers,
    family: Family,
    hook: Hook,
}

impl Rules<'_> {
    /// A rule of a chain (0: the base chain), which may call the chains after it.
    fn rule(&mut self, position: usize) -> String {
        let mut rule = String::new();
        for option in ["-s", "-d"] {
            if self.numbers.percent(22) {
                let network = self.network();
                rule += &self.maybe_not(&format!("{option} {network}"));
            }
        }
        // The tools refuse a device that a base chain cannot have.
        let base = position == 0;
        for (option, never) in [("-i", Hook::Output), ("-o", Hook::Input)] {
            if !(base && self.hook == never) && self.numbers.percent(18) {
                let device = self.numbers.of(&DEVICES);
                rule += &self.maybe_not(&format!("{option} {device}"));
            }
        }
        let (protocol, is_tcp) = self.protocol();
        rule += &protocol;
        for _ in 0..2 {
            if self.numbers.percent(30) {
                let module = self.module();
                // The tools take `-f` once.
                if !(module.ends_with(" -f") && rule.ends_with(" -f")) {
                    rule += &module;
                }
            }
        }
        rule + &self.target(position, is_tcp)
    }

    fn not(&mut self) -> &'static str {
        if self.numbers.percent(30) { " !" } else { "" }
    }

    fn maybe_not(&mut self, condition: &str) -> String {
        format!("{} {condition}", self.not())
    }

    fn network(&mut self) -> String {
        let address = self.numbers.of(addresses(self.family));
        if self.family == Family::V4 && self.numbers.percent(8) {
            return format!("{address}/255.255.254.255");
        }
        let longest = if self.family == Family::V4 { 32 } else { 128 };
        match self.numbers.below(4) {
            0 => address.to_owned(),
            1 => format!("{address}/{}", longest - self.numbers.below(3)),
            _ => format!("{address}/{}", 1 + self.numbers.below(longest)),
        }
    }

    fn port(&mut self) -> String {
        let mut port = || {
            let some = [0, 21, 22, 23, 80, 443, 1023, 1024, 5000, 65534, 65535];
            self.numbers.of(&some)
        };
        let (one, two): (u16, u16) = (port(), port());
        match self.numbers.below(3) {
            1 if one != two => format!("{}:{}", one.min(two), one.max(two)),
            2 if one > 0 => format!("{}:{}", one - 1, one),
            _ => one.to_string(),
        }
    }

    /// The protocol and its own conditions, and whether it is tcp.
    fn protocol(&mut self) -> (String, bool) {
        let text = match self.numbers.below(12) {
            0..4 => return (String::new(), false),
            4 => {
                let number = self
                    .numbers
                    .of(&["tcp", "udp", "47", "1", "58", "sctp", "50"]);
                let text = self.maybe_not(&format!("-p {number}"));
                return (text.clone(), text == " -p tcp");
            }
            5..8 => {
                let name = self.numbers.of(&["tcp", "tcp", "udp", "udp", "sctp"]);
                let mut text = format!(" -p {name} -m {name}");
                for (option, percent) in [("--sport", 40), ("--dport", 70)] {
                    if self.numbers.percent(percent) {
                        let port = self.port();
                        // Left out, for there the backends disagree (demands.rs): `! 0:65535`, two ports with `!`.
                        text += &match port == "0:65535" || text.contains('!') {
                            true => format!(" {option} {port}"),
                            false => self.maybe_not(&format!("{option} {port}")),
                        };
                    }
                }
                text
            }
            8 => {
                let tests = [
                    "SYN SYN",
                    "ALL NONE",
                    "SYN,RST SYN,RST",
                    "FIN,SYN,RST,ACK SYN",
                    "ACK ACK",
                    "SYN,FIN ACK",
                    "ALL ALL",
                    "NONE NONE",
                    "PSH,URG URG",
                ];
                let test = self.numbers.of(&tests);
                // Likewise `! NONE NONE`.
                let test = match test {
                    "NONE NONE" => format!(" --tcp-flags {test}"),
                    test => self.maybe_not(&format!("--tcp-flags {test}")),
                };
                format!(" -p tcp -m tcp{test}")
            }
            9 => {
                let name = self.numbers.of(&["tcp", "udp", "sctp", "udplite"]);
                let side = self.numbers.of(&["--dports", "--sports", "--ports"]);
                let count = 1 + self.numbers.below(4);
                let ports: Vec<_> = (0..count).map(|_| self.port()).collect();
                let list = self.maybe_not(&format!("{side} {}", ports.join(",")));
                format!(" -p {name} -m multiport{list}")
            }
            _ => match self.family {
                Family::V4 => {
                    let kinds = ["8", "3/4", "3", "any", "0", "5", "3/13", "13", "255"];
                    let kind = self.numbers.of(&kinds);
                    format!(
                        " -p icmp -m icmp{}",
                        self.maybe_not(&format!("--icmp-type {kind}"))
                    )
                }
                Family::V6 => {
                    let kinds = ["128", "1/4", "1", "129", "135", "255/255", "4/1", "0"];
                    let kind = self.numbers.of(&kinds);
                    let test = self.maybe_not(&format!("--icmpv6-type {kind}"));
                    format!(" -p ipv6-icmp -m icmp6{test}")
                }
            },
        };
        let is_tcp = text.starts_with(" -p tcp ");
        (text, is_tcp)
    }

    fn module(&mut self) -> String {
        let v4 = self.family == Family::V4;
        let condition = match self.numbers.below(17) {
            0..4 => {
                let states = [
                    "NEW",
                    "ESTABLISHED",
                    "RELATED,ESTABLISHED",
                    "RELATED",
                    "INVALID",
                    "INVALID,UNTRACKED",
                    "UNTRACKED",
                    "NEW,DNAT",
                    "SNAT",
                ];
                let number = self.numbers.below(states.len());
                if number < 7 && self.numbers.percent(30) {
                    ("state", format!("--state {}", states[number]))
                } else {
                    ("conntrack", format!("--ctstate {}", states[number]))
                }
            }
            4..6 => {
                let marks = [
                    "0x1",
                    "0x0/0x1",
                    "0x2/0x1",
                    "0x2/0x2",
                    "0x0/0x2",
                    "0x10/0xf0",
                    "0xffffffff",
                    "0x80000000/0x80000000",
                ];
                ("mark", format!("--mark {}", self.numbers.of(&marks)))
            }
            6 => (
                "connmark",
                format!("--mark {}", self.numbers.of(&["0x1", "0", "0x0/0x2"])),
            ),
            7..9 => {
                let [mut first, mut last] = [0; 2].map(|_| self.numbers.below(8));
                let pool = addresses(self.family);
                let number = |at: usize| pool[at].parse().map(fwc::net::number_of).ok();
                if number(first) > number(last) {
                    (first, last) = (last, first);
                }
                let side = self.numbers.of(&["src", "dst"]);
                (
                    "iprange",
                    format!("--{side}-range {}-{}", pool[first], pool[last]),
                )
            }
            9 => {
                let (module, option) = if v4 { ("ttl", "ttl") } else { ("hl", "hl") };
                let limit = self.numbers.of(&[1, 63, 64, 65, 254]);
                if self.numbers.percent(50) {
                    let order = self.numbers.of(&["lt", "gt"]);
                    return format!(" -m {module} --{option}-{order} {limit}");
                }
                (module, format!("--{option}-eq {limit}"))
            }
            10 => (
                "pkttype",
                format!("--pkt-type {}", self.numbers.of(&["unicast", "broadcast"])),
            ),
            11..13 if v4 => {
                let side = self.numbers.of(&["src", "dst"]);
                let kinds =
                    self.numbers
                        .of(&["LOCAL", "UNICAST", "UNICAST,MULTICAST", "BROADCAST"]);
                ("addrtype", format!("--{side}-type {kinds}"))
            }
            13 if self.hook != Hook::Output => {
                let mac = self.numbers.of(&["02:00:00:00:00:02", "02:00:00:00:00:03"]);
                ("mac", format!("--mac-source {mac}"))
            }
            14 => {
                let sides = self.numbers.of(&["src,src", "dst,dst", "src,dst"]);
                ("set", format!("--match-set {SERVICES} {sides}"))
            }
            15 if v4 && self.numbers.percent(30) => return format!("{} -f", self.not()),
            _ => {
                let name = self.numbers.of(&["nets", "few"]);
                let side = self.numbers.of(&["src", "dst"]);
                ("set", format!("--match-set {name} {side}"))
            }
        };
        format!(" -m {}{}", condition.0, self.maybe_not(&condition.1))
    }

    fn target(&mut self, position: usize, is_tcp: bool) -> String {
        let later = &USER_CHAINS[position..];
        match self.numbers.below(20) {
            0..3 => String::new(),
            3..5 => " -j LOG --log-prefix \"one: \"".to_owned(),
            5 => format!(" -j NFLOG --nflog-group {}", 1 + self.numbers.below(3)),
            6..8 => {
                let change = self.numbers.of(&[
                    "0x1/0x1",
                    "0x10/0xf0",
                    "0x0/0xffffffff",
                    "0x3/0x1",
                    "0x80000000/0x80000000",
                ]);
                format!(" -j MARK --set-xmark {change}")
            }
            8..10 => " -j RETURN".to_owned(),
            10 => " -j ACCEPT".to_owned(),
            11 => " -j DROP".to_owned(),
            12 if is_tcp && self.numbers.percent(60) => {
                " -j REJECT --reject-with tcp-reset".to_owned()
            }
            12 => format!(
                " -j REJECT --reject-with {}",
                self.numbers.of(rejects(self.family))
            ),
            13 if self.numbers.percent(40) => " -j NFQUEUE --queue-num 2".to_owned(),
            13..18 if !later.is_empty() => format!(" -j {}", self.numbers.of(later)),
            18..20 if !later.is_empty() => format!(" -g {}", self.numbers.of(later)),
            _ => self
                .numbers
                .of(&[" -j ACCEPT", " -j DROP", " -j RETURN", ""])
                .to_owned(),
        }
    }
}

pub const fn rejects(family: Family) -> &'static [&'static str] {
    match family {
        Family::V4 => &[
            "icmp-net-unreachable",
            "icmp-host-unreachable",
            "icmp-proto-unreachable",
            "icmp-port-unreachable",
            "icmp-net-prohibited",
            "icmp-host-prohibited",
            "icmp-admin-prohibited",
        ],
        Family::V6 => &[
            "icmp6-no-route",
            "icmp6-adm-prohibited",
            "icmp6-addr-unreachable",
            "icmp6-port-unreachable",
            "icmp6-policy-fail",
            "icmp6-reject-route",
        ],
    }
}
