//! A table while it is read: carries out the commands of a file on its chains, and checks its jumps as the kernel does.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::model::*;
use super::rule::{Command, RuleLine};
use super::spec::{Problem, hook};
use crate::net::Family;

/// The table that is being read.
pub(super) struct Building {
    pub name: TableName,
    pub chains: Vec<Chain>,
    pub index: HashMap<Box<str>, usize>,
    /// The chain of the last `-A`. Most rules stand behind one of the same chain, which saves the lookup.
    last: usize,
    /// The lines whose rules the check at the end of the table is about: jumps, and rules that only some hooks accept.
    lines: HashMap<u32, Noted>,
    /// The first rule that a base chain does not accept. nf_tables refuses it when it is added, even if a later line deletes it;
    /// x_tables looks at the final table only.
    refused_at_once: Option<Range<usize>>,
    pub start: Range<usize>,
}

/// What is kept of a line for the check at the end of the table.
struct Noted {
    /// The hooks in which the kernel accepts the line's rules.
    hooks: u8,
    /// The line's place in the file.
    range: Range<usize>,
}

impl Building {
    pub(super) fn new(name: TableName, start: Range<usize>) -> Self {
        let chains = Table::new(name).chains;
        let index = chains
            .iter()
            .zip(0..)
            .map(|(chain, index)| (chain.name.clone(), index))
            .collect();
        Self {
            name,
            chains,
            index,
            last: 0,
            lines: HashMap::new(),
            refused_at_once: None,
            start,
        }
    }

    pub(super) fn is_base(&self, index: usize) -> bool {
        index < self.name.base_chains().len()
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        match self
            .chains
            .get(self.last)
            .is_some_and(|chain| &*chain.name == name)
        {
            true => Some(self.last),
            false => self.index.get(name).copied(),
        }
    }

    pub(super) fn has_user_chain(&self, name: &str) -> bool {
        self.index
            .get(name)
            .is_some_and(|&index| !self.is_base(index))
    }

    pub(super) fn add_chain(&mut self, name: &str) -> usize {
        self.index.insert(name.into(), self.chains.len());
        self.chains.push(Chain::new(name, None));
        self.chains.len() - 1
    }
}

pub(super) fn problem<T>(range: Range<usize>, message: impl Into<String>) -> Result<T, Problem> {
    Err(Problem {
        range,
        message: message.into(),
    })
}

