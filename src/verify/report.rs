//! The messages for differences between policy and rules, and for tests that fail.

use super::end_to_end::ArrivedPacket;
use super::normalised::leaves_to_others;
use super::proof::{Disagreement, DisagreementKind};
use super::tests::TestOutcome;
use super::translated::{ComparedTranslation, shown};
use super::walkers::{Actual, ComparedEffects, ComparedWalk, Expected};
use crate::diag::{Code, Diagnostic};
use crate::iptables::{self, TableName};
use crate::policy::{CustomPosition, DecidedBy, Policy, PolicyVerdict, RejectAnswer};
use crate::resolve::PlannedTest;

impl Disagreement {
    /// Describes the difference: the packet, what the policy and the rules do with it, and the place of both.
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
                table,
                chain,
                line,
                wanted,
                found,
            } => {
                let chain = match table {
                    TableName::Filter => chain.as_str().to_owned(),
                    _ => format!("{} of the {} table", chain.as_str(), table.as_str()),
                };
                structural(format!(
                    "in {chain} the log line `{}` has {found} separate limits, but the policy has {wanted}",
                    line.prefix
                ))
            }
            // An effect of a custom rule has no line.
            DisagreementKind::UnexpectedLog(0, text) => {
                structural(format!("no log class of the policy produces `{text}`"))
            }
            DisagreementKind::UnexpectedLog(line, text) => structural(format!(
                "line {line}: no log class of the policy produces `{text}`"
            )),
            DisagreementKind::Counted { hook, comment } => structural(format!(
                "in {hook} the lines {} count other packets than the policy says",
                match comment {
                    Some(comment) => format!("with the comment `{comment}`"),
                    None => "without a target".to_owned(),
                }
            )),
            DisagreementKind::ChainPolicy {
                hook,
                wanted,
                found,
            } => structural(format!(
                "the policy of {hook} is {}, but must be {}",
                found.as_str(),
                wanted.as_str()
            )),
            DisagreementKind::PolicyOnUserChain(chain) => structural(format!(
                "{chain} has a policy, but only base chains may have one: iptables-legacy refuses the file"
            )),
            DisagreementKind::Undeclared { table, chain } => structural(match chain {
                Some(chain) => format!("{chain} in the table {} is not declared", table.as_str()),
                None => format!("the table {} is missing", table.as_str()),
            }),
            DisagreementKind::TouchesOtherRules(what) => structural(what.clone()),
            DisagreementKind::UnreachableChain { table, chain } => structural(format!(
                "no packet reaches the chain {chain} in the table {}",
                table.as_str()
            )),
            DisagreementKind::CountedTwice { table, chain } => structural(format!(
                "a packet can pass the chain {chain} in the table {} twice, and its limits and logs count it twice",
                table.as_str()
            )),
            DisagreementKind::UnusedBaseChain { table, chain } => structural(format!(
                "{} in the table {} has rules or a chain policy that the policy does not require",
                chain.as_str(),
                table.as_str()
            )),
            DisagreementKind::IpSet(name) => structural(format!(
                "the ipset {name} is missing, not in the policy, or differs from it"
            )),
            DisagreementKind::Unreadable(error) => structural(error.to_string()),
            DisagreementKind::CustomPlace { table, chain } => structural(format!(
                "{} in the table {}: the custom rules are not at the positions that the policy gives them",
                chain.as_str(),
                table.as_str()
            )),
            DisagreementKind::Treatment(treated) => self.about_effects(treated),
            DisagreementKind::ImpossiblePackets(chain) => structural(format!(
                "in {} the rules differ from the policy, but only for packets that cannot occur",
                chain.as_str()
            )),
            DisagreementKind::DroppedBefore(chain) => structural(format!(
                "in {} the rules differ from the policy, but only for packets that the raw table drops before",
                chain.as_str()
            )),
            DisagreementKind::Internal(None, what) => structural(format!("internal error: {what}")),
            DisagreementKind::Internal(Some(walked), what) => self
                .about(walked, policy, "could not be verified")
                .with_note(format!("internal error: {what}")),
        }
    }

    fn about_translation(&self, translated: &ComparedTranslation, policy: &Policy) -> Diagnostic {
        let rules = self.family.rules_file();
        let message = format!("the rules in {rules} do not translate as the policy says");
        let mut diagnostic = match translated.place {
            Some(place) => Diagnostic::error(Code::ProofFailed, place, message)
                .label("the policy translates the packet here"),
            None => Diagnostic::error_without_place(Code::ProofFailed, message),
        };
        let chain = translated.chain.as_str();
        diagnostic = diagnostic.with_note(format!("packet in {chain}: {}", translated.packet));
        for (condition, holds) in &translated.when {
            diagnostic = diagnostic.with_note(assumption(condition, *holds));
        }
        let nothing = || "no translation".to_owned();
        let by_policy = translated.policy.map_or_else(nothing, |end| {
            let words = shown(end.into());
            format!("{words}, by {}", nat_entry(policy, end.entry))
        });
        let by_rules = translated.rules.as_ref().map_or_else(nothing, |made| {
            let words = made.end.map(shown);
            let words = words.unwrap_or_else(|| "another translation".to_owned());
            match &made.rule {
                Some((line, rule)) => format!("{words}, by line {line}: {rule}"),
                None => format!("{words}, by the chain's policy"),
            }
        });
        diagnostic
            .with_note(format!("policy: {by_policy}"))
            .with_note(format!("rules: {by_rules}"))
    }

    fn about_effects(&self, treated: &ComparedEffects) -> Diagnostic {
        let message = format!(
            "the rules in {} do not change packets as the policy says, in {} of the table {}",
            self.family.rules_file(),
            treated.chain.as_str(),
            treated.table.as_str()
        );
        let mut diagnostic = match treated.policy.first() {
            Some((_, place)) => Diagnostic::error(Code::ProofFailed, *place, message)
                .label("the policy changes the packet here"),
            None => Diagnostic::error_without_place(Code::ProofFailed, message),
        };
        diagnostic = diagnostic.with_note(format!("packet: {}", treated.packet));
        for (condition, holds) in &treated.when {
            diagnostic = diagnostic.with_note(assumption(condition, *holds));
        }
        let list = |effects: Vec<String>| match effects.is_empty() {
            true => "nothing".to_owned(),
            false => effects.join(", then "),
        };
        let by_policy = treated.policy.iter().map(|(effect, _)| effect.to_string());
        let by_rules = treated.rules.iter();
        let by_rules =
            by_rules.map(|(effect, line, text)| format!("{effect}, by line {line}: {text}"));
        diagnostic
            .with_note(format!("policy: {}", list(by_policy.collect())))
            .with_note(format!("rules: {}", list(by_rules.collect())))
    }

    fn about(&self, walked: &ComparedWalk, policy: &Policy, what: &str) -> Diagnostic {
        let message = format!("the rules in {} {what}", self.family.rules_file());
        let diagnostic = match walked.policy.place {
            Some(place) => Diagnostic::error(Code::ProofFailed, place, message)
                .label("the policy decides the packet here"),
            None => Diagnostic::error_without_place(Code::ProofFailed, message),
        };
        about(diagnostic, walked, policy)
    }
}

