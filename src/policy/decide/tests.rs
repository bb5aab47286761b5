use std::net::IpAddr;

use super::*;
use crate::diag::Sink;
use crate::files::Access;
use crate::net::{Family, State, TcpFlags, Translated};
use crate::source::SourceMap;

/// A policy of these lines; `version` is added.
fn policy(text: &str) -> Policy {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fwc.toml");
    std::fs::write(&path, format!("version = 1\n{text}")).unwrap();
    let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
    let policy = crate::policy::load(&path, Access::Read, &mut sources, &mut sink);
    if let Some(policy) = &policy {
        crate::resolve::resolve(policy, &mut sink);
    }
    assert!(!sink.has_errors(), "{text}\n{sink:?}");
    policy.unwrap()
}

/// A new packet in INPUT from outside.
fn packet(family: Family, protocol: u8) -> Packet {
    let address = |v4: &str, v6: &str| -> IpAddr {
        match family {
            Family::V4 => v4.parse().unwrap(),
            Family::V6 => v6.parse().unwrap(),
        }
    };
    Packet {
        family,
        hook: Hook::Input,
        in_device: Some("eth0".into()),
        out_device: None,
        source: address("198.51.100.7", "2001:db8:bad::7"),
        destination: address("192.0.2.1", "2001:db8::1"),
        protocol,
        source_port: None,
        destination_port: None,
        icmp: None,
        tcp_flags: (protocol == 6).then_some(TcpFlags::SYN),
        state: State::New,
        hop_limit: 64,
        mark: 0,
        mac: None,
        translated: Translated::default(),
    }
}

fn tcp(family: Family, port: u16) -> Packet {
    Packet {
        source_port: Some(40000),
        destination_port: Some(port),
        ..packet(family, 6)
    }
}

fn udp(family: Family, from: u16, to: u16) -> Packet {
    Packet {
        source_port: Some(from),
        destination_port: Some(to),
        ..packet(family, 17)
    }
}

fn icmp(family: Family, kind: u8) -> Packet {
    let protocol = match family {
        Family::V4 => 1,
        Family::V6 => 58,
    };
    Packet {
        icmp: Some((kind, 0)),
        ..packet(family, protocol)
    }
}

fn through(packet: Packet) -> Packet {
    Packet {
        hook: Hook::Forward,
        out_device: Some("eth1".into()),
        ..packet
    }
}

fn leaving(packet: Packet) -> Packet {
    Packet {
        hook: Hook::Output,
        in_device: None,
        out_device: Some("eth0".into()),
        ..packet
    }
}

fn as_state(state: State, packet: Packet) -> Packet {
    Packet { state, ..packet }
}

fn decided(policy: &Policy, packet: &Packet) -> (PolicyVerdict, DecidedBy) {
    let decision = decide(policy, packet);
    (decision.verdict, decision.by)
}

const V4: Family = Family::V4;
const V6: Family = Family::V6;

#[test]
fn a_chain_without_rules_and_with_default_accept_has_no_preamble() {
    let policy = policy(
        "[[rules]]\naction = \"drop\"\nfrom = \"host\"\nservice = \"25/tcp\"\nenabled = false\n[[rules]]\nservice = \"ssh\"",
    );
    let invalid = as_state(State::Invalid, tcp(V4, 80));
    let (by_default, by_invalid) = (
        (PolicyVerdict::Accept, DecidedBy::Default),
        (PolicyVerdict::Drop, DecidedBy::Invalid),
    );
    // The only rule for OUTPUT is disabled.
    assert_eq!(decided(&policy, &leaving(invalid.clone())), by_default);
    assert_eq!(decided(&policy, &invalid), by_invalid);
    // FORWARD denies.
    assert_eq!(decided(&policy, &through(invalid)), by_invalid);
}

