//! What rules write into a packet and later rules read: how it is tracked, its hop limit, its type of service.

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fwc::net::Family;
use libtest_mimic::{Completion, Failed, Trial};

use crate::compile::rules_of;
use crate::environment::kernel_test;
use crate::rates::{HOST, PATIENCE, Wire};
use crate::support::network::{Reply, udp};
use crate::support::tools::Backend;

pub fn all() -> Vec<Trial> {
    type Body = fn(Backend) -> Result<(), String>;
    let tests: [(&str, Body); 3] = [
        ("in-raw", in_raw),
        ("header", header),
        ("neighbours", neighbours),
    ];
    let mut trials = Vec::new();
    for (name, body) in tests {
        for backend in Backend::ALL {
            let title = format!("written::{name}::{backend}");
            trials.push(kernel_test(title, backend, move || {
                body(backend).map_err(Failed::from)?;
                Ok(Completion::Completed)
            }));
        }
    }
    trials
}

/// The datagrams that are sent to each port.
const SENT: u64 = 3;

/// A rule without its port, and whether it counts the packets.
type Line = (&'static str, &'static str, bool);

/// Loads rules that look at the packets of a port each and let them go on, and compares what they count.
fn compare(backend: Backend, family: Family, ports: &[(u16, &[Line])]) -> Result<(), String> {
    let wire = Wire::new()?;
    let mut tables = ["raw", "mangle", "filter"].map(|name| (name, String::new()));
    let mut expected = Vec::new();
    for (port, lines) in ports {
        for (number, (place, rule, counts)) in lines.iter().enumerate() {
            let (table, chain) = place.split_once(' ').ok_or("a table and a chain")?;
            let name = format!("{port}-{number}");
            let (_, text) = tables
                .iter_mut()
                .find(|(name, _)| *name == table)
                .ok_or("a table")?;
            *text +=
                &format!("-A {chain} -p udp --dport {port} -m comment --comment {name} {rule}\n");
            expected.push((name, *place, *rule, *counts));
        }
    }
    let text: String = tables
        .iter()
        .map(|(table, rules)| format!("*{table}\n{rules}COMMIT\n"))
        .collect();
    wire.host.restore(backend, family, &[], &text)?;
    for (port, _) in ports {
        wire.send(family, *port, SENT)?;
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let counters = wire.counters(backend, family)?;
        let wrong = expected.iter().find_map(|(name, place, rule, counts)| {
            let comment = format!("--comment {name} ");
            let found = counters
                .iter()
                .find(|one| one.text.contains(&comment))
                .map(|one| one.packets);
            let wanted = if *counts { SENT } else { 0 };
            (found != Some(wanted))
                .then(|| format!("{family}, {place} {rule}: {found:?} packets, not {wanted}"))
        });
        match wrong {
            None => return Ok(()),
            Some(wrong) if Instant::now() > deadline => return Err(wrong),
            Some(_) => sleep(Duration::from_millis(20)),
        }
    }
}

const RAW: &str = "raw PREROUTING";

fn in_raw(backend: Backend) -> Result<(), String> {
    let untouched: &[Line] = &[
        (RAW, "-m conntrack --ctstate INVALID", true),
        (RAW, "-m conntrack --ctstate NEW", false),
        (RAW, "-m conntrack --ctstate UNTRACKED", false),
        (RAW, "-m connmark --mark 0", false),
        (RAW, "-m connmark ! --mark 0", false),
        ("filter INPUT", "-m conntrack --ctstate NEW", true),
    ];
    let untracked: &[Line] = &[
        (RAW, "-j NOTRACK", true),
        (RAW, "-m conntrack --ctstate UNTRACKED", true),
        (RAW, "-m conntrack --ctstate INVALID", false),
        (RAW, "-m connmark --mark 0", false),
        // The first `CT` rule counts.
        (RAW, "-j CT --ctevents new", true),
        (RAW, "-m conntrack --ctstate UNTRACKED", true),
        ("filter INPUT", "-m conntrack --ctstate UNTRACKED", true),
    ];
    let template: &[Line] = &[
        (RAW, "-j CT --ctevents new", true),
        (RAW, "-m conntrack --ctstate NEW", true),
        (RAW, "-m conntrack --ctstate INVALID", false),
        (RAW, "-m conntrack --ctstate DNAT", false),
        (RAW, "-m connmark --mark 0", true),
        (RAW, "-m connmark --mark 1", false),
        (RAW, "-m conntrack --ctorigdstport 1003", false),
        (RAW, "-j NOTRACK", true),
        (RAW, "-m conntrack --ctstate UNTRACKED", false),
        (RAW, "-m conntrack --ctstate NEW", true),
        ("filter INPUT", "-m conntrack --ctstate NEW", true),
        ("filter INPUT", "-m conntrack --ctorigdstport 1003", true),
    ];
    for family in Family::ALL {
        let ports = [(1001, untouched), (1002, untracked), (1003, template)];
        compare(backend, family, &ports)?;
    }
    Ok(())
}

