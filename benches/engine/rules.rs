//! Rulesets of several shapes, the same ones in every run.

use std::fmt::Write as _;

use fwc::net::{Family, address_of};

/// xorshift64*: the same rules in every run.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, end: u128) -> u128 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        u128::from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 24) % end
    }
}

#[derive(Clone, Copy)]
pub struct Rule {
    pub source: (u128, u8),
    pub destination: Option<(u128, u8)>,
    pub protocol: u8,
    pub ports: (u16, u16),
    pub accept: bool,
}

/// Rules of distinct prefix and port.
pub fn distinct(family: Family, count: u32) -> Vec<Rule> {
    let (base, length, shift) = match family {
        Family::V4 => (10 << 24, 30, 2),
        Family::V6 => (0x2001_0db8 << 96, 64, 64),
    };
    (0..count)
        .map(|number| Rule {
            source: (base + (u128::from(number) << shift), length),
            destination: None,
            protocol: if number % 3 == 0 { 17 } else { 6 },
            ports: (
                (1024 + number % 60_000) as u16,
                (1024 + number % 60_000) as u16,
            ),
            accept: true,
        })
        .collect()
}

/// Rules whose prefixes and ports overlap, both verdicts, as grown rulesets have them.
pub fn overlapping(family: Family, count: u32) -> Vec<Rule> {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let top = family.bits() - 24;
    let base = match family {
        Family::V4 => 10 << 24,
        Family::V6 => 0x2001_0db8 << 96,
    };
    let prefix = |numbers: &mut Numbers| {
        let host = [0, 8, 8, 12, 16][numbers.below(5) as usize];
        let address = numbers.below(1 << 16) >> host << host;
        (
            base + (address << top.min(8)),
            family.bits() - host as u8 - top.min(8),
        )
    };
    (0..count)
        .map(|_| {
            let first = [22, 80, 443, 1024, 8000, 0][numbers.below(6) as usize];
            let width = [0, 0, 0, 100][numbers.below(4) as usize];
            Rule {
                source: prefix(&mut numbers),
                destination: (numbers.below(3) > 0).then(|| prefix(&mut numbers)),
                protocol: if numbers.below(3) == 0 { 17 } else { 6 },
                ports: (first, first + width),
                accept: numbers.below(4) > 0,
            }
        })
        .collect()
}

pub fn text(family: Family, rules: &[Rule]) -> String {
    let mut text =
        "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n".to_owned();
    for rule in rules {
        let name = if rule.protocol == 6 { "tcp" } else { "udp" };
        let (address, length) = rule.source;
        let _ = write!(text, "-A INPUT -s {}/{length}", address_of(family, address));
        if let Some((address, length)) = rule.destination {
            let _ = write!(text, " -d {}/{length}", address_of(family, address));
        }
        let (first, last) = rule.ports;
        let verdict = if rule.accept { "ACCEPT" } else { "DROP" };
        let _ = writeln!(
            text,
            " -p {name} -m {name} --dport {first}:{last} -j {verdict}"
        );
    }
    text + "COMMIT\n"
}