#[test]
fn the_preamble_stands_in_both_families_when_either_has_rules() {
    let policy = policy(
        "[defaults]\ninput = \"accept\"\n[[rules]]\naction = \"drop\"\nsource = \"198.51.100.7\"",
    );
    for family in Family::ALL {
        assert_eq!(
            decided(&policy, &as_state(State::Invalid, tcp(family, 80))),
            (PolicyVerdict::Drop, DecidedBy::Invalid)
        );
    }
    assert_eq!(
        decided(&policy, &tcp(V6, 80)),
        (PolicyVerdict::Accept, DecidedBy::Default)
    );
}

#[test]
fn loopback_is_first_and_never_forwarded() {
    let policy = policy("[defaults]\noutput = \"drop\"\n[[rules]]\nservice = \"ssh\"");
    let on = |device: &str, packet: Packet| Packet {
        in_device: packet.in_device.map(|_| device.into()),
        out_device: packet.out_device.map(|_| device.into()),
        ..packet
    };
    let invalid = as_state(State::Invalid, tcp(V4, 9));
    for packet in [invalid.clone(), leaving(invalid)] {
        assert_eq!(
            decided(&policy, &on("lo", packet.clone())),
            (PolicyVerdict::Accept, DecidedBy::Loopback)
        );
        assert_eq!(
            decide(&policy, &on("lo0", packet)).verdict,
            PolicyVerdict::Drop
        );
    }
    assert_eq!(
        decided(&policy, &on("lo", through(tcp(V4, 9)))),
        (PolicyVerdict::Drop, DecidedBy::Default)
    );
}

#[test]
fn ipv6_essentials_type_by_type() {
    let policy = policy("[[rules]]\nservice = \"ssh\"");
    for kind in 0..=255 {
        let listed = matches!(kind, 1..=4 | 128..=136 | 141..=143 | 148 | 149 | 151..=153);
        let from_the_link = matches!(kind, 133..=136 | 141 | 142 | 148 | 149);
        for hop_limit in [1, 64, 254, 255] {
            for state in [State::New, State::Untracked, State::Invalid] {
                let packet = Packet {
                    hop_limit,
                    state,
                    ..icmp(V6, kind)
                };
                let passes = listed && (hop_limit == 255 || !from_the_link);
                assert_eq!(
                    decide(&policy, &packet).verdict == PolicyVerdict::Accept,
                    passes,
                    "{packet:?}"
                );
            }
        }
    }
}

#[test]
fn the_four_words_of_icmp() {
    let with = |word: &str| {
        let services = "[services]\nnd = { icmpv6 = [\"133\", \"134\", \"135\", \"136\"] }";
        policy(&format!(
            "[defaults]\nicmp = \"{word}\"\n{services}\n[[rules]]\nservice = \"nd\""
        ))
    };
    // (packet, then whether it passes under essential, essential-no-ping, all, none)
    let igmp = |state| as_state(state, packet(V4, 2));
    let table = [
        (icmp(V4, 8), [true, false, true, false]),
        (icmp(V4, 3), [true, true, true, false]),
        (icmp(V4, 11), [true, true, true, false]),
        (icmp(V4, 12), [true, true, true, false]),
        (icmp(V4, 0), [false, false, true, false]),
        (icmp(V4, 13), [false, false, true, false]),
        (
            as_state(State::Invalid, icmp(V4, 3)),
            [true, true, true, false],
        ),
        (
            as_state(State::Untracked, icmp(V4, 3)),
            [true, true, true, false],
        ),
        (igmp(State::New), [true, true, true, false]),
        (igmp(State::Invalid), [true, true, true, false]),
        (packet(V6, 2), [false; 4]),
        (icmp(V6, 128), [true, false, true, false]),
        (icmp(V6, 129), [true, false, true, false]),
        (icmp(V6, 130), [true, true, true, false]),
        (icmp(V6, 137), [false, false, true, false]),
        (icmp(V6, 148), [false, false, true, false]),
        (through(icmp(V4, 8)), [false; 4]),
        (through(icmp(V4, 3)), [false; 4]),
        (through(icmp(V6, 2)), [false; 4]),
        (through(igmp(State::New)), [false; 4]),
    ];
    for (at, word) in ["essential", "essential-no-ping", "all", "none"]
        .iter()
        .enumerate()
    {
        let policy = with(word);
        for (packet, passes) in &table {
            let found = decided(&policy, packet);
            assert_eq!(
                found.0 == PolicyVerdict::Accept,
                passes[at],
                "{word} {packet:?}"
            );
        }
    }
}

