//! A disagreement in words.

use super::end_to_end::ArrivedPacket;
use super::normalised::is_goes_on;
use super::proof::{Disagreement, DisagreementKind};
use super::tests::TestOutcome;
use super::translated::{ComparedTranslation, shown};
use super::walkers::{Actual, ComparedEffects, ComparedWalk, Expected};
use crate::diag::{Code, Diagnostic};
use crate::iptables;
use crate::policy::{CustomPosition, DecidedBy, Policy, PolicyVerdict, RejectAnswer};
use crate::resolve::PlannedTest;

impl Disagreement {
    /// What people are told: the packet, what the policy says, what the rules do, and both places.
    pub fn diagnostic(&self, policy: &Policy) -> Diagnostic {
        let rules = self.family.rules_file();
        let structural = |what: String| {
            Diagnostic::error_without_place(Code::ProofFailed, format!("{rules}: {what}"))
        };
        match &self.what {
            DisagreementKind::Verdict(walked) => {
                self.about(walked, policy, "do not do what the policy says")
            }
            DisagreementKind::Logs(walked) => {
                self.about(walked, policy, "do not log what the policy says")
            }
            DisagreementKind::Translation(translated) => self.about_translation(translated, policy),
            DisagreementKind::Buckets {
                hook,
                line,
                wanted,
                found,
            } => structural(format!(
                "in {hook} `{}` is logged under {found} limits, and the policy has {wanted}",
                line.prefix
            )),
            DisagreementKind::StrangeLog(line, text) => {
                structural(format!("line {line} logs as no log class does: `{text}`"))
            }
            DisagreementKind::ChainPolicy {
                hook,
                wanted,
                found,
            } => structural(format!(
                "the policy of {hook} is {}, and has to be {}",
                found.as_str(),
                wanted.as_str()
            )),
            DisagreementKind::OwnPolicy(chain) => structural(format!(
                "{chain} is no base chain, and has a policy: iptables-legacy refuses that"
            )),
            DisagreementKind::Undeclared { table, chain } => structural(match chain {
                Some(chain) => format!("{chain} in the table {} is not declared", table.as_str()),
                None => format!("the table {} is missing", table.as_str()),
            }),
            DisagreementKind::NotShared(what) => {
                structural(format!("{what}, and in shared mode it is others'"))
            }
            DisagreementKind::IdleChain { table, chain } => structural(format!(
                "no packet reaches the chain {chain} in the table {}",
                table.as_str()
            )),
            DisagreementKind::CountedTwice { table, chain } => structural(format!(
                "a packet may come to the chain {chain} in the table {} twice, and is counted twice there",
                table.as_str()
            )),
            DisagreementKind::ForeignTable { table, chain } => structural(format!(
                "{} in the table {} does something, and the policy says nothing of it",
                chain.as_str(),
                table.as_str()
            )),
            DisagreementKind::IpSet(name) => {
                structural(format!("the set {name} is not as the policy says"))
            }
            DisagreementKind::Unreadable(error) => structural(error.to_string()),
            DisagreementKind::CustomPlace { table, chain } => structural(format!(
                "{} in the table {}: the custom rules do not stand where the policy puts them",
                chain.as_str(),
                table.as_str()
            )),
            DisagreementKind::Treatment(treated) => self.treated(treated),
            DisagreementKind::Unseen(chain) => structural(format!(
                "in {} packets are treated otherwise that no kernel shows",
                chain.as_str()
            )),
            DisagreementKind::Internal(None, what) => {
                structural(format!("fwc contradicts itself: {what}"))
            }
            DisagreementKind::Internal(Some(walked), what) => self
                .about(walked, policy, "are not understood by fwc itself")
                .with_note(what),
        }
    }

    fn about_translation(&self, translated: &ComparedTranslation, policy: &Policy) -> Diagnostic {
        let rules = self.family.rules_file();
        let message = format!("the rules in {rules} do not translate as the policy says");
        let mut diagnostic = match translated.place {
            Some(place) => Diagnostic::error(Code::ProofFailed, place, message)
                .label("this translates, by the policy"),
            None => Diagnostic::error_without_place(Code::ProofFailed, message),
        };
        let chain = translated.chain.as_str();
        diagnostic = diagnostic.with_note(format!("packet in {chain}: {}", translated.packet));
        for (condition, holds) in &translated.when {
            let not = if *holds { "" } else { "not " };
            diagnostic = diagnostic.with_note(format!("where it is {not}so: {condition}"));
        }
        let nothing = || "nothing is translated".to_owned();
        let said = translated.policy.map_or_else(nothing, |end| {
            let words = shown(end.address, end.ports);
            format!("{words}, by {}", nat_entry(policy, end.entry))
        });
        let made = translated.rules.as_ref().map_or_else(nothing, |made| {
            let words = made.end.map(|(address, ports)| shown(address, ports));
            let words = words.unwrap_or_else(|| "it is translated otherwise".to_owned());
            match &made.rule {
                Some((line, rule)) => format!("{words}, by line {line}: {rule}"),
                None => format!("{words}, by the chain's policy"),
            }
        });
        diagnostic
            .with_note(format!("policy: {said}"))
            .with_note(format!("rules: {made}"))
    }

