//! `Policy` → `Plan`: resolves names and fills in defaults.
//!
//! The plan says what the policy means, not how it is enforced. Hooks, families, the order of rules and the form of
//! negations are decided twice, by `expand` and by `verify`, so that one mistake in them cannot pass its own proof.

mod addresses;
mod blocks;
mod check;
mod custom;
mod defaults;
mod endpoints;
mod expiry;
mod extensions;
mod lints;
mod mangle;
mod matches;
mod nat;
mod original;
mod own_tables;
mod ownership;
mod plan;
mod raw;
mod services;
mod tests;
mod well_formed;
mod zones;

pub use plan::{
    AddressCondition, AddressGroupSet, Connections, Defaults, Endpoint, FamilyDefaults, Finally,
    ForeignSet, Limit, LogClass, LogLimit, Members, Names, NatSide, OneOf, Ownership, Plan,
    PlannedCustom, PlannedInterface, PlannedMangle, PlannedMatch, PlannedNat, PlannedOriginal,
    PlannedRaw, PlannedRule, PlannedTest, PlannedTranslation, RuleAction, Schedule, ServicePart,
    ServicePorts, Zone, ZoneMember,
};

pub use expiry::check_expiry;

use well_formed::Sound;

use std::collections::BTreeSet;

use crate::diag::{Code, ConcernName, Diagnostic, Sink, did_you_mean};
use crate::net::{PerFamily, Rate};
use crate::policy::{
    self, Account, Action, CommandLine, ConcernLevel, CustomTable, DEFAULT_LOG_BURST, Definitions,
    LogChoice, LogDestination, Order, Over, Policy, RuleLimit, RuleStage, Scope, Selection,
    ServiceItem,
};
use crate::source::{Located, Span};

/// Resolves every name and checks the result. Returns `None` if an error was reported, now or while the policy was read.
pub fn resolve(policy: &Policy, sink: &mut Sink) -> Option<Plan> {
    check::unique_names(policy, sink);
    check::antispoof(policy, sink);
    ownership::check(policy, sink);
    defaults::check_scopes(policy, sink);
    extensions::check(policy, sink);
    let mut resolver = Resolver {
        policy,
        services: services::Services::new(&policy.services),
        addresses: addresses::Groups::new(policy, sink),
        log_classes: log_classes(policy),
    };
    resolver.services.check_all(sink);
    let interfaces = resolver.interfaces(sink);
    let zones = zones::resolve(policy, &mut resolver.addresses, sink);
    let defaults = resolver.defaults(sink);
    let definitions = Sound::new(policy);
    let (mut rules, mut sound) = (Vec::new(), Vec::new());
    for written in &policy.rules {
        let errors = sink.errors();
        let mut rule = resolver.rule(CustomTable::Filter, written, &defaults, sink);
        if let Some(block) = rule.in_block.and_then(|block| rules.get(block)) {
            blocks::inherit(&mut rule, block);
        }
        rules.push(rule);
        let complete = written.complete && sink.errors() == errors;
        sound.push(complete && definitions.has(policy, written));
    }
    let (nat, sound_nat) = nat::resolve(&mut resolver, &defaults, &definitions, sink);
    let (mangle, sound_mangle) = mangle::resolve(&mut resolver, &defaults, &definitions, sink);
    let (mut raw, sound_raw) = raw::resolve(&mut resolver, &defaults, &definitions, sink);
    raw.extend(raw::of_services(&resolver, &rules, sink));
    let (tests, sound_tests) = tests::resolve(&mut resolver, &defaults, &definitions, sink);
    let names = Names {
        addresses: resolver.addresses.names(policy),
        services: resolver.services.names(policy),
    };
    let mut plan = Plan {
        ownership: ownership::resolve(policy),
        after_apply: after_apply(policy),
        allowed_concerns: allowed_concerns(policy),
        defaults,
        interfaces,
        zones,
        sets: resolver.addresses.into_sets(),
        log_classes: resolver.log_classes.into_iter().map(|(_, c)| c).collect(),
        rules,
        nat,
        mangle,
        raw,
        custom: Vec::new(),
        tests,
        names,
    };
    blocks::narrow(&mut plan, policy, &sound, sink);
    plan.custom = custom::resolve(policy, &plan, &sound, sink);
    check::rules(&plan, policy, &sound, sink);
    check::nat(&plan, policy, &sound_nat, sink);
    mangle::check(&plan, policy, &sound_mangle, sink);
    raw::check(&plan, policy, &sound_raw, sink);
    check::tests(&plan, policy, &sound_tests, sink);
    if sound.iter().all(|sound| *sound) {
        lints::large_lists(&plan, policy, sink);
    }
    // An error may have hidden what the policy uses, so that these lints would be guesses.
    if let Some(root) = policy.root.filter(|_| !sink.has_errors()) {
        lints::unused_names(policy, root, sink);
        lints::any_is_forward(policy, sink);
        lints::limit_tables(policy, sink);
        lints::recent_families(&plan, sink);
        lints::forward_untested(&plan, sink);
    }
    (!sink.has_errors()).then_some(plan)
}

