//! The JSON document of `fwc explain`: `fwc.explain/1`.

use serde::Serialize;

use super::Explained;
use crate::analysis::{Exchanged, JsonBox, JsonCondition, JsonPacket, TextError, Verdict};
use crate::cli::output::Document;
use crate::explain::{
    ByPolicy, Decider, DecisionSource, HookAnswer, MatchedRule, PacketGroup, TableVisit, Trace,
};
use crate::verify;

/// What happens to the packets of a question.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ExplainDocument {
    /// The rules that are explained: a policy file, a rules file or folder, or `live`.
    of: String,
    /// Whether the analysis gave up on some packets, so that the answer leaves them out.
    partial: bool,
    /// Packets in boxes, each with its verdict.
    boxes: Vec<ExplainedBox>,
    /// The packets that share verdict and rules, with the path of one of them.
    parts: Vec<JsonPart>,
}

impl Document for ExplainDocument {
    const SCHEMA: &'static str = "fwc.explain/1";
}

/// Packets that share verdict and rule.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ExplainedBox {
    #[serde(flatten)]
    packets: JsonBox,
    /// `accept`, `drop`, `reject`, `others` if rules of other programs decide, or the text of another target.
    verdict: String,
    /// The rule that decides.
    rule: Option<JsonRule>,
    /// The index of the box's part in `parts`.
    part: usize,
}

/// Packets that share verdict and rules.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct JsonPart {
    /// `ipv4` or `ipv6`.
    family: &'static str,
    /// The hook of netfilter at which the packets are filtered.
    hook: String,
    /// `accept`, `drop`, `reject`, `others` if rules of other programs decide, or the text of another target.
    verdict: String,
    /// The translation of the destination, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    new_destination: Option<String>,
    /// The translation of the source, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    new_source: Option<String>,
    /// The host setting without which such packets cannot occur.
    #[serde(skip_serializing_if = "Option::is_none")]
    only_where: Option<&'static str>,
    /// Whether the question named no state and no such packet is new.
    state_is_free: bool,
    /// Whether the kernel chooses between this and another part.
    depends_on_choice: bool,
    /// The number of boxes that are left out.
    more_boxes: usize,
    /// Whether there are even more boxes than that.
    uncounted: bool,
    /// The rules that decide.
    rules: Vec<JsonRule>,
    /// The path of one packet through the tables.
    way: Option<JsonTrace>,
}

/// A rule, or the policy of a base chain, with its position in the policy file if it has one.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct JsonRule {
    /// Its table, unless the object around it names the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<&'static str>,
    /// Its chain.
    chain: String,
    /// Its number in the chain, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<usize>,
    /// The rule as iptables-save prints it, without `-A CHAIN`.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// The chain's policy, if no rule decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'static str>,
    /// The name of the policy's rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// The file that it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    /// The line in that file, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
}

/// The path of one packet.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct JsonTrace {
    /// The packet as it arrives.
    packet: JsonPacket,
    /// The conditions that do not depend on the packet alone, and the value that this path assumes for each.
    #[serde(rename = "where")]
    conditions: Vec<JsonCondition>,
    /// The tables that the packet passes, in the order of the kernel.
    tables: Vec<JsonVisit>,
}

/// A packet's path through one table.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct JsonVisit {
    /// The table.
    table: &'static str,
    /// The base chain.
    chain: &'static str,
    /// The rules that match, in order; the last one decides unless `policy` is there.
    rules: Vec<JsonRule>,
    /// The policy of the base chain, if no rule decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<JsonRule>,
    /// The packet after the table, if the table changed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    became: Option<JsonPacket>,
}

impl ExplainDocument {
    /// Creates the document about a policy or rules, without an answer yet.
    pub(super) fn new(name: &str) -> Self {
        Self {
            of: name.to_owned(),
            partial: false,
            boxes: Vec::new(),
            parts: Vec::new(),
        }
    }

    /// Adds the answer of a family. On an error, nothing is added: the caller tries a rough answer next.
    pub(super) fn add(&mut self, explained: &Explained<'_>) -> Result<(), TextError> {
        let (mut boxes, mut parts) = (Vec::new(), Vec::new());
        for answer in &explained.answers {
            for part in &answer.groups {
                let number = self.parts.len() + parts.len();
                let (own, part) = explained.part(answer, part, number)?;
                boxes.extend(own);
                parts.push(part);
            }
        }
        self.boxes.extend(boxes);
        self.parts.extend(parts);
        self.partial |= explained.partial;
        Ok(())
    }
}

