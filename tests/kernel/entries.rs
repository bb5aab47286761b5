//! Which packets the entries of `[[mangle]]` and `[[raw]]` have: each key of a rule, counted by the kernel, on packets that
//! have it and on packets that lack it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use fwc::net::Family;
use libtest_mimic::{Completion, Failed, Trial};

use crate::counters::Counters;
use crate::environment::kernel_test;
use crate::support::network::{Reply, tcp, udp};
use crate::support::tools::Backend;
use crate::treated::{Line, SERVER};

/// One test for each table and backend.
pub fn all() -> Vec<Trial> {
    type Body = fn(Backend) -> Result<(), String>;
    let tests: [(&str, Body); 3] = [("mangle", mangle), ("raw", raw), ("more", more)];
    let mut trials = Vec::new();
    for (name, body) in tests {
        for backend in Backend::ALL {
            let title = format!("entries::{name}::{backend}");
            trials.push(kernel_test(title, backend, move || {
                body(backend).map_err(Failed::from)?;
                Ok(Completion::Completed)
            }));
        }
    }
    trials
}

const POLICY: &str = r#"version = 1
[interfaces]
wan = "eth0"
lan = { device = "eth1", networks = ["10.1.0.0/24", "2001:db8:1::/64"] }
[users]
root = 0
[groups]
nobody = 65534
[[rules]]
from = "lan"
to = "wan"
"#;

