//! Reads the output of `iptables-save` as far as comparing and restoring needs it: tables, chains, policies, and rules
//! as text.
//!
//! Rules are compared as text. That is exact if both sides were printed by the same `iptables-save`.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Write;

use crate::iptables::{Counters, TableName, leaves_quote_open};

/// A rule of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveRule {
    /// The text after `-A CHAIN `, as `iptables-save` printed it.
    pub spec: String,
    /// Its counters.
    pub counters: Counters,
}

impl LiveRule {
    /// Returns the words of the rule. A quoted text is one word, without the quotes.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        let mut rest = self.spec.as_str();
        std::iter::from_fn(move || {
            rest = rest.trim_start_matches(' ');
            if rest.is_empty() {
                return None;
            }
            let (word, after) = match rest.strip_prefix('"') {
                Some(quoted) => {
                    let mut escaped = false;
                    let end = quoted.find(|c| {
                        let ends = c == '"' && !escaped;
                        escaped = c == '\\' && !escaped;
                        ends
                    });
                    let end = end.unwrap_or(quoted.len());
                    (&quoted[..end], quoted.get(end + 1..).unwrap_or(""))
                }
                None => rest.split_once(' ').unwrap_or((rest, "")),
            };
            rest = after;
            Some(word)
        })
    }

    /// Returns the words without the free texts of comments and log prefixes, which may look like options.
    pub fn options(&self) -> impl Iterator<Item = &str> {
        let mut words = self.words();
        std::iter::from_fn(move || {
            let word = words.next()?;
            if matches!(word, "--comment" | "--log-prefix" | "--nflog-prefix") {
                words.next();
            }
            Some(word)
        })
    }

    /// Returns the target of the rule, or the chain that it jumps or goes to.
    pub fn target(&self) -> Option<&str> {
        let mut words = self.options();
        words.find(|word| matches!(*word, "-j" | "-g"))?;
        words.next()
    }

    /// Returns the ipsets that the rule names, with repetitions.
    pub fn sets(&self) -> impl Iterator<Item = &str> {
        let mut words = self.options();
        std::iter::from_fn(move || {
            let names = |word: &&str| {
                matches!(
                    *word,
                    "--match-set" | "--add-set" | "--del-set" | "--map-set"
                )
            };
            words.find(names)?;
            words.next()
        })
    }
}

/// A chain with its rules in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveChain {
    /// The policy of a built-in chain; `None` for a user-defined chain.
    pub policy: Option<String>,
    /// The counters of the policy.
    pub counters: Counters,
    /// The rules.
    pub rules: Vec<LiveRule>,
}

impl LiveChain {
    /// Returns the rules as `iptables-save` prints them, without `-A CHAIN`.
    pub fn specs(&self) -> Vec<&str> {
        self.rules.iter().map(|rule| rule.spec.as_str()).collect()
    }
}

/// The chains of a table, by name.
pub type LiveChains = BTreeMap<String, LiveChain>;

/// The tables of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveRuleset {
    tables: BTreeMap<InLoadOrder, LiveChains>,
}

/// A table, ordered as in [`TableName::LOAD_ORDER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InLoadOrder(TableName);

impl Ord for InLoadOrder {
    fn cmp(&self, other: &Self) -> Ordering {
        let position = |one: &Self| TableName::LOAD_ORDER.iter().position(|name| *name == one.0);
        position(self).cmp(&position(other))
    }
}

impl PartialOrd for InLoadOrder {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Why a text cannot be relied on as a dump of the rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DumpError {
    /// A line does not have the format.
    #[error("line {line}: {reason}: `{text}`")]
    Line {
        /// The number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: &'static str,
        /// The text of the line.
        text: String,
    },
    /// The text ends inside a table: it was cut, or the tool died. `iptables-save` itself may exit with 0.
    #[error("table `{0}` ends without COMMIT: the text is not complete")]
    NoCommit(TableName),
    /// iptables cannot show a table because it contains native nft rules.
    #[error(
        "native nft rules are in iptables' tables, so that iptables cannot show them ({0}); look with `nft list ruleset`, move them to a table of their own"
    )]
    Incompatible(String),
    /// This iptables is too old to show a match.
    #[error(
        "line {line}: this iptables is too old to show a match that the kernel holds (`[unsupported revision]`); upgrade it"
    )]
    UnsupportedRevision {
        /// The number of the line, from 1.
        line: usize,
    },
}

