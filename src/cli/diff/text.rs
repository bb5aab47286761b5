//! Prints a difference for people: for a terminal, and as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;

use anstyle::{AnsiColor, Style as Colour};

use super::groups::{FamilyGroup, shown_groups};
use super::limits;
use super::sets::sets;
use super::side::Described;
use super::{Difference, Shown};
use crate::analysis::{Exchanged, Translation, Verdict};
use crate::diag::{Style, harmless};
use crate::diff::{ChangeKind, Ending, PacketFate, SideName};
use crate::iptables::{NatKind, TableName};
use crate::net::Family;

/// The maximum number of rules to list; more are only counted.
const MOST_RULES: usize = 4;

/// Describes what happens to packets in a word or two.
pub fn fate(fate: &PacketFate) -> String {
    match fate {
        PacketFate::Verdict(verdict) => verdict_words(verdict),
        PacketFate::End(ending) => ending_words(ending),
        PacketFate::Effect(effect) => effect.to_string(),
        PacketFate::NoEffect => "nothing".to_owned(),
        PacketFate::Counted(condition) => format!("counted by {condition}"),
    }
}

fn verdict_words(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Reject(with) => format!("reject with {with}"),
        Verdict::Nat(translation) => translation.text().to_owned(),
        Verdict::Target(text) => text.to_string(),
    }
}

/// Describes a translation and a verdict: `to 10.0.0.5:80, accept, from 203.0.113.1`.
fn ending_words(ending: &Ending) -> String {
    let mut words = Vec::new();
    match &ending.destination {
        Exchanged::No => {}
        Exchanged::By(translation) => words.push(new_end("to", translation)),
        Exchanged::AsBefore => words.push("to where it went before".to_owned()),
    }
    match &ending.verdict {
        Some(verdict) => words.push(verdict_words(verdict)),
        None => words.push("as INPUT decides".to_owned()),
    }
    match &ending.source {
        Exchanged::No => {}
        Exchanged::By(translation) => words.push(new_end("from", translation)),
        Exchanged::AsBefore => words.push("from where it came before".to_owned()),
    }
    words.join(", ")
}

/// Describes the new address of a translation: `to 10.0.0.5:80`, `from this host`. One with options, such as `--random`, is
/// returned as iptables-save prints it.
fn new_end(side: &str, translation: &Translation) -> String {
    let nat = translation.nat();
    if nat.random || nat.random_fully || nat.persistent || nat.base_port.is_some() {
        return translation.text().to_owned();
    }
    let ports = nat.ports.map(|ports| match ports.first == ports.last {
        true => ports.first.to_string(),
        false => format!("{}-{}", ports.first, ports.last),
    });
    let address = match (nat.kind, nat.addresses) {
        (NatKind::Redirect | NatKind::Masquerade, _) => Some("this host".to_owned()),
        (NatKind::Dnat | NatKind::Snat, Some((first, last))) if first == last => {
            Some(match (first, &ports) {
                (std::net::IpAddr::V6(first), Some(_)) => format!("[{first}]"),
                (first, _) => first.to_string(),
            })
        }
        (NatKind::Dnat | NatKind::Snat, Some((first, last))) => match ports {
            Some(_) if first.is_ipv6() => Some(format!("[{first}]-[{last}]")),
            _ => Some(format!("{first}-{last}")),
        },
        (NatKind::Dnat | NatKind::Snat, None) => None,
        (NatKind::Netmap, _) => return translation.text().to_owned(),
    };
    match (address, ports) {
        (Some(address), Some(ports)) if address == "this host" => {
            format!("{side} {address} port {ports}")
        }
        (Some(address), Some(ports)) => format!("{side} {address}:{ports}"),
        (Some(address), None) => format!("{side} {address}"),
        (None, Some(ports)) => format!("{side} port {ports}"),
        (None, None) => translation.text().to_owned(),
    }
}

/// Returns the text for a terminal.
pub fn text(difference: &Difference<'_>, shown: Shown, style: Style) -> String {
    let mut out = String::new();
    if shown.packets {
        let (groups, others) = shown_groups(difference);
        for group in &groups {
            write_group(&mut out, group, &difference.families, style);
        }
        if let Some(text) = others {
            let text = Paint(style).text(Colour::new().dimmed(), &text);
            let _ = writeln!(out, "{text}");
        }
        if !groups.is_empty() || !difference.rules_are_equal() {
            out.push_str(&summary(difference, &groups));
            out.push('\n');
        }
    }
    if shown.rules && !difference.rules_are_equal() {
        if shown.packets {
            out.push('\n');
        }
        write_rules(&mut out, difference, style);
    }
    if shown.unified {
        for (_, diff) in difference.unified(style) {
            out.push_str(&diff.unwrap_or_default());
        }
    }
    out
}

struct Paint(Style);

impl Paint {
    fn text(&self, colour: Colour, text: &str) -> String {
        match self.0 {
            Style::Plain => text.to_owned(),
            Style::Coloured => format!("{colour}{text}{colour:#}"),
        }
    }
}