/// Returns the commands that run after a change was kept.
fn after_apply(policy: &Policy) -> Vec<CommandLine> {
    let commands = policy.hooks.after_apply.iter().flat_map(|all| &all.value);
    commands.map(|command| command.value.clone()).collect()
}

/// Returns the facts about the host that are meant.
fn allowed_concerns(policy: &Policy) -> BTreeSet<ConcernName> {
    let concerns = policy.concerns.iter();
    let allowed = concerns.filter(|(_, level)| level.value == ConcernLevel::Allow);
    allowed.map(|(name, _)| *name).collect()
}

/// Resolves the packets of a question. `plan` is the plan of `policy`. Returns `None` if an error was reported: an unknown
/// name, or keys that no packet can match together.
pub fn question(
    policy: &Policy,
    plan: &Plan,
    written: &policy::PolicyRule,
    sink: &mut Sink,
) -> Option<PlannedRule> {
    let errors = sink.errors();
    // The policy has a plan, so its own groups have no errors left to report.
    let mut resolver = Resolver {
        policy,
        services: services::Services::new(&policy.services),
        addresses: addresses::Groups::new(policy, &mut Sink::new()),
        log_classes: log_classes(policy),
    };
    let packets = resolver.rule(CustomTable::Filter, written, &plan.defaults, sink);
    if written.complete && sink.errors() == errors {
        check::question(plan, &packets, written, sink);
    }
    (written.complete && sink.errors() == errors).then_some(packets)
}

struct Resolver<'p> {
    policy: &'p Policy,
    services: services::Services<'p>,
    addresses: addresses::Groups,
    log_classes: Vec<(String, LogClass)>,
}