const EARLY: &str = "mangle PREROUTING";

fn header(backend: Backend) -> Result<(), String> {
    let hops = |family: Family| -> [&'static [Line]; 2] {
        match family {
            Family::V4 => [
                &[
                    (EARLY, "-j TTL --ttl-set 254", true),
                    (EARLY, "-m ttl --ttl-eq 254", true),
                    ("mangle INPUT", "-j TTL --ttl-inc 9", true),
                    ("filter INPUT", "-m ttl --ttl-eq 255", true),
                    ("filter INPUT", "-m ttl --ttl-lt 255", false),
                ],
                &[
                    (EARLY, "-j TTL --ttl-dec 255", true),
                    ("filter INPUT", "-m ttl --ttl-eq 0", true),
                    ("filter INPUT", "-m ttl --ttl-gt 0", false),
                ],
            ],
            Family::V6 => [
                &[
                    (EARLY, "-j HL --hl-set 254", true),
                    (EARLY, "-m hl --hl-eq 254", true),
                    ("mangle INPUT", "-j HL --hl-inc 9", true),
                    ("filter INPUT", "-m hl --hl-eq 255", true),
                    ("filter INPUT", "-m hl --hl-lt 255", false),
                ],
                &[
                    (EARLY, "-j HL --hl-dec 255", true),
                    ("filter INPUT", "-m hl --hl-eq 0", true),
                    ("filter INPUT", "-m hl --hl-gt 0", false),
                ],
            ],
        }
    };
    let class: &[Line] = &[
        (EARLY, "-m dscp --dscp 0", true),
        (EARLY, "-j DSCP --set-dscp 0x2e", true),
        (EARLY, "-m dscp --dscp 0", false),
        (EARLY, "-m ecn --ecn-ip-ect 0", true),
        (EARLY, "-j TOS --set-tos 0x02/0x03", true),
        ("filter INPUT", "-m ecn --ecn-ip-ect 2", true),
        ("filter INPUT", "-m ecn ! --ecn-ip-ect 2", false),
        ("filter INPUT", "-m dscp --dscp 0x2e", true),
        ("filter INPUT", "-m tos --tos 0xb8/0xfc", true),
        ("filter INPUT", "-m tos ! --tos 0x08/0x08", false),
    ];
    let bits: &[Line] = &[
        (EARLY, "-j TOS --set-tos 0x10/0x3f", true),
        (EARLY, "-j TOS --xor-tos 0x08", true),
        ("filter INPUT", "-m tos --tos 0x18/0x3f", true),
        ("filter INPUT", "-m tos --tos 0x10/0x18", false),
        ("filter INPUT", "-m dscp --dscp 6", true),
    ];
    for family in Family::ALL {
        let [more, less] = hops(family);
        let ports = [(1001, more), (1002, less), (1003, class), (1004, bits)];
        compare(backend, family, &ports)?;
    }
    Ok(())
}

/// A policy that sets the hop limit of everything leaves a host its neighbours. One that did it to ICMPv6 would not.
fn neighbours(backend: Backend) -> Result<(), String> {
    let wire = Wire::new()?;
    let rules = rules_of(
        "version = 1\n[interfaces]\nlan = \"eth0\"\n\
         [[mangle]]\ntype = \"ttl\"\nfrom = \"lan\"\nto = \"host\"\nset = 64\n\
         [[rules]]\nservice = \"9/udp\"\n",
    )?;
    let address: IpAddr = HOST[1].parse().map_err(|_| "an address")?;
    let asked = SocketAddr::new(address, 9);
    let forget = || {
        for side in [&wire.source, &wire.host] {
            side.ip(["neigh flush dev eth0"])?;
        }
        Ok::<(), String>(())
    };
    wire.load(backend, &rules)?;
    forget()?;
    let deadline = Instant::now() + PATIENCE;
    while udp(&wire.source, &wire.host, asked)? != Reply::Answer {
        if Instant::now() > deadline {
            return Err("ttl keeps this host from its neighbours".to_owned());
        }
    }
    let mut of_all = rules.clone();
    of_all.v6 = of_all.v6.replace(" ! -p ipv6-icmp", "");
    if of_all.v6 == rules.v6 {
        return Err("the rules do not leave ICMPv6 alone".to_owned());
    }
    wire.load(backend, &of_all)?;
    forget()?;
    match udp(&wire.source, &wire.host, asked)? {
        Reply::Silence => Ok(()),
        other => Err(format!("{other}, though neighbours cannot be believed")),
    }
}