impl LiveRuleset {
    /// Reads the output of `iptables-save` for live rules.
    ///
    /// Here, unlike in a rules file, a comment may continue on the next line: another program can put a line feed into
    /// a comment, and `iptables-save` prints it as it is, in quotes. The rule then has [`LINE_FEED`] in its place.
    pub fn saved(text: &str) -> Result<Self, DumpError> {
        Self::parse(&on_one_line_each(text))
    }

    /// Reads a rules file in the format of `iptables-save`, with or without counters.
    pub fn parse(text: &str) -> Result<Self, DumpError> {
        let mut dump = Self::default();
        let mut open = None;
        for (index, line) in text.split('\n').enumerate() {
            let line = line.trim();
            let wrong = |reason| DumpError::Line {
                line: index + 1,
                reason,
                text: line.to_owned(),
            };
            if let Some(comment) = line.strip_prefix('#') {
                // iptables-nft prints this comment in place of a table with native nft rules, and exits with 0.
                // Versions differ in the words around it.
                if comment.contains("ncompatible") && comment.contains("use 'nft' tool") {
                    return Err(DumpError::Incompatible(comment.trim().to_owned()));
                }
                continue;
            }
            if line.is_empty() {
                continue;
            }
            // Inside quotes it is part of a comment.
            if unquoted(line).contains("[unsupported revision]") {
                return Err(DumpError::UnsupportedRevision { line: index + 1 });
            }
            match (open, line.strip_prefix('*')) {
                (None, Some(name)) => {
                    let table = TableName::from_word(name).ok_or_else(|| wrong("not a table"))?;
                    if dump.tables.contains_key(&InLoadOrder(table)) {
                        return Err(wrong("the table is there already"));
                    }
                    dump.tables.insert(InLoadOrder(table), empty(table));
                    open = Some(table);
                }
                (Some(_), Some(_)) => return Err(wrong("the table above has no COMMIT")),
                (None, None) => return Err(wrong("outside a table")),
                (Some(_), None) if line == "COMMIT" => open = None,
                (Some(table), None) => {
                    let chains = dump.tables.entry(InLoadOrder(table)).or_default();
                    body_line(chains, line).map_err(wrong)?;
                }
            }
        }
        match open {
            Some(table) => Err(DumpError::NoCommit(table)),
            None => Ok(dump),
        }
    }

    /// Returns the tables that the text names.
    pub fn tables(&self) -> impl Iterator<Item = TableName> {
        self.tables.keys().map(|table| table.0)
    }

    /// Returns the chains of a table; `None` if it is absent, which means the same as an empty table with policy
    /// ACCEPT.
    pub fn chains(&self, table: TableName) -> Option<&LiveChains> {
        self.tables.get(&InLoadOrder(table))
    }

    /// Returns every chain with its table.
    pub fn all_chains(&self) -> impl Iterator<Item = (TableName, &str, &LiveChain)> {
        self.tables
            .iter()
            .flat_map(|(&InLoadOrder(table), chains)| {
                chains
                    .iter()
                    .map(move |(name, chain)| (table, name.as_str(), chain))
            })
    }

    /// Returns a chain by name.
    pub fn chain(&self, table: TableName, name: &str) -> Option<&LiveChain> {
        self.tables.get(&InLoadOrder(table))?.get(name)
    }

    /// Returns `true` if nothing is filtered: there are no rules and no user-defined chains, and every policy is
    /// ACCEPT.
    pub fn is_pristine(&self) -> bool {
        self.tables
            .iter()
            .all(|(&InLoadOrder(table), chains)| is_pristine(table, chains))
    }

