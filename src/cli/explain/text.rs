//! An explanation for people.

use std::fmt::Write;

use anstyle::{AnsiColor, Effects, Style as Ansi};

use super::Explained;
use crate::analysis::{Boxes, Exchanged, TextError, Verdict};
use crate::diag::{Style, harmless};
use crate::explain::{
    ByPolicy, Decider, DecisionSource, HookAnswer, MatchedRule, PacketGroup, TableVisit, Trace,
};
use crate::iptables::TableName;
use crate::net::{Hook, Packet};
use crate::verify::is_left_to_others;

/// Rules that decide are listed up to so many a part.
const MOST_RULES: usize = 8;

/// The whole answer of one family.
pub fn print(explained: &Explained<'_>, style: Style) -> Result<String, TextError> {
    let mut text = Text {
        out: String::new(),
        style,
    };
    for answer in &explained.answers {
        text.answer(explained, answer)?;
    }
    Ok(text.out)
}

struct Text {
    out: String,
    style: Style,
}

impl Text {
    fn answer(&mut self, explained: &Explained<'_>, answer: &HookAnswer) -> Result<(), TextError> {
        if answer.parts.is_empty() {
            return Ok(());
        }
        let family = explained.space.family();
        let mut title = format!("{family}, {}", towards(answer.hook));
        if let Some(file) = explained.ground.file(family) {
            let _ = write!(title, "; numbers are lines of {}", file.display());
        }
        self.line(0, Ansi::new().bold(), &title);
        let asked = explained.boxes(answer.hook, answer.asked, answer.possible)?;
        self.boxes(1, &asked);
        if let Some(setting) = answer.only_where {
            let text = format!("such packets come only where {}", setting.as_str());
            self.plain(1, &text);
        }
        if answer.never_new {
            self.plain(1, "no such packet opens a connection: its state may be any");
        }
        for part in &answer.parts {
            self.out.push('\n');
            self.part(explained, answer, part)?;
        }
        self.out.push('\n');
        Ok(())
    }

    fn part(
        &mut self,
        explained: &Explained<'_>,
        answer: &HookAnswer,
        part: &PacketGroup,
    ) -> Result<(), TextError> {
        let mut title = verdict(&part.verdict);
        for (word, translated) in [("to", &part.destination), ("from", &part.source)] {
            match translated {
                Exchanged::No => {}
                Exchanged::By(translation) => {
                    let _ = write!(title, ", {word} another address: {translation}");
                }
                Exchanged::AsBefore => {
                    let _ = write!(title, ", {word} where its connection went before");
                }
            }
        }
        self.line(1, colour(&part.verdict).bold(), &title);
        if answer.parts.len() > 1 {
            let said = explained.boxes(answer.hook, part.packets, answer.asked)?;
            self.boxes(2, &said);
        }
        if part.is_choice {
            self.plain(
                2,
                "depends on where the kernel sends it: a translation leaves a choice",
            );
        }
        if answer.parts.len() > 1 || part.rules.len() > 1 {
            self.deciders(explained, part);
        }
        match &part.story {
            Ok(story) => self.story(story),
            Err(untold) => self.plain(2, &format!("its way cannot be told: {untold}")),
        }
        Ok(())
    }

    fn boxes(&mut self, depth: usize, said: &Boxes) {
        for one in &said.shown {
            self.plain(depth, &one.words.to_string());
        }
        match (said.more, said.uncounted) {
            (0, false) => {}
            (more, false) => self.plain(depth, &format!("and {more} more")),
            (more, true) => self.plain(depth, &format!("and more than {more} more")),
        }
    }

    fn deciders(&mut self, explained: &Explained<'_>, part: &PacketGroup) {
        let mut rows: Vec<String> = part
            .rules
            .iter()
            .map(|decider| explained.decider(decider))
            .collect();
        // One rule of a policy may be several lines.
        rows.dedup();
        let more = rows.len().saturating_sub(MOST_RULES);
        if more > 0 {
            rows.truncate(MOST_RULES);
            rows.push(format!("and {more} more"));
        }
        match &rows[..] {
            [one] => self.plain(2, &format!("decided by {one}")),
            rows => {
                self.plain(2, "decided by, in this order:");
                for row in rows {
                    self.plain(3, row);
                }
            }
        }
    }

    fn story(&mut self, story: &Trace) {
        let mut example = format!("for example {}", fields(&story.packet));
        for (name, value) in &story.besides {
            let _ = write!(example, " {name} {value}");
        }
        self.plain(2, &example);
        for (condition, holds) in &story.conditions {
            let not = if *holds { "" } else { "not " };
            self.plain(
                2,
                &format!("where it is {not}so: {}", super::in_words(condition)),
            );
        }
        let mut quiet: Vec<&TableVisit> = Vec::new();
        for visit in &story.visits {
            if visit.is_quiet() {
                quiet.push(visit);
                continue;
            }
            self.quiet(&mut quiet);
            self.visit(visit);
        }
        self.quiet(&mut quiet);
    }

    /// Tables in which nothing happens, in one line.
    fn quiet(&mut self, visits: &mut Vec<&TableVisit>) {
        let places: Vec<String> = visits.iter().map(|visit| name(visit)).collect();
        let said = match visits.iter().all(|visit| visit.matched.is_empty()) {
            true => "no rule matches",
            false => "no rule does anything",
        };
        if !places.is_empty() {
            let line = format!("{}: {said}", places.join(", "));
            self.line(3, Ansi::new().effects(Effects::DIMMED), &line);
            visits.clear();
        }
    }