impl Building {
    /// Carries out the command of a line.
    pub(super) fn execute(
        &mut self,
        line: RuleLine<'_>,
        range: Range<usize>,
        family: Family,
    ) -> Result<(), Problem> {
        let RuleLine {
            command,
            rule,
            more,
            hooks,
            ..
        } = line;
        let missing = |name: &str| -> Result<usize, Problem> {
            problem(
                range.clone(),
                format!("chain `{name}` does not exist in the table"),
            )
        };
        let chain = |table: &Self, name: &str| table.find(name).map_or_else(|| missing(name), Ok);
        match command {
            Command::Append(name) => {
                let index = chain(self, name)?;
                self.last = index;
                self.note(index, rule.as_ref(), hooks, &range);
                self.chains[index]
                    .rules
                    .extend(rule.into_iter().chain(more));
            }
            Command::Insert(name, position) => {
                let index = chain(self, name)?;
                if position > self.chains[index].rules.len() + 1 {
                    return problem(range, "index of insertion too big");
                }
                self.note(index, rule.as_ref(), hooks, &range);
                // As in the tool, each rule of an address list goes to the same position, so that the last one ends up
                // first.
                for rule in rule.into_iter().chain(more) {
                    self.chains[index].rules.insert(position - 1, rule);
                }
            }
            Command::Replace(name, position) => {
                let index = chain(self, name)?;
                self.note(index, rule.as_ref(), hooks, &range);
                let slot = self.chains[index].rules.get_mut(position - 1);
                match (slot, rule) {
                    (Some(slot), Some(rule)) if more.is_empty() => *slot = rule,
                    (None, _) => return problem(range, "index of replacement too big"),
                    _ => {
                        return problem(
                            range,
                            "replacement rule does not specify a unique address",
                        );
                    }
                }
            }
            Command::DeleteAt(name, position) => {
                let index = chain(self, name)?;
                if position > self.chains[index].rules.len() {
                    return problem(range, "index of deletion too big");
                }
                self.chains[index].rules.remove(position - 1);
            }
            Command::Delete(name) => {
                let index = chain(self, name)?;
                for rule in rule.into_iter().chain(more) {
                    // The tool deletes the first rule that is equal. Equal rules print alike.
                    let wanted = rule.to_text(family);
                    let mut known = self.chains[index].rules.iter();
                    match known.position(|known| known.to_text(family) == wanted) {
                        Some(position) => drop(self.chains[index].rules.remove(position)),
                        None => {
                            return problem(
                                range,
                                "bad rule: does a matching rule exist in that chain?",
                            );
                        }
                    }
                }
            }
            Command::NewChain(name) => {
                valid_chain_name(name).map_err(|message| Problem {
                    range: range.clone(),
                    message,
                })?;
                if self.index.contains_key(name) {
                    return problem(range, format!("chain `{name}` already exists"));
                }
                self.add_chain(name);
            }
            Command::Policy(name, policy) => {
                let index = chain(self, name)?;
                let policy = match policy {
                    "ACCEPT" => ChainPolicy::Accept,
                    "DROP" => ChainPolicy::Drop,
                    _ => return problem(range, format!("bad policy name `{policy}`")),
                };
                if !self.is_base(index) {
                    return problem(range, "bad built-in chain name");
                }
                self.chains[index].policy = Some(policy);
            }
            Command::Flush(Some(name)) => {
                let index = chain(self, name)?;
                self.clear(|chain| chain == index);
            }
            Command::Flush(None) => self.clear(|_| true),
            Command::DeleteChain(Some(name)) => {
                let index = chain(self, name)?;
                if self.is_base(index)
                    || !self.chains[index].rules.is_empty()
                    || self.jumps().any(|(_, to, _)| to == index)
                {
                    return problem(
                        range,
                        format!("chain `{name}` cannot be deleted: built in, not empty or in use"),
                    );
                }
                self.remove_chain(index);
            }
            Command::DeleteChain(None) => {
                // Only chains without rules are removed, so that the jumps stay the same.
                let used: HashSet<usize> = self.jumps().map(|(_, to, _)| to).collect();
                for index in (self.name.base_chains().len()..self.chains.len()).rev() {
                    if used.contains(&index) || !self.chains[index].rules.is_empty() {
                        return problem(
                            range,
                            format!(
                                "chain `{}` cannot be deleted: not empty or in use",
                                self.chains[index].name
                            ),
                        );
                    }
                    self.remove_chain(index);
                }
            }
            Command::Rename(from, to) => {
                let index = chain(self, from)?;
                valid_chain_name(to).map_err(|message| Problem {
                    range: range.clone(),
                    message,
                })?;
                if self.is_base(index) || self.index.contains_key(to) {
                    return problem(range, format!("chain `{from}` cannot become `{to}`"));
                }
                self.rename(index, to);
            }
            Command::Nothing => {}
        }
        Ok(())
    }

    /// Notes what the check at the end of the table needs.
    fn note(&mut self, chain: usize, rule: Option<&Rule>, hooks: u8, range: &Range<usize>) {
        let Some(rule) = rule else { return };
        let is_jump = matches!(rule.target, Target::Jump(_) | Target::Goto(_));
        if is_jump || hooks != hook::ALL {
            let range = range.clone();
            if self.is_base(chain) && hook::of(&self.chains[chain].name) & !hooks != 0 {
                self.refused_at_once.get_or_insert(range.clone());
            }
            self.lines.insert(rule.line, Noted { hooks, range });
        }
    }

    /// Lists the jumps between chains: from, to, and the rule's line.
    ///
    /// They are read off the rules each time: a list beside the rules would have to follow each command that removes rules.
    fn jumps(&self) -> impl Iterator<Item = (usize, usize, u32)> {
        let chains = self.chains.iter().zip(0..);
        let rules =
            chains.flat_map(|(chain, from)| chain.rules.iter().map(move |rule| (from, rule)));
        rules.filter_map(|(from, rule)| match &rule.target {
            Target::Jump(name) | Target::Goto(name) => {
                Some((from, *self.index.get(name)?, rule.line))
            }
            _ => None,
        })
    }

    /// Returns, for each chain, the lines of the rules behind a verdict without any match, not even a comment. No packet
    /// gets past that rule, so that the kernel of iptables-legacy does not check what follows (`mark_source_chains` of
    /// `ip_tables.c`).
    fn unreached(&self) -> Vec<HashSet<u32>> {
        let is_end = |rule: &Rule| {
            let decides = matches!(
                rule.target,
                Target::Accept | Target::Drop | Target::Return | Target::Queue
            );
            decides && rule.matches.is_empty()
        };
        let of_chain = |chain: &Chain| {
            let end = chain.rules.iter().position(is_end);
            let (before, behind) = chain
                .rules
                .split_at(end.map_or(chain.rules.len(), |end| end + 1));
            let mut lines: HashSet<u32> = behind.iter().map(|rule| rule.line).collect();
            // One line may give several rules: it counts as unreached only if all of them are.
            for rule in before {
                lines.remove(&rule.line);
            }
            lines
        };
        self.chains.iter().map(of_chain).collect()
    }