#[test]
fn related_errors_pass_forward_without_established() {
    let with = |icmp: &str| {
        let defaults = format!("[defaults]\nestablished = false\nicmp = \"{icmp}\"");
        let nd = "[[rules]]\nservice = \"nd\"\n[services]\nnd = { icmpv6 = [\"133\", \"134\", \"135\", \"136\"] }";
        policy(&format!("{defaults}\n{nd}"))
    };
    let by_icmp = (PolicyVerdict::Accept, DecidedBy::Icmp);
    let denied = (PolicyVerdict::Drop, DecidedBy::Default);
    for (family, errors, others) in [
        (V4, [3, 11, 12, 12], [8, 5]),
        (V6, [1, 2, 3, 4], [128, 135]),
    ] {
        let related = |kind| through(as_state(State::Related, icmp(family, kind)));
        for kind in errors {
            for word in ["essential", "essential-no-ping", "all"] {
                assert_eq!(
                    decided(&with(word), &related(kind)),
                    by_icmp,
                    "{family} {kind}"
                );
            }
            assert_eq!(decided(&with("none"), &related(kind)), denied);
        }
        for kind in others {
            assert_eq!(decided(&with("all"), &related(kind)), denied);
        }
    }
}

#[test]
fn an_output_that_denies_lets_the_essentials_and_the_questions_leave() {
    let denying = policy("[defaults]\noutput = \"reject\"\n[[rules]]\nservice = \"ssh\"");
    let accepting = policy("[[rules]]\naction = \"drop\"\nfrom = \"host\"");
    let discovery = Packet {
        hop_limit: 255,
        ..icmp(V6, 135)
    };
    for (packet, by) in [
        (icmp(V4, 8), DecidedBy::Icmp),
        (packet(V4, 2), DecidedBy::Icmp),
        (discovery, DecidedBy::Icmp),
        (icmp(V6, 143), DecidedBy::Icmp),
        (udp(V4, 68, 67), DecidedBy::DhcpClient),
        (udp(V6, 546, 547), DecidedBy::DhcpClient),
    ] {
        let packet = leaving(packet);
        assert_eq!(decided(&denying, &packet), (PolicyVerdict::Accept, by));
        assert_eq!(
            decided(&accepting, &packet),
            (PolicyVerdict::Drop, DecidedBy::Rule(0))
        );
    }
    for packet in [icmp(V6, 135), udp(V4, 67, 68), udp(V6, 547, 546)] {
        assert_eq!(
            decided(&denying, &leaving(packet)),
            (
                PolicyVerdict::Reject(RejectAnswer::PortUnreachable),
                DecidedBy::Default
            )
        );
    }
}

#[test]
fn dhcp_answers() {
    let policy = policy("[[rules]]\nservice = \"ssh\"");
    let to = |destination: &str, packet: Packet| Packet {
        destination: destination.parse().unwrap(),
        ..packet
    };
    let answers = [
        (udp(V4, 67, 68), true),
        (udp(V4, 68, 67), false),
        (udp(V4, 67, 69), false),
        (udp(V4, 547, 546), false),
        (to("fe80::1", udp(V6, 547, 546)), true),
        (to("febf:ffff::1", udp(V6, 547, 546)), true),
        (to("fec0::1", udp(V6, 547, 546)), false),
        (to("2001:db8::1", udp(V6, 547, 546)), false),
        (to("fe80::1", udp(V6, 67, 68)), false),
        (through(udp(V4, 67, 68)), false),
    ];
    for (packet, passes) in answers {
        assert_eq!(
            decide(&policy, &packet).verdict == PolicyVerdict::Accept,
            passes,
            "{packet:?}"
        );
    }
}

