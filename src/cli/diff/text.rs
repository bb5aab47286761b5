//! A difference for people: in a terminal, and as Markdown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use anstyle::{AnsiColor, Style as Colour};

use super::side::{Described, Side};
use super::{Difference, Shown};
use crate::analysis::{BaseChain, Effect, Exchanged, Translation, Verdict, Words};
use crate::diag::{Style, harmless};
use crate::diff::{Change, Ending, Fate, Kind, Responsible, SideName};
use crate::iptables::{NatKind, TableName};
use crate::net::Family;

/// More rules than this are counted.
const MOST_RULES: usize = 4;

/// What becomes of packets, in a word or two.
pub fn fate(fate: &Fate) -> String {
    match fate {
        Fate::Verdict(verdict) => verdict_words(verdict),
        Fate::End(ending) => ending_words(ending),
        Fate::Effect(effect) => effect.to_string(),
        Fate::NoEffect => "nothing".to_owned(),
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

/// `to 10.0.0.5:80, accept, from 203.0.113.1`: where packets go, what becomes of them, and as whose.
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

/// `to 10.0.0.5:80`, `from this host`
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

/// Changes of both families that are the same but for the family.
struct Group<'a> {
    kind: Kind,
    place: (TableName, BaseChain),
    before: &'a Fate,
    after: &'a Fate,
    possible: bool,
    effects: BTreeSet<&'a (SideName, Effect)>,
    lines: Vec<Line<'a>>,
    /// So many lines more, and whether even those are not all.
    more: Vec<(Family, usize, bool)>,
}

/// Some packets, in both families or in one.
struct Line<'a> {
    families: Vec<Family>,
    words: &'a Words,
    before: Vec<Described>,
    after: Vec<Described>,
}

impl Line<'_> {
    /// Whether the same is said of the same packets: a policy's rule is another text in each family.
    fn is_said_of(&self, words: &Words, before: &[Described], after: &[Described]) -> bool {
        let same = |one: &[Described], other: &[Described]| {
            one.len() == other.len()
                && one.iter().zip(other).all(|(one, other)| {
                    let placed =
                        one.line.is_some() && (one.line, &one.file) == (other.line, &other.file);
                    placed || (one.line.is_none() && one.text == other.text)
                })
        };
        self.words == words && same(&self.before, before) && same(&self.after, after)
    }
}

fn groups<'a>(difference: &'a Difference<'_>) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for (family, change) in difference.changes() {
        let place = (change.table, change.chain);
        let same = |group: &&mut Group<'_>| {
            (group.kind, group.place, group.possible) == (change.kind, place, change.possible)
                && (group.before, group.after) == (&change.before, &change.after)
        };
        let at = match groups.iter_mut().find(same) {
            Some(group) => group,
            None => {
                groups.push(Group {
                    kind: change.kind,
                    place,
                    before: &change.before,
                    after: &change.after,
                    possible: change.possible,
                    effects: BTreeSet::new(),
                    lines: Vec::new(),
                    more: Vec::new(),
                });
                let last = groups.len() - 1;
                &mut groups[last]
            }
        };
        at.effects.extend(&change.effects);
        add_lines(at, difference, family, change);
    }
    let rank = |group: &Group<'_>| {
        let table = (group.place.0 != TableName::Filter, group.place);
        (group.kind, table)
    };
    groups.sort_by_key(rank);
    groups
}

/// The groups to be shown, and what is said of those that are not: packets that no kernel shows are of interest only where
/// nothing else changes.
fn shown_groups<'a>(difference: &'a Difference<'_>) -> (Vec<Group<'a>>, Option<String>) {
    let groups = groups(difference);
    if !groups.iter().any(|group| group.possible) {
        return (groups, None);
    }
    let (shown, others): (Vec<_>, Vec<_>) = groups.into_iter().partition(|group| group.possible);
    let kinds: BTreeSet<Kind> = others.iter().map(|group| group.kind).collect();
    let kinds: Vec<&str> = kinds.into_iter().map(Kind::as_str).collect();
    let said = || {
        format!(
            "packets that no kernel shows are {} too; --format json has them",
            kinds.join(", ")
        )
    };
    let said = (!kinds.is_empty()).then(said);
    (shown, said)
}

fn add_lines<'a>(
    group: &mut Group<'a>,
    difference: &Difference<'_>,
    family: Family,
    change: &'a Change,
) {
    for one in &change.boxes {
        // A policy's rule is shown once, however many lines are made of it.
        let described = |side: &Side, responsible: &[Responsible]| -> Vec<Described> {
            let mut places = BTreeSet::new();
            let all = responsible.iter().map(|one| side.describe(family, *one));
            let first = |rule: &Described| match rule.line {
                Some(line) => places.insert((rule.file.clone(), line)),
                None => true,
            };
            all.filter(first).collect()
        };
        let words = &one.packets.words;
        let before = described(difference.from, &one.before);
        let after = described(difference.to, &one.after);
        let mut known = group.lines.iter_mut();
        let known = known.find(|line| line.is_said_of(words, &before, &after));
        match known {
            // What comes in meets the same tables whether it stays or goes on.
            Some(line) if line.families.contains(&family) => {}
            Some(line) => line.families.push(family),
            None => group.lines.push(Line {
                families: vec![family],
                words,
                before,
                after,
            }),
        }
    }
    if change.more > 0 || change.uncounted {
        group.more.push((family, change.more, change.uncounted));
    }
}

/// The text for a terminal.
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

fn colour_of(kind: Kind) -> Colour {
    let colour = match kind {
        Kind::Opened => AnsiColor::Red,
        Kind::Closed => AnsiColor::Green,
        _ => AnsiColor::Yellow,
    };
    colour.on_default().bold()
}

