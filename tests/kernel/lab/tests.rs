//! The judge, judged: rules written by hand, and packets whose way through them is known.

use std::net::IpAddr;

use fwc::net::{Family, Hook, Packet, PerFamily, State, TcpFlags, Translated};
use libtest_mimic::{Completion, Trial};

use crate::counters::Verdict::{self, Accept, Drop, Reject};
use crate::environment::{kernel_test, with_lab};
use crate::lab::Lab;
use crate::support::tools::Backend;

/// One test for each backend.
pub fn all() -> Vec<Trial> {
    Backend::ALL
        .map(|backend| {
            kernel_test(format!("lab::{backend}"), backend, move || {
                let devices = ["eth0", "eth1"].map(str::to_owned);
                with_lab(backend, &devices, run)?;
                Ok(Completion::Completed)
            })
        })
        .into()
}

/// `HL` stands for the family's match of the hop limit.
const RULES: &str = "\
*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp --dport 99 -j DROP
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:ASIDE - [0:0]
-A INPUT -p tcp --dport 1 -j ASIDE
-A INPUT -p tcp --dport 1 -j REJECT
-A INPUT -m mark --mark 0x10/0xff -j ACCEPT
-A INPUT -m mac --mac-source 02:00:5e:10:00:01 -j ACCEPT
-A INPUT -m HL 77 -j ACCEPT
-A INPUT -p tcp --tcp-flags ALL ACK,PSH -j ACCEPT
-A INPUT -p 47 -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m conntrack --ctstate RELATED -j ACCEPT
-A INPUT -p udp -m conntrack --ctstate RELATED -j ACCEPT
-A INPUT -p sctp --dport 6 -m conntrack --ctstate NEW -j ACCEPT
-A INPUT -p udplite -m multiport --dports 6 -m conntrack --ctstate NEW -j ACCEPT
-A FORWARD -m HL 9 -j DROP
-A FORWARD -i eth0 -o eth1 -p udp -j DROP
-A OUTPUT -o eth1 -m conntrack --ctstate INVALID -j DROP
-A OUTPUT -o lo -m mark --mark 7 -j DROP
-A OUTPUT -o eth0 -m conntrack --ctstate UNTRACKED -j DROP
-A ASIDE -i eth1 -j DROP
-A ASIDE -p tcp --sport 5 -j RETURN
-A ASIDE -i eth0 -j ACCEPT
COMMIT
";

fn run(lab: &mut Lab) -> Result<(), String> {
    lab.load(&PerFamily {
        v4: RULES.replace("-m HL", "-m ttl --ttl-eq"),
        v6: RULES.replace("-m HL", "-m hl --hl-eq"),
    })?;
    for family in Family::ALL {
        for (what, packet, verdict, rules) in packets(family) {
            let judgement = lab
                .judge(&packet)
                .map_err(|error| format!("{family}, {what}: {error}"))?;
            if (judgement.verdict, judgement.matched.len()) != (verdict, rules) {
                return Err(format!("{family}, {what}: {judgement:?}"));
            }
        }
    }
    // A state that cannot be had is an error, not a verdict.
    let impossible = Packet {
        protocol: 47,
        state: State::Invalid,
        ..tcp(Family::V4, 1)
    };
    match lab.judge(&impossible) {
        Err(error) if error.contains("INVALID") => Ok(()),
        other => Err(format!("a gre packet that is INVALID: {other:?}")),
    }
}

fn address(family: Family, v4: &str, v6: &str) -> IpAddr {
    let text = match family {
        Family::V4 => v4,
        Family::V6 => v6,
    };
    text.parse().expect("an address")
}

fn tcp(family: Family, port: u16) -> Packet {
    Packet {
        family,
        hook: Hook::Input,
        in_device: Some("eth0".to_owned()),
        out_device: None,
        source: address(family, "198.51.100.7", "2001:db8:bad::7"),
        destination: address(family, "192.0.2.1", "2001:db8::1"),
        protocol: 6,
        source_port: Some(40000),
        destination_port: Some(port),
        icmp: None,
        tcp_flags: Some(TcpFlags::SYN),
        state: State::New,
        hop_limit: 64,
        mark: 0,
        mac: None,
        translated: Translated::default(),
    }
}