#[test]
fn logs_are_met_in_order_and_the_default_logs_last() {
    let policy = policy(
        "[log.audit]\nprefix = \"audit: \"\n\
         [[rules]]\naction = \"log\"\nservice = [\"ssh\", \"http\"]\n\
         [[rules]]\naction = \"log\"\nlog = \"audit\"\n\
         [[rules]]\nservice = \"ssh\"\nlog = true\n",
    );
    let logs = |packet: &Packet| -> Vec<String> {
        let logs = decide(&policy, packet).logs.into_iter();
        logs.map(|logged| logged.class).collect()
    };
    assert_eq!(logs(&tcp(V4, 22)), ["default", "audit", "default"]);
    assert_eq!(logs(&tcp(V6, 80)), ["default", "audit", "denied"]);
    assert_eq!(logs(&through(tcp(V4, 80))), ["denied"]);
    assert!(logs(&as_state(State::Invalid, tcp(V4, 22))).is_empty());
    assert!(logs(&leaving(tcp(V4, 22))).is_empty());
}

#[test]
fn answers_of_rejects() {
    let policy = policy(
        "[defaults]\ninput = \"reject\"\nreject-with = \"admin-prohibited\"\n\
         [[rules]]\naction = \"reject\"\nservice = \"22/tcp\"\nreject-with = \"default\"\n\
         [[rules]]\naction = \"reject\"\nservice = \"22/udp\"\nreject-with = \"default\"\n\
         [[rules]]\naction = \"reject\"\nservice = \"23/tcp\"\nreject-with = \"net-unreachable\"\n\
         [[rules]]\naction = \"reject\"\nservice = \"24/tcp\"\n",
    );
    for (packet, answer) in [
        (tcp(V4, 22), RejectAnswer::TcpReset),
        (udp(V6, 1, 22), RejectAnswer::PortUnreachable),
        (tcp(V6, 23), RejectAnswer::NetUnreachable),
        (tcp(V4, 24), RejectAnswer::AdminProhibited),
        (tcp(V4, 25), RejectAnswer::AdminProhibited),
    ] {
        assert_eq!(
            decide(&policy, &packet).verdict,
            PolicyVerdict::Reject(answer)
        );
    }
}

#[test]
fn a_negation_of_one_family_is_all_of_the_other() {
    let policy = policy(
        "[addresses]\noffice = { include = [\"203.0.113.0/24\"], exclude = [\"203.0.113.7\"] }\n\
         [[rules]]\nsource = \"!office\"\nscope = \"dual\"\nservice = \"http\"\n",
    );
    let from = |source: &str| {
        let family = if source.contains(':') { V6 } else { V4 };
        let packet = Packet {
            source: source.parse().unwrap(),
            ..tcp(family, 80)
        };
        decide(&policy, &packet).verdict
    };
    assert_eq!(from("203.0.113.6"), PolicyVerdict::Drop);
    assert_eq!(from("203.0.113.7"), PolicyVerdict::Accept);
    assert_eq!(from("203.0.114.0"), PolicyVerdict::Accept);
    assert_eq!(from("2001:db8::1"), PolicyVerdict::Accept);
}

#[test]
fn the_scope_of_an_interface_narrows_only_the_parts_that_name_it() {
    let policy = policy(
        "[interfaces]\nvpn = { device = \"wg+\", scope = \"ipv4\" }\nlan = \"eth0\"\n\
         [[rules]]\nfrom = [\"vpn\", \"lan\"]\nservice = \"ssh\"\n",
    );
    let over = |device: &str, family| {
        let packet = Packet {
            in_device: Some(device.into()),
            ..tcp(family, 22)
        };
        decide(&policy, &packet).verdict
    };
    assert_eq!(over("wg0", V4), PolicyVerdict::Accept);
    assert_eq!(over("wg0", V6), PolicyVerdict::Drop);
    assert_eq!(over("eth0", V6), PolicyVerdict::Accept);
}

