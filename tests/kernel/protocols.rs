//! Every service of the catalog and every protocol that has a name: the tools take them, and the kernel matches them, in both
//! families and with both backends.

use std::fmt::Write as _;
use std::net::IpAddr;

use fwc::iptables::{Ruleset, TableName};
use fwc::net::{Family, Hook, Packet, PerFamily, Protocol, State, Translated};
use fwc::policy::catalog_names;
use libtest_mimic::Trial;

use crate::circumstances::Circumstances;
use crate::compile::rules_of;
use crate::counters::Verdict;
use crate::environment::{tests_with_each_backend, with_lab};
use crate::lab::Lab;
use crate::lab::frame::protocol;
use crate::support::tools::Backend;

/// One test for each subject and backend.
pub fn all() -> Vec<Trial> {
    type Body = fn(Backend) -> Result<String, String>;
    let tests: [(&str, Body); 4] = [
        ("the-catalog-is-loaded", catalog),
        ("each-name-matches", each_name),
        ("extension-headers-are-skipped", extension_headers),
        ("a-protocol-behind-an-auth-header", behind_auth_header),
    ];
    tests_with_each_backend("protocols", tests)
}

fn device() -> [String; 1] {
    ["eth0".to_owned()]
}

/// A rule for each service: the tools take all lines, and give them back as they were.
fn catalog(backend: Backend) -> Result<String, String> {
    let mut policy =
        String::from("version = 1\n[lints]\nshadowed = \"allow\"\nredundant = \"allow\"\n");
    for name in catalog_names() {
        let _ = write!(policy, "[[rules]]\nservice = \"{name}\"\n");
    }
    let rules = rules_of(&policy)?;
    with_lab(backend, &device(), |lab| {
        lab.load(&rules)?;
        let mut wrong = String::new();
        for (family, text) in rules.iter() {
            let lines = |text: &str| -> Result<Vec<String>, String> {
                let read = Ruleset::from_text(text, family).map_err(|error| error.to_string())?;
                let filter = read.table(TableName::Filter);
                let input = filter.and_then(|table| table.chain("INPUT"));
                let rules = input.into_iter().flat_map(|chain| &chain.rules);
                Ok(rules.map(|rule| rule.to_text(family)).collect())
            };
            let (wanted, found) = (lines(text)?, lines(&lab.saved(family)?)?);
            for line in wanted.iter().filter(|line| !found.contains(line)) {
                let _ = writeln!(wrong, "{family}: {line} does not come back");
            }
        }
        Ok(wrong)
    })
}

/// A rule for each protocol that has a name: a packet of it is accepted, one of another is not.
fn each_name(backend: Backend) -> Result<String, String> {
    // ICMP is said by its types.
    let named: Vec<(&str, Protocol)> = Protocol::names()
        .filter_map(|name| Some((name, Protocol::parse(name)?)))
        .filter(|(_, number)| ![Protocol::ICMP, Protocol::ICMPV6].contains(number))
        .collect();
    // That nothing follows (59) is INVALID to connection tracking in IPv6.
    let mut services = String::from("version = 1\n[defaults]\ninvalid = \"off\"\n[services]\n");
    let mut rules = String::new();
    for (name, Protocol(number)) in &named {
        let _ = writeln!(services, "p{number} = {{ protocol = \"{name}\" }}");
        let is_refused = Protocol(*number).is_extension_header();
        let scope = if is_refused { "scope = \"ipv4\"\n" } else { "" };
        let _ = write!(
            rules,
            "[[rules]]\nname = \"of {number}\"\nservice = \"p{number}\"\n{scope}"
        );
    }
    let rules = rules_of(&(services + &rules))?;
    with_lab(backend, &device(), |lab| {
        lab.load(&rules)?;
        let mut wrong = String::new();
        for family in Family::ALL {
            for (name, number) in &named {
                if family == Family::V6 && number.is_extension_header() {
                    continue;
                }
                let found = judge(lab, family, *number)?;
                let wanted = format!("of {}\"", number.0);
                // The preamble accepts IGMP in IPv4.
                let is_essential = family == Family::V4 && *number == Protocol::IGMP;
                let by_its_rule = is_essential || found.1.contains(&wanted);
                if found.0 != Verdict::Accept || !by_its_rule {
                    let _ = writeln!(
                        wrong,
                        "{family}: {name} ({}): {} by {}",
                        number.0, found.0, found.1
                    );
                }
            }
            // One that has no name, and no rule.
            let (verdict, by) = judge(lab, family, Protocol(253))?;
            if verdict != Verdict::Drop {
                let _ = writeln!(wrong, "{family}: 253: {verdict} by {by}");
            }
        }
        Ok(wrong)
    })
}

