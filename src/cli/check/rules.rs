//! `fwc check --rules`: finds rules that do nothing in rules files without a policy.

use std::collections::BTreeMap;
use std::path::Path;

use crate::analysis::{IdleRules, Reading, Space, changed_sets, idle};
use crate::cli::rules::{Stop, Written, written};
use crate::compile::Deny;
use crate::diag::{Diagnostic, Sink};
use crate::iptables::{self, Chain, Extensions, Rule, RuleId, Ruleset, TableName, Target};
use crate::lints::{never_matches, redundant, shadowed, unused_name};
use crate::net::Family;
use crate::source::{FileId, SourceMap, Span};

/// The maximum number of other rules that a finding shows.
const MOST_LABELS: usize = 4;

/// Checks a rules file, or the files of a folder. Returns the findings, and the number of rules if all could be read.
pub fn findings(
    path: &Path,
    family: Option<Family>,
    deny: &Deny,
) -> Result<(SourceMap, Sink, Option<usize>), Stop> {
    let Written {
        texts,
        mut members,
        timed,
    } = written(path, family)?;
    // A member that expires cannot make a rule redundant for good, so sets with a timeout count as unknown.
    members.retain(|name, _| !timed.contains(name));
    let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
    let mut count = Some(0);
    for (family, text) in texts {
        let Some((path, text)) = text else { continue };
        let file = sources.add(path, text);
        let parsed = iptables::parse(file, &sources, family, Extensions::KeepPlausible, &mut sink);
        let Some(ruleset) = parsed else {
            count = None;
            continue;
        };
        let changed = changed_sets(&ruleset);
        // Packets change these sets (`-j SET`), so their members are unknown, too.
        members.retain(|name, _| !changed.contains(name));
        let reading = Reading {
            sets: &members,
            ..Reading::default()
        };
        let lines = Lines {
            sources: &sources,
            file,
            ruleset: &ruleset,
        };
        let space = Space::for_rules(family, [&ruleset]);
        lines.report(&idle(&space, &ruleset, &reading)?, &mut sink);
        let chains = ruleset.tables.iter().flat_map(|table| &table.chains);
        let rules: usize = chains.map(|chain| chain.rules.len()).sum();
        count = count.map(|count| count + rules);
    }
    deny.apply(&mut sink);
    Ok((sources, sink, count))
}

/// A ruleset with its text, to point at lines.
struct Lines<'a> {
    sources: &'a SourceMap,
    file: FileId,
    ruleset: &'a Ruleset,
}