    /// Returns a copy with only the tables in `keep`.
    #[must_use]
    pub fn only(&self, keep: &[TableName]) -> Self {
        let mut kept = self.clone();
        kept.tables.retain(|table, _| keep.contains(&table.0));
        kept
    }

    /// Returns the normal form for comparing and showing: without counters and comments, built-in chains first, without
    /// pristine tables.
    pub fn normal(&self) -> String {
        let mut text = String::new();
        for (&InLoadOrder(table), chains) in &self.tables {
            if !is_pristine(table, chains) {
                print(&mut text, table, chains, false);
            }
        }
        text
    }

    /// Returns input for `iptables-restore --counters` that restores exactly `tables`. Absent ones are written as empty
    /// tables with policy ACCEPT, because `iptables-restore` leaves a table as it is if the input does not name it.
    pub fn restore_text(&self, tables: &[TableName]) -> String {
        let mut text = String::new();
        for &table in tables {
            match self.tables.get(&InLoadOrder(table)) {
                Some(chains) => print(&mut text, table, chains, true),
                None => print(&mut text, table, &empty(table), true),
            }
        }
        text
    }

    /// Returns the chains of a table; for an absent table its chains as the kernel creates them.
    pub fn table(&self, table: TableName) -> LiveChains {
        self.tables
            .get(&InLoadOrder(table))
            .cloned()
            .unwrap_or_else(|| empty(table))
    }

    /// Returns the chains of a table for changes; an absent table is created as the kernel would create it.
    pub fn table_mut(&mut self, table: TableName) -> &mut LiveChains {
        self.tables
            .entry(InLoadOrder(table))
            .or_insert_with(|| empty(table))
    }

    /// Executes input as `iptables-restore --noflush` does, up to the first table that it would refuse.
    #[cfg(test)]
    pub(crate) fn execute(&mut self, input: &str) -> Result<(), String> {
        let mut open: Option<(TableName, LiveChains)> = None;
        for line in input.lines() {
            match (line.strip_prefix('*'), open.as_mut()) {
                (Some(name), None) => {
                    let table = TableName::from_word(name).ok_or("no such table")?;
                    open = Some((table, self.table(table)));
                }
                (None, Some(_)) if line == "COMMIT" => {
                    let (table, chains) = open.take().ok_or("no table")?;
                    self.tables.insert(InLoadOrder(table), chains);
                }
                (None, Some((table, chains))) => edit_line(chains, *table, line)?,
                _ => return Err(format!("outside a table: {line}")),
            }
        }
        Ok(())
    }
}

/// Replaces a line feed in a rule, because `iptables-restore` cannot read a rule on two lines.
pub const LINE_FEED: char = '\u{2424}';

/// Returns the text with each rule on one line.
fn on_one_line_each(text: &str) -> Cow<'_, str> {
    let is_rule = |line: &str| line.starts_with("-A ") || line.starts_with('[');
    let mut joined = String::new();
    let mut lines = text.split('\n');
    let mut changed = false;
    while let Some(line) = lines.next() {
        joined.push_str(line);
        let mut rule = line.to_owned();
        while is_rule(line) && leaves_quote_open(&rule) {
            let Some(more) = lines.next() else { break };
            changed = true;
            joined.push(LINE_FEED);
            joined.push_str(more);
            rule.push(LINE_FEED);
            rule.push_str(more);
        }
        joined.push('\n');
    }
    match changed {
        true => Cow::Owned(joined),
        false => Cow::Borrowed(text),
    }
}

/// Returns a line without its quoted parts.
fn unquoted(line: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let outside = line.chars().filter(|&c| {
        let is_quote = c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
        quoted ^= is_quote;
        !quoted && !is_quote
    });
    outside.collect()
}

/// Returns a table as the kernel creates it.
fn empty(table: TableName) -> LiveChains {
    let accept = LiveChain {
        policy: Some("ACCEPT".to_owned()),
        ..LiveChain::default()
    };
    table
        .base_chains()
        .iter()
        .map(|&name| (name.to_owned(), accept.clone()))
        .collect()
}