impl Resolver<'_> {
    fn interfaces(&self, sink: &mut Sink) -> Vec<PlannedInterface> {
        check::devices(&self.policy.interfaces, sink);
        let resolve = |definition: &policy::Definition<policy::PolicyInterface>| PlannedInterface {
            name: definition.name.value.clone(),
            devices: definition
                .value
                .devices
                .iter()
                .map(|device| device.value.clone())
                .collect(),
            networks: definition
                .value
                .networks
                .iter()
                .map(|network| network.value)
                .collect(),
            scope: definition.value.scope,
        };
        self.policy.interfaces.iter().map(resolve).collect()
    }

    /// Resolves a rule, or the packets of another entry with the keys of a rule, by the table that it is for.
    fn rule(
        &mut self,
        table: CustomTable,
        rule: &policy::PolicyRule,
        defaults: &Defaults,
        sink: &mut Sink,
    ) -> PlannedRule {
        fn value<T: Clone>(written: &Option<Located<T>>) -> Option<T> {
            written.as_ref().map(|written| written.value.clone())
        }
        fn chosen<T: Clone>(written: &Option<Selection<T>>) -> Option<OneOf<T>> {
            let written = written.as_ref()?;
            let values = written.values.iter().map(|one| one.value.clone());
            Some(OneOf {
                values: values.collect(),
                negated: written.negated,
            })
        }
        #[rustfmt::skip]
        let policy::PolicyRule {
    span, name, comment, action, from, to, source, destination, service, ipset, scope, state, stage, order, mark, mac, tcp_flags, original, matches, limit, connections, schedule, expires, user, group, log, reject_with, enabled, not_from, not_to, not_service, block, in_block,
            // Tells whether the rule can be checked, not what it means.
            complete: _,
        } = rule;
        let answer = || {
            let own = value(reject_with);
            PerFamily::from_fn(|family| own.unwrap_or(defaults[family].reject_with))
        };
        let finally = block.as_ref().map(|block| value(&block.finally));
        let action = match value(action).unwrap_or(Action::Accept) {
            _ if let Some(finally) = finally => RuleAction::Block(match finally {
                None => Finally::Next,
                Some(policy::Finally::Accept) => Finally::Accept,
                Some(policy::Finally::Drop) => Finally::Drop,
                Some(policy::Finally::Reject) => Finally::Reject(answer()),
            }),
            Action::Accept => RuleAction::Accept,
            Action::Drop => RuleAction::Drop,
            Action::Log => RuleAction::Log,
            Action::Continue => RuleAction::Continue,
            Action::Reject => RuleAction::Reject(answer()),
        };
        let log = match log.as_ref().map(|log| (&log.value, log.span)) {
            Some((LogChoice::Class(class), span)) => self.known_log_class(class, span, sink),
            Some((LogChoice::Default, _)) => self.log_class("default"),
            Some((LogChoice::Off, _)) => None,
            None if action == RuleAction::Log => self.log_class("default"),
            None => None,
        };
        let comments = value(&self.policy.defaults.comments).unwrap_or(true);
        // A log rule decides nothing: beyond its limit packets continue unlogged, they are not dropped.
        let over_limit = match action {
            RuleAction::Log => Over::Continue,
            _ => Over::Drop,
        };
        let service = service
            .as_ref()
            .map(|items| self.services.parts(items, sink));
        PlannedRule {
            span: *span,
            label: label(rule),
            named: name.is_some(),
            comment: value(name)
                .filter(|_| comments)
                .map(|name| format!("fwc:{name}")),
            remark: comment.clone(),
            action,
            from: self.places("from", from, not_from, sink),
            not_from: self.left_out("from", not_from, sink),
            to: self.places("to", to, not_to, sink),
            not_to: self.left_out("to", not_to, sink),
            source: self
                .addresses
                .expression(self.policy, source.as_ref(), sink),
            destination: self
                .addresses
                .expression(self.policy, destination.as_ref(), sink),
            original: original::resolve(self, original.as_ref(), sink),
            matches: matches::resolve(
                self.policy,
                table,
                matches.as_ref(),
                (service.as_deref(), tcp_flags.is_some()),
                sink,
            ),
            service,
            not_service: not_service
                .as_ref()
                .map(|items| self.services.parts(items, sink)),
            ipset: ipset.as_ref().map(|set| ForeignSet {
                name: set.name.value.clone(),
                negated: set.negated,
                ends: set.ends,
            }),
            scope: defaults::scope(&self.policy.defaults, scope.as_ref()),
            state: state
                .as_ref()
                .map(|states| states.iter().map(|state| state.value).collect()),
            mark: chosen(mark),
            mac: chosen(mac),
            tcp_flags: chosen(tcp_flags),
            user: self.accounts("user", &self.policy.users, user.as_ref(), sink),
            group: self.accounts("group", &self.policy.groups, group.as_ref(), sink),
            limit: limit
                .as_ref()
                .and_then(|limit| self.limit(limit, over_limit, sink)),
            connections: connections.as_ref().map(|connections| Connections {
                max: connections.max,
                per: connections.per,
                over: connections.over,
            }),
            schedule: schedule.as_ref().map(|schedule| Schedule {
                days: schedule.days.clone(),
                hours: schedule.hours,
                local: schedule.local,
            }),
            expires: value(expires),
            stage: value(stage).unwrap_or(RuleStage::Main),
            order: value(order).unwrap_or(Order::Normal),
            log,
            enabled: *enabled,
            in_block: *in_block,
        }
    }

    fn places(
        &self,
        key: &str,
        names: &Option<Vec<Located<String>>>,
        left_out: &Option<Vec<Located<String>>>,
        sink: &mut Sink,
    ) -> Option<Vec<Endpoint>> {
        // A negation is about devices, and never has this host.
        let Some(names) = names else {
            return left_out.as_ref().map(|_| vec![Endpoint::Any]);
        };
        Some(endpoints::resolve(self.policy, key, names, sink))
    }

    fn left_out(
        &self,
        key: &str,
        names: &Option<Vec<Located<String>>>,
        sink: &mut Sink,
    ) -> Option<Vec<Endpoint>> {
        let names = names.as_ref()?;
        Some(endpoints::resolve_left_out(self.policy, key, names, sink))
    }

    fn accounts(
        &self,
        key: &str,
        ids: &Definitions<u32>,
        accounts: Option<&Selection<Account>>,
        sink: &mut Sink,
    ) -> Option<OneOf<u32>> {
        let accounts = accounts?;
        let values = accounts.values.iter();
        let values = values.filter_map(|account| self.account(key, ids, account, sink));
        Some(OneOf {
            values: values.collect(),
            negated: accounts.negated,
        })
    }

    fn account(
        &self,
        key: &str,
        ids: &Definitions<u32>,
        account: &Located<Account>,
        sink: &mut Sink,
    ) -> Option<u32> {
        let name = match &account.value {
            Account::Id(id) => return Some(*id),
            Account::Name(name) => name,
        };
        let found = ids.get(name).map(|definition| definition.value);
        if found.is_none() && !ids.was_refused(name) {
            let message =
                format!("no {key} is called `{name}`: fwc does not look names up in the system");
            sink.report(
                Diagnostic::error(Code::UnknownUser, account.span, message)
                    .suggest(did_you_mean(name, ids.names()))
                    .help(format!(
                        "give its number under [{key}s]: `{name} = 33`, or write the number"
                    )),
            );
        }
        found
    }

    fn limit(&self, written: &RuleLimit, over: Over, sink: &mut Sink) -> Option<Limit> {
        let (limit, shared) = match written {
            RuleLimit::Own(limit) => (limit, None),
            RuleLimit::Named(name) => {
                let limits = &self.policy.limits;
                let Some(named) = limits.get(&name.value) else {
                    if !limits.was_refused(&name.value) {
                        sink.report(unknown_limit(name, limits));
                    }
                    return None;
                };
                (&named.value, Some(name.value.clone()))
            }
        };
        Some(Limit {
            shared,
            rate: limit.rate,
            per: limit.per,
            over: limit.over.as_ref().map_or(over, |over| over.value),
        })
    }

    fn log_class(&self, name: &str) -> Option<usize> {
        self.log_classes.iter().position(|(class, _)| class == name)
    }

    fn known_log_class(&self, name: &str, span: Span, sink: &mut Sink) -> Option<usize> {
        let found = self.log_class(name);
        if found.is_none() && !self.policy.log_classes.was_refused(name) {
            let known = || self.log_classes.iter().map(|(class, _)| class.as_str());
            let list: Vec<_> = known().map(|class| format!("`{class}`")).collect();
            let message = format!("no log class is called `{}`", name.escape_debug());
            sink.report(
                Diagnostic::error(Code::UnknownLogClass, span, message)
                    .suggest(did_you_mean(name, known()))
                    .help(format!(
                        "the classes are {}; another one is defined as [log.NAME]",
                        list.join(", ")
                    )),
            );
        }
        found
    }
}