    fn visit(&mut self, visit: &TableVisit) {
        self.plain(3, &name(visit));
        let mut before = None;
        let numbers = visit.matched.iter().map(number);
        let width = numbers.map(|number| number.len()).max().unwrap_or_default();
        // The chains that have not been left yet: a rule stands further in than the one that leads to it.
        let mut chains: Vec<&str> = Vec::new();
        for matched in &visit.matched {
            match chains.iter().position(|chain| *chain == matched.chain) {
                Some(known) => chains.truncate(known + 1),
                None => chains.push(&matched.chain),
            }
            let text = format!("-A {} {}", matched.chain, matched.text);
            let dimmed = Ansi::new().effects(Effects::DIMMED);
            let Some(name) = &matched.origin.name else {
                let inner = "  ".repeat(chains.len() - 1);
                let number = number(matched);
                self.line(4, dimmed, &format!("{number:>width$}: {inner}{text}"));
                continue;
            };
            let what = format!("{name}{}", at(&matched.origin));
            if before.replace(what.clone()).as_ref() != Some(&what) {
                self.plain(4, &what);
            }
            self.line(5, dimmed, &text);
        }
        let decides =
            |policy: &&ByPolicy| visit.place.0 == TableName::Filter || policy.verdict != "ACCEPT";
        if let Some(policy) = visit.policy.as_ref().filter(decides) {
            let name = policy.origin.name.as_ref();
            let name = name.map_or(String::new(), |name| format!(", {name}"));
            let place = at(&policy.origin);
            let decides = match policy.verdict {
                ByPolicy::OTHERS => "others' rules do".to_owned(),
                verdict => format!("policy {verdict}"),
            };
            self.plain(4, &format!("no rule decides: {decides}{name}{place}"));
        }
        if let Some(became) = &visit.became {
            self.plain(4, &format!("now {}", fields(became)));
        }
    }

    fn plain(&mut self, depth: usize, text: &str) {
        self.line(depth, Ansi::new(), text);
    }

    fn line(&mut self, depth: usize, ansi: Ansi, text: &str) {
        let ansi = match self.style {
            Style::Plain => Ansi::new(),
            Style::Coloured => ansi,
        };
        let indent = "  ".repeat(depth);
        // Writing to a String cannot fail.
        let _ = writeln!(self.out, "{indent}{ansi}{}{ansi:#}", harmless(text));
    }
}

/// `filter INPUT`
fn name(visit: &TableVisit) -> String {
    format!("{} {}", visit.place.0.as_str(), visit.place.1.as_str())
}

/// A rule's line in its file; where it is in none, its number in its chain.
fn number(rule: &MatchedRule) -> String {
    match &rule.origin.place {
        Some((_, line)) => line.to_string(),
        None => format!("rule {}", rule.number),
    }
}

/// A packet without family and hook, which the title says.
fn fields(packet: &Packet) -> String {
    let text = packet.to_string();
    let before = format!("{} {} ", packet.family, packet.hook);
    text.strip_prefix(&before).unwrap_or(&text).to_owned()
}

/// ` (fwc.toml:12)`
fn at(origin: &DecisionSource) -> String {
    match &origin.place {
        Some((file, line)) => format!(" ({file}:{line})"),
        None => String::new(),
    }
}

fn towards(hook: Hook) -> &'static str {
    match hook {
        Hook::Input => "to this host (INPUT)",
        Hook::Forward => "through this host (FORWARD)",
        Hook::Output => "from this host (OUTPUT)",
    }
}

/// What becomes of a packet, in capitals as iptables has it.
fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept => "ACCEPT".to_owned(),
        Verdict::Drop => "DROP".to_owned(),
        Verdict::Reject(with) => format!("REJECT with {with}"),
        Verdict::Nat(translation) => translation.to_string(),
        left if is_left_to_others(left) => "LEFT TO OTHERS' RULES".to_owned(),
        Verdict::Target(text) => format!("{text}: the rules tell no more"),
    }
}

fn colour(verdict: &Verdict) -> Ansi {
    match verdict {
        Verdict::Accept => AnsiColor::Green.on_default(),
        Verdict::Drop | Verdict::Reject(_) => AnsiColor::Red.on_default(),
        Verdict::Nat(_) | Verdict::Target(_) => AnsiColor::Yellow.on_default(),
    }
}

impl Explained<'_> {
    /// What decides, in a line.
    fn decider(&self, decider: &Decider) -> String {
        match self.rule(decider) {
            Ok(rule) => match &rule.origin.name {
                Some(name) => format!("{name}{}", at(&rule.origin)),
                None => format!("{}: -A {} {}", number(&rule), rule.chain, rule.text),
            },
            Err(ByPolicy { origin, verdict }) => {
                let name = origin.name.as_ref();
                let name = name.map_or(String::new(), |name| format!(", {name}"));
                let (_, chain) = decider.place;
                let who = match verdict {
                    ByPolicy::OTHERS => format!("others' rules in {}", chain.as_str()),
                    _ => format!("the policy of {}", chain.as_str()),
                };
                format!("{who}{name}{}", at(&origin))
            }
        }
    }
}
