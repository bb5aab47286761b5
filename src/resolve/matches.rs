//! Resolves `match`: matches of iptables, read as iptables-restore reads them in each line of their rule.

use std::path::Path;

use super::custom::{command_in, words_of};
use super::extensions::Declared;
use super::own_tables;
use super::plan::{PlannedMatch, PlannedRule, ServicePart};
use crate::diag::{Code, Diagnostic, Severity, Sink};
use crate::iptables::{self, Match, Module, Rule, States, TableName};
use crate::net::{Family, Hook, PerFamily, Protocol};
use crate::policy::Policy;
use crate::source::{Located, SourceMap};

/// The matches that count, or draw a lot, each time they are asked: two lines would count twice. Those that a key says
/// (`limit`, `connections`) are not allowed in `match`.
const COUNTING: [&str; 5] = ["recent", "statistic", "quota", "nfacct", "rateest"];

/// Reads the matches of a rule in the families in which iptables has them. Where a rule with packets lacks them, [`check`]
/// reports it.
pub fn resolve(
    policy: &Policy,
    text: Option<&Located<String>>,
    (service, has_flags): (Option<&[ServicePart]>, bool),
    sink: &mut Sink,
) -> Option<PlannedMatch> {
    let text = text?;
    let declared = Declared::new(policy);
    if !check_words(text, &declared, sink) {
        return None;
    }
    let mut planned = PlannedMatch {
        texts: PerFamily::default(),
        matches: PerFamily::default(),
        counts: false,
    };
    for family in Family::ALL {
        // A match may exist in some hooks only, or with some protocols.
        let protocols = protocols(service, has_flags, family);
        let mut lines = protocols
            .iter()
            .flat_map(|protocol| Hook::ALL.map(|hook| (protocol, hook)));
        let read = lines.find_map(|(protocol, hook)| {
            read(&text.value, &declared, (family, hook, *protocol)).ok()
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

/// Reports matches that one of the rule's lines does not take, and matches that a key says. `families` and `hooks` are
/// those in which the rule has lines.
pub fn check(
    policy: &Policy,
    text: &Located<String>,
    rule: &PlannedRule,
    families: &[Family],
    hooks: &[Hook],
    sink: &mut Sink,
) {
    let declared = Declared::new(policy);
    let mut refused: Vec<String> = Vec::new();
    for &family in families {
        for &hook in hooks {
            for protocol in protocols(rule.service.as_deref(), rule.tcp_flags.is_some(), family) {
                match read(&text.value, &declared, (family, hook, protocol)) {
                    Ok(read) => {
                        if let Some((option, name)) = own_tables::used(&read.matches) {
                            sink.report(own_tables::reserved(text.span, (option, &name)));
                            return;
                        }
                        let mut own = own(&read, protocol);
                        if let Some((what, key)) = own.find_map(key_of) {
                            sink.report(has_key(text, &what, key));
                            return;
                        }
                    }
                    // A reason that several lines have is reported once.
                    Err(reason) if refused.contains(&reason) => {}
                    Err(reason) => {
                        let line = (family, hook, protocol);
                        sink.report(refusal(text, rule, &reason, line, &declared));
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
fn check_words(text: &Located<String>, declared: &Declared<'_>, sink: &mut Sink) -> bool {
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
        sink.report(has_key(text, found, "action"));
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

/// A line of a rule, by its family, hook and protocol; without `-p` if that is `None`.
type Line = (Family, Hook, Option<Protocol>);

/// Reads the matches as a rule of the filter table.
fn read(
    text: &str,
    declared: &Declared<'_>,
    (family, hook, protocol): Line,
) -> Result<Rule, String> {
    let table = TableName::Filter;
    let protocol = protocol.map_or_else(String::new, |protocol| format!("-p {protocol} "));
    let chain = hook.chain();
    let text =
        format!("*filter\n:{chain} ACCEPT [0:0]\n-A {chain} {protocol}{text} -j ACCEPT\nCOMMIT\n");
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

fn key_of_module(module: &Module) -> Option<(&'static str, &'static str)> {
    Some(match module.name {
        "limit" => ("-m limit", "limit"),
        "hashlimit" => ("-m hashlimit", "limit"),
        "connlimit" => ("-m connlimit", "connections"),
        "time" => ("-m time", "schedule"),
        "owner" if module.setting("uid-owner").is_some() => ("--uid-owner", "user"),
        "owner" if module.setting("gid-owner").is_some() => ("--gid-owner", "group"),
        _ => return None,
    })
}

fn has_key(text: &Located<String>, option: &str, key: &str) -> Diagnostic {
    let example = match key {
        "action" => "action = \"drop\"",
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
    rule: &PlannedRule,
    reason: &str,
    (family, hook, protocol): Line,
    declared: &Declared<'_>,
) -> Diagnostic {
    let tool = match family {
        Family::V4 => "iptables-restore",
        Family::V6 => "ip6tables-restore",
    };
    let message = format!("{tool} would refuse this match: {reason}");
    let line = match protocol {
        Some(protocol) => format!("the rule has lines for {protocol} in {hook} of {family}"),
        None => format!("the rule has lines for every protocol in {hook} of {family}"),
    };
    let mut finding = Diagnostic::error(Code::CustomRule, text.span, message).with_note(line);
    let takes =
        |hook, family, protocol| read(&text.value, declared, (family, hook, protocol)).is_ok();
    let other = match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    };
    let elsewhere = protocols(rule.service.as_deref(), rule.tcp_flags.is_some(), other);
    if !elsewhere.is_empty()
        && elsewhere
            .iter()
            .all(|protocol| takes(hook, other, *protocol))
    {
        finding = finding.help(format!(
            "write `scope = \"{}\"`, and another rule for {family}",
            other.keyword()
        ));
    }
    let mut hooks = Hook::ALL.into_iter().filter(|other| *other != hook);
    if let Some(other) = hooks.find(|other| takes(*other, family, protocol)) {
        let places = match other {
            Hook::Input => "`to = \"host\"`",
            Hook::Forward => "`from` and `to` without `host`",
            Hook::Output => "`from = \"host\"`",
        };
        finding = finding.help(format!("{other} takes it: write {places}"));
    }
    let with_ports = Protocol::WITH_PORTS.into_iter();
    let mut needed =
        with_ports.filter(|one| Some(*one) != protocol && takes(hook, family, Some(*one)));
    if let Some(needed) = needed.next() {
        finding = finding.help(format!(
            "it needs the protocol {needed}: write a `service` of {needed} only, such as `service = \"8443/{needed}\"`"
        ));
    }
    finding
}
