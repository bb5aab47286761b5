//! Resolves `match`: matches of iptables, read as iptables-restore reads them in each line of their rule.

use std::path::Path;

use super::custom::{command_in, words_of};
use super::extensions::Declared;
use super::own_tables;
use super::plan::{PlannedMatch, ServicePart};
use crate::diag::{Code, Diagnostic, Severity, Sink};
use crate::iptables::{self, Match, Module, PortSide, Rule, States, TableName};
use crate::net::{Family, Hook, PerFamily, Protocol};
use crate::policy::{self, CustomTable, Policy};
use crate::source::{Located, SourceMap};

/// The matches that count, or draw a lot, each time they are asked: two lines would count twice.
const COUNTING: [&str; 8] = [
    "recent",
    "statistic",
    "quota",
    "nfacct",
    "rateest",
    "limit",
    "hashlimit",
    "connlimit",
];

/// Reads the matches of a rule in the families in which iptables has them. Where a rule with packets lacks them, [`check`]
/// reports it.
pub fn resolve(
    policy: &Policy,
    table: CustomTable,
    text: Option<&Located<String>>,
    (service, has_flags): (Option<&[ServicePart]>, bool),
    sink: &mut Sink,
) -> Option<PlannedMatch> {
    let text = text?;
    let declared = Declared::new(policy);
    if !check_words(table, text, &declared, sink) {
        return None;
    }
    let mut planned = PlannedMatch {
        texts: PerFamily::default(),
        matches: PerFamily::default(),
        counts: false,
    };
    for family in Family::ALL {
        // A match may exist in some chains only, or with some protocols.
        let mut protocols = protocols(service, has_flags, family);
        if !protocols.is_empty() {
            protocols.extend(Protocol::WITH_PORTS.map(Some));
        }
        let mut lines = protocols
            .iter()
            .flat_map(|protocol| chains(table).iter().map(move |chain| (protocol, *chain)));
        let read = lines.find_map(|(protocol, chain)| {
            read(&text.value, &declared, (family, table, chain, *protocol)).ok()
        });
        let Some(rule) = read else {
            continue;
        };
        let is_own = |one: &&Match| !matches!(one, Match::Protocol(_));
        let matches: Vec<Match> = rule.matches.iter().filter(is_own).cloned().collect();
        let texts: Vec<String> = matches.iter().map(|one| one.to_text(family)).collect();
        planned.counts |= matches.iter().any(counts);
        planned.texts[family] = Some(texts.join(" "));
        planned.matches[family] = matches;
    }
    Some(planned)
}

/// Returns the base chains of a table that rules or entries have lines in.
fn chains(table: CustomTable) -> &'static [&'static str] {
    match table {
        CustomTable::Filter => &["INPUT", "FORWARD", "OUTPUT"],
        CustomTable::Raw => &["PREROUTING", "OUTPUT"],
        CustomTable::Mangle => &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
        CustomTable::Nat => &["PREROUTING", "OUTPUT", "POSTROUTING"],
    }
}

/// The lines of a rule or entry that ask its matches.
pub struct Lines<'a> {
    /// The table.
    pub table: CustomTable,
    /// The base chains.
    pub chains: Vec<&'static str>,
    /// The families.
    pub families: Vec<Family>,
    /// The services of the lines.
    pub service: Option<&'a [ServicePart]>,
    /// The lines ask for TCP flags, and so for tcp.
    pub has_flags: bool,
}