/// 5,500 rules in 90 chains that call each other, with macs, port lists and negations; `changed` rules differ.
pub fn chains(changed: u128) -> String {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut text =
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n".to_owned();
    for chain in 0..90 {
        let _ = writeln!(text, ":zone{chain} - [0:0]");
    }
    for chain in 0..30 {
        let _ = writeln!(
            text,
            "-A FORWARD -i eth{} -o eth{} -j zone{chain}",
            chain % 6,
            chain / 6
        );
    }
    for number in 0..5_500u128 {
        let chain = number * 90 / 5_500;
        let (a, b, c) = (
            numbers.below(1 << 16),
            numbers.below(1 << 12),
            numbers.below(1 << 8),
        );
        let not = if numbers.below(9) == 0 { "! " } else { "" };
        let verdict = ["ACCEPT", "ACCEPT", "DROP", "RETURN"][numbers.below(4) as usize];
        let port = 20 + c + u128::from(number < changed);
        let to = format!("-d 10.{}.{}.0/24", a >> 8, a & 0xff);
        let from = format!("{not}-s 172.16.{}.0/{}", b & 0xff, 16 + b % 9);
        let _ = match numbers.below(8) {
            0 if chain < 60 => {
                let callee = chain + 1 + numbers.below(89 - chain);
                writeln!(text, "-A zone{chain} {to} -j zone{callee}")
            }
            1 => writeln!(
                text,
                "-A zone{chain} {to} -m mac --mac-source 02:00:00:00:00:{c:02x} -j {verdict}"
            ),
            2 => writeln!(
                text,
                "-A zone{chain} {from} -p tcp -m multiport --dports {port},80,443,8000:8100 -j {verdict}"
            ),
            3 => writeln!(
                text,
                "-A zone{chain} {from} -m conntrack --ctstate NEW -j {verdict}"
            ),
            _ => writeln!(
                text,
                "-A zone{chain} {from} {to} -p tcp -m tcp --dport {port} -j {verdict}"
            ),
        };
    }
    text + "COMMIT\n"
}

/// A router of twelve departments as it grew: 5,500 rules in 90 chains. Each department has the MAC addresses of its hosts in a
/// chain, and its services in chains that call each other by `-j` and `-g`, with port lists, negations, rules for one
/// source, logs, and translations. `changed` rules are gone, new, in another place or of another verdict.
pub fn office(changed: usize) -> String {
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    let mut chains: Vec<(String, Vec<String>)> = ["INPUT", "FORWARD", "OUTPUT"]
        .map(|name| (name.to_owned(), Vec::new()))
        .to_vec();
    let established = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
    chains[0].1 = ["-i lo -j ACCEPT", established, "-p icmp -j ACCEPT"]
        .map(str::to_owned)
        .to_vec();
    chains[1].1 = [established, "-m conntrack --ctstate INVALID -j DROP"]
        .map(str::to_owned)
        .to_vec();
    for department in 0..DEPARTMENTS {
        let mut hosts: Vec<String> = (0..206)
            .map(|_| {
                let (net, host, mac) = (numbers.below(4), numbers.below(254) + 1, numbers.below(1 << 24));
                let mac = mac.to_be_bytes();
                format!(
                    "-s 10.{}.{net}.{host}/32 -m mac --mac-source 00:16:3e:{:02x}:{:02x}:{:02x} -j RETURN",
                    20 + department, mac[13], mac[14], mac[15]
                )
            })
            .collect();
        hosts.push(format!(
            "-m limit --limit 5/min -j LOG --log-prefix \"spoof {department}: \""
        ));
        hosts.push("-j DROP".to_owned());
        chains.push((format!("mac_{department}"), hosts));
        chains[1]
            .1
            .push(format!("-i eth1.{department} -j mac_{department}"));
    }
    for department in 0..DEPARTMENTS {
        chains[1].1.push(format!(
            "! -s 10.{}.0.0/16 -i eth1.{department} -j DROP",
            20 + department
        ));
        chains[1]
            .1
            .push(format!("-o eth1.{department} -j to_{department}"));
        chains.push((format!("to_{department}"), Vec::new()));
    }
    chains[1]
        .1
        .push("-j REJECT --reject-with icmp-net-prohibited".to_owned());
    let first = chains.len();
    for number in 0..90 - 2 * DEPARTMENTS {
        let parent = match number < 2 * DEPARTMENTS {
            true => first - DEPARTMENTS + number % DEPARTMENTS,
            false => first + numbers.below(number as u128) as usize,
        };
        let department = 20 + number % DEPARTMENTS;
        let condition = match numbers.below(5) {
            0 => format!("-d 10.{department}.{}.0/24", numbers.below(4)),
            1 => "-p tcp".to_owned(),
            2 => "-p udp".to_owned(),
            3 => format!("! -s 10.{}.0.0/16", 20 + numbers.below(DEPARTMENTS as u128)),
            _ => format!(
                "-s 10.{}.{}.0/24",
                20 + numbers.below(DEPARTMENTS as u128),
                numbers.below(4)
            ),
        };
        let jump = if numbers.below(4) == 0 { "-g" } else { "-j" };
        chains[parent]
            .1
            .push(format!("{condition} {jump} sub_{number}"));
        chains.push((format!("sub_{number}"), Vec::new()));
    }
    let services = chains.len() - first + DEPARTMENTS;
    let rules =
        |chains: &[(String, Vec<String>)]| chains.iter().map(|chain| chain.1.len()).sum::<usize>();
    while rules(&chains) < 5_500 {
        let chain = numbers.below(services as u128) as usize;
        let rule = service(&mut numbers, 20 + chain % DEPARTMENTS);
        chains[first - DEPARTMENTS + chain].1.push(rule);
    }
    for _ in 0..changed {
        let chain = 3 + numbers.below(chains.len() as u128 - 3) as usize;
        change(&mut numbers, &mut chains[chain].1);
    }
    let mut text = "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n".to_owned();
    for (number, port) in (0..).zip(PORTS) {
        let _ = writeln!(
            text,
            "-A PREROUTING -d 192.0.2.1/32 -i eth0 -p tcp -m tcp --dport {port} -j DNAT --to-destination 10.{}.0.{}:{port}",
            20 + number % DEPARTMENTS,
            number + 3
        );
    }
    text += "-A POSTROUTING -s 10.0.0.0/8 -o eth0 -j MASQUERADE\nCOMMIT\n*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n";
    for (name, _) in &chains[3..] {
        let _ = writeln!(text, ":{name} - [0:0]");
    }
    for (name, rules) in &chains {
        for rule in rules {
            let _ = writeln!(text, "-A {name} {rule}");
        }
    }
    text + "COMMIT\n"
}

