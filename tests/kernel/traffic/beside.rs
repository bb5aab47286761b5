//! `examples/docker-host` and `examples/kubernetes-node`, applied on hosts where others forward: what these let through goes on
//! as before, what the policy closes is closed, and not a line of theirs changes. The rules of the others are made by hand, as
//! Docker 28 and kube-proxy write them for one container and one pod.

use std::path::Path;

use fwc::net::Family;

use super::Service::{Tcp, Udp};
use super::{ask, star};
use crate::support::namespace::Namespace;
use crate::support::network::Reply::{Answer, Silence};
use crate::support::network::{End, link};
use crate::support::tools::Backend;
use crate::translated::call;

const DOCKER_V4: &str = "\
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 5432 -j DNAT --to-destination 172.17.0.2:5432
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-BRIDGE - [0:0]
:DOCKER-CT - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-USER - [0:0]
:f2b-sshd - [0:0]
-A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 5432 -j ACCEPT
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A f2b-sshd -s 203.0.113.66/32 -j REJECT --reject-with icmp-port-unreachable
-A f2b-sshd -j RETURN
COMMIT
";

/// A container with an address of its own that is routed.
const DOCKER_V6: &str = "\
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-CT - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER -d 2001:db8:d0c::2/128 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER -d 2001:db8:d0c::2/128 ! -i docker0 -o docker0 -p tcp -m tcp --dport 5432 -j ACCEPT
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -o docker0 -j DOCKER
-A DOCKER-FORWARD -i docker0 -j ACCEPT
COMMIT
";

pub fn docker_host(backend: Backend) -> Result<String, String> {
    let (middle, host) = (Namespace::new()?, Namespace::new()?);
    let (world, office, container) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    let banned = Namespace::new()?;
    star(
        &middle,
        &[
            (&host, "192.0.2.1", "2001:db8::1"),
            (&world, "198.51.100.7", "2001:db8:77::7"),
            (&office, "203.0.113.7", "2001:db8:1::7"),
            (&banned, "203.0.113.66", "2001:db8:1::66"),
        ],
    )?;
    bridge(&host, "docker0", ["172.17.0.1/16", "2001:db8:d0c::1/64"])?;
    member(
        &host,
        "docker0",
        &container,
        ["172.17.0.2/16", "2001:db8:d0c::2/64"],
        ["172.17.0.1", "2001:db8:d0c::1"],
    )?;
    middle.ip(["route add 2001:db8:d0c::/64 via 2001:db8::1"])?;
    host.restore(backend, Family::V4, &[], DOCKER_V4)?;
    host.restore(backend, Family::V6, &[], DOCKER_V6)?;
    let published = ["192.0.2.1:8080", "192.0.2.1:5432"];
    let own = ["172.17.0.2:80", "172.17.0.2:5432"];
    let own6 = ["[2001:db8:d0c::2]:80", "[2001:db8:d0c::2]:5432"];
    let out = ["198.51.100.7:443", "[2001:db8:77::7]:443"];
    let goes_on = [
        (
            &world,
            published[0],
            &container,
            own[0],
            Some("198.51.100.7"),
        ),
        (&world, own6[0], &container, own6[0], Some("2001:db8:77::7")),
        (&container, out[0], &world, out[0], Some("192.0.2.1")),
        (&container, out[1], &world, out[1], Some("2001:db8:d0c::2")),
    ];
    let mut wrong = call(&goes_on)?;
    // What Docker publishes is open to everybody, whatever INPUT says.
    wrong += &call(&[
        (
            &world,
            published[1],
            &container,
            own[1],
            Some("198.51.100.7"),
        ),
        (&world, own6[1], &container, own6[1], Some("2001:db8:77::7")),
    ])?;
    let before = others(&host, backend)?;

    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/docker-host/fwc.toml");
    apply(&host, backend, &example)?;
    wrong += &call(&goes_on)?;
    wrong += &call(&[
        (&world, published[1], &container, own[1], None),
        (&world, own6[1], &container, own6[1], None),
        (&office, published[1], &container, own[1], None),
    ])?;
    wrong += &ask(&[
        (&office, &host, "192.0.2.1", Tcp(22), Answer),
        (&office, &host, "2001:db8::1", Tcp(22), Answer),
        (&world, &host, "192.0.2.1", Tcp(22), Silence),
        (&world, &host, "2001:db8::1", Tcp(22), Silence),
        (&world, &host, "192.0.2.1", Tcp(80), Silence),
        (&container, &host, "172.17.0.1", Tcp(22), Silence),
        (&container, &host, "172.17.0.1", Udp(53), Silence),
    ])?;
    // A ban holds, though the policy lets the office in.
    let ban = ask(&[(&banned, &host, "192.0.2.1", Tcp(22), Answer)])?;
    if ban.is_empty() {
        wrong += "who is banned comes in\n";
    }
    let after = others(&host, backend)?;
    if before != after {
        wrong += &format!("the rules of others were\n{before}and are\n{after}");
    }
    // Docker starts: it puts its jumps first again, and publishes one port more.
    let start = "*nat\n-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8443 -j DNAT --to-destination 172.17.0.2:443\nCOMMIT\n\
        *filter\n-D FORWARD -j DOCKER-FORWARD\n-I FORWARD -j DOCKER-FORWARD\n-D FORWARD -j DOCKER-USER\n-I FORWARD -j DOCKER-USER\n\
        -I DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 443 -j ACCEPT\nCOMMIT\n";
    host.restore(backend, Family::V4, &["--noflush"], start)?;
    let more = (&world, "192.0.2.1:8443", &container, "172.17.0.2:443");
    let (from, called, to, listening) = more;
    wrong += &call(&[(from, called, to, listening, Some("198.51.100.7"))])?;
    // The next apply has the say again.
    apply(&host, backend, &example)?;
    wrong += &call(&goes_on)?;
    wrong += &call(&[(from, called, to, listening, None)])?;
    Ok(wrong)
}