/// Reports matches that one of the lines does not take, and matches that a key says.
pub fn check(policy: &Policy, text: &Located<String>, lines: &Lines<'_>, sink: &mut Sink) {
    let declared = Declared::new(policy);
    let mut refused: Vec<String> = Vec::new();
    for &family in &lines.families {
        for &chain in &lines.chains {
            for protocol in protocols(lines.service, lines.has_flags, family) {
                let line = (family, lines.table, chain, protocol);
                match read(&text.value, &declared, line) {
                    Ok(read) => {
                        if let Some((option, name)) = own_tables::used(&read.matches) {
                            sink.report(own_tables::reserved(text.span, (option, &name)));
                            return;
                        }
                        let own = own(&read, protocol);
                        let mut said = own.filter_map(key_of);
                        let said = said.find(|(_, key)| policy::has_key(lines.table, key));
                        if let Some((what, key)) = said {
                            sink.report(has_key(text, &what, key));
                            return;
                        }
                    }
                    // A reason that several lines have is reported once.
                    Err(reason) if refused.contains(&reason) => {}
                    Err(reason) => {
                        sink.report(refusal(text, lines, &reason, line, &declared));
                        refused.push(reason);
                    }
                }
            }
        }
    }
}

/// Returns the protocols of the lines of a rule in a family: `None` for a line without `-p`. `tcp-flags` asks for tcp.
fn protocols(
    service: Option<&[ServicePart]>,
    has_flags: bool,
    family: Family,
) -> Vec<Option<Protocol>> {
    let of_part = |part: &ServicePart| match part {
        ServicePart::Ports(ports) => Some(Some(ports.protocol)),
        // In IPv6 an authentication header is a match of its own, before any protocol.
        ServicePart::Protocol(Protocol::AH) if family == Family::V6 => Some(None),
        ServicePart::Protocol(protocol) => Some(Some(*protocol)),
        ServicePart::Icmp(_) => (family == Family::V4).then_some(Some(Protocol::ICMP)),
        ServicePart::Icmpv6(_) => (family == Family::V6).then_some(Some(Protocol::ICMPV6)),
        ServicePart::EveryIcmp(of) => (family == *of).then_some(Some(match of {
            Family::V4 => Protocol::ICMP,
            Family::V6 => Protocol::ICMPV6,
        })),
    };
    let Some(parts) = service else {
        return vec![has_flags.then_some(Protocol::TCP)];
    };
    let mut all: Vec<_> = parts.iter().filter_map(of_part).collect();
    all.sort();
    all.dedup();
    all
}

/// Reports commands, targets, families and matches that no iptables has. Returns `true` if there is none.
fn check_words(
    table: CustomTable,
    text: &Located<String>,
    declared: &Declared<'_>,
    sink: &mut Sink,
) -> bool {
    let words = words_of(&text.value);
    let error = |code, message: String| Diagnostic::error(code, text.span, message);
    if let Some(found) = command_in(&words) {
        let message = format!("`{}` is not allowed in `match`", found.escape_debug());
        sink.report(
            error(Code::CustomOption, message)
                .help("write matches only, such as `-m length --length 0:100`"),
        );
        return false;
    }
    let is_short = |word: &str, letter: &str| word.starts_with(letter) && !word.starts_with("--");
    let basic = [
        ("-s", "source"),
        ("-d", "destination"),
        ("-i", "from"),
        ("-o", "to"),
        ("-p", "service"),
    ];
    for (letter, key) in basic {
        if let Some(found) = words.iter().find(|word| is_short(word, letter)) {
            sink.report(has_key(text, found, key));
            return false;
        }
    }
    let is_target = |word: &str| {
        is_short(word, "-j") || is_short(word, "-g") || ["--jump", "--goto"].contains(&word)
    };
    let is_family = |word: &str| ["-4", "-6", "--ipv4", "--ipv6"].contains(&word);
    let is_counter = |word: &str| is_short(word, "-c") || word == "--set-counters";
    if let Some(found) = words.iter().find(|word| is_target(word)) {
        let key = match table {
            CustomTable::Filter => "action",
            _ => "type",
        };
        sink.report(has_key(text, found, key));
        return false;
    }
    if let Some(found) = words.iter().find(|word| is_family(word)) {
        sink.report(has_key(text, found, "scope"));
        return false;
    }
    if words.iter().any(|word| is_counter(word)) {
        let message = "`-c` is not allowed in `match`".to_owned();
        sink.report(
            error(Code::CustomOption, message)
                .help("leave it out: counters are not part of a rule"),
        );
        return false;
    }
    if text.value.trim().is_empty() {
        sink.report(
            error(Code::BadValue, "`match` is empty".to_owned())
                .help("write a match, such as `-m length --length 0:100`, or leave the key out"),
        );
        return false;
    }
    let names = words.iter().zip(words.iter().skip(1));
    let mut names = names.filter(|(option, _)| ["-m", "--match"].contains(&option.as_str()));
    if let Some((_, name)) = names.find(|(_, name)| declared.lacks_match(name)) {
        let message = format!("fwc does not know the match `{}`", name.escape_debug());
        sink.report(
            error(Code::UnknownExtension, message)
                .with_note("it knows the matches of iptables 1.8.9")
                .help(format!("if the iptables of the host has it, declare it: `matches = [\"{}\"]` under [extensions]", name.escape_debug())),
        );
        return false;
    }
    true
}

