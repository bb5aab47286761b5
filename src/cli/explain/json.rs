//! An explanation for programs: `fwc.explain/1`.

use serde_json::{Map, Value, json};

use super::Explained;
use crate::analysis::{Exchanged, TextError, Verdict, packet_json};
use crate::explain::{Answer, ByPolicy, Decider, Matched, Origin, Part, Story, Visit};
use crate::verify;

/// All families in one document.
#[derive(Default)]
pub struct Document {
    boxes: Vec<Value>,
    parts: Vec<Value>,
    partial: bool,
}

impl Document {
    /// Adds the answer of a family; where that fails, nothing is added.
    pub fn add(&mut self, explained: &Explained<'_>) -> Result<(), TextError> {
        let (mut boxes, mut parts) = (Vec::new(), Vec::new());
        for answer in &explained.answers {
            for part in &answer.parts {
                let number = self.parts.len() + parts.len();
                let (said, part) = explained.part(answer, part, number)?;
                boxes.extend(said);
                parts.push(part);
            }
        }
        self.boxes.extend(boxes);
        self.parts.extend(parts);
        self.partial |= explained.partial;
        Ok(())
    }

    /// Returns the document about a policy or rules.
    pub fn of(self, name: &str) -> Value {
        json!({
            "schema": "fwc.explain/1",
            "of": name,
            "partial": self.partial,
            "boxes": self.boxes,
            "parts": self.parts,
        })
    }
}

impl Explained<'_> {
    /// The boxes of a part, each with what becomes of it, and the part itself.
    fn part(
        &self,
        answer: &Answer,
        part: &Part,
        number: usize,
    ) -> Result<(Vec<Value>, Value), TextError> {
        let family = self.space.family();
        let said = self.boxes(answer.hook, part.packets, answer.possible)?;
        let mut boxes = Vec::new();
        for shown in &said.shown {
            let mut one = shown.to_json(family, answer.hook.into());
            let value = shown.example.value();
            let mut rules = part.rules.iter();
            let decides = rules.find(|rule| self.space.contains(rule.packets, &value));
            one.insert("verdict".to_owned(), verdict(&part.verdict).into());
            one.insert(
                "rule".to_owned(),
                decides.map_or(Value::Null, |rule| self.rule_json(rule)),
            );
            one.insert("part".to_owned(), number.into());
            boxes.push(one.into());
        }
        let mut one = Map::new();
        one.insert("family".to_owned(), family.keyword().into());
        one.insert("hook".to_owned(), answer.hook.chain().to_lowercase().into());
        one.insert("verdict".to_owned(), verdict(&part.verdict).into());
        for (key, translated) in [("destination", &part.destination), ("source", &part.source)] {
            let text = match translated {
                Exchanged::No => continue,
                Exchanged::By(translation) => translation.to_string(),
                Exchanged::AsBefore => "as before".to_owned(),
            };
            one.insert(format!("new_{key}"), text.into());
        }
        if let Some(setting) = answer.only_where {
            one.insert("only_where".to_owned(), setting.as_str().into());
        }
        one.insert("state_is_free".to_owned(), answer.never_new.into());
        one.insert("depends_on_choice".to_owned(), part.is_choice.into());
        one.insert("more_boxes".to_owned(), said.more.into());
        one.insert("uncounted".to_owned(), said.uncounted.into());
        let rules = part.rules.iter().map(|rule| self.rule_json(rule));
        one.insert("rules".to_owned(), rules.collect::<Vec<_>>().into());
        let way = part.story.as_ref().ok().map(way);
        one.insert("way".to_owned(), way.into());
        Ok((boxes, one.into()))
    }

    fn rule_json(&self, decider: &Decider) -> Value {
        let (table, chain) = decider.place;
        let mut one = match self.rule(decider) {
            Ok(found) => matched(&found),
            Err(by) => by_policy(&by, chain.as_str()),
        };
        one.insert("table".to_owned(), table.as_str().into());
        one.into()
    }
}

fn way(story: &Story) -> Value {
    let conditions = story
        .conditions
        .iter()
        .map(|(key, holds)| json!({ "condition": super::in_words(key), "holds": holds }));
    let mut packet = packet_json(&story.packet);
    if let Value::Object(packet) = &mut packet {
        for (name, value) in &story.besides {
            packet.entry(*name).or_insert(value.as_str().into());
        }
    }
    json!({
        "packet": packet,
        "where": conditions.collect::<Vec<_>>(),
        "tables": story.visits.iter().map(visit).collect::<Vec<_>>(),
    })
}

fn visit(visit: &Visit) -> Value {
    let (table, chain) = visit.place;
    let rules = visit.matched.iter().map(|rule| Value::from(matched(rule)));
    let mut one = Map::new();
    one.insert("table".to_owned(), table.as_str().into());
    one.insert("chain".to_owned(), chain.as_str().into());
    one.insert("rules".to_owned(), rules.collect::<Vec<_>>().into());
    if let Some(by) = &visit.policy {
        one.insert("policy".to_owned(), by_policy(by, chain.as_str()).into());
    }
    if let Some(packet) = &visit.became {
        one.insert("became".to_owned(), packet_json(packet));
    }
    one.into()
}

fn matched(rule: &Matched) -> Map<String, Value> {
    let mut one = Map::new();
    one.insert("chain".to_owned(), rule.chain.as_str().into());
    one.insert("number".to_owned(), rule.number.into());
    one.insert("text".to_owned(), rule.text.as_str().into());
    put_origin(&mut one, &rule.origin);
    one
}

fn by_policy(by: &ByPolicy, chain: &str) -> Map<String, Value> {
    let mut one = Map::new();
    one.insert("chain".to_owned(), chain.into());
    one.insert("policy".to_owned(), by.verdict.into());
    put_origin(&mut one, &by.origin);
    one
}

fn put_origin(to: &mut Map<String, Value>, origin: &Origin) {
    if let Some(name) = &origin.name {
        to.insert("name".to_owned(), name.as_str().into());
    }
    if let Some((file, line)) = &origin.place {
        to.insert("file".to_owned(), file.as_str().into());
        to.insert("line".to_owned(), (*line).into());
    }
}

/// `accept`, `drop`, `reject`, `others` where their rules decide, or the target that ends the way otherwise.
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
