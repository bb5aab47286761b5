//! Random rulesets over all tables.

use fwc::iptables::TableName;
use fwc::net::{Family, Hook};

use crate::random::Numbers;

/// The devices, and the address that the host has on each.
pub const WIRES: [&str; 2] = ["eth0", "eth1"];

pub const fn own_addresses(family: Family) -> [&'static str; 2] {
    match family {
        Family::V4 => ["10.9.0.1", "10.9.1.1"],
        Family::V6 => ["2001:db8:9::1", "2001:db8:9:1::1"],
    }
}

/// Where packets come from and go to, and what they are translated to.
pub const fn hosts(family: Family) -> [&'static str; 4] {
    match family {
        Family::V4 => ["10.1.0.7", "10.2.0.7", "10.2.0.200", "192.0.2.1"],
        Family::V6 => [
            "2001:db8:1::7",
            "2001:db8:2::7",
            "2001:db8:2::c8",
            "2001:db8:ff::1",
        ],
    }
}

const fn networks(family: Family) -> [&'static str; 4] {
    match family {
        Family::V4 => [
            "10.1.0.0/24",
            "10.2.0.0/24",
            "10.2.0.128/25",
            "192.0.2.1/32",
        ],
        Family::V6 => [
            "2001:db8:1::/64",
            "2001:db8:2::/64",
            "2001:db8:2::80/121",
            "2001:db8:ff::1/128",
        ],
    }
}

pub const PORTS: [u16; 6] = [22, 80, 81, 443, 8080, 8081];

pub struct Writer<'a> {
    pub numbers: &'a mut Numbers,
    pub family: Family,
}