/// A line of a rule, by its family, table, chain and protocol; without `-p` if that is `None`.
type Line = (Family, CustomTable, &'static str, Option<Protocol>);

/// Reads the matches as a rule.
fn read(
    text: &str,
    declared: &Declared<'_>,
    (family, table, chain, protocol): Line,
) -> Result<Rule, String> {
    let name = table.as_str();
    let table = match table {
        CustomTable::Filter => TableName::Filter,
        CustomTable::Nat => TableName::Nat,
        CustomTable::Mangle => TableName::Mangle,
        CustomTable::Raw => TableName::Raw,
    };
    let protocol = protocol.map_or_else(String::new, |protocol| format!("-p {protocol} "));
    let text =
        format!("*{name}\n:{chain} ACCEPT [0:0]\n-A {chain} {protocol}{text} -j ACCEPT\nCOMMIT\n");
    let (mut sources, mut findings) = (SourceMap::new(), Sink::new());
    let file = sources.add(Path::new("match"), text);
    let parsed = iptables::parse(file, &sources, family, declared.extensions(), &mut findings);
    let rules = parsed
        .as_ref()
        .and_then(|ruleset| ruleset.table(table)?.chain(chain))
        .map(|chain| chain.rules.as_slice());
    match rules {
        Some([rule]) => Ok(rule.clone()),
        Some(_) => Err("it is not one rule".to_owned()),
        None => {
            let all = findings.sorted();
            let first = all.iter().find(|one| one.severity == Severity::Error);
            Err(first.map_or_else(String::new, |one| one.message.clone()))
        }
    }
}

/// Returns the matches of the text in a rule that was read with a protocol.
fn own(rule: &Rule, protocol: Option<Protocol>) -> impl Iterator<Item = &Match> {
    let is_own = move |one: &&Match| protocol.is_none() || !matches!(one, Match::Protocol(_));
    rule.matches.iter().filter(is_own)
}

/// Returns `true` if asking a match changes what it answers next.
fn counts(condition: &Match) -> bool {
    match condition {
        Match::Other(module) => COUNTING.contains(&module.name),
        Match::Unknown(_) => true,
        _ => false,
    }
}

/// Returns the option of a match that a key of rules says, and the key.
fn key_of(condition: &Match) -> Option<(String, &'static str)> {
    let (option, key) = match condition {
        // A key has the source ports or the destination ports, and one set without what else the match asks of it.
        Match::Multiport(ports) if ports.value.side == PortSide::Either => return None,
        Match::Set(set) if !set.settings.is_empty() => return None,
        Match::Source(_) => ("-s", "source"),
        Match::Destination(_) => ("-d", "destination"),
        Match::InInterface(_) => ("-i", "from"),
        Match::OutInterface(_) => ("-o", "to"),
        Match::Protocol(_) => ("-p", "service"),
        Match::Tcp(tcp) if tcp.flags.is_some() => ("--tcp-flags", "tcp-flags"),
        Match::Tcp(tcp) => port_of(&tcp.ports)?,
        Match::Udp(ports) | Match::Sctp(ports, _) | Match::Dccp(ports, _) => port_of(ports)?,
        Match::Multiport(_) => ("-m multiport", "service"),
        Match::Icmp(_) => ("-m icmp", "service"),
        Match::Conntrack(conntrack) => {
            // SNAT and DNAT are states that `state` does not have.
            let plain = |states: &States| states.iter().next().is_some();
            let states = conntrack.states.as_ref();
            let mut settings = conntrack.settings.iter();
            if states.is_some_and(|states| plain(&states.value)) {
                ("--ctstate", "state")
            } else if let Some(one) =
                settings.find(|one| ["ctorigdst", "ctorigdstport"].contains(&one.name))
            {
                return Some((format!("--{}", one.name), "original"));
            } else {
                return None;
            }
        }
        Match::State(_) => ("-m state", "state"),
        Match::Comment(_) => ("-m comment", "name"),
        Match::Mark(_) => ("-m mark", "mark"),
        Match::Mac(_) => ("-m mac", "mac"),
        Match::AddressRange(range) if range.source.is_some() => ("--src-range", "source"),
        Match::AddressRange(_) => ("--dst-range", "destination"),
        Match::Set(_) => ("-m set", "ipset"),
        Match::Other(module) => key_of_module(module)?,
        Match::Fragment { .. }
        | Match::AddressType(_)
        | Match::ConnectionMark(_)
        | Match::HopLimit(_)
        | Match::PacketType(_)
        | Match::Unknown(_) => return None,
    };
    Some((option.to_owned(), key))
}

fn port_of(ports: &iptables::Ports) -> Option<(&'static str, &'static str)> {
    match (&ports.source, &ports.destination) {
        (_, Some(_)) => Some(("--dport", "service")),
        (Some(_), None) => Some(("--sport", "service")),
        (None, None) => None,
    }
}

/// Returns the option of a module and the key that says all of what the module asks.
fn key_of_module(module: &Module) -> Option<(&'static str, &'static str)> {
    let text = |name: &str| module.setting(name).map(|setting| &*setting.value);
    let has = |name: &str| module.setting(name).is_some();
    Some(match module.name {
        "limit" => ("-m limit", "limit"),
        "hashlimit" => {
            let parts = ["srcip", "dstip", "dstport"];
            let mode = text("hashlimit-mode").unwrap_or_default();
            let is_said = |part: &str| part.is_empty() || parts.contains(&part);
            if has("hashlimit-rate-match") || !mode.split(',').all(is_said) {
                return None;
            }
            ("-m hashlimit", "limit")
        }
        "connlimit" if has("connlimit-daddr") => return None,
        "connlimit" => ("-m connlimit", "connections"),
        "time" => {
            let last = text("datestop").filter(|last| *last != END_OF_TIME);
            let ends_in_a_day = last.is_some_and(|last| !last.ends_with("T23:59:59"));
            if has("monthdays") || has("datestart") || ends_in_a_day {
                return None;
            }
            let is_scheduled = has("timestart") || has("weekdays");
            match last {
                Some(_) if !is_scheduled && has("kerneltz") => return None,
                Some(_) if !is_scheduled => ("-m time", "expires"),
                _ => ("-m time", "schedule"),
            }
        }
        "owner" => match (text("uid-owner"), text("gid-owner")) {
            // A key has single ids, and the process's own group.
            (Some(ids), _) if !ids.contains('-') => ("--uid-owner", "user"),
            (None, Some(ids)) if !ids.contains('-') && !has("suppl-groups") => {
                ("--gid-owner", "group")
            }
            _ => return None,
        },
        _ => return None,
    })
}

/// The last day of a match of times without one, as iptables prints it.
const END_OF_TIME: &str = "2038-01-19T03:14:07";

fn has_key(text: &Located<String>, option: &str, key: &str) -> Diagnostic {
    let example = match key {
        "action" => "action = \"drop\"",
        "type" => "type = \"drop\"",
        "scope" => "scope = \"ipv4\"",
        "source" => "source = \"192.0.2.0/24\"",
        "destination" => "destination = \"192.0.2.0/24\"",
        "from" => "from = \"wan\"",
        "to" => "to = \"lan\"",
        "tcp-flags" => "tcp-flags = \"syn/syn,ack,fin,rst\"",
        "state" => "state = \"new\"",
        "original" => "original = { destination = \"203.0.113.5\", service = \"8080/tcp\" }",
        "name" => "name = \"ssh from the office\"",
        "mark" => "mark = \"0x10/0xff\"",
        "mac" => "mac = \"02:00:5e:10:00:01\"",
        "ipset" => "ipset = \"crowdsec\"",
        "limit" => "limit = \"6/minute\"",
        "connections" => "connections = { max = 20 }",
        "expires" => "expires = 2027-03-31",
        "schedule" => "schedule = { from = \"08:00\", until = \"18:00\" }",
        "user" => "user = 33",
        "group" => "group = 33",
        _ => "service = \"8443/tcp\"",
    };
    let message = format!(
        "`match` cannot have `{}`: the key `{key}` says it",
        option.escape_debug()
    );
    Diagnostic::error(Code::MatchHasKey, text.span, message)
        .help(format!("write the key instead, such as `{example}`"))
}

fn refusal(
    text: &Located<String>,
    lines: &Lines<'_>,
    reason: &str,
    (family, table, chain, protocol): Line,
    declared: &Declared<'_>,
) -> Diagnostic {
    let tool = match family {
        Family::V4 => "iptables-restore",
        Family::V6 => "ip6tables-restore",
    };
    let message = format!("{tool} would refuse this match: {reason}");
    let (what, chain_words) = match table {
        CustomTable::Filter => ("rule", format!("{chain} of {family}")),
        _ => (
            "entry",
            format!("{chain} of the {} table, {family}", table.as_str()),
        ),
    };
    let line = match protocol {
        Some(protocol) => format!("the {what} has lines for {protocol} in {chain_words}"),
        None => format!("the {what} has lines for every protocol in {chain_words}"),
    };
    let mut finding = Diagnostic::error(Code::CustomRule, text.span, message).with_note(line);
    let takes = |chain, family, protocol| {
        read(&text.value, declared, (family, table, chain, protocol)).is_ok()
    };
    let other = match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    };
    let elsewhere = protocols(lines.service, lines.has_flags, other);
    if !elsewhere.is_empty()
        && elsewhere
            .iter()
            .all(|protocol| takes(chain, other, *protocol))
    {
        finding = finding.help(format!(
            "write `scope = \"{}\"`, and another {what} for {family}",
            other.keyword()
        ));
    }
    if table == CustomTable::Filter {
        let mut hooks = Hook::ALL.into_iter().filter(|other| other.chain() != chain);
        if let Some(other) = hooks.find(|other| takes(other.chain(), family, protocol)) {
            let places = match other {
                Hook::Input => "`to = \"host\"`",
                Hook::Forward => "`from` and `to` without `host`",
                Hook::Output => "`from = \"host\"`",
            };
            finding = finding.help(format!("{other} takes it: write {places}"));
        }
    }
    let with_ports = Protocol::WITH_PORTS.into_iter();
    let mut needed =
        with_ports.filter(|one| Some(*one) != protocol && takes(chain, family, Some(*one)));
    if let Some(needed) = needed.next() {
        finding = finding.help(format!(
            "it needs the protocol {needed}: write a `service` of {needed} only, such as `service = \"8443/{needed}\"`"
        ));
    }
    finding
}