#[test]
fn zones_ask_device_and_address() {
    let policy = policy(
        "[interfaces]\nlan = \"eth1\"\nvpn = { device = \"wg+\", scope = \"ipv4\" }\n\
         [zones]\nservers = { interfaces = [\"lan\", \"vpn\"], networks = [\"10.0.0.0/24\", \"fd00::/64\"] }\n\
         all = [\"servers\", \"vpn\"]\n\
         [[rules]]\nfrom = \"servers\"\nservice = \"ssh\"\n\
         [[rules]]\nfrom = \"all\"\nservice = \"http\"\n\
         [[rules]]\nfrom = \"lan\"\nto = \"servers\"\nservice = \"ssh\"\n",
    );
    let by = |device: &str, source: &str, port| {
        let family = if source.contains(':') { V6 } else { V4 };
        let packet = Packet {
            in_device: Some(device.into()),
            source: source.parse().unwrap(),
            ..tcp(family, port)
        };
        decided(&policy, &packet).1
    };
    assert_eq!(by("eth1", "10.0.0.7", 22), DecidedBy::Rule(0));
    assert_eq!(by("wg3", "10.0.0.7", 22), DecidedBy::Rule(0));
    assert_eq!(by("eth1", "fd00::7", 22), DecidedBy::Rule(0));
    // The scope of the interface, another network, another device.
    assert_eq!(by("wg3", "fd00::7", 22), DecidedBy::Default);
    assert_eq!(by("eth1", "10.0.1.7", 22), DecidedBy::Default);
    assert_eq!(by("eth0", "10.0.0.7", 22), DecidedBy::Default);
    // A zone in a zone, and an interface, which is a zone too.
    assert_eq!(by("wg3", "10.9.9.9", 80), DecidedBy::Rule(1));
    assert_eq!(by("eth1", "10.9.9.9", 80), DecidedBy::Default);
    // In `to` it is the out-device and the destination.
    let inside = |destination: &str| {
        let packet = Packet {
            in_device: Some("eth1".into()),
            out_device: Some("eth1".into()),
            destination: destination.parse().unwrap(),
            ..through(tcp(V4, 22))
        };
        decide(&policy, &packet).verdict
    };
    assert_eq!(inside("10.0.0.9"), PolicyVerdict::Accept);
    assert_eq!(inside("10.0.1.9"), PolicyVerdict::Drop);
}

#[test]
fn early_rules_stand_behind_loopback_and_before_everything_else() {
    let policy = policy(
        "[[rules]]\naction = \"drop\"\nservice = \"ssh\"\nstage = \"early\"\norder = \"last\"\n\
         [[rules]]\naction = \"reject\"\nsource = \"198.51.100.7\"\nstage = \"early\"\n\
         [[rules]]\nservice = \"http\"\norder = \"last\"\n\
         [[rules]]\naction = \"drop\"\nservice = \"http\"\nscope = \"ipv6\"\n",
    );
    let established = as_state(State::Established, tcp(V4, 22));
    assert_eq!(decided(&policy, &established).1, DecidedBy::Rule(1));
    let established = as_state(State::Established, tcp(V6, 22));
    assert_eq!(decided(&policy, &established).1, DecidedBy::Rule(0));
    let from_here = Packet {
        in_device: Some("lo".into()),
        ..tcp(V4, 22)
    };
    assert_eq!(decided(&policy, &from_here).1, DecidedBy::Loopback);
    assert_eq!(decided(&policy, &tcp(V6, 80)).1, DecidedBy::Rule(3));
    assert_eq!(decided(&policy, &icmp(V4, 8)).1, DecidedBy::Rule(1));
}