fn unknown_limit(name: &Located<String>, limits: &Definitions<policy::PolicyLimit>) -> Diagnostic {
    let message = format!("no limit is called `{}`", name.value);
    Diagnostic::error(Code::UnknownName, name.span, message)
        .suggest(did_you_mean(&name.value, limits.names()))
        .help(format!(
            "define it under [limits]: `{} = \"20/second\"`",
            name.value
        ))
        .help("or write a rate, such as `limit = \"6/minute\"`")
}

/// Returns the built-in classes and those of the policy, with defaults filled in.
fn log_classes(policy: &Policy) -> Vec<(String, LogClass)> {
    let built_in = ["default", "denied"].into_iter();
    let names = built_in.chain(
        policy
            .log_classes
            .names()
            .filter(|name| !["default", "denied"].contains(name)),
    );
    names
        .map(|name| (name.to_owned(), log_class(name, &policy.log_classes)))
        .collect()
}

fn log_class(name: &str, written: &Definitions<policy::PolicyLogClass>) -> LogClass {
    let empty = policy::PolicyLogClass::default();
    let written = written.get(name).map_or(&empty, |class| &class.value);
    let target = written
        .target
        .as_ref()
        .map_or(LogDestination::Log, |t| t.value);
    let mut prefix = match name {
        "default" => "fwc: ".to_owned(),
        _ => format!("fwc {name}: "),
    };
    // The kernel cuts long prefixes silently. A default prefix is cut here instead of refused, because the user only
    // chose the class's name. Names are ASCII, so that this splits no character.
    prefix.truncate(target.longest_prefix());
    LogClass {
        target,
        prefix: written
            .prefix
            .as_ref()
            .map_or(prefix, |prefix| prefix.value.clone()),
        level: written.level.as_ref().map_or(4, |level| level.value),
        limit: written
            .rate
            .as_ref()
            .map_or(Some(Rate::TEN_A_MINUTE), |rate| rate.value)
            .map(|rate| LogLimit {
                rate,
                burst: written
                    .burst
                    .as_ref()
                    .map_or(DEFAULT_LOG_BURST, |burst| burst.value),
            }),
        options: written
            .options
            .iter()
            .flatten()
            .map(|option| option.value)
            .collect(),
        group: written.group.as_ref().map_or(0, |group| group.value),
        size: written.size.as_ref().map(|size| size.value),
        threshold: written.threshold.as_ref().map(|threshold| threshold.value),
    }
}