impl Lines<'_> {
    /// Reports shadowed, redundant and impossible rules, and chains that no rule jumps to.
    fn report(&self, idle: &IdleRules, sink: &mut Sink) {
        let shadowed = idle.shadowed.iter();
        let shadowed = shadowed.map(|one| (one.table, one.rule, &one.by));
        for group in self.grouped(shadowed) {
            let (they, their) = match group.rules.len() {
                1 => ("it", "its"),
                _ => ("they", "their"),
            };
            let text = match (
                self.accept(group.table, group.others),
                self.accept(group.table, &group.rules),
            ) {
                _ if group.others.len() > 1 => format!("decides some of {their} packets"),
                (Some(true), Some(false)) => format!("accepts every packet that {they} would deny"),
                (Some(false), Some(true)) => {
                    format!("denies every packet that {they} would accept")
                }
                _ => format!("decides all {their} packets"),
            };
            let finding = shadowed::by_rules(self.first(&group), group.rules.len());
            sink.report(self.with_others(finding, &group, &text));
        }
        let redundant = idle.redundant.iter();
        let redundant = redundant.map(|(table, rule, behind)| (*table, *rule, behind));
        for group in self.grouped(redundant) {
            let (subject, text) = match group.rules.len() {
                1 => ("this rule".to_owned(), "does the same with its packets"),
                more => (
                    format!("these {more} rules"),
                    "does the same with their packets",
                ),
            };
            let finding = redundant::finding(self.first(&group), &subject);
            sink.report(self.with_others(finding, &group, text));
        }
        for (table, rule, why) in &idle.impossible {
            let span = self.span(*table, *rule);
            sink.report(
                never_matches::finding(span, why.message())
                    .help(why.help("its conditions exclude each other")),
            );
        }
        for table in &self.ruleset.tables {
            let chains = idle
                .unreached
                .iter()
                .filter(|(name, _)| *name == table.name);
            let chains: Vec<&Chain> = chains
                .filter_map(|(_, chain)| table.chains.get(*chain))
                .collect();
            self.unreached(&chains, sink);
        }
    }

    /// Groups rules that do nothing because of the same other rules, in the order of the first rule of each group. Rules that accept
    /// and rules that deny are not grouped together, because the message says which of them the other rules overrule.
    fn grouped<'a>(
        &self,
        found: impl Iterator<Item = (TableName, RuleId, &'a Vec<RuleId>)>,
    ) -> Vec<Group<'a>> {
        let mut groups: Vec<Group<'_>> = Vec::new();
        let mut known: BTreeMap<(TableName, &[RuleId], Option<bool>), usize> = BTreeMap::new();
        for (table, rule, others) in found {
            let accepts = self.accept(table, &[rule]);
            let at = *known
                .entry((table, others, accepts))
                .or_insert(groups.len());
            match groups.get_mut(at) {
                Some(group) => group.rules.push(rule),
                None => groups.push(Group {
                    table,
                    rules: vec![rule],
                    others,
                }),
            }
        }
        groups
    }

    /// Returns `Some(true)` if all these rules accept, `Some(false)` if all deny.
    fn accept(&self, table: TableName, rules: &[RuleId]) -> Option<bool> {
        let mut all = rules
            .iter()
            .map(|rule| match self.rule(table, *rule)?.target {
                Target::Accept => Some(true),
                Target::Drop | Target::Reject(_) => Some(false),
                _ => None,
            });
        let first = all.next()??;
        all.all(|other| other == Some(first)).then_some(first)
    }

    fn first(&self, group: &Group<'_>) -> Span {
        let first = group.rules.first();
        let nothing = RuleId { chain: 0, rule: 0 };
        self.span(group.table, first.copied().unwrap_or(nothing))
    }

    /// Adds the other rules, and the line numbers of the group, to a finding.
    fn with_others(&self, mut finding: Diagnostic, group: &Group<'_>, text: &str) -> Diagnostic {
        for other in group.others.iter().take(MOST_LABELS) {
            finding = finding.also(self.span(group.table, *other), text);
        }
        if group.rules.len() > 1 {
            let rules = group.rules.iter();
            let numbers = rules.filter_map(|rule| self.rule(group.table, *rule));
            let numbers: Vec<u32> = numbers.map(|rule| rule.line).collect();
            finding = finding.with_note(format!("they are lines {}", runs(&numbers)));
        }
        match group.others.len().saturating_sub(MOST_LABELS) {
            0 => finding,
            1 => finding.with_note("one more rule does so"),
            more => finding.with_note(format!("{more} more rules do so")),
        }
    }

    /// Reports chains of a table that no rule jumps to.
    fn unreached(&self, chains: &[&Chain], sink: &mut Sink) {
        let mut rules = chains.iter().flat_map(|chain| &chain.rules);
        let Some(first) = rules.next() else {
            return;
        };
        let does = match 1 + rules.count() {
            1 => "its rule does nothing".to_owned(),
            more if chains.len() == 1 => format!("its {more} rules do nothing"),
            more => format!("their {more} rules do nothing"),
        };
        let names: Vec<String> = chains
            .iter()
            .map(|chain| format!("`{}`", chain.name))
            .collect();
        let subject = match &names[..] {
            [one] => format!("the chain {one}"),
            more => format!("{} chains", more.len()),
        };
        let mut finding = unused_name::unreached(self.line(first), &subject, &does);
        if names.len() > 1 {
            finding = finding.with_note(format!("they are {}", names.join(", ")));
        }
        sink.report(
            finding
                .with_note("no rule that packets reach jumps there; another program may add one"),
        );
    }

    fn rule(&self, table: TableName, id: RuleId) -> Option<&Rule> {
        let chain = self.ruleset.table(table)?.chains.get(id.chain)?;
        chain.rules.get(id.rule)
    }

    /// Returns the line of a rule, without white space around it.
    fn span(&self, table: TableName, id: RuleId) -> Span {
        self.rule(table, id)
            .map_or(Span::new(self.file, 0..0), |rule| self.line(rule))
    }

    fn line(&self, rule: &Rule) -> Span {
        let file = self.sources.file(self.file);
        let line = rule.line.saturating_sub(1) as usize;
        let range = file.lines(line, line);
        let text = file.text().get(range.clone()).unwrap_or_default();
        let start = range.start + (text.len() - text.trim_start().len());
        let end = range.start + text.trim_end().len();
        Span::new(self.file, start..end.max(start))
    }
}

/// Rules that do nothing because of the same other rules.
struct Group<'a> {
    table: TableName,
    rules: Vec<RuleId>,
    others: &'a [RuleId],
}

/// Renders line numbers with runs shortened: `3, 5-9`.
fn runs(numbers: &[u32]) -> String {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 >= number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let texts = runs.iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first}-{last}"),
    });
    texts.collect::<Vec<_>>().join(", ")
}