impl Writer<'_> {
    /// All four tables: what a ruleset leaves out would stay in the kernel.
    pub fn ruleset(&mut self, hook: Hook) -> String {
        let mut text = String::new();
        for table in [
            TableName::Raw,
            TableName::Mangle,
            TableName::Nat,
            TableName::Filter,
        ] {
            text += &format!("*{}\n", table.as_str());
            let mut rules = String::new();
            for chain in table.base_chains() {
                let drops = table == TableName::Filter && self.numbers.percent(30);
                let policy = if drops { "DROP" } else { "ACCEPT" };
                let own = format!("OF-{chain}");
                text += &format!(":{chain} {policy} [0:0]\n:{own} - [0:0]\n");
                if !is_passed(hook, chain) {
                    continue;
                }
                for (name, callable) in [(*chain, Some(&*own)), (&*own, None)] {
                    for _ in 0..self.numbers.below(5) {
                        let rule = self.rule(table, chain, callable);
                        rules += &format!("-A {name} {rule}\n");
                    }
                }
            }
            text += &format!("{rules}COMMIT\n");
        }
        text
    }

    fn rule(&mut self, table: TableName, chain: &str, callable: Option<&str>) -> String {
        let (mut protocol, target) = self.target(table, chain, callable);
        let mut text = String::new();
        for option in ["-s", "-d"] {
            if self.numbers.percent(20) {
                let (not, network) = (self.not(), self.numbers.of(&networks(self.family)));
                text += &format!("{not}{option} {network} ");
            }
        }
        let sides = [
            ("-i", !matches!(chain, "OUTPUT" | "POSTROUTING")),
            ("-o", !matches!(chain, "PREROUTING" | "INPUT")),
        ];
        for (option, may) in sides {
            if may && self.numbers.percent(15) {
                let (not, name) = (self.not(), self.numbers.of(&["eth0", "eth1", "eth+"]));
                text += &format!("{not}{option} {name} ");
            }
        }
        if protocol.is_none() && self.numbers.percent(40) {
            protocol = Some(self.numbers.of(&["tcp", "udp"]));
        }
        if let Some(protocol) = protocol {
            text += &format!("-p {protocol} ");
            if self.numbers.percent(40) {
                let (not, port) = (
                    self.not(),
                    self.numbers.of(&["80", "443", "8080:8081", "22:80"]),
                );
                text += &format!("-m {protocol} {not}--dport {port} ");
            }
        }
        text + &self.module(table) + &target
    }

    fn not(&mut self) -> &'static str {
        if self.numbers.percent(20) { "! " } else { "" }
    }

    fn module(&mut self, table: TableName) -> String {
        let not = self.not();
        let host = self.numbers.of(&hosts(self.family));
        let hop = match self.family {
            Family::V4 => "ttl --ttl-eq",
            Family::V6 => "hl --hl-eq",
        };
        // Most of what raw can see of a packet's connection is that there is none.
        let states = if table == TableName::Raw { 30 } else { 2 };
        let module = match self.numbers.below(16 + states) {
            kind if kind < states => {
                let states = [
                    "NEW",
                    "SNAT",
                    "INVALID",
                    "NEW,DNAT",
                    "UNTRACKED",
                    "ESTABLISHED",
                ];
                format!("conntrack {not}--ctstate {}", self.numbers.of(&states))
            }
            kind => match kind - states {
                0 | 1 => format!("conntrack {not}--ctstate DNAT"),
                2 => format!("conntrack {not}--ctorigdst {host}"),
                3 => format!(
                    "conntrack {not}--ctorigdstport {}",
                    self.numbers.of(&["80", "443:8080"])
                ),
                4 | 5 => {
                    let mark = self.numbers.of(&["0x1", "0x0", "0x2/0x2", "0x10/0xf0"]);
                    format!("mark {not}--mark {mark}")
                }
                6 => format!(
                    "connmark {not}--mark {}",
                    self.numbers.of(&["0x0/0x1", "0x1", "0x2/0x2"])
                ),
                7 => format!("{hop} {}", self.numbers.of(&["63", "64"])),
                8 => {
                    let class = self.numbers.of(&["0x00", "0x2e", "0x04"]);
                    format!("dscp {not}--dscp {class}")
                }
                9 => {
                    let bits = self.numbers.of(&["0x10/0x3f", "0xb8/0xfc", "0x08/0x08"]);
                    format!("tos {not}--tos {bits}")
                }
                _ => return String::new(),
            },
        };
        format!("-m {module} ")
    }

    /// The target, and the protocol that it needs.
    fn target(
        &mut self,
        table: TableName,
        chain: &str,
        callable: Option<&str>,
    ) -> (Option<&'static str>, String) {
        if let Some(callable) = callable
            && self.numbers.percent(15)
        {
            return (
                None,
                format!("{} {callable}", self.numbers.of(&["-j", "-g"])),
            );
        }
        let plain = ["ACCEPT", "RETURN", "LOG --log-prefix one", "DROP"];
        let marks = [
            "MARK --set-xmark 0x1/0xffffffff",
            "MARK --set-xmark 0x2/0x2",
            "MARK --set-xmark 0x10/0xf0",
            "CONNMARK --save-mark",
            "CONNMARK --restore-mark",
            "CONNMARK --set-xmark 0x2/0x2",
            "CONNMARK --restore-mark --nfmask 0xf --ctmask 0xf",
        ];
        let header = [
            "TOS --set-tos 0x10/0x3f",
            "TOS --set-tos 0x08/0x08",
            "TOS --xor-tos 0x08",
            "DSCP --set-dscp 0x2e",
            "DSCP --set-dscp 0x04",
        ];
        let hops = match self.family {
            Family::V4 => ["TTL --ttl-set 64", "TTL --ttl-inc 1", "TTL --ttl-dec 1"],
            Family::V6 => ["HL --hl-set 64", "HL --hl-inc 1", "HL --hl-dec 1"],
        };
        let percent = self.numbers.below(100);
        let target = match table {
            TableName::Nat if percent < 75 => return self.translation(chain),
            // The nat table is not for filtering: iptables refuses DROP there.
            TableName::Nat => self.numbers.of(&plain[..3]),
            TableName::Raw if percent < 50 => {
                self.numbers
                    .of(&["CT --notrack", "CT --ctevents new", "NOTRACK"])
            }
            TableName::Mangle if percent < 40 => self.numbers.of(&marks),
            TableName::Mangle if percent < 60 => self.numbers.of(&header),
            TableName::Mangle if percent < 80 => self.numbers.of(&hops),
            TableName::Filter if percent < 20 => "REJECT",
            _ => self.numbers.of(&plain),
        };
        (None, format!("-j {target}"))
    }

    fn translation(&mut self, chain: &str) -> (Option<&'static str>, String) {
        let (open, close) = match self.family {
            Family::V4 => ("", ""),
            Family::V6 => ("[", "]"),
        };
        let host = self.numbers.of(&hosts(self.family));
        let network = self.numbers.of(&networks(self.family));
        let port = self.numbers.of(&["8080", "80", "8080-8080"]);
        let both = Some(self.numbers.of(&["tcp", "udp"]));
        match chain {
            "PREROUTING" | "OUTPUT" => match self.numbers.below(8) {
                0 | 1 => (None, format!("-j DNAT --to-destination {host}")),
                2 => (None, format!("-j DNAT --to-destination {host}-{host}")),
                3 => (
                    both,
                    format!("-j DNAT --to-destination {open}{host}{close}:{port}"),
                ),
                4 => (both, format!("-j DNAT --to-destination :{port}")),
                5 if chain == "PREROUTING" => (both, format!("-j REDIRECT --to-ports {port}")),
                6 if chain == "PREROUTING" => (None, "-j REDIRECT".to_owned()),
                _ => (None, format!("-j NETMAP --to {network}")),
            },
            _ => match self.numbers.below(4) {
                0 if chain == "POSTROUTING" => (None, "-j MASQUERADE".to_owned()),
                1 => (None, format!("-j NETMAP --to {network}")),
                _ => (None, format!("-j SNAT --to-source {host}")),
            },
        }
    }
}

fn is_passed(hook: Hook, chain: &str) -> bool {
    match hook {
        Hook::Input => matches!(chain, "PREROUTING" | "INPUT"),
        Hook::Forward => matches!(chain, "PREROUTING" | "FORWARD" | "POSTROUTING"),
        Hook::Output => matches!(chain, "OUTPUT" | "POSTROUTING"),
    }
}
