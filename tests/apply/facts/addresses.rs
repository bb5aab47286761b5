//! What rules see of fragments, and what the kernel calls an address.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::super::Test;
use super::super::namespace::{Backend, Namespace};
use super::super::support::namespace::Namespace as Net;
use super::super::support::network::{End, link};
use super::{Result, load_text, saved};

pub const TESTS: &[(&str, Test)] = &[
    (
        "fact_later_fragments_come_by_where_nothing_is_tracked",
        later_fragments_come_by_where_nothing_is_tracked,
    ),
    (
        "fact_an_address_has_one_type_in_ipv4",
        an_address_has_one_type_in_ipv4,
    ),
    (
        "fact_types_are_questions_in_ipv6",
        types_are_questions_in_ipv6,
    ),
];

/// How many packets each rule with such an end has counted, in the order of `iptables-save`.
fn counted(saved: &str, end: &str) -> Vec<u64> {
    let rules = saved.lines().filter(|line| line.ends_with(end));
    rules
        .filter_map(|line| line.strip_prefix('[')?.split(':').next()?.parse().ok())
        .collect()
}

fn later_fragments_come_by_where_nothing_is_tracked(backend: Backend) -> Result {
    for tracks in [
        None,
        Some("-A PREROUTING -m conntrack --ctstate INVALID"),
        Some("-A PREROUTING -m socket"),
    ] {
        let router = Namespace::new(backend);
        let (client, server) = (Net::new()?, Net::new()?);
        link(
            &End(router.net(), "eth0", &["10.96.0.1/24"]),
            &End(&client, "eth0", &["10.96.0.2/24"]),
        )?;
        link(
            &End(router.net(), "eth1", &["10.97.0.1/24"]),
            &End(&server, "eth0", &["10.97.0.2/24"]),
        )?;
        router.net().sysctl(&[("net.ipv4.ip_forward", "1")])?;
        client.ip(["route add default via 10.96.0.1"])?;
        let mut text = "*mangle\n".to_owned();
        text.extend(tracks.map(|rule| format!("{rule}\n")));
        text += "-A PREROUTING -f\nCOMMIT\n*filter\n-A INPUT -f\n-A FORWARD -f\n";
        text += "-A INPUT ! -f -p udp -m udp --dport 9\n-A FORWARD ! -f -p udp -m udp --dport 9\nCOMMIT\n";
        load_text(&router, &[], &text).expect(0);
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            client.enter(|| {
                let socket = UdpSocket::bind("10.96.0.2:0").unwrap();
                for to in ["10.96.0.1:9", "10.97.0.2:9"] {
                    socket.send_to(&[0; 3000], to).unwrap();
                }
            });
            if counted(&saved(&router), "--dport 9")
                .iter()
                .all(|packets| *packets > 0)
            {
                break;
            }
            assert!(Instant::now() < until, "nothing came: {}", saved(&router));
            std::thread::sleep(Duration::from_millis(50));
        }
        let all = saved(&router);
        let of = |chain: &str| counted(&all, &format!("-A {chain} -f")).iter().sum::<u64>();
        assert_eq!(of("INPUT"), 0, "{all}");
        for chain in ["PREROUTING", "FORWARD"] {
            assert_eq!(of(chain) > 0, tracks.is_none(), "{tracks:?} {chain}: {all}");
        }
    }
    Ok(())
}

const TYPES_V4: [&str; 5] = ["UNICAST", "LOCAL", "BROADCAST", "MULTICAST", "ANYCAST"];

/// The types of an address, of those asked for.
fn types(ns: &Namespace, tool: &str, types: &[&str], port: &str, to: &str) -> Vec<String> {
    let rules: Vec<String> = types
        .iter()
        .map(|types| {
            format!("-A OUTPUT -p udp -m udp --dport {port} -m addrtype --dst-type {types}")
        })
        .collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let text = super::text("raw", &rules);
    let program = format!("{tool}-{}-restore", ns.backend);
    ns.run(&program, &[], &text).expect(0);
    ns.net().enter(|| {
        let any = if tool == "iptables" {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.send_to(b"x", format!("{to}:{port}")).unwrap();
    });
    let saved = ns.saved_family(tool);
    let holds = |types: &&&str| counted(&saved, &format!("--dst-type {types}")) == [1];
    types
        .iter()
        .filter(holds)
        .map(ToString::to_string)
        .collect()
}

fn an_address_has_one_type_in_ipv4(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let other = Net::new()?;
    link(
        &End(ns.net(), "eth0", &["10.96.0.1/24"]),
        &End(&other, "eth0", &["10.96.0.2/24"]),
    )?;
    ns.net().ip(["route add default via 10.96.0.2"])?;
    for (to, kind) in [
        ("10.96.0.1", "LOCAL"),
        ("127.0.0.1", "LOCAL"),
        ("10.96.0.255", "BROADCAST"),
        ("255.255.255.255", "BROADCAST"),
        ("224.0.0.1", "MULTICAST"),
        ("239.255.255.255", "MULTICAST"),
        ("10.96.0.2", "UNICAST"),
        ("198.51.100.7", "UNICAST"),
        ("240.0.0.1", "UNICAST"),
    ] {
        assert_eq!(types(&ns, "iptables", &TYPES_V4, "9", to), [kind], "{to}");
    }
    Ok(())
}

fn types_are_questions_in_ipv6(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let other = Net::new()?;
    link(
        &End(ns.net(), "eth0", &["2001:db8::1/64"]),
        &End(&other, "eth0", &["2001:db8::2/64"]),
    )?;
    ns.net().ip(["-6 route add default via 2001:db8::2"])?;
    for refused in ["BROADCAST", "BLACKHOLE", "PROHIBIT", "THROW"] {
        let rule = format!("-A OUTPUT -m addrtype --dst-type {refused}");
        let text = super::text("raw", &[&rule]);
        super::refused(ns.run(&format!("ip6tables-{backend}-restore"), &[], &text));
    }
    let asked = [
        "UNICAST",
        "LOCAL",
        "MULTICAST",
        "UNSPEC",
        "UNICAST,LOCAL",
        "UNICAST,MULTICAST",
    ];
    for (to, kinds) in [
        ("[2001:db8::1]", &["UNICAST", "LOCAL", "UNICAST,LOCAL"][..]),
        ("[::1]", &["UNICAST", "LOCAL", "UNICAST,LOCAL"][..]),
        ("[2001:db8::2]", &["UNICAST"][..]),
        ("[2001:db8:ffff::1]", &["UNICAST"][..]),
        ("[ff0e::1]", &["MULTICAST"][..]),
    ] {
        assert_eq!(types(&ns, "ip6tables", &asked, "9", to), kinds, "{to}");
    }
    Ok(())
}