/// Returns a short description of a rule, for the comment line above its lines.
fn label(rule: &policy::PolicyRule) -> String {
    let action = match rule.action.as_ref().map_or(Action::Accept, |a| a.value) {
        Action::Accept => "accept",
        Action::Drop => "drop",
        Action::Reject => "reject",
        Action::Log => "log",
        Action::Continue => "continue",
    };
    match rule.block {
        Some(_) => described("block", "", rule),
        None => described("rule", action, rule),
    }
}

/// Returns the name of a rule or entry, else a summary of its keys.
fn described(what: &str, action: &str, rule: &crate::policy::PolicyRule) -> String {
    if let Some(name) = &rule.name {
        return format!("{what} \"{}\"", name.value);
    }
    let mut label = format!("{what}: {action}");
    if action.is_empty() {
        label.pop();
    }
    for (not, service) in [("", &rule.service), ("not ", &rule.not_service)] {
        if let Some(service) = service {
            let items = service.iter().map(|item| match &item.value {
                ServiceItem::Name(name) => name.clone(),
                ServiceItem::Ports(protocol, ports) => format!("{ports}/{protocol}"),
            });
            label = format!("{label} {not}{}", shortened(items));
        }
    }
    for (word, places) in [
        ("from", &rule.from),
        ("not from", &rule.not_from),
        ("to", &rule.to),
        ("not to", &rule.not_to),
    ] {
        if let Some(places) = places {
            let names = places.iter().map(|place| place.value.clone());
            label = format!("{label} {word} {}", shortened(names));
        }
    }
    if let Some(Located {
        value: Scope::Only(family),
        ..
    }) = &rule.scope
    {
        label = format!("{label}, {family} only");
    }
    label
}

fn shortened(words: impl Iterator<Item = String>) -> String {
    let words: Vec<_> = words.collect();
    match words.len() {
        0..=6 => words.join(", "),
        more => format!("{}, and {} more", words[..5].join(", "), more - 5),
    }
}