    fn clear(&mut self, which: impl Fn(usize) -> bool) {
        for (index, chain) in self.chains.iter_mut().enumerate() {
            if which(index) {
                chain.rules.clear();
            }
        }
    }

    fn remove_chain(&mut self, index: usize) {
        let chain = self.chains.remove(index);
        self.index.remove(&chain.name);
        for behind in self.index.values_mut().filter(|behind| **behind > index) {
            *behind -= 1;
        }
        self.last = 0;
    }

    fn rename(&mut self, index: usize, to: &str) {
        let from = std::mem::replace(&mut self.chains[index].name, to.into());
        for rule in self.chains.iter_mut().flat_map(|chain| &mut chain.rules) {
            if let Target::Jump(name) | Target::Goto(name) = &mut rule.target
                && *name == from
            {
                *name = to.into();
            }
        }
        self.index.remove(&from);
        self.index.insert(to.into(), index);
    }
}

const REFUSED_HERE: &str =
    "the kernel refuses this rule here: its match or target is for other chains";

/// Makes the kernel's checks of jumps: no loop that a base chain reaches, and no rule in a hook that does not accept it.
/// `Ok` has what iptables-nft refuses and iptables-legacy accepts.
pub(super) fn check_reach(table: &Building) -> Result<Option<Problem>, Problem> {
    if let Err(Problem { range, .. }) = reach(table, |_, _| true) {
        let unreached = table.unreached();
        reach(table, |chain, line| !unreached[chain].contains(&line))?;
        let message = "iptables-nft refuses this rule here; iptables-legacy accepts it, because no packet passes a rule before it";
        return Ok(Some(Problem {
            range,
            message: message.to_owned(),
        }));
    }
    Ok(table.refused_at_once.clone().map(|range| Problem {
        range,
        message: "iptables-nft refuses this rule here, although it is removed again; iptables-legacy accepts it".to_owned(),
    }))
}

/// Makes these checks for the rules for which `counts` returns `true`. The hooks of a chain are those of the base chains
/// that reach it.
fn reach(table: &Building, counts: impl Fn(usize, u32) -> bool) -> Result<(), Problem> {
    let mut next = vec![Vec::new(); table.chains.len()];
    for (from, to, line) in table.jumps().filter(|(from, _, line)| counts(*from, *line)) {
        let range = table.lines.get(&line).map(|noted| noted.range.clone());
        next[from].push((to, range.unwrap_or_default()));
    }
    let mut reach = vec![0u8; table.chains.len()];
    for base in 0..table.name.base_chains().len() {
        let bit = hook::of(&table.chains[base].name);
        // A depth-first search with its own stack: a file may nest chains deeper than the stack of the program allows.
        let mut state = vec![0u8; table.chains.len()];
        let mut path = vec![(base, 0)];
        state[base] = 1;
        while let Some((chain, edge)) = path.last_mut() {
            reach[*chain] |= bit;
            match next[*chain].get(*edge) {
                None => {
                    state[*chain] = 2;
                    path.pop();
                }
                Some((to, range)) => {
                    *edge += 1;
                    match state[*to] {
                        0 => {
                            state[*to] = 1;
                            path.push((*to, 0));
                        }
                        1 => {
                            let message = format!(
                                "a loop: this jump leads to chain `{}` again",
                                table.chains[*to].name
                            );
                            return problem((*range).clone(), message);
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    for (index, chain) in table.chains.iter().enumerate() {
        for rule in chain.rules.iter().filter(|rule| counts(index, rule.line)) {
            if let Some(noted) = table.lines.get(&rule.line)
                && reach[index] & !noted.hooks != 0
            {
                return problem(noted.range.clone(), REFUSED_HERE);
            }
        }
    }
    Ok(())
}

/// Checks the name of a chain. `Ok` has a warning if the backends do not agree about it.
pub(super) fn valid_chain_name(name: &str) -> Result<Option<String>, String> {
    if name.len() > 28 {
        return Err(format!("chain name `{name}` too long: at most 28 bytes"));
    }
    if matches!(name, "ACCEPT" | "DROP" | "QUEUE" | "RETURN") {
        return Err(format!(
            "chain name `{name}` may not clash with a target's name"
        ));
    }
    if name.is_empty() || name.contains(['"', ' ', '\t', '\n']) {
        return Err(format!("chain name `{name}` has a quote or a blank"));
    }
    let wrong = name.starts_with(['-', '!']);
    Ok(wrong.then(|| format!("chain name `{name}`: iptables-nft does not allow this beginning")))
}