fn colour_of(kind: ChangeKind) -> Colour {
    let colour = match kind {
        ChangeKind::Opened => AnsiColor::Red,
        ChangeKind::Closed => AnsiColor::Green,
        _ => AnsiColor::Yellow,
    };
    colour.on_default().bold()
}

/// Returns the heading of a group in two parts: `opened`, ` in INPUT: drop -> accept`.
fn heading(group: &FamilyGroup<'_>) -> (String, String) {
    let table = match group.place.0 {
        TableName::Filter => String::new(),
        table => format!("{} ", table.as_str()),
    };
    let change = match (group.before, group.after) {
        (before, PacketFate::NoEffect) => format!("no longer {}", fate(before)),
        (PacketFate::NoEffect, after) => format!("now {}", fate(after)),
        (PacketFate::Counted(before), PacketFate::Counted(after)) => limits::changed(before, after),
        (before, after) if before == after => format!("{}, with another mark", fate(after)),
        (before, after) => format!("{} -> {}", fate(before), fate(after)),
    };
    let possible = match (group.possible, group.only_where) {
        (true, _) => String::new(),
        (false, Some(setting)) => format!(" (only where {})", setting.as_str()),
        (false, None) => " (only packets that cannot occur)".to_owned(),
    };
    let place = format!(" in {table}{}: {change}{possible}", group.place.1.as_str());
    (kind_words(group.kind), harmless(&place))
}

fn kind_words(kind: ChangeKind) -> String {
    kind.as_str().replace('-', " ")
}

fn families(line: &[Family], compared: &[Family]) -> String {
    match line.len() == compared.len() {
        true => String::new(),
        false => {
            let names: Vec<String> = line.iter().map(Family::to_string).collect();
            format!("{}: ", names.join(", "))
        }
    }
}

fn effects(group: &FamilyGroup<'_>) -> Vec<String> {
    let effects = group.effects.iter().map(|(side, effect)| match side {
        SideName::Before => harmless(&format!("no longer {effect}")),
        SideName::After => harmless(&format!("now {effect}")),
    });
    effects.collect()
}

fn more(group: &FamilyGroup<'_>, compared: &[Family]) -> Vec<String> {
    let more = group.more.iter().map(|(family, more, uncounted)| {
        let family = families(&[*family], compared);
        match uncounted {
            false => format!("{family}and {more} more"),
            true => format!("{family}and more than {more} more"),
        }
    });
    more.collect()
}

fn write_group(out: &mut String, group: &FamilyGroup<'_>, compared: &[Family], style: Style) {
    let paint = Paint(style);
    let (kind, place) = heading(group);
    let bold = Colour::new().bold();
    let _ = writeln!(
        out,
        "{}{}",
        paint.text(colour_of(group.kind), &kind),
        paint.text(bold, &place)
    );
    for (at, line) in group.lines.iter().enumerate() {
        let _ = writeln!(
            out,
            "  {}{}",
            families(&line.families, compared),
            harmless(&line.words.to_string())
        );
        // Lines with the same rules share them: print the rules once, below the last of these lines.
        let next = group.lines.get(at + 1);
        if next.is_some_and(|next| (&next.before, &next.after) == (&line.before, &line.after)) {
            continue;
        }
        for (mark, colour, rules) in [
            ('-', AnsiColor::Red, &line.before),
            ('+', AnsiColor::Green, &line.after),
        ] {
            for rule in rule_lines(rules) {
                let rule = format!("{mark} {rule}");
                let _ = writeln!(out, "    {}", paint.text(colour.on_default(), &rule));
            }
        }
    }
    for text in more(group, compared).into_iter().chain(effects(group)) {
        let _ = writeln!(out, "  {}", paint.text(Colour::new().dimmed(), &text));
    }
}

fn rule_lines(rules: &[Described]) -> Vec<String> {
    let shown = match rules.len() {
        all if all <= MOST_RULES => all,
        _ => MOST_RULES - 1,
    };
    let line = |rule: &Described| {
        let line = rule.line.map_or(String::new(), |line| format!(":{line}"));
        let text = rule.name.as_ref().unwrap_or(&rule.text);
        harmless(&format!("{}{line}: {text}", rule.file))
    };
    let mut lines: Vec<String> = rules[..shown].iter().map(line).collect();
    if shown < rules.len() {
        lines.push(format!("and {} more rules", rules.len() - shown));
    }
    lines
}