#[test]
fn beyond_a_limit_its_word_decides() {
    let policy = policy(
        "[defaults]\nreject-with = \"admin-prohibited\"\n\
         [[rules]]\nservice = \"21/tcp\"\nlimit = \"6/minute\"\n\
         [[rules]]\nservice = \"22/tcp\"\nlimit = { rate = \"6/minute\", over = \"reject\" }\nlog = true\n\
         [[rules]]\nservice = \"23/tcp\"\nlimit = { rate = \"6/minute\", over = \"continue\" }\nlog = true\n\
         [[rules]]\nservice = \"24/tcp\"\nconnections = { max = 2, over = \"reject\" }\n\
         [[rules]]\naction = \"drop\"\nservice = \"1-1024/tcp\"\n",
    );
    let used_up = |circumstance: Circumstance<'_>| match circumstance {
        Circumstance::WithinLimit(_) | Circumstance::WithinConnections(_) => false,
        other => other.usual(),
    };
    let reject = PolicyVerdict::Reject(RejectAnswer::AdminProhibited);
    for (port, verdict, rule, logs) in [
        (21, PolicyVerdict::Drop, 0, 0),
        (22, reject, 1, 1),
        (23, PolicyVerdict::Drop, 4, 0),
        (24, reject, 3, 0),
    ] {
        let within = decide(&policy, &tcp(V4, port));
        assert_eq!(within.verdict, PolicyVerdict::Accept, "{port}");
        let beyond = decide_when(&policy, &tcp(V4, port), &used_up);
        assert_eq!(
            (beyond.verdict, beyond.by),
            (verdict, DecidedBy::Rule(rule)),
            "{port}"
        );
        assert_eq!(beyond.logs.len(), logs, "{port}");
    }
}

#[test]
fn users_times_and_sets_are_circumstances() {
    let policy = policy(
        "[defaults]\noutput = \"drop\"\n[users]\nwww = 33\n\
         [addresses]\nbanned = { set = \"dynamic\" }\nlist = { include = \"203.0.113.0/24\", set = true }\n\
         [[rules]]\nfrom = \"host\"\nuser = \"www\"\n\
         [[rules]]\nservice = \"21/tcp\"\nexpires = 2037-03-31\n\
         [[rules]]\nservice = \"22/tcp\"\nschedule = { days = \"mon\" }\n\
         [[rules]]\nsource = { not = [\"banned\", \"list\"] }\nservice = \"23/tcp\"\nscope = \"ipv4\"\n\
         [[rules]]\nipset = \"crowdsec\"\nservice = \"24/tcp\"\nscope = \"ipv4\"\n",
    );
    let accepts = |packet: &Packet, holds: &dyn Fn(Circumstance<'_>) -> bool| {
        decide_when(&policy, packet, holds).verdict == PolicyVerdict::Accept
    };
    let out = leaving(tcp(V4, 80));
    assert!(accepts(&out, &|asked| matches!(
        asked,
        Circumstance::User(33)
    )));
    assert!(!accepts(&out, &|asked| matches!(
        asked,
        Circumstance::User(34)
    )));
    for (port, when) in [(21, true), (22, true), (23, false), (24, true)] {
        assert_eq!(accepts(&tcp(V4, port), &|_| true), when, "{port}");
        assert_eq!(accepts(&tcp(V4, port), &|_| false), !when, "{port}");
    }
    let listed = Packet {
        source: "203.0.113.9".parse().unwrap(),
        ..tcp(V4, 23)
    };
    assert!(!accepts(&listed, &|_| false));
}

/// The replies of untracked requests are the requests turned round: who was the source in the set is the destination.
#[test]
fn a_reply_passes_where_its_destination_is_in_the_set_of_the_rule() {
    let policy = policy(
        "[defaults]\noutput = \"drop\"\n\
         [[raw]]\ntype = \"notrack\"\nfrom = \"any\"\nto = \"host\"\nservice = \"53/udp\"\n\
         [[rules]]\nservice = \"53/udp\"\nipset = \"clients\"\nscope = \"ipv4\"\n",
    );
    let request = as_state(State::Untracked, udp(V4, 40000, 53));
    let reply = leaving(as_state(State::Untracked, udp(V4, 53, 40000)));
    for (packet, side) in [(&request, true), (&reply, false)] {
        for asked_of_source in [true, false] {
            let holds = |asked: Circumstance<'_>| {
                matches!(asked, Circumstance::InForeignSet { name: "clients", ends }
                    if ends.from_source() == [asked_of_source])
            };
            let verdict = decide_when(&policy, packet, &holds).verdict;
            assert_eq!(
                verdict == PolicyVerdict::Accept,
                asked_of_source == side,
                "{packet:?}"
            );
        }
    }
}

