//! Real connections through the examples' rules: what people expect of them, seen from other hosts.

mod beside;
mod database;
mod dmz;
mod first;
mod fleet;
mod home_router;
mod knock;
mod load_balancer;
mod mail_server;
mod transparent_proxy;
mod vpn_gateway;

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::thread;

use libtest_mimic::Trial;

use crate::environment::tests_with_each_backend;
use crate::examples::rules;
use crate::support::namespace::Namespace;
use crate::support::network::{End, Reply, expecting, link, ping, tcp, tcp_as, udp};
use crate::support::tools::Backend;

/// One test for each example and backend.
pub fn all() -> Vec<Trial> {
    type Body = fn(Backend) -> Result<String, String>;
    let tests: [(&str, Body); 15] = [
        ("web-server", first::web_server),
        ("router", first::router),
        ("bastion", first::bastion),
        ("mail-server", mail_server::mail_server),
        ("database", database::database),
        ("dmz", dmz::dmz),
        ("fleet", fleet::fleet),
        ("home-router", home_router::home_router),
        ("knock", knock::knock),
        ("load-balancer", load_balancer::load_balancer),
        ("docker-host", beside::docker_host),
        ("kubernetes-node", beside::kubernetes_node),
        ("nat-beside-others", beside::nat_beside_others),
        ("vpn-gateway", vpn_gateway::vpn_gateway),
        ("transparent-proxy", transparent_proxy::transparent_proxy),
    ];
    tests_with_each_backend("traffic", tests)
}

#[derive(Clone, Copy, Debug)]
enum Service {
    Tcp(u16),
    /// By a process of this user.
    TcpAs(u32, u16),
    Udp(u16),
    Ping,
}

/// Who asks, whom, at which address, for what, and what has to come back.
type Question<'a> = (&'a Namespace, &'a Namespace, &'a str, Service, Reply);

/// Asks many at once, since silence takes its time, but each server one client at a time; returns what was answered
/// otherwise, a line each.
fn ask(questions: &[Question<'_>]) -> Result<String, String> {
    let mut waves: Vec<Vec<&Question<'_>>> = Vec::new();
    for question in questions {
        let is_server =
            |other: &&Question<'_>| (other.2, port(other)) == (question.2, port(question));
        match waves.iter_mut().find(|wave| !wave.iter().any(is_server)) {
            Some(wave) => wave.push(question),
            None => waves.push(vec![question]),
        }
    }
    waves.iter().map(|wave| ask_at_once(wave)).collect()
}

fn port((_, _, _, service, _): &Question<'_>) -> Option<u16> {
    match service {
        Service::Tcp(port) | Service::TcpAs(_, port) | Service::Udp(port) => Some(*port),
        Service::Ping => None,
    }
}

fn ask_at_once(questions: &[&Question<'_>]) -> Result<String, String> {
    let replies: Vec<_> = thread::scope(|scope| {
        let asked: Vec<_> = questions
            .iter()
            .map(|question| scope.spawn(|| reply(question)))
            .collect();
        let answers = asked.into_iter().map(|thread| thread.join());
        answers.map(|reply| reply.expect("a question")).collect()
    });
    let mut wrong = String::new();
    for ((_, _, address, service, expected), reply) in questions.iter().zip(replies) {
        let reply = reply?;
        if reply != *expected {
            let _ = writeln!(
                wrong,
                "{service:?} at {address}: expected {expected}, found {reply}"
            );
        }
    }
    Ok(wrong)
}

fn reply((from, to, address, service, expected): &Question<'_>) -> Result<Reply, String> {
    let address: IpAddr = address.parse().map_err(|_| format!("address {address}"))?;
    expecting(*expected, || match service {
        Service::Tcp(port) => tcp(from, to, SocketAddr::new(address, *port)),
        Service::TcpAs(user, port) => {
            tcp_as(Some(*user), from, to, SocketAddr::new(address, *port))
        }
        Service::Udp(port) => udp(from, to, SocketAddr::new(address, *port)),
        Service::Ping => Ok(ping(from, address)),
    })
}

/// Puts the policy of an example into force.
fn load(host: &Namespace, backend: Backend, policy: &str) -> Result<(), String> {
    let rules = rules(policy)?;
    host.restore_sets(&rules.sets)?;
    let mut texts = rules.texts.iter();
    texts.try_for_each(|(family, text)| host.restore(backend, family, &[], text))
}

/// Joins hosts that have one IPv4 and one IPv6 address each by a router in their middle, which lets everything through.
fn star(middle: &Namespace, hosts: &[(&Namespace, &str, &str)]) -> Result<(), String> {
    middle.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    for (number, (host, v4, v6)) in hosts.iter().enumerate() {
        let device = format!("to{number}");
        let (v4_host, v6_host) = (format!("{v4}/32"), format!("{v6}/128"));
        link(
            &End(middle, &device, &["169.254.0.1/32", "fd00::1/128"]),
            &End(host, "eth0", &[&v4_host, &v6_host]),
        )?;
        middle.ip([
            format!("route add {v4} dev {device}"),
            format!("route add {v6} dev {device}"),
        ])?;
        host.ip([
            "route add 169.254.0.1 dev eth0",
            "route add default via 169.254.0.1",
            "route add fd00::1 dev eth0",
            "route add ::/0 via fd00::1",
        ])?;
    }
    Ok(())
}