/// Returns the number of rules, sets and kinds of packets that changed, in one line.
fn summary(difference: &Difference<'_>, groups: &[FamilyGroup<'_>]) -> String {
    let counts = difference
        .rules
        .iter()
        .filter_map(|(_, rules)| Some(rules.as_ref()?.count()));
    let rules = match counts.sum::<usize>() {
        0 => "no rule changed".to_owned(),
        1 => "1 rule changed".to_owned(),
        many => format!("{many} rules changed"),
    };
    let rules = match sets(difference).len() {
        0 => rules,
        1 => format!("{rules}, 1 set changed"),
        many => format!("{rules}, {many} sets changed"),
    };
    let joined = |families: &mut dyn Iterator<Item = &Family>| {
        families
            .map(Family::to_string)
            .collect::<Vec<_>>()
            .join(" and ")
    };
    let not_compared = &difference.not_compared;
    let is_compared = |family: &&Family| !not_compared.contains(family);
    let families = joined(&mut difference.families.iter().filter(is_compared));
    let rest = match not_compared.is_empty() {
        true => String::new(),
        false => format!(
            "; packets of {} not compared",
            joined(&mut not_compared.iter())
        ),
    };
    if families.is_empty() {
        return rules + &rest;
    }
    let mut kinds: BTreeMap<ChangeKind, (usize, bool)> = BTreeMap::new();
    for group in groups {
        let count = kinds.entry(group.kind).or_default();
        count.0 += group.lines.len() + group.more.iter().map(|more| more.1).sum::<usize>();
        count.1 |= group.more.iter().any(|more| more.2);
    }
    if kinds.is_empty() {
        return format!("{rules}, no packet does: proven for every packet of {families}{rest}");
    }
    let one = |(kind, (count, uncounted)): (&ChangeKind, &(usize, bool))| {
        let over = if *uncounted { "more than " } else { "" };
        format!("{over}{count} {}", kind_words(*kind))
    };
    let kinds: Vec<String> = kinds.iter().map(one).collect();
    format!("{rules}; packets of {families}: {}{rest}", kinds.join(", "))
}

fn write_rules(out: &mut String, difference: &Difference<'_>, style: Style) {
    let paint = Paint(style);
    for set in sets(difference) {
        let _ = writeln!(out, "set {} ({})", set.name, set.change);
        let [before, after] = match &set.header {
            Some([before, after]) => [Some(before), Some(after)],
            None => [None, None],
        };
        for (mark, colour, header, members) in [
            ('-', AnsiColor::Red, before, &set.removed),
            ('+', AnsiColor::Green, after, &set.added),
        ] {
            for member in header.into_iter().chain(members) {
                let line = format!("  {mark} {member}");
                let _ = writeln!(out, "{}", paint.text(colour.on_default(), &line));
            }
        }
    }
    for (family, rules) in difference.rules.iter() {
        let Some(rules) = rules.as_ref().filter(|rules| !rules.is_empty()) else {
            continue;
        };
        let _ = writeln!(
            out,
            "{}",
            paint.text(Colour::new().bold(), &format!("{family} rules"))
        );
        for line in rules.to_text().lines() {
            let line = &harmless(line);
            let colour = match line.trim_start().as_bytes().first() {
                _ if !line.starts_with(' ') => Colour::new(),
                Some(b'-') if line.starts_with("  -") => AnsiColor::Red.on_default(),
                Some(b'+') => AnsiColor::Green.on_default(),
                Some(b'>' | b'~') => AnsiColor::Yellow.on_default(),
                _ => Colour::new(),
            };
            let _ = writeln!(out, "{}", paint.text(colour, line));
        }
    }
}

/// Quotes text as code in Markdown.
fn code(text: &str) -> String {
    match text.contains('`') {
        true => format!("`` {text} ``"),
        false => format!("`{text}`"),
    }
}

/// Returns the difference as Markdown, for example for a comment on a pull request.
pub fn markdown(difference: &Difference<'_>, shown: Shown) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "### `{}` → `{}`\n",
        difference.from.name, difference.to.name
    );
    if shown.packets {
        let (groups, others) = shown_groups(difference);
        let _ = writeln!(out, "{}.\n", summary(difference, &groups));
        for group in &groups {
            let (kind, place) = heading(group);
            let _ = writeln!(out, "- **{kind}**{place}");
            for line in &group.lines {
                let _ = writeln!(
                    out,
                    "  - {}{}",
                    families(&line.families, &difference.families),
                    code(&harmless(&line.words.to_string()))
                );
                for (word, rules) in [("before", &line.before), ("after", &line.after)] {
                    for rule in rule_lines(rules) {
                        let _ = writeln!(out, "    - {word}: {}", code(&rule));
                    }
                }
            }
            for text in more(group, &difference.families)
                .into_iter()
                .chain(effects(group))
            {
                let _ = writeln!(out, "  - {text}");
            }
        }
        if let Some(text) = others {
            let _ = writeln!(out, "- {text}");
        }
    }
    if shown.rules && !difference.rules_are_equal() {
        let mut rules = String::new();
        write_rules(&mut rules, difference, Style::Plain);
        let _ = write!(out, "\n```diff\n{rules}```\n");
    }
    if shown.unified {
        let parts = difference
            .unified(Style::Plain)
            .into_iter()
            .filter_map(|(_, text)| text);
        let text: String = parts.collect();
        if !text.is_empty() {
            let _ = write!(out, "\n```diff\n{text}```\n");
        }
    }
    out
}