const KUBERNETES: &str = "\
*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SEP-WEB - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-WEB - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A POSTROUTING -s 10.244.0.0/16 ! -d 10.244.0.0/16 ! -o cni0 -j MASQUERADE
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-NODEPORTS -p tcp -m tcp --dport 30080 -j KUBE-SVC-WEB
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE
-A KUBE-SEP-WEB -p tcp -m tcp -j DNAT --to-destination 10.244.0.5:8080
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-WEB
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-WEB -j KUBE-MARK-MASQ
-A KUBE-SVC-WEB -j KUBE-SEP-WEB
COMMIT
*filter
:FORWARD DROP [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -s 10.244.0.0/16 -j ACCEPT
-A FORWARD -d 10.244.0.0/16 -j ACCEPT
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
";

pub fn kubernetes_node(backend: Backend) -> Result<String, String> {
    let (middle, node, pod) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    let (world, admin, peer) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    star(
        &middle,
        &[
            (&node, "10.0.0.1", "2001:db8:10::1"),
            (&world, "198.51.100.7", "2001:db8:77::7"),
            (&admin, "203.0.113.7", "2001:db8:1::7"),
            (&peer, "10.0.0.2", "2001:db8:10::2"),
        ],
    )?;
    bridge(&node, "cni0", ["10.244.0.1/24", "2001:db8:244::1/64"])?;
    member(
        &node,
        "cni0",
        &pod,
        ["10.244.0.5/24", "2001:db8:244::5/64"],
        ["10.244.0.1", "2001:db8:244::1"],
    )?;
    middle.ip(["route add 2001:db8:244::/56 via 2001:db8:10::1"])?;
    node.restore(backend, Family::V4, &[], KUBERNETES)?;
    let (web, out) = ("10.244.0.5:8080", "198.51.100.7:443");
    let out6 = "[2001:db8:77::7]:443";
    let goes_on = [
        (&world, "10.0.0.1:30080", &pod, web, Some("10.244.0.1")),
        (&pod, "10.96.0.10:80", &pod, web, Some("10.244.0.1")),
        (&pod, out, &world, out, Some("10.0.0.1")),
        (&pod, out6, &world, out6, Some("2001:db8:244::5")),
    ];
    let mut wrong = call(&goes_on)?;
    wrong += &ask(&[(&world, &node, "10.0.0.1", Tcp(10250), Answer)])?;
    let before = others(&node, backend)?;

    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/kubernetes-node/fwc.toml");
    apply(&node, backend, &example)?;
    wrong += &call(&goes_on)?;
    wrong += &ask(&[
        (&world, &node, "10.0.0.1", Tcp(10250), Silence),
        (&world, &node, "2001:db8:10::1", Tcp(10250), Silence),
        (&world, &node, "10.0.0.1", Tcp(22), Silence),
        (&world, &node, "10.0.0.1", Udp(8472), Silence),
        (&admin, &node, "10.0.0.1", Tcp(22), Answer),
        (&admin, &node, "2001:db8:10::1", Tcp(10250), Answer),
        (&peer, &node, "10.0.0.1", Udp(8472), Answer),
        (&peer, &node, "2001:db8:10::1", Tcp(10250), Answer),
        (&peer, &node, "10.0.0.1", Tcp(22), Silence),
        (&pod, &node, "10.244.0.1", Udp(53), Answer),
        (&pod, &node, "2001:db8:244::1", Tcp(10250), Answer),
        (&pod, &node, "10.244.0.1", Tcp(22), Silence),
        // The node itself serves one, without kube-proxy.
        (&world, &node, "2001:db8:10::1", Tcp(30081), Answer),
    ])?;
    let after = others(&node, backend)?;
    if before != after {
        wrong += &format!("the rules of others were\n{before}and are\n{after}");
    }
    Ok(wrong)
}

/// Translations of a policy beside those of Docker: a host that is Docker's and a router for a lan.
pub fn nat_beside_others(backend: Backend) -> Result<String, String> {
    let (middle, host) = (Namespace::new()?, Namespace::new()?);
    let (world, lan, container) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    star(
        &middle,
        &[
            (&host, "192.0.2.1", "2001:db8::1"),
            (&world, "198.51.100.7", "2001:db8:77::7"),
        ],
    )?;
    bridge(&host, "docker0", ["172.17.0.1/16", "2001:db8:d0c::1/64"])?;
    member(
        &host,
        "docker0",
        &container,
        ["172.17.0.2/16", "2001:db8:d0c::2/64"],
        ["172.17.0.1", "2001:db8:d0c::1"],
    )?;
    link(
        &End(&host, "eth1", &["10.1.0.1/24", "fd00:1::1/64"]),
        &End(&lan, "eth0", &["10.1.0.5/24", "fd00:1::5/64"]),
    )?;
    lan.ip([
        "route add default via 10.1.0.1",
        "route add ::/0 via fd00:1::1",
    ])?;
    host.restore(backend, Family::V4, &[], DOCKER_V4)?;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let policy = folder.path().join("fwc.toml");
    let text = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/shared-nat/fwc.toml"),
    );
    let written = text.and_then(|text| std::fs::write(&policy, text));
    written.map_err(|error| error.to_string())?;
    let out = "198.51.100.7:443";
    let (called, called6) = ("192.0.2.1:8022", "[2001:db8::1]:8022");
    let (ssh, ssh6) = ("10.1.0.5:22", "[fd00:1::5]:22");
    let published = "192.0.2.1:8080";
    let of_others = [
        (
            &world,
            published,
            &container,
            "172.17.0.2:80",
            Some("198.51.100.7"),
        ),
        (&container, out, &world, out, Some("192.0.2.1")),
    ];
    let mut wrong = call(&of_others)?;
    let before = others(&host, backend)?;
    apply(&host, backend, &policy)?;
    wrong += &call(&of_others)?;
    wrong += &call(&[
        (&world, called, &lan, ssh, Some("198.51.100.7")),
        (&world, called6, &lan, ssh6, Some("2001:db8:77::7")),
        (&lan, out, &world, out, Some("192.0.2.1")),
        (
            &lan,
            "10.1.0.1:80",
            &host,
            "10.1.0.1:3128",
            Some("10.1.0.5"),
        ),
        // What nothing translates is not accepted either.
        (&lan, "10.1.0.1:3128", &host, "10.1.0.1:3128", None),
    ])?;
    let after = others(&host, backend)?;
    if before != after {
        wrong += &format!("the rules of others were\n{before}and are\n{after}");
    }
    Ok(wrong)
}

