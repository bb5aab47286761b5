//! Each case of the probes: every packet's verdict by `policy::decide`.

use std::path::Path;

use fwc::diag::{Severity, Sink};
use fwc::files::Access;
use fwc::internals::resolve::resolve;
use fwc::iptables::{Match, RuleId, Ruleset, TableName, WalkVerdict as Walked, walk};
use fwc::net::{Family, Packet};
use fwc::policy::{
    self, Circumstance, CustomPosition, DecidedBy, HostPrefix, LimitRate, NewAddress, NewEnd,
    Policy, PolicyCustom, PolicySchedule, RuleLimit,
};
use fwc::source::SourceMap;
use jiff::civil::DateTime;
use libtest_mimic::{Completion, Failed, Trial};

use crate::circumstances::Circumstances;
use crate::counters::Verdict;
use crate::folders::{cases, folders, is_not_yet_said};
use crate::probe::{Case, Translation};

/// One test for each case.
pub fn all() -> Vec<Trial> {
    let cases = folders().into_iter().flat_map(|folder| cases(&folder));
    cases.map(|path| case(&path)).collect()
}

fn case(path: &Path) -> Trial {
    let name = format!("probes::{}", path.file_name().unwrap().to_string_lossy());
    let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
    let read = policy::load(
        &path.join("fwc.toml"),
        Access::Read,
        &mut sources,
        &mut sink,
    );
    if let Some(policy) = &read {
        resolve(policy, &mut sink);
    }
    let errors = sink.sorted().into_iter();
    let errors = errors.filter(|diagnostic| diagnostic.severity == Severity::Error);
    let errors: Vec<_> = errors.collect();
    let messages: Vec<_> = errors.iter().map(|error| error.message.clone()).collect();
    let messages = messages.join("; ");
    let not_yet = is_not_yet_said(path, errors.iter().map(|error| error.code.as_str()));
    let is_refused = !errors.is_empty();
    let path = path.join("probes.toml");
    Trial::ignorable_test(name, move || match &read {
        Some(policy) if !is_refused => {
            judge(policy, &Case::read(&path)?).map(|()| Completion::Completed)
        }
        _ if not_yet => Ok(Completion::ignored_with(format!(
            "not yet in the language: {messages}"
        ))),
        _ => Err(format!("the policy was refused: {messages}").into()),
    })
}

fn judge(policy: &Policy, case: &Case) -> Result<(), Failed> {
    let mut wrong = String::new();
    for (number, probe) in (1..).zip(&case.probes) {
        let (circumstances, packet) = (probe.circumstances()?, probe.packet()?);
        if let Some((chain, expected)) = probe.translation()? {
            let holds = |it: Circumstance<'_>| match it {
                Circumstance::Matches(text) => hold(&text.value, &circumstances, &packet),
                it => holds(policy, &circumstances, it, &packet),
            };
            let end = policy::translate_when(policy, &packet, chain, &holds);
            if made(end) != expected {
                let why = &probe.why;
                wrong += &format!("probe {number} ({why}): expected {expected:?}, {end:?}\n");
            }
            continue;
        }
        let decision = policy::decide_when(policy, &packet, &|it| match it {
            Circumstance::Custom(position) => {
                by_custom(policy, position, &packet, &circumstances).is_some()
            }
            Circumstance::Matches(text) => hold(&text.value, &circumstances, &packet),
            it => holds(policy, &circumstances, it, &packet),
        });
        let said = match (decision.verdict, decision.by) {
            // Alone on the host, with base chains that accept.
            (policy::PolicyVerdict::Accept | policy::PolicyVerdict::Continue, _) => Verdict::Accept,
            (policy::PolicyVerdict::Drop, _) => Verdict::Drop,
            (policy::PolicyVerdict::Reject(_), _) => Verdict::Reject,
            (policy::PolicyVerdict::Custom, DecidedBy::Custom(position)) => {
                by_custom(policy, position, &packet, &circumstances)
                    .ok_or("no custom rule decides")?
            }
            (policy::PolicyVerdict::Custom, by) => return Err(format!("custom by {by:?}").into()),
        };
        if Some(said) != probe.verdict() {
            let (expected, why) = (probe.verdict(), &probe.why);
            wrong += &format!("probe {number} ({why}): expected {expected:?}, {decision:?}\n");
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!("{}\n{}\n{wrong}", case.about, case.sentence).into())
}

/// The word for a translation.
fn made(end: Option<NewEnd>) -> Translation {
    match end.map(|end| end.address) {
        None => Translation::None,
        Some(NewAddress::OfDevice) => Translation::Masquerade,
        Some(NewAddress::Source(_)) => Translation::Snat,
        Some(NewAddress::ThisHost) => Translation::Redirect,
        Some(NewAddress::Destination(_)) => Translation::Dnat,
    }
}