    fn treated(&self, treated: &ComparedEffects) -> Diagnostic {
        let message = format!(
            "the rules in {} do not do to packets what the policy says, in {} of the table {}",
            self.family.rules_file(),
            treated.chain.as_str(),
            treated.table.as_str()
        );
        let mut diagnostic = match treated.policy.first() {
            Some((_, place)) => Diagnostic::error(Code::ProofFailed, *place, message)
                .label("this is about the packet, by the policy"),
            None => Diagnostic::error_without_place(Code::ProofFailed, message),
        };
        diagnostic = diagnostic.with_note(format!("packet: {}", treated.packet));
        for (condition, holds) in &treated.when {
            let not = if *holds { "" } else { "not " };
            diagnostic = diagnostic.with_note(format!("where it is {not}so: {condition}"));
        }
        let list = |acts: Vec<String>| match acts.is_empty() {
            true => "nothing".to_owned(),
            false => acts.join(", then "),
        };
        let says = treated.policy.iter().map(|(act, _)| act.to_string());
        let does = treated.rules.iter();
        let does = does.map(|(act, line, text)| format!("{act}, by line {line}: {text}"));
        diagnostic
            .with_note(format!("policy: {}", list(says.collect())))
            .with_note(format!("rules: {}", list(does.collect())))
    }

    fn about(&self, walked: &ComparedWalk, policy: &Policy, what: &str) -> Diagnostic {
        let message = format!("the rules in {} {what}", self.family.rules_file());
        let diagnostic = match walked.policy.place {
            Some(place) => Diagnostic::error(Code::ProofFailed, place, message)
                .label("this decides, by the policy"),
            None => Diagnostic::error_without_place(Code::ProofFailed, message),
        };
        about(diagnostic, walked, policy)
    }
}

/// What to do where the views contradict each other.
pub const INTERNAL: &str =
    "this is an internal error: please report it with the policy; nothing was written";

impl TestOutcome {
    /// What people are told where the test does not hold: a packet, what becomes of it, and what decides.
    pub fn diagnostic(&self, test: &PlannedTest, policy: &Policy) -> Option<Diagnostic> {
        Some(match self {
            Self::Holds => return None,
            Self::FitsNothing => {
                let message = format!("no packet fits the test `{}`", test.name);
                Diagnostic::error(Code::TestFitsNothing, test.span, message).with_note(
                    "it would hold whatever the rules are: no kernel shows a packet that has all of its keys, or what it assumes leaves none",
                )
            }
            Self::Fails(walked) => failure(walked, test, policy),
            Self::Unclear(disagreement) => disagreement.diagnostic(policy).help(INTERNAL),
            Self::GaveUp(family, reason) => {
                let message = format!("the test `{}`, {family}: {reason}", test.name);
                Diagnostic::error(Code::AnalysisGaveUp, test.span, message)
            }
        })
    }
}

fn failure(walked: &ComparedWalk, test: &PlannedTest, policy: &Policy) -> Diagnostic {
    let becomes = match &walked.rules.verdict {
        iptables::WalkVerdict::Accept => "accepted",
        iptables::WalkVerdict::Drop => "dropped",
        iptables::WalkVerdict::Reject(_) => "rejected",
        iptables::WalkVerdict::Other(target) if is_goes_on(target) => "left to others",
        iptables::WalkVerdict::Other(_) => "treated otherwise",
    };
    let message = format!("the test `{}` fails: a packet is {becomes}", test.name);
    let expected = format!(
        "{} is expected of every packet that fits",
        test.expect.as_str()
    );
    let mut diagnostic =
        Diagnostic::error(Code::TestFailed, test.expect_span, message).label(expected);
    if let Some(place) = walked.became.as_ref().and_then(|became| became.place) {
        diagnostic = diagnostic.also(place, "this translates the packet");
    }
    if let Some(place) = walked.policy.place {
        diagnostic = diagnostic.also(place, "this decides");
    }
    about(diagnostic, walked, policy)
}