/// A bridge of a host that forwards.
fn bridge(host: &Namespace, name: &str, addresses: [&str; 2]) -> Result<(), String> {
    host.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    host.ip([
        format!("link add {name} type bridge"),
        format!("addr add {} dev {name}", addresses[0]),
        format!("addr add {} dev {name} nodad", addresses[1]),
        format!("link set {name} up"),
    ])
}

/// A container, or a pod, behind a bridge.
fn member(
    host: &Namespace,
    bridge: &str,
    inside: &Namespace,
    addresses: [&str; 2],
    gateways: [&str; 2],
) -> Result<(), String> {
    link(&End(host, "veth1", &[]), &End(inside, "eth0", &addresses))?;
    // A pod that calls its own service comes back by the port that it left by.
    host.ip([
        format!("link set veth1 master {bridge}"),
        "link set veth1 type bridge_slave hairpin on".to_owned(),
    ])?;
    inside.ip([
        format!("route add default via {}", gateways[0]),
        format!("route add ::/0 via {}", gateways[1]),
    ])
}

/// `fwc apply` on a host.
fn apply(host: &Namespace, backend: Backend, policy: &Path) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let at = |name: &str| folder.path().join(name).display().to_string();
    let policy = policy.display().to_string();
    let (backend, state) = (
        format!("FWC_IPTABLES={backend}"),
        format!("FWC_STATE_DIR={}", at("state")),
    );
    let persist = at("iptables");
    let fwc = [
        "-u",
        "SSH_CONNECTION",
        &backend,
        &state,
        env!("CARGO_BIN_EXE_fwc"),
        "apply",
        &policy,
        "--yes",
        "--persist-dir",
        &persist,
    ];
    host.run("env", &fwc, "").map(drop)
}

/// The rules of a host without those of fwc, and what base chains do that do not accept. A table is there or not, as fwc reads it.
fn others(host: &Namespace, backend: Backend) -> Result<String, String> {
    let mut others = String::new();
    for family in Family::ALL {
        let saved = host.save(backend, family, &[])?;
        for line in saved.lines() {
            let declared = line.split(" [").next().unwrap_or(line);
            let is_rule = line.starts_with("-A ");
            let is_chain = line.starts_with(':') && !declared.ends_with(" ACCEPT");
            if (is_rule || is_chain) && !line.contains("FWC-") {
                others += &format!("{declared}\n");
            }
        }
    }
    Ok(others)
}