/// What the custom rules at a position of the packet's chain do with it, if they decide it.
fn by_custom(
    policy: &Policy,
    position: CustomPosition,
    packet: &Packet,
    this: &Circumstances,
) -> Option<Verdict> {
    let mut text =
        String::from("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n");
    let base = ["INPUT", "FORWARD", "OUTPUT"];
    let own = |custom: &&PolicyCustom| {
        let chain = custom.chain.as_ref();
        chain.is_some_and(|chain| !base.contains(&&*chain.value))
    };
    let mut chains: Vec<_> = policy.custom.iter().filter(own).collect();
    chains.dedup_by_key(|custom| custom.chain.as_ref().map(|chain| &chain.value));
    for chain in chains
        .into_iter()
        .filter_map(|custom| custom.chain.as_ref())
    {
        text += &format!(":{} - [0:0]\n", chain.value);
    }
    let here = policy.custom.iter().filter(|custom| {
        let scope = custom.scope.as_ref().map(|scope| scope.value);
        custom.enabled
            && custom.table.is_none()
            && scope.is_none_or(|scope| scope.has(packet.family))
            && (custom.position() == position || own(custom))
    });
    for custom in here {
        // In a block it is asked in whatever chain the packet is.
        let chain = custom.chain.as_ref().map(|chain| chain.value.as_str());
        let chain = chain.unwrap_or(packet.hook.chain());
        text += &format!("-A {chain} {}\n", custom.rule.as_ref()?.value);
    }
    let rules = Ruleset::from_text(&format!("{text}COMMIT\n"), packet.family).ok()?;
    let mut answer = |_: RuleId, condition: &Match| this.match_holds(condition, packet);
    let walked = walk(&rules, TableName::Filter, packet, &mut answer).ok()?;
    walked.decided.as_ref()?;
    Some(match walked.verdict {
        Walked::Accept => Verdict::Accept,
        Walked::Drop => Verdict::Drop,
        _ => Verdict::Reject,
    })
}

/// Whether matches of iptables hold, by the words of iptables-extensions(8).
fn hold(matches: &str, this: &Circumstances, packet: &Packet) -> bool {
    let (chain, protocol) = (packet.hook.chain(), packet.protocol);
    let text = format!(
        "*filter\n:{chain} ACCEPT [0:0]\n-A {chain} -p {protocol} {matches} -j DROP\nCOMMIT\n"
    );
    let Ok(rules) = Ruleset::from_text(&text, packet.family) else {
        return false;
    };
    let mut answer = |_: RuleId, condition: &Match| this.match_holds(condition, packet);
    let walked = walk(&rules, TableName::Filter, packet, &mut answer);
    walked.is_ok_and(|walked| walked.verdict == Walked::Drop)
}

/// Whether a circumstance of the policy holds, by the words of the language.
fn holds(
    policy: &Policy,
    this: &Circumstances,
    circumstance: Circumstance<'_>,
    packet: &Packet,
) -> bool {
    match circumstance {
        Circumstance::WithinLimit(rule) => {
            let limit = match &policy.rules[rule].limit {
                Some(RuleLimit::Own(limit)) => limit,
                Some(RuleLimit::Named(name)) => &policy.limits.get(&name.value).unwrap().value,
                None => return !this.is_beyond(None),
            };
            let host = |prefix: HostPrefix, v4, v6| match (prefix, packet.family) {
                (HostPrefix::Host, Family::V4) => v4,
                (HostPrefix::Host, Family::V6) => v6,
                (HostPrefix::Only(bits), _) => bits,
                (HostPrefix::Each(bits), family) => bits[family],
            };
            let per = limit.per;
            let share = this.others.take_from_bucket(
                packet,
                per.source.map(|prefix| host(prefix, 32, 64)),
                per.destination.map(|prefix| host(prefix, 32, 128)),
                per.destination_port,
            );
            // Of bytes a probe says itself whether they are used up.
            !(share
                && match limit.rate {
                    LimitRate::Packets(_, burst) => this.is_beyond(Some(burst)),
                    LimitRate::Bytes(_) => this.beyond,
                    // The sixth of six hits is over: five pass.
                    LimitRate::Window(window) => this.is_beyond(Some(u32::from(window.hits) - 1)),
                })
        }
        Circumstance::WithinConnections(_) => !this.beyond,
        Circumstance::User(id) => this.user == Some(id),
        Circumstance::Group(id) => this.group == Some(id),
        Circumstance::Time(schedule) => this.at.is_none_or(|at| is_time(schedule, at)),
        Circumstance::NotAfter(last) => this.at.is_none_or(|at| at.date() <= last),
        Circumstance::InSet { name, ends } => {
            let is_of_source = matches!(ends.from_source(), [true] | [true, false]);
            is_of_source && this.is_member(name)
        }
        Circumstance::InForeignSet { name, .. } => this.is_member(name),
        Circumstance::FromIpsec => this.from_ipsec,
        Circumstance::IntoIpsec => this.into_ipsec,
        Circumstance::AuthHeader => this.has_auth_header(),
        Circumstance::ToThisHost => true,
        Circumstance::OriginalDirection => !this.original.is_reply,
        Circumstance::OriginalDestination(range) => this.was_sent_to(range, packet),
        Circumstance::OriginalPort { protocol, ports } => {
            let port = this.original.port.or(packet.destination_port);
            let is_port = |port| (ports.first..=ports.last).contains(&port);
            protocol.0 == packet.protocol && port.is_some_and(is_port)
        }
        Circumstance::Matches(_) => false,
        Circumstance::Custom(_) | Circumstance::Turn(_) => false,
    }
}

/// A schedule across midnight belongs to the day on which it begins.
fn is_time(schedule: &PolicySchedule, at: DateTime) -> bool {
    let now = format!("{:02}:{:02}", at.hour(), at.minute());
    let (mut day, mut is_hour) = (at.date(), true);
    if let Some((from, until)) = &schedule.hours {
        let (from, until) = (from.to_string(), until.to_string());
        is_hour = match from < until {
            true => from <= now && now < until,
            false => from <= now || now < until,
        };
        if until < from && now < until {
            day = day.yesterday().expect("a day before");
        }
    }
    let days = schedule.days.as_deref();
    let day = format!("{:?}", day.weekday());
    is_hour && days.is_none_or(|days| days.iter().any(|it| format!("{it:?}") == day))
}