const MANGLE: &str = r#"
[[mangle]]
name = "of an address"
comment = "the client"
type = "mark"
set = "0x1/0x1"
from = "lan"
to = "wan"
source = ["10.1.0.9", "2001:db8:1::9"]
[[mangle]]
name = "of another"
type = "mark"
set = "0x1/0x1"
from = "lan"
to = "wan"
source = { not = ["10.1.0.9", "2001:db8:1::9"] }
[[mangle]]
name = "to others"
type = "mark"
set = "0x1/0x1"
from = "lan"
to = "wan"
destination = { not = ["192.0.2.2", "2001:db8::2"] }
[[mangle]]
name = "to others than others"
type = "mark"
set = "0x1/0x1"
from = "lan"
to = "wan"
destination = { not = ["192.0.2.3", "2001:db8::3"] }
[[mangle]]
name = "switched off"
enabled = false
type = "mark"
set = "0x1/0x1"
from = "lan"
to = "wan"
[[mangle]]
name = "of a card"
type = "mark"
set = "0x1/0x1"
from = "lan"
to = "wan"
mac = "02:00:5e:10:00:01"
[[mangle]]
name = "of another card"
type = "mark"
set = "0x1/0x1"
from = "lan"
to = "wan"
mac = "02:00:5e:10:00:02"
[[mangle]]
name = "what opens"
type = "mark"
set = "0x1/0x1"
from = "lan"
to = "wan"
tcp-flags = "syn/syn,ack"
state = "new"
[[mangle]]
name = "what closes at once"
type = "mark"
set = "0x1/0x1"
from = "lan"
to = "wan"
tcp-flags = "syn,fin/syn,fin"
[[mangle]]
name = "as long as it holds"
type = "mark"
set = "0x1/0x1"
from = "lan"
to = "wan"
expires = 2037-12-31
[[mangle]]
name = "before noon"
type = "mark"
set = "0x1/0x1"
from = "lan"
to = "wan"
schedule = { from = "00:00", until = "12:00" }
[[mangle]]
name = "after noon"
type = "mark"
set = "0x1/0x1"
from = "lan"
to = "wan"
schedule = { from = "12:00", until = "00:00" }
[[mangle]]
name = "on any day"
type = "mark"
set = "0x1/0x1"
from = "lan"
to = "wan"
schedule = { days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"], from = "00:00", until = "23:59", timezone = "local" }
[[mangle]]
name = "of a set"
type = "mark"
set = "0x1/0x1"
from = "lan"
to = "wan"
ipset = "somebody"
scope = "ipv4"
[[mangle]]
name = "root sends"
type = "mark"
set = "0x1/0x1"
from = "host"
to = "wan"
user = "root"
[[mangle]]
name = "nobody sends"
type = "mark"
set = "0x1/0x1"
from = "host"
to = "wan"
group = "nobody"
"#;

fn mangle(backend: Backend) -> Result<(), String> {
    let line = Line::new()?;
    line.client
        .ip(["link set eth0 address 02:00:5e:10:00:01"])?;
    line.router
        .run("ipset", &["create", "somebody", "hash:net"], "")?;
    line.router
        .run("ipset", &["add", "somebody", "10.1.0.0/24"], "")?;
    line.load(backend, &format!("{POLICY}{MANGLE}"))?;
    for (family, server) in Family::ALL.into_iter().zip(SERVER) {
        let address: IpAddr = server.parse().map_err(|_| "an address")?;
        let address = SocketAddr::new(address, 80);
        let mut always = vec![
            "of an address",
            "to others than others",
            "of a card",
            "what opens",
            "as long as it holds",
        ];
        if family == Family::V4 {
            always.push("of a set");
        }
        // One of the two, or where noon is now both; a minute of the day is outside of the last.
        let may = ["before noon", "after noon", "on any day"];
        let counted = counted(&line, backend, family, || {
            tcp(&line.client, &line.server, address)
        })?;
        holds(family, &counted, &always, &may)?;
        if !counted.contains("before noon") && !counted.contains("after noon") {
            return Err(format!("{family}: it is neither before nor after noon"));
        }
        let counted = self::counted(&line, backend, family, || {
            tcp(&line.router, &line.server, address)
        })?;
        holds(family, &counted, &["root sends"], &[])?;
    }
    Ok(())
}

const RAW: &str = r#"
[[raw]]
name = "of an address"
comment = "the client"
type = "notrack"
from = "lan"
to = "any"
source = ["10.1.0.9", "2001:db8:1::9"]
service = "81/udp"
[[raw]]
name = "of another"
type = "notrack"
from = "lan"
to = "any"
source = { not = ["10.1.0.9", "2001:db8:1::9"] }
service = "81/udp"
[[raw]]
name = "to others"
type = "notrack"
from = "lan"
to = "any"
destination = { not = ["192.0.2.2", "2001:db8::2"] }
service = "81/udp"
[[raw]]
name = "of one family"
type = "notrack"
from = "lan"
to = "any"
scope = "ipv6"
service = "81/udp"
[[raw]]
name = "switched off"
enabled = false
type = "notrack"
from = "lan"
to = "any"
service = "81/udp"
[[raw]]
name = "as long as it holds"
type = "notrack"
from = "lan"
to = "any"
expires = 2037-12-31
service = "81/udp"
[[raw]]
name = "before noon"
type = "notrack"
from = "lan"
to = "any"
schedule = { days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"], from = "00:00", until = "12:00" }
service = "81/udp"
[[raw]]
name = "after noon"
type = "notrack"
from = "lan"
to = "any"
schedule = { from = "12:00", until = "00:00" }
service = "81/udp"
[[raw]]
name = "at any hour here"
type = "notrack"
from = "lan"
to = "any"
schedule = { from = "00:00", until = "23:59", timezone = "local" }
service = "81/udp"
[[raw]]
name = "files"
type = "helper"
helper = "ftp"
from = "lan"
to = "any"
service = "21/tcp"
"#;

fn raw(backend: Backend) -> Result<(), String> {
    let line = Line::new()?;
    line.load(backend, &format!("{POLICY}{RAW}"))?;
    for (family, server) in Family::ALL.into_iter().zip(SERVER) {
        let address: IpAddr = server.parse().map_err(|_| "an address")?;
        let mut always = vec!["of an address", "as long as it holds"];
        if family == Family::V6 {
            always.push("of one family");
        }
        let may = ["before noon", "after noon", "at any hour here"];
        let counted = counted(&line, backend, family, || {
            udp(&line.client, &line.server, SocketAddr::new(address, 81))
        })?;
        holds(family, &counted, &always, &may)?;
        if !counted.contains("before noon") && !counted.contains("after noon") {
            return Err(format!("{family}: it is neither before nor after noon"));
        }
        let counted = self::counted(&line, backend, family, || {
            tcp(&line.client, &line.server, SocketAddr::new(address, 21))
        })?;
        holds(family, &counted, &["files"], &[])?;
    }
    Ok(())
}

const MORE: &str = r#"
[zones]
servers = { interfaces = "wan", networks = ["192.0.2.0/24", "2001:db8::/64"] }
others = { interfaces = "wan", networks = ["198.51.100.0/24", "2001:db8:51::/48"] }
[log.seen]
target = "NFLOG"
rate = false
[[mangle]]
name = "by others than wan"
type = "mark"
set = "0x1/0x1"
from = "!wan"
to = "wan"
log = "seen"
[[mangle]]
name = "by others than lan"
type = "mark"
set = "0x1/0x1"
from = "!lan"
service = "http"
log = "seen"
[[mangle]]
name = "neither to lan nor to the others"
type = "mark"
set = "0x1/0x1"
from = "lan"
to = { not = ["lan", "others"] }
[[mangle]]
name = "neither to lan nor to the servers"
type = "mark"
set = "0x1/0x1"
from = "lan"
to = { not = ["lan", "servers"] }
log = "seen"
[[mangle]]
name = "neither telnet nor dns"
type = "mark"
set = "0x1/0x1"
from = "lan"
service = { not = ["telnet", "dns"] }
[[mangle]]
name = "neither http nor dns"
type = "mark"
set = "0x1/0x1"
from = "lan"
service = { not = ["http", "dns", "icmpv6"] }
log = "seen"
[[mangle]]
name = "of two lines"
type = "ttl"
increase = 1
from = "lan"
to = "wan"
service = ["80-81/tcp", "81/udp"]
match = "-m length --length 40:1500"
log = "seen"
[[mangle]]
name = "of a short packet"
type = "mark"
set = "0x1/0x1"
from = "lan"
to = "wan"
match = "-m length --length 0:39"
log = "seen"
[[mangle]]
name = "every packet"
type = "mark"
set = "0x1/0x1"
from = { not = ["wan"] }
to = "wan"
source = ["10.1.0.8/29", "2001:db8:1::8/125", "10.77.0.0/16"]
match = "-m statistic --mode nth --every 1 --packet 0"
log = "seen"
[[mangle]]
name = "an answer, too"
type = "clamp-mss"
set = 1200
from = { not = ["wan"] }
to = { not = ["lan", "others"] }
log = "seen"
[[raw]]
name = "read"
type = "helper"
helper = "ftp"
from = "!wan"
to = "any"
service = "80/tcp"
log = "seen"
[[raw]]
name = "not read"
type = "helper"
helper = "ftp"
from = "!lan"
to = "any"
service = "80/tcp"
[[raw]]
name = "dropped by nobody"
type = "drop"
from = { not = ["lan", "others"] }
service = { not = ["http", "icmpv6"] }
source = ["10.1.0.0/24", "2001:db8:1::/64"]
log = "seen"
[[nat]]
name = "not kept"
type = "no-snat"
to = "!wan"
log = "seen"
[[nat]]
name = "kept"
type = "no-snat"
to = { not = ["lan", "others"] }
service = "!dns"
match = "-m length --length 40:1500"
log = "seen"
"#;

/// Negated places and services, matches of iptables, and logs, of entries in all tables.
fn more(backend: Backend) -> Result<(), String> {
    let line = Line::new()?;
    line.load(backend, &format!("{POLICY}{MORE}"))?;
    for (family, server) in Family::ALL.into_iter().zip(SERVER) {
        let address: IpAddr = server.parse().map_err(|_| "an address")?;
        let address = SocketAddr::new(address, 80);
        let does = [
            "-j MARK",
            "-j TTL",
            "-j HL",
            "-j TCPMSS",
            "-j CT",
            "-j DROP",
            "-j ACCEPT",
        ];
        let logged = [
            "by others than wan",
            "of two lines",
            "every packet",
            "an answer, too",
            "read",
            "kept",
        ];
        let always = [
            &logged[..],
            &["neither to lan nor to the others", "neither telnet nor dns"],
        ];
        let call = || tcp(&line.client, &line.server, address);
        let counted = counted_by(&line, backend, family, &does, call)?;
        holds(family, &counted, &always.concat(), &[])?;
        let counted = counted_by(&line, backend, family, &["-j NFLOG"], call)?;
        holds(family, &counted, &logged, &[])?;
    }
    Ok(())
}

/// The entries that counted packets of a call, which has to be answered.
fn counted(
    line: &Line,
    backend: Backend,
    family: Family,
    call: impl FnOnce() -> Result<Reply, String>,
) -> Result<BTreeSet<String>, String> {
    counted_by(line, backend, family, &[""], call)
}

/// The same, by lines with one of some targets.
fn counted_by(
    line: &Line,
    backend: Backend,
    family: Family,
    targets: &[&str],
    call: impl FnOnce() -> Result<Reply, String>,
) -> Result<BTreeSet<String>, String> {
    let count = || -> Result<Counters, String> {
        let saved = line.router.save(backend, family, &["-c"])?;
        Ok(Counters::parse(&saved))
    };
    let before = count()?;
    let reply = call()?;
    if reply != Reply::Answer {
        return Err(format!("{family}: {reply}"));
    }
    let counted = count()?.since(&before)?.into_iter();
    let is_asked = |text: &str| targets.iter().any(|target| text.contains(target));
    let counted = counted.filter(|counter| is_asked(&counter.text));
    let names = counted.filter_map(|counter| {
        let (_, rest) = counter.text.split_once("\"fwc:")?;
        Some(rest.split_once('"')?.0.to_owned())
    });
    Ok(names.collect())
}

/// All of some have counted, and nobody else but those that may.
fn holds(
    family: Family,
    counted: &BTreeSet<String>,
    always: &[&str],
    may: &[&str],
) -> Result<(), String> {
    let missing = always.iter().find(|name| !counted.contains(**name));
    let others = |name: &&String| !always.contains(&name.as_str()) && !may.contains(&name.as_str());
    match (missing, counted.iter().find(others)) {
        (None, None) => Ok(()),
        (Some(name), _) => Err(format!("{family}: \"{name}\" counted nothing: {counted:?}")),
        (_, Some(name)) => Err(format!("{family}: \"{name}\" counted: {counted:?}")),
    }
}