fn is_pristine(table: TableName, chains: &LiveChains) -> bool {
    chains.len() == table.base_chains().len()
        && chains.values().all(|chain| {
            chain.rules.is_empty() && chain.policy.as_deref().is_none_or(|word| word == "ACCEPT")
        })
}

fn body_line(chains: &mut LiveChains, line: &str) -> Result<(), &'static str> {
    if let Some(declaration) = line.strip_prefix(':') {
        let mut words = declaration.split_ascii_whitespace();
        let (name, policy) = (words.next(), words.next());
        let (Some(name), Some(policy)) = (name, policy) else {
            return Err("not a chain");
        };
        let counters = match words.next() {
            Some(word) => counters(word).ok_or("not counters")?,
            None => Counters::default(),
        };
        let chain = LiveChain {
            policy: (policy != "-").then(|| policy.to_owned()),
            counters,
            rules: Vec::new(),
        };
        // The built-in chains exist from the start; the text declares each chain once.
        chains.insert(name.to_owned(), chain);
        return Ok(());
    }
    let (counters, rule) = match line.split_once(' ') {
        Some((word, rest)) if word.starts_with('[') => {
            (counters(word).ok_or("not counters")?, rest)
        }
        _ => (Counters::default(), line),
    };
    let rule = rule
        .strip_prefix("-A ")
        .ok_or("neither a chain (`:`) nor a rule (`-A`)")?;
    let (name, spec) = rule.split_once(' ').unwrap_or((rule, ""));
    // A comment that contains a line feed could smuggle in a second rule.
    if leaves_quote_open(spec) {
        return Err("a quoted text goes on in the next line, where anything could stand");
    }
    let chain = chains.get_mut(name).ok_or("the chain is not declared")?;
    chain.rules.push(LiveRule {
        spec: spec.to_owned(),
        counters,
    });
    Ok(())
}

#[cfg(test)]
fn edit_line(chains: &mut LiveChains, table: TableName, line: &str) -> Result<(), String> {
    let refused = || format!("refused: {line}");
    if let Some((verb, name)) = line
        .split_once(' ')
        .filter(|(verb, _)| *verb == "-F" || *verb == "-X")
    {
        if verb == "-F" {
            chains.get_mut(name).ok_or_else(refused)?.rules.clear();
            return Ok(());
        }
        let is_empty = chains.get(name).is_some_and(|chain| chain.rules.is_empty());
        let mut rules = chains.values().flat_map(|chain| &chain.rules);
        if !is_empty || rules.any(|rule| rule.target() == Some(name)) {
            return Err(refused());
        }
        chains.remove(name);
        return Ok(());
    }
    if let Some(rest) = line.strip_prefix("-D ") {
        let (name, what) = rest.split_once(' ').unwrap_or((rest, ""));
        let rules = &mut chains.get_mut(name).ok_or_else(refused)?.rules;
        let at = match what.parse::<usize>() {
            Ok(number) => number.checked_sub(1),
            Err(_) => rules.iter().position(|rule| rule.spec == what),
        };
        let at = at.filter(|at| *at < rules.len()).ok_or_else(refused)?;
        rules.remove(at);
        return Ok(());
    }
    if let Some((before, rest)) = line.split_once("-I ") {
        let mut words = rest.splitn(3, ' ');
        let (name, number) = (words.next(), words.next());
        let at = number.and_then(|number| number.parse::<usize>().ok());
        let (Some(name), Some(at)) = (name, at.and_then(|at| at.checked_sub(1))) else {
            return Err(refused());
        };
        let rules = &mut chains.get_mut(name).ok_or_else(refused)?.rules;
        if at > rules.len() {
            return Err(refused());
        }
        let rule = LiveRule {
            spec: words.next().unwrap_or_default().to_owned(),
            counters: counters(before.trim_end()).unwrap_or_default(),
        };
        rules.insert(at, rule);
        return Ok(());
    }
    let name = line
        .strip_prefix(':')
        .and_then(|rest| rest.split(' ').next());
    let kept = name
        .filter(|name| table.base_chains().contains(name))
        .and_then(|name| chains.get(name))
        .map(|chain| chain.rules.clone());
    body_line(chains, line).map_err(str::to_owned)?;
    if let (Some(name), Some(rules)) = (name, kept) {
        chains.get_mut(name).ok_or_else(refused)?.rules = rules;
    }
    Ok(())
}

