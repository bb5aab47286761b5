//! Makes the rule of a line whose options are all read, and checks what the kernel demands of it.

use super::demands;
use super::model::*;
use super::names;
use super::options::{LoadedModule, Use};
use super::rule::{Command, RuleLine, RuleReader};
use super::spec::{AllowedIn, Arguments, Given, ModuleSpec, Problem, cut, hook};
use super::value::Negatable;
use crate::diag::Code;
use crate::net::{Family, Protocol};

impl<'a> RuleReader<'a, '_, '_> {
    /// Returns the command and the rule, once all options of the line are read.
    pub(super) fn finish(mut self) -> Result<RuleLine<'a>, Problem> {
        let Some((word, command)) = self.command.take() else {
            return self.problem(self.words.len(), "no command specified");
        };
        let chain = match command {
            Command::Append(chain) | Command::Delete(chain) => chain,
            Command::Insert(chain, _) | Command::Replace(chain, _) => chain,
            _ if self.seen != 0 => {
                return self.problem(word, "a rule stands with a command that takes none");
            }
            command => {
                return Ok(RuleLine {
                    command,
                    rule: None,
                    more: Vec::new(),
                    hooks: hook::ALL,
                    remarks: self.remarks,
                });
            }
        };
        if self.in_interface.is_some() && matches!(chain, "OUTPUT" | "POSTROUTING") {
            return self.problem(word, format!("can't use -i with {chain}"));
        }
        if self.out_interface.is_some() && matches!(chain, "INPUT" | "PREROUTING") {
            return self.problem(word, format!("can't use -o with {chain}"));
        }
        // `-p all` is no condition.
        let protocol = self
            .protocol
            .map(|(protocol, _)| protocol)
            .filter(|protocol| protocol.value != 0);
        let head = [
            self.sources.first.is_some(),
            self.destinations.first.is_some(),
            self.in_interface.is_some(),
            self.out_interface.is_some(),
            protocol.is_some(),
            self.fragment.is_some(),
        ];
        let count = head.iter().filter(|there| **there).count() + self.scratch.uses.len();
        let mut conditions = Vec::with_capacity(count);
        // Conditions stand in the order in which `iptables-save` prints them. More addresses of a list become further rules
        // below.
        let (source, destination) = (self.sources.iter().next(), self.destinations.iter().next());
        conditions.extend(source.flatten().map(Match::Source));
        conditions.extend(destination.flatten().map(Match::Destination));
        let addresses = conditions.len();
        conditions.extend(self.in_interface.take().map(Match::InInterface));
        conditions.extend(self.out_interface.take().map(Match::OutInterface));
        conditions.extend(protocol.map(Match::Protocol));
        conditions.extend(self.fragment.map(|negated| Match::Fragment { negated }));
        let mut target = std::mem::replace(&mut self.target, Target::None);
        let hooks = self.modules(&mut conditions, &mut target)?;
        let rule = Rule {
            matches: conditions,
            target,
            counters: self.counters,
            line: 0,
        };
        Ok(RuleLine {
            command,
            more: self.more_rules(&rule, addresses),
            rule: Some(rule),
            hooks,
            remarks: self.remarks,
        })
    }

    /// Makes the conditions and the target of all modules. Returns the hooks in which the kernel accepts them.
    fn modules(&mut self, conditions: &mut Vec<Match>, target: &mut Target) -> Result<u8, Problem> {
        let mut hooks = hook::ALL;
        let uses = std::mem::take(&mut self.scratch.uses);
        let mut given = std::mem::take(&mut self.scratch.given);
        // The options are in the order of the line, and each module needs its own.
        given.sort_by_key(|one| one.module);
        let mut rest = &given[..];
        for (index, one) in uses.iter().enumerate() {
            let (own, others) = rest.split_at(rest.partition_point(|given| given.module == index));
            rest = others;
            match one.module {
                LoadedModule::Match(spec) => {
                    let made = self.make(spec, one, own)?;
                    let demand = demands::of_match(&made, self.context.family);
                    hooks &= self.place(&spec.place, one)? & demand.hooks;
                    if let Some((number, loose)) = demand.protocol {
                        self.need_protocol(number, loose, one.word)?;
                    }
                    self.remark_cut(&made, own);
                    self.remark_auth_header(&made, one.word);
                    let (loaded, differs) = demands::as_loaded(made, conditions);
                    conditions.extend(loaded);
                    if let Some(message) = differs {
                        self.remark(Code::BackendsDiffer, one.word, message);
                    }
                }
                LoadedModule::Target(spec) => {
                    *target = self.make(spec, one, own)?;
                    hooks &= self.place(&spec.place, one)? & demands::hooks_of_target(target);
                    let any = self
                        .protocol
                        .is_some_and(|(protocol, _)| !protocol.negated && protocol.value != 0);
                    if demands::needs_a_protocol(target) && !any {
                        return self.problem(one.word, "a helper requires `-p` with a protocol");
                    }
                    self.need_one_of(demands::of_target(spec.name, target))?;
                    if let Some(message) =
                        demands::legacy_refuses(spec.name, self.context.table, conditions)
                    {
                        self.remark(Code::BackendsDiffer, one.word, message);
                    }
                    self.remark_long_prefix(own);
                }
                LoadedModule::UnknownMatch => {
                    conditions.push(Match::Unknown(self.unknown(index, one)))
                }
                LoadedModule::UnknownTarget => *target = Target::Unknown(self.unknown(index, one)),
            }
        }
        self.scratch.uses = uses;
        self.scratch.given = given;
        Ok(hooks)
    }

    /// Returns the rules for all pairs of a source and a destination but the first: `-s a,b -d c,d` is four rules.
    fn more_rules(&self, rule: &Rule, addresses: usize) -> Vec<Rule> {
        if self.sources.more.is_empty() && self.destinations.more.is_empty() {
            return Vec::new();
        }
        let pairs = self.sources.iter().flat_map(|source| {
            let destinations = self.destinations.iter();
            destinations.map(move |destination| (source, destination))
        });
        let rule_for = |(source, destination): (Option<_>, Option<_>)| {
            let both = source
                .map(Match::Source)
                .into_iter()
                .chain(destination.map(Match::Destination));
            Rule {
                matches: both
                    .chain(rule.matches[addresses..].iter().cloned())
                    .collect(),
                ..rule.clone()
            }
        };
        pairs.skip(1).map(rule_for).collect()
    }

    /// Returns an unknown match or target with the words that follow it.
    fn unknown(&self, index: usize, one: &Use) -> Box<UnknownModule> {
        let own = self
            .scratch
            .kept
            .iter()
            .filter(|(module, _)| *module == index);
        Box::new(UnknownModule {
            name: self.text(one.word)[one.inline..].into(),
            arguments: own.map(|(_, word)| self.text(*word).into()).collect(),
        })
    }

    /// Checks the options that a module requires, and makes its value.
    fn make<T>(
        &self,
        spec: &'static ModuleSpec<T>,
        one: &Use,
        given: &[Given],
    ) -> Result<T, Problem> {
        let arguments = Arguments {
            words: self.words,
            given,
            family: self.context.family,
            range: self.words[one.word].range.clone(),
            name: spec.name,
        };
        for option in spec.options.iter().filter(|option| option.required) {
            if !arguments.has(option.name) {
                return Err(
                    arguments.missing(format!("option \"--{}\" must be specified", option.name))
                );
            }
        }
        for given in given {
            let needs = given.option.needs;
            if !needs.is_empty() && !arguments.has(needs) {
                let message = format!(
                    "option \"--{}\" also requires \"--{needs}\"",
                    given.option.name
                );
                return Err(arguments.problem(given, message));
            }
        }
        (spec.make)(&arguments)
    }

    /// Checks the table of a module; returns the hooks in which the kernel accepts it.
    fn place(&self, place: &AllowedIn, one: &Use) -> Result<u8, Problem> {
        let table = self.context.table;
        if !place.tables.is_empty() && !place.tables.contains(&table) {
            let name = &self.text(one.word)[one.inline..];
            let message = format!("`{name}` does not load in the table {}", table.as_str());
            return self.problem(one.word, message);
        }
        Ok(place.hooks)
    }

    /// Checks that `-p` names the protocol that a match requires; with `loose`, `! -p` gives a warning only.
    fn need_protocol(&mut self, number: u8, loose: bool, word: usize) -> Result<(), Problem> {
        let name = names::protocol_name(number).unwrap_or_default();
        match self
            .protocol
            .map(|(protocol, _)| protocol)
            .filter(|protocol| protocol.value == number)
        {
            None => self.problem(word, format!("this match requires `-p {name}`")),
            Some(protocol) if !protocol.negated => Ok(()),
            Some(_) if loose => {
                let message = format!(
                    "ports of a protocol that is not {name}: iptables-legacy refuses it, iptables-nft compares what stands there"
                );
                self.remark(Code::BackendsDiffer, word, message);
                Ok(())
            }
            Some(_) => self.problem(word, format!("this match requires `-p {name}` without `!`")),
        }
    }

    /// Checks that `-p` names one of the protocols that a target requires; an empty list requires nothing.
    fn need_one_of(&self, protocols: &[u8]) -> Result<(), Problem> {
        let fits = |(protocol, _): (Negatable<u8>, &str)| {
            !protocol.negated && protocols.contains(&protocol.value)
        };
        match protocols.is_empty() || self.protocol.is_some_and(fits) {
            true => Ok(()),
            false => {
                let words = protocols
                    .iter()
                    .filter_map(|&number| names::protocol_name(number));
                let words: Vec<_> = words.map(|name| format!("`-p {name}`")).collect();
                self.problem(
                    self.jump,
                    format!("this target requires {}", words.join(" or ")),
                )
            }
        }
    }

    /// Warns of a comment that the tools cut.
    fn remark_cut(&mut self, made: &Match, given: &[Given]) {
        if let (Match::Comment(_), [one, ..]) = (made, given)
            && cut(self.text(one.first), 255).len() < self.text(one.first).len()
        {
            self.remark(
                Code::TextCut,
                one.first,
                "a comment has at most 255 bytes; the rest is cut off",
            );
        }
    }

    /// Warns of `-p` with another protocol beside `-m ah` in IPv6: only iptables-legacy compares what follows the header.
    fn remark_auth_header(&mut self, made: &Match, word: usize) {
        let is_ah = matches!(made, Match::Other(module) if module.name == "ah");
        let other = |protocol: u8| ![0, Protocol::AH.0].contains(&protocol);
        if is_ah
            && self.context.family == Family::V6
            && self.protocol.is_some_and(|(one, _)| other(one.value))
        {
            let message = "with `-m ah`, iptables-legacy compares `-p` with the protocol behind the authentication header, \
                iptables-nft with the header itself";
            self.remark(Code::BackendsDiffer, word, message);
        }
    }

    /// Warns of a log prefix that the tools cut.
    fn remark_long_prefix(&mut self, given: &[Given]) {
        let prefix = given.iter().find(|one| one.option.name == "log-prefix");
        if let Some(one) = prefix.filter(|one| self.text(one.first).len() > 29 + one.inline) {
            self.remark(
                Code::LogPrefixTooLong,
                one.first,
                "a log prefix has at most 29 bytes; the rest is cut off",
            );
        }
    }
}