/// What it is, the packet, the verdict, and how many rules and policies count it.
fn packets(family: Family) -> Vec<(&'static str, Packet, Verdict, usize)> {
    let input = |port| tcp(family, port);
    let output = |device: &str| Packet {
        hook: Hook::Output,
        in_device: None,
        out_device: Some(device.to_owned()),
        ..input(1)
    };
    let of_protocol = |protocol| Packet {
        protocol,
        tcp_flags: None,
        ..input(6)
    };
    let group = |v4: &str, v6: &str| address(family, v4, v6);
    let forward = || Packet {
        hook: Hook::Forward,
        out_device: Some("eth1".to_owned()),
        ..input(1)
    };
    vec![
        ("the policy", input(2), Drop, 1),
        ("a drop in the raw table", input(99), Drop, 1),
        ("a chain that accepts", input(1), Accept, 2),
        (
            "a chain that drops",
            Packet {
                in_device: Some("eth1".to_owned()),
                ..input(1)
            },
            Drop,
            2,
        ),
        (
            "a chain that returns, then a reject",
            Packet {
                source_port: Some(5),
                ..input(1)
            },
            Reject,
            3,
        ),
        (
            "a mark",
            Packet {
                mark: 0x110,
                ..input(2)
            },
            Accept,
            1,
        ),
        (
            "another mark",
            Packet {
                mark: 0x11,
                ..input(2)
            },
            Drop,
            1,
        ),
        (
            "a mac",
            Packet {
                mac: Some([2, 0, 0x5e, 0x10, 0, 1]),
                ..input(2)
            },
            Accept,
            1,
        ),
        (
            "a hop limit",
            Packet {
                hop_limit: 77,
                ..input(2)
            },
            Accept,
            1,
        ),
        (
            "flags",
            Packet {
                tcp_flags: Some(TcpFlags(0x18)),
                ..input(2)
            },
            Accept,
            1,
        ),
        (
            "established gre",
            Packet {
                protocol: 47,
                state: State::Established,
                source_port: None,
                destination_port: None,
                tcp_flags: None,
                ..input(2)
            },
            Accept,
            1,
        ),
        (
            "related tcp",
            Packet {
                state: State::Related,
                ..input(2)
            },
            Accept,
            1,
        ),
        (
            "related udp",
            Packet {
                protocol: 17,
                tcp_flags: None,
                state: State::Related,
                ..input(2)
            },
            Accept,
            1,
        ),
        (
            "multicast",
            Packet {
                protocol: 17,
                tcp_flags: None,
                destination: group("224.0.0.251", "ff02::fb"),
                ..input(5353)
            },
            Drop,
            1,
        ),
        ("sctp", of_protocol(132), Accept, 1),
        ("udplite", of_protocol(136), Accept, 1),
        (
            "sending to neighbours",
            Packet {
                protocol: 17,
                tcp_flags: None,
                destination: group("224.0.0.251", "ff02::fb"),
                ..output("eth1")
            },
            Accept,
            1,
        ),
        ("forwarding", forward(), Accept, 1),
        (
            "a hop limit, forwarded",
            Packet {
                hop_limit: 9,
                ..forward()
            },
            Drop,
            1,
        ),
        (
            "udp, forwarded",
            Packet {
                protocol: 17,
                tcp_flags: None,
                ..forward()
            },
            Drop,
            1,
        ),
        ("sending", output("eth0"), Accept, 1),
        (
            "sending untracked",
            Packet {
                state: State::Untracked,
                ..output("eth0")
            },
            Drop,
            1,
        ),
        (
            "sending what is invalid",
            Packet {
                state: State::Invalid,
                ..output("eth1")
            },
            Drop,
            1,
        ),
        ("sending on lo", output("lo"), Accept, 1),
        (
            "sending on lo, marked",
            Packet {
                mark: 7,
                ..output("lo")
            },
            Drop,
            1,
        ),
    ]
}