/// A member with a port has the one that the packet goes to. Of a reply it is the one that the reply comes from.
#[test]
fn a_member_has_the_port_that_the_request_goes_to() {
    let policy = policy(
        "[defaults]\noutput = \"drop\"\n\
         [addresses]\nclients = { set = \"dynamic\", type = \"address,port\" }\n\
         servers = { set = \"dynamic\", type = \"net,port\" }\n\
         [[raw]]\ntype = \"notrack\"\nfrom = \"any\"\nto = \"host\"\nservice = \"53/udp\"\n\
         [[rules]]\nservice = \"53/udp\"\nsource = \"clients\"\n\
         [[rules]]\nfrom = \"host\"\ndestination = \"servers\"\n",
    );
    let request = as_state(State::Untracked, udp(V4, 40000, 53));
    let reply = leaving(as_state(State::Untracked, udp(V4, 53, 40000)));
    let asked = leaving(udp(V4, 40000, 123));
    for (packet, set, wanted) in [
        (&request, "clients", [true, false]),
        (&reply, "clients", [false, true]),
        (&asked, "servers", [false, false]),
    ] {
        for ends in [[true, true], [true, false], [false, true], [false, false]] {
            let holds = |asked: Circumstance<'_>| {
                matches!(asked, Circumstance::InSet { name, ends: these }
                    if name == set && these.from_source() == ends)
            };
            let verdict = decide_when(&policy, packet, &holds).verdict;
            let accepts = verdict == PolicyVerdict::Accept;
            assert_eq!(accepts, ends == wanted, "{packet:?} {ends:?}");
        }
    }
}

#[test]
fn a_source_of_another_interface_is_dropped_before_everything() {
    let policy = policy(
        "[defaults]\nantispoof = true\n\
         [interfaces]\nlan = { device = \"eth1\", networks = [\"10.0.0.0/8\", \"fd00::/8\"] }\n\
         dmz = { device = \"eth2\", networks = \"10.1.0.0/16\" }\nwan = \"eth0\"\n[[rules]]\nservice = \"ssh\"\n",
    );
    let by = |device: &str, source: &str| {
        let family = if source.contains(':') { V6 } else { V4 };
        let packet = Packet {
            in_device: Some(device.into()),
            source: source.parse().unwrap(),
            state: State::Established,
            ..tcp(family, 22)
        };
        let input = decided(&policy, &packet).1;
        let forward = decided(&policy, &through(packet)).1;
        let spoofed = DecidedBy::Antispoof;
        assert_eq!(input == spoofed, forward == spoofed);
        input
    };
    assert_eq!(by("eth1", "10.2.0.1"), DecidedBy::Established);
    assert_eq!(by("eth2", "10.1.0.1"), DecidedBy::Established);
    assert_eq!(by("eth0", "198.51.100.7"), DecidedBy::Established);
    assert_eq!(by("eth1", "198.51.100.7"), DecidedBy::Established);
    // The longest prefix decides; devices that nobody names are asked too.
    for (device, source) in [
        ("eth1", "10.1.0.1"),
        ("eth2", "10.2.0.1"),
        ("eth0", "10.2.0.1"),
        ("ppp7", "fd00::1"),
    ] {
        assert_eq!(
            by(device, source),
            DecidedBy::Antispoof,
            "{device} {source}"
        );
    }
    assert_eq!(by("lo", "10.2.0.1"), DecidedBy::Loopback);
    let tunnelled = Packet {
        source: "10.2.0.1".parse().unwrap(),
        ..tcp(V4, 22)
    };
    let by_ipsec = |asked: Circumstance<'_>| matches!(asked, Circumstance::FromIpsec);
    assert_eq!(
        decide_when(&policy, &tunnelled, &by_ipsec).verdict,
        PolicyVerdict::Accept
    );
}