impl Explained<'_> {
    /// Returns the boxes of a part, each with its verdict, and the part itself.
    fn part(
        &self,
        answer: &HookAnswer,
        part: &PacketGroup,
        number: usize,
    ) -> Result<(Vec<ExplainedBox>, JsonPart), TextError> {
        let family = self.space.family();
        let found = self.boxes(answer.hook, part.packets, answer.possible)?;
        let boxes = found.shown.iter().map(|shown| {
            let value = shown.example.value();
            let mut rules = part.rules.iter();
            let decides = rules.find(|rule| self.space.contains(rule.packets, &value));
            ExplainedBox {
                packets: shown.to_json(family, answer.hook.into()),
                verdict: verdict(&part.verdict),
                rule: decides.map(|rule| self.rule_json(rule)),
                part: number,
            }
        });
        let one = JsonPart {
            family: family.keyword(),
            hook: answer.hook.chain().to_lowercase(),
            verdict: verdict(&part.verdict),
            new_destination: exchanged(&part.destination),
            new_source: exchanged(&part.source),
            only_where: answer.only_where.map(|setting| setting.as_str()),
            state_is_free: answer.never_new,
            depends_on_choice: part.is_choice,
            more_boxes: found.more,
            uncounted: found.uncounted,
            rules: part.rules.iter().map(|rule| self.rule_json(rule)).collect(),
            way: part.trace.as_ref().ok().map(trace_json),
        };
        Ok((boxes.collect(), one))
    }

    fn rule_json(&self, decider: &Decider) -> JsonRule {
        let (table, chain) = decider.place;
        let rule = match self.rule(decider) {
            Ok(found) => matched(&found),
            Err(by) => by_policy(&by, chain.as_str()),
        };
        JsonRule {
            table: Some(table.as_str()),
            ..rule
        }
    }
}

fn exchanged(end: &Exchanged) -> Option<String> {
    match end {
        Exchanged::No => None,
        Exchanged::By(translation) => Some(translation.to_string()),
        Exchanged::AsBefore => Some("as before".to_owned()),
    }
}

fn trace_json(trace: &Trace) -> JsonTrace {
    let conditions = trace.conditions.iter();
    JsonTrace {
        packet: JsonPacket::of(&trace.packet, trace.besides.clone()),
        conditions: conditions
            .map(|(key, holds)| JsonCondition {
                condition: super::in_words(key),
                holds: *holds,
            })
            .collect(),
        tables: trace.visits.iter().map(visit).collect(),
    }
}

fn visit(visit: &TableVisit) -> JsonVisit {
    let (table, chain) = visit.place;
    let chain = chain.as_str();
    JsonVisit {
        table: table.as_str(),
        chain,
        rules: visit.matched.iter().map(matched).collect(),
        policy: visit.policy.as_ref().map(|by| by_policy(by, chain)),
        became: visit.became.as_ref().map(JsonPacket::from),
    }
}

fn matched(rule: &MatchedRule) -> JsonRule {
    JsonRule {
        number: Some(rule.number),
        text: Some(rule.text.clone()),
        ..placed(&rule.chain, &rule.origin)
    }
}

fn by_policy(by: &ByPolicy, chain: &str) -> JsonRule {
    JsonRule {
        policy: Some(by.verdict),
        ..placed(chain, &by.origin)
    }
}

/// Creates a rule that has only its chain, name and position yet.
fn placed(chain: &str, origin: &DecisionSource) -> JsonRule {
    let (file, line) = origin.place.clone().unzip();
    JsonRule {
        table: None,
        chain: chain.to_owned(),
        number: None,
        text: None,
        policy: None,
        name: origin.name.clone(),
        file,
        line,
    }
}

/// Returns the verdict in a word, or the text of a target that is not a plain verdict.
fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Reject(_) => "reject".to_owned(),
        Verdict::Nat(translation) => translation.to_string(),
        left if verify::is_left_to_others(left) => ByPolicy::OTHERS.to_owned(),
        Verdict::Target(text) => text.to_string(),
    }
}