/// The help for a proof that failed through no fault of the policy or of a template.
pub const INTERNAL: &str =
    "this is an internal error: please report it with the policy; nothing was written";

/// Words a circumstance under which a packet shows the difference, such as a rate that is used up.
fn assumption(condition: &str, holds: bool) -> String {
    let not = if holds { "" } else { " not" };
    format!("assuming{not}: {condition}")
}

impl TestOutcome {
    /// Describes a test that fails: an example packet, its verdict, and the rule that decides it. `None` if the test passes.
    pub fn diagnostic(&self, test: &PlannedTest, policy: &Policy) -> Option<Diagnostic> {
        Some(match self {
            Self::Holds => return None,
            Self::FitsNothing => {
                let message = format!("no packet fits the test `{}`", test.name);
                Diagnostic::error(Code::TestFitsNothing, test.span, message).with_note(
                    "the test would pass with any rules: no real packet has all of its keys, or the sets that it assumes to be empty exclude them all",
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
    let verdict = match &walked.rules.verdict {
        iptables::WalkVerdict::Accept => "accepted",
        iptables::WalkVerdict::Drop => "dropped",
        iptables::WalkVerdict::Reject(_) => "rejected",
        iptables::WalkVerdict::Other(target) if leaves_to_others(target) => {
            "left to the rules of other programs"
        }
        iptables::WalkVerdict::Other(_) => "handed to another target",
    };
    let message = format!("the test `{}` fails: a packet is {verdict}", test.name);
    let expected = format!(
        "{} is expected of every packet that fits",
        test.expect.as_str()
    );
    let mut diagnostic =
        Diagnostic::error(Code::TestFailed, test.expect_span, message).label(expected);
    if let Some(place) = walked.became.as_ref().and_then(|became| became.place) {
        diagnostic = diagnostic.also(place, "translates the packet");
    }
    if let Some(place) = walked.policy.place {
        diagnostic = diagnostic.also(place, "decides the packet");
    }
    about(diagnostic, walked, policy)
}

/// Adds the packet, the circumstances, and what the policy and the rules do with it.
fn about(mut diagnostic: Diagnostic, walked: &ComparedWalk, policy: &Policy) -> Diagnostic {
    diagnostic = diagnostic.with_note(format!("packet: {}", walked.packet));
    for (condition, holds) in &walked.when {
        diagnostic = diagnostic.with_note(assumption(condition, *holds));
    }
    if let Some(became) = &walked.became {
        diagnostic = translation(diagnostic, became, policy);
    }
    diagnostic
        .with_note(format!("policy: {}", expected(&walked.policy, policy)))
        .with_note(format!("rules: {}", actual(&walked.rules)))
}

/// Adds how the packet was changed before the filter table, and by which entry and rule.
fn translation(diagnostic: Diagnostic, became: &ArrivedPacket, policy: &Policy) -> Diagnostic {
    let mut by = Vec::new();
    if let Some(end) = became.policy {
        let words = shown(end.into());
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

/// The verdict of packets that fwc's chains do not decide in shared mode.
const LEFT_TO_OTHERS: &str = "return to the base chain, where the rules of other programs decide";

fn expected(expected: &Expected, policy: &Policy) -> String {
    let verdict = match expected.decision.verdict {
        PolicyVerdict::Custom => "the verdict of the rule",
        PolicyVerdict::Accept => "accept",
        PolicyVerdict::Drop => "drop",
        PolicyVerdict::Continue => LEFT_TO_OTHERS,
        PolicyVerdict::Reject(RejectAnswer::TcpReset) => "reject with tcp-reset",
        PolicyVerdict::Reject(RejectAnswer::PortUnreachable) => "reject with port-unreachable",
        PolicyVerdict::Reject(RejectAnswer::HostUnreachable) => "reject with host-unreachable",
        PolicyVerdict::Reject(RejectAnswer::NetUnreachable) => "reject with net-unreachable",
        PolicyVerdict::Reject(RejectAnswer::AdminProhibited) => "reject with admin-prohibited",
        PolicyVerdict::Reject(RejectAnswer::HostProhibited) => "reject with host-prohibited",
        PolicyVerdict::Reject(RejectAnswer::NetProhibited) => "reject with net-prohibited",
        PolicyVerdict::Reject(RejectAnswer::ProtoUnreachable) => "reject with proto-unreachable",
        PolicyVerdict::Reject(RejectAnswer::PolicyFail) => "reject with policy-fail",
        PolicyVerdict::Reject(RejectAnswer::RejectRoute) => "reject with reject-route",
    };
    let by = match expected.decision.by {
        DecidedBy::Antispoof => "`antispoof`".to_owned(),
        DecidedBy::Loopback => "`loopback`".to_owned(),
        DecidedBy::Established => "`established`".to_owned(),
        DecidedBy::Icmp => "`icmp`".to_owned(),
        DecidedBy::Invalid => "`invalid`".to_owned(),
        DecidedBy::DhcpClient => "`dhcp-client`".to_owned(),
        DecidedBy::Nat(index) => nat_entry(policy, index),
        DecidedBy::Mangle(index) => {
            let entry = policy.mangle.get(index);
            match entry.and_then(|entry| entry.packets.name.as_ref()) {
                Some(name) => format!("mangle entry \"{}\"", name.value),
                None => format!("mangle entry {}", index + 1),
            }
        }
        DecidedBy::Raw(index) | DecidedBy::RawDrop(index) => {
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
            CustomPosition::InBlock { .. } => "a custom rule of a block",
        }
        .to_owned(),
        DecidedBy::Default => "the default".to_owned(),
        DecidedBy::Rule(index) => match policy.rules.get(index).and_then(|rule| rule.name.as_ref())
        {
            Some(name) => format!("rule \"{}\"", name.value),
            None => format!("rule {}", index + 1),
        },
    };
    format!("{verdict}, by {by}{}", logged(expected.logs.len()))
}

fn nat_entry(policy: &Policy, index: usize) -> String {
    let entry = policy.nat.get(index);
    match entry.and_then(|entry| entry.packets.name.as_ref()) {
        Some(name) => format!("nat entry \"{}\"", name.value),
        None => format!("nat entry {}", index + 1),
    }
}

fn actual(actual: &Actual) -> String {
    let verdict = match &actual.verdict {
        iptables::WalkVerdict::Accept => "accept".to_owned(),
        iptables::WalkVerdict::Drop => "drop".to_owned(),
        iptables::WalkVerdict::Reject(with) => format!("reject with {}", with.as_str()),
        iptables::WalkVerdict::Other(target) if leaves_to_others(target) => {
            LEFT_TO_OTHERS.to_owned()
        }
        iptables::WalkVerdict::Other(_) => "another target".to_owned(),
    };
    let by = match &actual.rule {
        Some((line, rule)) => format!("line {line}: {rule}"),
        None => "the chain's policy".to_owned(),
    };
    format!("{verdict}, by {by}{}", logged(actual.logs.len()))
}

fn logged(lines: usize) -> String {
    match lines {
        0 => String::new(),
        1 => ", logged once".to_owned(),
        more => format!(", logged {more} times"),
    }
}