const DEPARTMENTS: usize = 12;
const PORTS: [u16; 12] = [22, 25, 53, 80, 110, 143, 389, 443, 636, 993, 3306, 8443];

/// A rule for a service of a department.
fn service(numbers: &mut Numbers, department: usize) -> String {
    let mut rule = format!(
        "-d 10.{department}.{}.{}/32",
        numbers.below(4),
        numbers.below(254) + 1
    );
    let other = 20 + numbers.below(DEPARTMENTS as u128);
    rule += &match numbers.below(8) {
        0 => format!(
            " -s 10.{other}.{}.{}/32",
            numbers.below(4),
            numbers.below(254)
        ),
        1 => format!(" -s 10.{other}.{}.0/24", numbers.below(4)),
        2 => format!(" ! -s 10.{other}.{}.0/24", numbers.below(4)),
        3 => format!(" -s 192.0.2.{}/32", numbers.below(254)),
        _ => String::new(),
    };
    let mut port = || PORTS[numbers.below(PORTS.len() as u128) as usize];
    rule += &match port() % 4 {
        0 => format!(
            " -p tcp -m multiport --dports {},{},8000:8100",
            port(),
            port()
        ),
        1 => format!(" -p udp -m udp --dport {}", port()),
        _ => format!(" -p tcp -m tcp --dport {}", port()),
    };
    let targets = [
        "ACCEPT", "ACCEPT", "ACCEPT", "ACCEPT", "DROP", "RETURN", "REJECT",
    ];
    rule + " -j " + targets[numbers.below(targets.len() as u128) as usize]
}

/// Another rule in the list: one that is gone, new, in another place or of another verdict.
fn change(numbers: &mut Numbers, rules: &mut Vec<String>) {
    let Some(last) = rules.len().checked_sub(3) else {
        return;
    };
    let at = numbers.below(last as u128 + 1) as usize;
    let department = 20 + numbers.below(DEPARTMENTS as u128) as usize;
    match (numbers.below(4), rules[at].strip_suffix("ACCEPT")) {
        (0, _) => drop(rules.remove(at)),
        (1, _) => {
            let rule = rules.remove(at);
            rules.insert(at + 1, rule);
        }
        (2, Some(accepted)) => rules[at] = format!("{accepted}DROP"),
        _ => rules.insert(at, service(numbers, department)),
    }
}