/// The packet, what becomes of it by the policy and by the rules, and what else is so.
fn about(mut diagnostic: Diagnostic, walked: &ComparedWalk, policy: &Policy) -> Diagnostic {
    diagnostic = diagnostic.with_note(format!("packet: {}", walked.packet));
    for (condition, holds) in &walked.when {
        let not = if *holds { "" } else { "not " };
        diagnostic = diagnostic.with_note(format!("where it is {not}so: {condition}"));
    }
    if let Some(became) = &walked.became {
        diagnostic = translation(diagnostic, became, policy);
    }
    diagnostic
        .with_note(format!("policy: {}", said(&walked.policy, policy)))
        .with_note(format!("rules: {}", done(&walked.rules)))
}

/// What a packet became on its way to the filter table, and what made it so.
fn translation(diagnostic: Diagnostic, became: &ArrivedPacket, policy: &Policy) -> Diagnostic {
    let mut by = Vec::new();
    if let Some(end) = became.policy {
        let words = shown(end.address, end.ports);
        by.push(format!("{words}, by {}", nat_entry(policy, end.entry)));
    }
    if let Some((line, rule)) = &became.rule {
        by.push(format!("line {line}: {rule}"));
    }
    let diagnostic = match by.is_empty() {
        true => diagnostic,
        false => diagnostic.with_note(format!("translated: {}", by.join("; "))),
    };
    diagnostic.with_note(format!("the filter table sees: {}", became.packet))
}

const GOES_ON: &str = "back to the base chain, where others decide";

fn said(said: &Expected, policy: &Policy) -> String {
    let verdict = match said.decision.verdict {
        PolicyVerdict::Custom => "what it says",
        PolicyVerdict::Accept => "accept",
        PolicyVerdict::Drop => "drop",
        PolicyVerdict::Continue => GOES_ON,
        PolicyVerdict::Reject(RejectAnswer::TcpReset) => "reject with tcp-reset",
        PolicyVerdict::Reject(RejectAnswer::PortUnreachable) => "reject with port-unreachable",
        PolicyVerdict::Reject(RejectAnswer::HostUnreachable) => "reject with host-unreachable",
        PolicyVerdict::Reject(RejectAnswer::NetUnreachable) => "reject with net-unreachable",
        PolicyVerdict::Reject(RejectAnswer::AdminProhibited) => "reject with admin-prohibited",
    };
    let by = match said.decision.by {
        DecidedBy::Antispoof => "`antispoof`".to_owned(),
        DecidedBy::Loopback => "`loopback`".to_owned(),
        DecidedBy::Established => "`established`".to_owned(),
        DecidedBy::Icmp => "`icmp`".to_owned(),
        DecidedBy::Invalid => "`invalid`".to_owned(),
        DecidedBy::DhcpClient => "`dhcp-client`".to_owned(),
        DecidedBy::Nat(index) => nat_entry(policy, index),
        DecidedBy::Raw(index) => {
            let entry = policy.raw.get(index);
            match entry.and_then(|entry| entry.packets.name.as_ref()) {
                Some(name) => format!("raw entry \"{}\"", name.value),
                None => format!("raw entry {}", index + 1),
            }
        }
        DecidedBy::Custom(position) => match position {
            CustomPosition::Before => "a custom rule before the rules",
            CustomPosition::Behind(_) => "a custom rule among the rules",
            CustomPosition::After => "a custom rule after the rules",
        }
        .to_owned(),
        DecidedBy::Default => "the default".to_owned(),
        DecidedBy::Rule(index) => match policy.rules.get(index).and_then(|rule| rule.name.as_ref())
        {
            Some(name) => format!("rule \"{}\"", name.value),
            None => format!("rule {}", index + 1),
        },
    };
    format!("{verdict}, by {by}{}", logged(said.logs.len()))
}

fn nat_entry(policy: &Policy, index: usize) -> String {
    let entry = policy.nat.get(index);
    match entry.and_then(|entry| entry.packets.name.as_ref()) {
        Some(name) => format!("nat entry \"{}\"", name.value),
        None => format!("nat entry {}", index + 1),
    }
}

fn done(done: &Actual) -> String {
    let verdict = match &done.verdict {
        iptables::WalkVerdict::Accept => "accept".to_owned(),
        iptables::WalkVerdict::Drop => "drop".to_owned(),
        iptables::WalkVerdict::Reject(with) => format!("reject with {}", with.as_str()),
        iptables::WalkVerdict::Other(target) if is_goes_on(target) => GOES_ON.to_owned(),
        iptables::WalkVerdict::Other(_) => "another target".to_owned(),
    };
    let by = match &done.rule {
        Some((line, rule)) => format!("line {line}: {rule}"),
        None => "the chain's policy".to_owned(),
    };
    format!("{verdict}, by {by}{}", logged(done.logs.len()))
}

fn logged(lines: usize) -> String {
    match lines {
        0 => String::new(),
        1 => ", logged once on the way".to_owned(),
        more => format!(", logged {more} times on the way"),
    }
}