fn counters(word: &str) -> Option<Counters> {
    let (packets, bytes) = word.strip_prefix('[')?.strip_suffix(']')?.split_once(':')?;
    Some(Counters {
        packets: packets.parse().ok()?,
        bytes: bytes.parse().ok()?,
    })
}

fn print(text: &mut String, table: TableName, chains: &LiveChains, with_counters: bool) {
    let built_in = table.base_chains();
    let of_users = chains
        .keys()
        .map(String::as_str)
        .filter(|name| !built_in.contains(name));
    let ordered: Vec<_> = built_in
        .iter()
        .copied()
        .chain(of_users)
        .filter_map(|name| Some((name, chains.get(name)?)))
        .collect();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "*{table}");
    for (name, chain) in &ordered {
        let policy = chain.policy.as_deref().unwrap_or("-");
        let counters = if with_counters {
            chain.counters
        } else {
            Counters::default()
        };
        let _ = writeln!(text, ":{name} {policy} {counters}");
    }
    for (name, chain) in &ordered {
        for rule in &chain.rules {
            if with_counters {
                let _ = write!(text, "{} ", rule.counters);
            }
            let space = if rule.spec.is_empty() { "" } else { " " };
            let _ = writeln!(text, "-A {name}{space}{}", rule.spec);
        }
    }
    text.push_str("COMMIT\n");
}

#[cfg(test)]
mod tests {
    use super::{DumpError, LiveRuleset};
    use crate::iptables::TableName;

    const SAVED: &str = "# Generated by iptables-save\n*filter\n:INPUT DROP [3:300]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [1:2]\n:zone - [0:0]\n:alpha - [0:0]\n[7:700] -A INPUT -i lo -j ACCEPT\n[0:0] -A INPUT -m comment --comment \"a # b\" -j zone\nCOMMIT\n";

    #[test]
    fn normal_form_has_no_counters_and_one_order() {
        let normal = LiveRuleset::parse(SAVED).unwrap().normal();
        assert_eq!(
            normal,
            "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:alpha - [0:0]\n:zone - [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -m comment --comment \"a # b\" -j zone\nCOMMIT\n"
        );
        assert_eq!(LiveRuleset::parse(&normal).unwrap().normal(), normal);
    }

    #[test]
    fn target_is_not_looked_for_in_comments() {
        let text = "*filter\n-A INPUT -m comment --comment \"a \\\" -j DROP\" -j ACCEPT\n-A INPUT -g there\n-A INPUT\nCOMMIT\n";
        let dump = LiveRuleset::parse(text).unwrap();
        let rules = &dump.chain(TableName::Filter, "INPUT").unwrap().rules;
        let targets: Vec<_> = rules.iter().map(super::LiveRule::target).collect();
        assert_eq!(targets, [Some("ACCEPT"), Some("there"), None]);
    }

    #[test]
    fn sets_are_not_looked_for_in_comments() {
        let text = "*filter\n-A INPUT -m comment --comment \"--match-set\" -m set ! --match-set a src -m set --match-set b dst -j SET --add-set c src\n-A INPUT -m comment --comment \"x --match-set y\"\nCOMMIT\n";
        let dump = LiveRuleset::parse(text).unwrap();
        let rules = &dump.chain(TableName::Filter, "INPUT").unwrap().rules;
        let sets: Vec<_> = rules.iter().flat_map(super::LiveRule::sets).collect();
        assert_eq!(sets, ["a", "b", "c"]);
    }

