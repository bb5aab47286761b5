//! Prints an explanation for people.

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

/// The maximum number of deciding rules to list for a part.
const MOST_RULES: usize = 8;

/// Returns the whole answer of one family.
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
        if answer.groups.is_empty() {
            return Ok(());
        }
        let family = explained.space.family();
        let mut title = format!("{family}, {}", towards(answer.hook));
        if let Some(file) = explained.subject.file(family) {
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
            self.plain(
                1,
                "no such packet opens a connection, so all states are shown",
            );
        }
        for part in &answer.groups {
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
                    let _ = write!(
                        title,
                        ", {word} the address that its connection has already"
                    );
                }
            }
        }
        self.line(1, colour(&part.verdict).bold(), &title);
        if answer.groups.len() > 1 {
            let found = explained.boxes(answer.hook, part.packets, answer.asked)?;
            self.boxes(2, &found);
        }
        if part.is_choice {
            self.plain(
                2,
                "depends on the address or port that the kernel chooses for a translation",
            );
        }
        if answer.groups.len() > 1 || part.rules.len() > 1 {
            self.deciders(explained, part);
        }
        match &part.trace {
            Ok(trace) => self.trace(trace),
            Err(error) => self.plain(2, &format!("no example: {error}")),
        }
        Ok(())
    }

    fn boxes(&mut self, depth: usize, boxes: &Boxes) {
        for one in &boxes.shown {
            self.plain(depth, &one.words.to_string());
        }
        match (boxes.more, boxes.uncounted) {
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
        // One rule of a policy may expand to several lines of iptables, which are all named after it.
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

    fn trace(&mut self, trace: &Trace) {
        let mut example = format!("for example {}", fields(&trace.packet));
        for (name, value) in &trace.besides {
            let _ = write!(example, " {name} {value}");
        }
        self.plain(2, &example);
        for (condition, holds) in &trace.conditions {
            let not = if *holds { "" } else { "not " };
            self.plain(
                2,
                &format!("where it is {not}so: {}", super::in_words(condition)),
            );
        }
        let mut quiet: Vec<&TableVisit> = Vec::new();
        for visit in &trace.visits {
            if visit.is_quiet() {
                quiet.push(visit);
                continue;
            }
            self.quiet(&mut quiet);
            self.visit(visit);
        }
        self.quiet(&mut quiet);
    }

    /// Prints tables in which nothing happens in one line, and clears the list.
    fn quiet(&mut self, visits: &mut Vec<&TableVisit>) {
        let places: Vec<String> = visits.iter().map(|visit| name(visit)).collect();
        let what = match visits.iter().all(|visit| visit.matched.is_empty()) {
            true => "no rule matches",
            false => "no rule does anything",
        };
        if !places.is_empty() {
            let line = format!("{}: {what}", places.join(", "));
            self.line(3, Ansi::new().effects(Effects::DIMMED), &line);
            visits.clear();
        }
    }

    fn visit(&mut self, visit: &TableVisit) {
        self.plain(3, &name(visit));
        let mut before = None;
        let numbers = visit.matched.iter().map(number);
        let width = numbers.map(|number| number.len()).max().unwrap_or_default();
        // The chains that the packet has not returned from: rules of a called chain are indented below the jump to it.
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
        // Outside of the filter table the policy ACCEPT is normal and says nothing.
        let decides =
            |policy: &&ByPolicy| visit.place.0 == TableName::Filter || policy.verdict != "ACCEPT";
        if let Some(policy) = visit.policy.as_ref().filter(decides) {
            let name = policy.origin.name.as_ref();
            let name = name.map_or(String::new(), |name| format!(", {name}"));
            let place = at(&policy.origin);
            let decides = match policy.verdict {
                ByPolicy::OTHERS => "rules of other programs do".to_owned(),
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

/// Returns a rule's line in its file, or `rule N` in its chain if it comes from no file.
fn number(rule: &MatchedRule) -> String {
    match &rule.origin.place {
        Some((_, line)) => line.to_string(),
        None => format!("rule {}", rule.number),
    }
}

/// Returns a packet without its family and hook, which are in the title.
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

/// Returns the verdict in capitals, as iptables writes it.
fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept => "ACCEPT".to_owned(),
        Verdict::Drop => "DROP".to_owned(),
        Verdict::Reject(with) => format!("REJECT with {with}"),
        Verdict::Nat(translation) => translation.to_string(),
        left if is_left_to_others(left) => "LEFT TO RULES OF OTHER PROGRAMS".to_owned(),
        Verdict::Target(text) => format!("{text}: what happens next is outside of the rules"),
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
    /// Returns the rule, or the chain policy, that decides.
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
                    ByPolicy::OTHERS => format!("rules of other programs in {}", chain.as_str()),
                    _ => format!("the policy of {}", chain.as_str()),
                };
                format!("{who}{name}{}", at(&origin))
            }
        }
    }
}