/// `opened in INPUT: drop -> accept`
fn heading(group: &Group<'_>) -> (String, String) {
    let table = match group.place.0 {
        TableName::Filter => String::new(),
        table => format!("{} ", table.as_str()),
    };
    let change = match (group.before, group.after) {
        (before, Fate::NoEffect) => format!("no longer {}", fate(before)),
        (Fate::NoEffect, after) => format!("now {}", fate(after)),
        (before, after) if before == after => format!("{}, with another mark", fate(after)),
        (before, after) => format!("{} -> {}", fate(before), fate(after)),
    };
    let possible = match group.possible {
        true => "",
        false => " (of packets that no kernel shows)",
    };
    let place = format!(" in {table}{}: {change}{possible}", group.place.1.as_str());
    (group.kind.as_str().to_owned(), harmless(&place))
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

fn effects(group: &Group<'_>) -> Vec<String> {
    let effects = group.effects.iter().map(|(side, effect)| match side {
        SideName::Before => harmless(&format!("no longer {effect}")),
        SideName::After => harmless(&format!("now {effect}")),
    });
    effects.collect()
}

fn more(group: &Group<'_>, compared: &[Family]) -> Vec<String> {
    let more = group.more.iter().map(|(family, more, uncounted)| {
        let family = families(&[*family], compared);
        match uncounted {
            false => format!("{family}and {more} more"),
            true => format!("{family}and more than {more} more"),
        }
    });
    more.collect()
}

fn write_group(out: &mut String, group: &Group<'_>, compared: &[Family], style: Style) {
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
        // Lines with the same rules share them.
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
        let said = rule.name.as_ref().unwrap_or(&rule.text);
        harmless(&format!("{}{line}: {said}", rule.file))
    };
    let mut lines: Vec<String> = rules[..shown].iter().map(line).collect();
    if shown < rules.len() {
        lines.push(format!("and {} rules more", rules.len() - shown));
    }
    lines
}

/// What of rules and packets changed, in one line.
fn summary(difference: &Difference<'_>, groups: &[Group<'_>]) -> String {
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
    let names: Vec<String> = difference.families.iter().map(Family::to_string).collect();
    let families = names.join(" and ");
    let mut kinds: BTreeMap<Kind, (usize, bool)> = BTreeMap::new();
    for group in groups {
        let count = kinds.entry(group.kind).or_default();
        count.0 += group.lines.len() + group.more.iter().map(|more| more.1).sum::<usize>();
        count.1 |= group.more.iter().any(|more| more.2);
    }
    if kinds.is_empty() {
        return format!("{rules}, no packet does: proven for every packet of {families}");
    }
    let one = |(kind, (count, uncounted)): (&Kind, &(usize, bool))| {
        let over = if *uncounted { "more than " } else { "" };
        format!("{over}{count} {}", kind.as_str())
    };
    let kinds: Vec<String> = kinds.iter().map(one).collect();
    format!("{rules}; packets of {families}: {}", kinds.join(", "))
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

/// A set that is different.
pub struct SetDiff {
    pub name: String,
    /// `added`, `removed`, `changed`, or `made anew` where its type or its options differ.
    pub change: &'static str,
    /// Type and options before and after, where they differ.
    pub header: Option<[String; 2]>,
    pub added: Vec<String>,
    pub removed: Vec<String>,
}

/// The sets that differ.
pub fn sets(difference: &Difference<'_>) -> Vec<SetDiff> {
    let Some([from, to]) = &difference.sets else {
        return Vec::new();
    };
    let (from, to) = (read_sets(from), read_sets(to));
    let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let one = |name: &String| {
        let (before, after) = (from.get(name), to.get(name));
        let change = match (before, after) {
            (None, _) => "added",
            (_, None) => "removed",
            (Some(before), Some(after)) if before.0 != after.0 => "made anew",
            _ => "changed",
        };
        let header = match (before, after) {
            (Some(before), Some(after)) if before.0 != after.0 => {
                Some([before.0.clone(), after.0.clone()])
            }
            _ => None,
        };
        let members = |side: Option<&Members>| side.map(|side| side.1.clone()).unwrap_or_default();
        let (before, after) = (members(before), members(after));
        let list = |one: &BTreeSet<String>, other: &BTreeSet<String>| -> Vec<String> {
            one.difference(other).cloned().collect()
        };
        SetDiff {
            name: name.clone(),
            change,
            header,
            added: list(&after, &before),
            removed: list(&before, &after),
        }
    };
    let differs = |name: &&String| from.get(*name) != to.get(*name);
    names.into_iter().filter(differs).map(one).collect()
}

/// Header and members of a set.
type Members = (String, BTreeSet<String>);

/// The sets of a text in the form of `ipset restore`.
fn read_sets(text: &str) -> BTreeMap<String, Members> {
    let mut sets: BTreeMap<String, Members> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.splitn(3, ' ');
        let (verb, name, rest) = (words.next(), words.next(), words.next());
        match (verb, name, rest) {
            (Some("create"), Some(name), Some(header)) => {
                sets.insert(name.to_owned(), (header.to_owned(), BTreeSet::new()));
            }
            (Some("add"), Some(name), Some(member)) => {
                if let Some((_, members)) = sets.get_mut(name) {
                    members.insert(member.to_owned());
                }
            }
            _ => {}
        }
    }
    sets
}

/// Text as it is, in Markdown.
fn code(text: &str) -> String {
    match text.contains('`') {
        true => format!("`` {text} ``"),
        false => format!("`{text}`"),
    }
}

/// The difference where Markdown is shown: in a comment on a change, say.
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
