//! Packets that rules see only where a host is set up in a certain way, and some that they see in front of a check only.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::super::Test;
use super::super::namespace::{Backend, Namespace};
use super::super::support::namespace::Namespace as Net;
use super::super::support::network::{End, link};
use super::{Result, load_text, text};

pub const TESTS: &[(&str, Test)] = &[
    (
        "fact_route_localnet_shows_loopback_addresses_on_other_devices",
        route_localnet_shows_loopback_addresses_on_other_devices,
    ),
    (
        "fact_a_source_that_routing_refuses_was_in_prerouting",
        a_source_that_routing_refuses_was_in_prerouting,
    ),
    (
        "fact_a_route_by_lo_forwards_to_lo",
        a_route_by_lo_forwards_to_lo,
    ),
    (
        "fact_a_bridge_hands_frames_on_with_any_source",
        a_bridge_hands_frames_on_with_any_source,
    ),
    (
        "fact_packets_to_own_addresses_leave_by_lo",
        packets_to_own_addresses_leave_by_lo,
    ),
];

const HOST: &str = "10.96.0.1";

/// A host and one that talks to it; neither believes or refuses a source by the way that it came.
fn pair(backend: Backend) -> std::result::Result<(Namespace, Namespace), String> {
    let (host, client) = (Namespace::new(backend), Namespace::new(backend));
    link(
        &End(host.net(), "eth0", &["10.96.0.1/24"]),
        &End(client.net(), "eth0", &["10.96.0.2/24"]),
    )?;
    for net in [host.net(), client.net()] {
        net.sysctl(&[
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/eth0/rp_filter", "0"),
        ])?;
    }
    Ok((host, client))
}

/// What this host sends gets a loopback source. It knows the other end's link address before: nobody answers a question for it
/// that comes from a loopback address.
fn lie(host: &Namespace, other: &str) -> std::result::Result<(), String> {
    host.net()
        .run("ping", &["-c", "1", "-w", "20", other], "")?;
    let rule = "-A POSTROUTING -o eth0 -p udp -j SNAT --to-source 127.0.0.1";
    load_text(host, &[], &text("nat", &[rule])).expect(0);
    Ok(())
}

/// How many packets the only rule of a chain has counted.
fn counted(host: &Namespace, chain: &str) -> usize {
    let saved = host.saved_family("iptables");
    let rule = saved
        .lines()
        .find(|line| line.contains(&format!("-A {chain} ")));
    let count = rule.and_then(|rule| rule.strip_prefix('[')?.split_once(':'));
    count.and_then(|(count, _)| count.parse().ok()).unwrap_or(0)
}

/// Sends datagrams until something is so; whether it came to be.
fn send_until(from: &Net, address: &str, so: impl Fn() -> bool) -> bool {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        from.enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            let _ = socket.send_to(b"x", (address, 9));
        });
        if so() {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn route_localnet_shows_loopback_addresses_on_other_devices(backend: Backend) -> Result {
    let (host, client) = pair(backend)?;
    let seen = "-A PREROUTING -i eth0 -p udp -m udp --dport 9";
    let input = "-A INPUT -d 127.0.0.0/8 -i eth0 -p udp";
    let to_loopback =
        "-A PREROUTING -i eth0 -p udp -m udp --dport 9 -j DNAT --to-destination 127.0.0.1";
    load_text(&host, &[], &text("raw", &[seen])).expect(0);
    load_text(&host, &[], &text("nat", &[to_loopback])).expect(0);
    load_text(&host, &[], &text("filter", &[input])).expect(0);
    host.net()
        .sysctl(&[("ipv4/conf/eth0/route_localnet", "0")])?;
    assert!(send_until(client.net(), HOST, || counted(
        &host,
        "PREROUTING"
    ) > 2));
    assert_eq!(counted(&host, "INPUT"), 0);
    host.net()
        .sysctl(&[("ipv4/conf/eth0/route_localnet", "1")])?;
    assert!(send_until(client.net(), HOST, || counted(&host, "INPUT") > 0));
    Ok(())
}

fn a_source_that_routing_refuses_was_in_prerouting(backend: Backend) -> Result {
    let (host, client) = pair(backend)?;
    lie(&client, HOST)?;
    let rule = |chain: &str| format!("-A {chain} -s 127.0.0.0/8 -i eth0 -p udp");
    load_text(&host, &[], &text("raw", &[&rule("PREROUTING")])).expect(0);
    load_text(&host, &[], &text("filter", &[&rule("INPUT")])).expect(0);
    assert!(send_until(client.net(), HOST, || counted(
        &host,
        "PREROUTING"
    ) > 2));
    assert_eq!(counted(&host, "INPUT"), 0);
    Ok(())
}

fn a_route_by_lo_forwards_to_lo(backend: Backend) -> Result {
    let (host, client) = pair(backend)?;
    host.net().sysctl(&[("ipv4/ip_forward", "1")])?;
    host.net().ip(["route add 10.97.0.0/24 dev lo"])?;
    client
        .net()
        .ip([format!("route add 10.97.0.0/24 via {HOST}")])?;
    load_text(&host, &[], &text("filter", &["-A FORWARD -o lo -p udp"])).expect(0);
    assert!(send_until(client.net(), "10.97.0.1", || counted(
        &host, "FORWARD"
    ) > 0));
    Ok(())
}

fn a_bridge_hands_frames_on_with_any_source(backend: Backend) -> Result {
    let bridge = Namespace::new(backend);
    let (left, right) = (Namespace::new(backend), Net::new()?);
    link(
        &End(bridge.net(), "left", &[]),
        &End(left.net(), "eth0", &["10.96.0.2/24"]),
    )?;
    link(
        &End(bridge.net(), "right", &[]),
        &End(&right, "eth0", &["10.96.0.3/24"]),
    )?;
    bridge.net().ip([
        "link add br0 type bridge",
        "link set left master br0",
        "link set right master br0",
    ])?;
    bridge.net().set_up(&["br0"])?;
    lie(&left, "10.96.0.3")?;
    let rule = "-A FORWARD -s 127.0.0.0/8 -p udp";
    load_text(&bridge, &[], &text("filter", &[rule])).expect(0);
    bridge
        .net()
        .sysctl(&[("bridge/bridge-nf-call-iptables", "1")])?;
    assert!(send_until(left.net(), "10.96.0.3", || counted(
        &bridge, "FORWARD"
    ) > 0));
    Ok(())
}

fn packets_to_own_addresses_leave_by_lo(backend: Backend) -> Result {
    let (host, _client) = pair(backend)?;
    let rule = format!("-A OUTPUT -d {HOST}/32 -o lo -p udp");
    load_text(&host, &[], &text("filter", &[&rule])).expect(0);
    assert!(send_until(host.net(), HOST, || counted(&host, "OUTPUT") > 0));
    Ok(())
}