/// What becomes of a packet of a protocol that comes in, and the last line that had it.
fn judge(lab: &mut Lab, family: Family, number: Protocol) -> Result<(Verdict, String), String> {
    /// What follows an authentication header here: a protocol that no rule names, for iptables-legacy asks for this one.
    const BEHIND: u8 = 253;
    let is_ah = family == Family::V6 && number == Protocol::AH;
    let is_last = family == Family::V6 && number.0 == 59;
    let circumstances = Circumstances {
        extension_header: is_ah.then_some(number.0),
        ..Circumstances::default()
    };
    let packet = Packet {
        protocol: if is_ah { BEHIND } else { number.0 },
        state: if is_last { State::Invalid } else { State::New },
        ..packet(family)
    };
    let judgement = lab.judge_when(&packet, &circumstances);
    let judgement = judgement.map_err(|error| format!("{family} {}: {error}", number.0))?;
    let by = judgement.matched.last().cloned().unwrap_or_default();
    Ok((judgement.verdict, by))
}

/// A packet of UDP to this host.
fn packet(family: Family) -> Packet {
    let (source, destination): (IpAddr, IpAddr) = match family {
        Family::V4 => ([198, 51, 100, 7].into(), [192, 0, 2, 1].into()),
        Family::V6 => (
            [0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 7].into(),
            [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
        ),
    };
    Packet {
        family,
        hook: Hook::Input,
        in_device: Some("eth0".to_owned()),
        out_device: None,
        source,
        destination,
        protocol: protocol::UDP,
        source_port: Some(40000),
        destination_port: Some(7000),
        icmp: None,
        tcp_flags: None,
        state: State::New,
        hop_limit: 64,
        mark: 0,
        mac: None,
        translated: Translated::default(),
    }
}

/// In IPv6 `-p` is asked of what follows the extension headers, also where it names one of them. An authentication header is
/// skipped by iptables-legacy, and is the protocol itself to iptables-nft.
fn extension_headers(backend: Backend) -> Result<String, String> {
    const HEADERS: [u8; 4] = [
        protocol::ROUTING,
        protocol::FRAGMENT,
        protocol::OPTIONS,
        protocol::AH,
    ];
    let mut text =
        String::from("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n");
    for header in HEADERS {
        let _ = writeln!(text, "-A INPUT -p {header} -j DROP");
    }
    text += "-A INPUT -p udp -m udp --dport 7000 -j ACCEPT\n-A INPUT -j DROP\nCOMMIT\n";
    let rules = PerFamily {
        v4: String::new(),
        v6: text,
    };
    with_lab(backend, &device(), |lab| {
        lab.load(&rules)?;
        let mut wrong = String::new();
        for header in HEADERS {
            let circumstances = Circumstances {
                extension_header: Some(header),
                ..Circumstances::default()
            };
            let judgement = lab.judge_when(&packet(Family::V6), &circumstances);
            let judgement = judgement.map_err(|error| format!("header {header}: {error}"))?;
            let by = judgement.matched.last().cloned().unwrap_or_default();
            let wanted = match (header, backend) {
                (protocol::AH, Backend::Nft) => "-A INPUT -p ah -j DROP",
                _ => "-A INPUT -p udp -m udp --dport 7000 -j ACCEPT",
            };
            if by != wanted {
                let _ = writeln!(wrong, "header {header}: {by}, not {wanted}");
            }
        }
        Ok(wrong)
    })
}

/// Only iptables-legacy compares `-p` with what follows an authentication header; `-m ah` alone has it with both.
fn behind_auth_header(backend: Backend) -> Result<String, String> {
    const BESIDE: &str = "-A INPUT -p udp -m ah -j ACCEPT";
    const ALONE: &str = "-A INPUT -m ah -j DROP";
    let rules = PerFamily {
        v4: String::new(),
        v6: format!(
            "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n{BESIDE}\n{ALONE}\nCOMMIT\n"
        ),
    };
    with_lab(backend, &device(), |lab| {
        lab.load(&rules)?;
        let circumstances = Circumstances {
            extension_header: Some(protocol::AH),
            ..Circumstances::default()
        };
        let judgement = lab.judge_when(&packet(Family::V6), &circumstances)?;
        let by = judgement.matched.last().cloned().unwrap_or_default();
        let wanted = match backend {
            Backend::Legacy => BESIDE,
            Backend::Nft => ALONE,
        };
        Ok(match by == wanted {
            true => String::new(),
            false => format!("{by}, not {wanted}\n"),
        })
    })
}