    #[test]
    fn a_comment_of_two_lines_is_one_rule() {
        let text = "*filter\n:INPUT ACCEPT [0:0]\n[1:2] -A INPUT -m comment --comment \"a\nCOMMIT\n*filter\n-A INPUT -j ACCEPT\n# b \\\" c\" -j DROP\n-A INPUT -j LOG\nCOMMIT\n";
        let dump = LiveRuleset::saved(text).unwrap();
        let rules = &dump.chain(TableName::Filter, "INPUT").unwrap().rules;
        assert_eq!(rules.len(), 2);
        assert_eq!(rules[0].target(), Some("DROP"));
        assert!(rules[0].spec.contains(super::LINE_FEED));
        // The normal form of such a rule can be read again.
        assert_eq!(
            LiveRuleset::parse(&dump.normal()).unwrap().normal(),
            dump.normal()
        );
        assert!(
            LiveRuleset::saved("*filter\n-A INPUT -m comment --comment \"a\nCOMMIT\n").is_err()
        );
    }

    #[test]
    fn absent_table_equals_empty_one() {
        let empty = LiveRuleset::parse("*nat\n:PREROUTING ACCEPT [9:9]\nCOMMIT\n").unwrap();
        assert_eq!(empty.normal(), LiveRuleset::default().normal());
        assert!(empty.is_pristine());
        let closed = LiveRuleset::parse("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n").unwrap();
        assert!(!closed.is_pristine());
        let with_chain = LiveRuleset::parse("*filter\n:mine - [0:0]\nCOMMIT\n").unwrap();
        assert!(!with_chain.is_pristine());
    }

    #[test]
    fn restore_text_keeps_counters_and_empties_absent_tables() {
        let dump = LiveRuleset::parse(SAVED).unwrap();
        let text = dump.restore_text(&[TableName::Raw, TableName::Filter]);
        assert!(text.starts_with(
            "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n*filter\n"
        ));
        assert!(text.contains(":INPUT DROP [3:300]\n"));
        assert!(text.contains("\n[7:700] -A INPUT -i lo -j ACCEPT\n"));
        assert_eq!(
            LiveRuleset::parse(&text)
                .unwrap()
                .only(&[TableName::Filter])
                .normal(),
            dump.normal()
        );
    }

    #[test]
    fn doubtful_dumps_are_refused() {
        let error = |text: &str| LiveRuleset::parse(text).unwrap_err();
        assert_eq!(
            error("*filter\n:INPUT ACCEPT [0:0]\n"),
            DumpError::NoCommit(TableName::Filter)
        );
        assert!(matches!(
            error("# TableName `filter' is incompatible, use 'nft' tool.\n"),
            DumpError::Incompatible(_)
        ));
        assert!(matches!(
            error(
                "# TableName `nat' contains incompatible base-chains, use 'nft' tool to list them.\n"
            ),
            DumpError::Incompatible(_)
        ));
        assert_eq!(
            error("*filter\n-A INPUT -m set [unsupported revision] -j DROP\nCOMMIT\n"),
            DumpError::UnsupportedRevision { line: 2 }
        );
        assert!(LiveRuleset::parse("*filter\n-A INPUT -m comment --comment \"[unsupported revision] of \\\"it\\\"\" -j DROP\nCOMMIT\n").is_ok());
        for text in [
            "-A INPUT -j DROP\n",
            "*filter\n*nat\nCOMMIT\n",
            "*broute\nCOMMIT\n",
            "*filter\nCOMMIT\n*filter\nCOMMIT\n",
            "*filter\n-A nobody -j DROP\nCOMMIT\n",
            "*filter\n-I INPUT -j DROP\nCOMMIT\n",
            "*filter\n:INPUT ACCEPT [x:0]\nCOMMIT\n",
            // A single rule of another program, with a line feed in its comment.
            "*filter\n-A INPUT -m comment --comment \"x\n-A INPUT -j ACCEPT -m comment --comment y\" -j DROP\nCOMMIT\n",
        ] {
            assert!(matches!(error(text), DumpError::Line { .. }), "{text}");
        }
    }
}
