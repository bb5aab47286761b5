//! What the policy's own packet sets show that was probably not meant.
//!
//! Each finding is proven on all packets of the rule or entry, in every hook and family that it has. A rule that depends on what
//! a packet does not tell (a rate, a schedule, a user, a set that others fill) may be shadowed, and is no reason to
//! say something of another. What the preamble does is never found fault with.

mod changes;
mod denied;
mod entries;
mod first;
pub(super) mod world;

use std::collections::{BTreeMap, BTreeSet};

use self::world::{GUARDED, is_most, sources, to_guarded};
use super::exposed::exposed;
use super::families::in_both;
use super::spec::custom::changed_sets;
use super::spec::matching::set_name;
use super::spec::{Decision, Spec};
use super::verifier::Specified;
use crate::analysis::{BaseChain, Covers, GaveUp, Set, Space, Unseen, Verdict};
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::{Family, Hook, State};
use crate::policy::{DefaultAction, Policy};
use crate::resolve::{Members, Place, Plan, Rule, RuleAction, ServicePart};
use crate::source::Span;

/// Reports rules and entries that change nothing, defaults that nothing reaches and ports that are open to the world.
pub(super) fn lints(
    policy: &Policy,
    plan: &Plan,
    families: &mut [Specified; 2],
    sink: &mut Sink,
) -> Result<(), GaveUp> {
    let (changing, mut own);
    let (plan, families) = match with_changing_sets(plan) {
        None => (plan, families),
        Some(with_sets) => {
            changing = with_sets;
            own = Specified::both(&changing);
            (&changing, &mut own)
        }
    };
    let [v4, v6] = in_both(families, |family| {
        // Beside the proof's packet sets there may be no room for those of the lints.
        Found::of(plan, family).or_else(|_| {
            *family = Specified::of(plan, family.space.family());
            Found::of(plan, family)
        })
    });
    let (mut all, more) = (v4?, v6?);
    all.add(more);
    for finding in all.exposed.into_values().chain(all.open) {
        sink.report(finding);
    }
    for (index, seen) in all.seen {
        seen.report(index, policy, plan, sink);
    }
    entries::report(all.entries, &all.denied, policy, plan, families, sink)?;
    // A default that one family reaches is no mistake.
    for (hook, rules) in all.closed {
        if let [one, other] = rules[..] {
            unreached(hook, one.max(other), plan, policy, sink);
        }
    }
    Ok(())
}

/// Returns the plan with the sets that custom rules change as sets that others fill, for what is in them now says nothing of
/// later; `None` where custom rules change none.
fn with_changing_sets(plan: &Plan) -> Option<Plan> {
    let changed = Family::ALL.map(|family| (family, changed_sets(plan, family)));
    let is_changed = |name: &str| {
        let mut families = changed.iter();
        families.any(|(family, changed)| changed.contains(&set_name(name, *family)))
    };
    let mut plan = plan.clone();
    let changing = plan.sets.iter_mut().filter(|set| is_changed(&set.name));
    let count = changing
        .map(|set| {
            set.members = Members::Dynamic {
                timeout: None,
                size: None,
            }
        })
        .count();
    (count > 0).then_some(plan)
}

/// What was found in a family.
#[derive(Default)]
struct Found {
    /// Nat entries that show something to the world.
    exposed: BTreeMap<usize, Diagnostic>,
    /// Rules that do.
    open: Vec<Diagnostic>,
    seen: BTreeMap<usize, Seen>,
    /// The same of the entries of the other tables.
    entries: entries::AllSeen,
    /// What the filter table makes of what nat entries translate.
    denied: denied::AllSeen,
    /// The rules behind which nothing is left for a hook's default.
    closed: BTreeMap<Hook, Vec<usize>>,
}

impl Found {
    fn of(plan: &Plan, Specified { space, spec }: &Specified) -> Result<Self, GaveUp> {
        let spec = spec.as_ref().map_err(|gave_up| *gave_up)?;
        let mut found = Self {
            exposed: exposed(plan, space, spec)?,
            entries: entries::look(plan, space, spec)?,
            denied: denied::look(plan, space, spec)?,
            ..Self::default()
        };
        for hook in Hook::ALL {
            let chain = Chain::new(plan, space, spec, hook)?;
            for at in 0..chain.lines.len() {
                chain.look(at, &mut found)?;
            }
            if let Some(first) = chain.closed_by()? {
                found.closed.insert(hook, vec![first]);
            }
        }
        Ok(found)
    }

    /// What was found in the other family too.
    fn add(&mut self, other: Self) {
        for (index, finding) in other.exposed {
            self.exposed.entry(index).or_insert(finding);
        }
        self.open.extend(other.open);
        for (index, seen) in other.seen {
            self.seen.entry(index).or_default().add(seen);
        }
        for (entry, seen) in other.entries {
            self.entries.entry(entry).or_default().add(seen);
        }
        for (index, seen) in other.denied {
            self.denied.entry(index).or_default().add(seen);
        }
        for (hook, rules) in other.closed {
            self.closed.entry(hook).or_default().extend(rules);
        }
    }
}

/// What stands in a hook for one rule, or for a line of the preamble or the default.
struct Line {
    rule: Option<usize>,
    /// Packets that it decides, or only logs.
    set: Set,
    /// What becomes of all of them; `None`: of some this, of some that, or they go on.
    verdict: Option<Verdict>,
    /// Whether they do not go on to the next line.
    decides: bool,
    /// It depends on what a packet does not tell.
    opaque: bool,
}

/// A hook of a family.
struct Chain<'a> {
    plan: &'a Plan,
    space: &'a Space,
    hook: Hook,
    lines: Vec<Line>,
    /// What is decided for certain.
    sure: Covers<'a>,
    /// What may be decided.
    may: Covers<'a>,
    /// The lines in front that together decide all of each rule's packets, where some do.
    covered: Vec<Option<Vec<usize>>>,
    valid: Set,
    /// New packets to guarded ports that a kernel may show.
    guarded: Set,
    default: DefaultAction,
}

/// What was seen of a rule in its hooks and families.
#[derive(Default)]
struct Seen {
    places: usize,
    /// It depends on what a packet does not tell.
    opaque: bool,
    /// Places where nothing gets as far, and the rules in front.
    shadowed: usize,
    by: BTreeSet<usize>,
    /// Places where the preamble alone accepts all.
    accepted_before: usize,
    /// Places where the preamble alone does the same with all.
    same_before: usize,
    /// Places where what comes behind would do the same, and the rules there.
    redundant: usize,
    behind: BTreeSet<usize>,
    /// Places where no packet exists that it matches.
    impossible: usize,
    /// Why.
    reasons: BTreeSet<Unseen>,
    /// What is to be said when the next rule comes too late for some packets; once is enough, as hooks and families are alike.
    contradiction: Option<Diagnostic>,
}

impl<'a> Chain<'a> {
    fn new(plan: &'a Plan, space: &'a Space, spec: &Spec, hook: Hook) -> Result<Self, GaveUp> {
        let none = Vec::new();
        let decisions = spec.decisions.get(&hook).unwrap_or(&none);
        let mut lines: Vec<Line> = Vec::new();
        for Decision { rule, set, verdict } in decisions {
            match lines
                .last_mut()
                .filter(|last| rule.is_some() && last.rule == *rule)
            {
                Some(last) => {
                    last.set = space.or(last.set, *set)?;
                    last.opaque |= space.is_opaque(*set);
                    last.verdict = last
                        .verdict
                        .take()
                        .filter(|it| Some(it) == verdict.as_ref());
                }
                None => lines.push(Line {
                    rule: *rule,
                    set: *set,
                    verdict: verdict.clone(),
                    decides: verdict.is_some(),
                    opaque: space.is_opaque(*set),
                }),
            }
        }
        // A rule with a limit decides all of its packets when what is beyond is dropped: for certain.
        let sure = lines.iter().map(|line| {
            let is_sure = line.decides && !space.is_opaque(line.set);
            if is_sure { line.set } else { space.none() }
        });
        let sure = Covers::new(space, sure.collect())?;
        let covered = lines.iter().enumerate().map(|(at, line)| match line.rule {
            Some(_) => sure.covering(line.set, at),
            None => Ok(None),
        });
        let covered = covered.collect::<Result<Vec<_>, _>>()?;
        let defaults = &plan.defaults;
        let valid = space.valid(hook.into())?;
        let guarded = [world::guarded(space)?, space.as_state(State::New)?, valid];
        let guarded = space.every(guarded)?;
        Ok(Self {
            plan,
            space,
            hook,
            sure,
            covered,
            may: Covers::new(space, lines.iter().map(|line| line.set).collect())?,
            valid,
            guarded,
            lines,
            default: match hook {
                Hook::Input => defaults.input,
                Hook::Forward => defaults.forward,
                Hook::Output => defaults.output,
            },
        })
    }

    fn look(&self, at: usize, found: &mut Found) -> Result<(), GaveUp> {
        let (space, line) = (self.space, &self.lines[at]);
        let Some(index) = line.rule else {
            return Ok(());
        };
        let rule = &self.plan.rules[index];
        found.open.extend(self.world_open(at, rule)?);
        let seen = found.seen.entry(index).or_default();
        seen.places += 1;
        seen.opaque |= line.opaque;
        if space.and(line.set, self.valid)? == space.none() {
            seen.impossible += 1;
            let chain = BaseChain::from(self.hook);
            seen.reasons
                .insert(space.impossible_because(chain, line.set)?);
        }
        if let Some(by) = &self.covered[at] {
            seen.shadowed += 1;
            let before = by.iter().filter_map(|by| self.lines[*by].rule);
            let rules: Vec<usize> = before.collect();
            if rules.is_empty() {
                let verdicts = || by.iter().map(|by| &self.lines[*by].verdict);
                let accepts = verdicts().all(|verdict| *verdict == Some(Verdict::Accept));
                let same = line.verdict.is_some() && verdicts().all(|it| *it == line.verdict);
                seen.accepted_before += usize::from(accepts);
                seen.same_before += usize::from(same);
            }
            seen.by.extend(rules);
            return Ok(());
        }
        if line.opaque || !line.decides {
            return Ok(());
        }
        if let Some(behind) = self.same_behind(at, rule)? {
            seen.redundant += 1;
            seen.behind.extend(behind);
        }
        if seen.contradiction.is_none() {
            seen.contradiction = self.contradicts_next(at)?;
        }
        Ok(())
    }

    /// The rules that would do the same with a rule's packets, where it can be left out: what comes behind decides each as
    /// it does, and logs none.
    fn same_behind(&self, at: usize, rule: &Rule) -> Result<Option<Vec<usize>>, GaveUp> {
        let Some(verdict) = self.lines[at]
            .verdict
            .as_ref()
            .filter(|_| rule.log.is_none())
        else {
            return Ok(None);
        };
        let by_default = match self.default {
            DefaultAction::Accept => *verdict == Verdict::Accept,
            DefaultAction::Drop => *verdict == Verdict::Drop && self.plan.defaults.log.is_none(),
            DefaultAction::Reject | DefaultAction::Continue => false,
        };
        // What falls to the default shows nothing but that the default is what it is. Of two rules that do the same one is idle, not
        // both.
        let same =
            |next: usize| self.covered[next].is_none() && self.does(&self.lines[next], verdict);
        let set = self.lines[at].set;
        if self.may.is_needed(&self.sure, set, at, same, by_default)? {
            return Ok(None);
        }
        let left = self.sure.left(set, at)?;
        let behind = self.may.behind(left, at + 1, same, by_default)?;
        let rules = |(places, _): (Vec<usize>, Set)| {
            let rules = places
                .into_iter()
                .filter_map(|place| self.lines[place].rule);
            rules.collect()
        };
        Ok(behind.map(rules))
    }

    /// Whether a line does with all of its packets what a rule without a log does.
    fn does(&self, line: &Line, verdict: &Verdict) -> bool {
        let logs = line
            .rule
            .is_some_and(|rule| self.plan.rules[rule].log.is_some());
        // A default that denies may log what it denies.
        let is_default = line.rule.is_none() && *verdict != Verdict::Accept;
        !line.opaque && !logs && !is_default && line.verdict.as_ref() == Some(verdict)
    }

    /// A rule that denies, right behind one that accepts, and comes too late for some of what it denies.
    fn contradicts_next(&self, at: usize) -> Result<Option<Diagnostic>, GaveUp> {
        let (space, line) = (self.space, &self.lines[at]);
        let mut behind = self.lines[at + 1..].iter();
        let Some((next, index)) = behind
            .find(|next| next.decides)
            .and_then(|next| Some((next, next.rule?)))
        else {
            return Ok(None);
        };
        let denies = !matches!(
            self.plan.rules[index].action,
            RuleAction::Accept | RuleAction::Log
        );
        if line.verdict != Some(Verdict::Accept) || !denies || next.opaque {
            return Ok(None);
        }
        let both = space.every([line.set, next.set, self.valid])?;
        let both = self.sure.left(both, at)?;
        if both == space.none()
            || space.is_subset(line.set, next.set)?
            || space.is_subset(next.set, line.set)?
        {
            return Ok(None);
        }
        let Some(witness) = space
            .witness(both, self.hook.into(), &[])?
            .filter(|it| it.possible)
        else {
            return Ok(None);
        };
        let Some(first) = line.rule else {
            return Ok(None);
        };
        let (one, two) = (&self.plan.rules[first], &self.plan.rules[index]);
        let message = format!(
            "{} comes too late for some of what it denies: {} has accepted it",
            two.label, one.label
        );
        Ok(Some(
            Diagnostic::note(Code::Contradiction, two.span, message)
                .also(one.span, "accepts it before")
                .with_note(format!("one such packet: {}", witness.packet))
                .help("put the rule that denies in front, if it is meant to win"),
        ))
    }

    /// The rule behind which nothing is left for the default; `None` where something is, or no rule had the last say.
    fn closed_by(&self) -> Result<Option<usize>, GaveUp> {
        let Some(last) = self.lines.iter().rposition(|line| line.rule.is_some()) else {
            return Ok(None);
        };
        let all = last + 1;
        // Most chains show soon that something is left.
        let mut firsts = self.sure.samples(self.valid, 0);
        if firsts.any(|first| first.is_none_or(|first| first >= all)) {
            return Ok(None);
        }
        let nothing_left =
            |count| Ok::<_, GaveUp>(self.sure.left(self.valid, count)? == self.space.none());
        if !nothing_left(all)? {
            return Ok(None);
        }
        let (mut low, mut high) = (0, all);
        while high - low > 1 {
            let middle = low.midpoint(high);
            match nothing_left(middle)? {
                true => high = middle,
                false => low = middle,
            }
        }
        Ok(self.lines[high - 1].rule)
    }

    /// An accepting rule that shows a port to more than half of all addresses that had better be shown to few.
    fn world_open(&self, at: usize, rule: &Rule) -> Result<Option<Diagnostic>, GaveUp> {
        let anywhere = [None, Some(vec![Place::Any])].contains(&rule.from);
        if rule.action != RuleAction::Accept || !anywhere || self.hook == Hook::Output {
            return Ok(None);
        }
        let space = self.space;
        let here = space.and(self.lines[at].set, self.guarded)?;
        if here == space.none() {
            return Ok(None);
        }
        for guarded in GUARDED {
            let (protocol, first, _, name) = guarded;
            let shown = space.and(here, to_guarded(space, guarded)?)?;
            if shown == space.none() {
                continue;
            }
            let shown = self.sure.left(shown, at)?;
            if !is_most(space.family(), &sources(space, shown)?) {
                continue;
            }
            let message = format!("{name} ({protocol} {first}) is open to everybody");
            return Ok(Some(
                Diagnostic::warning(Code::WorldOpen, rule.span, message).help(
                    "say who may: `from` a zone, or `source` an address group; \
                     `world-open = \"allow\"` under [lints] where that is meant",
                ),
            ));
        }
        Ok(None)
    }
}

impl Seen {
    /// What was seen in other places too.
    fn add(&mut self, other: Self) {
        self.places += other.places;
        self.opaque |= other.opaque;
        self.shadowed += other.shadowed;
        self.by.extend(other.by);
        self.accepted_before += other.accepted_before;
        self.same_before += other.same_before;
        self.redundant += other.redundant;
        self.behind.extend(other.behind);
        self.impossible += other.impossible;
        self.reasons.extend(other.reasons);
        self.contradiction = self.contradiction.take().or(other.contradiction);
    }

    fn report(self, index: usize, policy: &Policy, plan: &Plan, sink: &mut Sink) {
        if let Some(finding) = self.contradiction {
            sink.report(finding);
        }
        let rule = &plan.rules[index];
        let accepts = rule.action == RuleAction::Accept;
        let label = |rules: &BTreeSet<usize>, text: &str, mut finding: Diagnostic| {
            for other in rules.iter().take(MOST_LABELS) {
                finding = finding.also(plan.rules[*other].span, text);
            }
            finding
        };
        if self.shadowed == self.places && !self.by.is_empty() {
            let message = "no packet gets as far as this rule";
            let finding = Diagnostic::warning(Code::Shadowed, rule.span, message);
            let text = match (self.by.len(), rule.action) {
                (1, RuleAction::Log) => "decides all of its packets",
                (_, RuleAction::Log) => "decides some of its packets",
                (1, _) => "decides all that it would",
                _ => "decides some of what it would",
            };
            sink.report(
                label(&self.by, text, finding)
                    .help("remove it, or put it in front of what decides its packets"),
            );
        } else if self.shadowed == self.places && is_below_established(plan, rule) {
            let written = policy.rules[index].state.as_ref();
            let span = written.and_then(|states| states.first());
            sink.report(
                Diagnostic::warning(
                    Code::StateBelowEstablished,
                    span.map_or(rule.span, |state| state.span),
                    "no packet of these states comes so far: `established = true` accepts them before the rules",
                )
                .help("leave the rule out, or set `established = false` under [defaults]"),
            );
        } else if self.shadowed == self.places
            && (self.same_before < self.places || self.opaque || says_more(plan, rule))
        {
            let does = match self.accepted_before == self.places {
                true => "accepts",
                false => "decides",
            };
            let message = format!(
                "no packet gets as far as this rule: what comes before all rules {does} them"
            );
            let mut finding = Diagnostic::warning(Code::Shadowed, rule.span, message);
            if is_icmp(rule) {
                finding = finding.help(
                    "`icmp = \"essential-no-ping\"` under [defaults] leaves ping to the rules",
                );
            }
            sink.report(finding.help("say `stage = \"early\"`, or change what [defaults] accepts"));
        } else if self.impossible == self.places && accepts {
            let why = Unseen::of(&self.reasons);
            let help = match why {
                Unseen::Never(_) => {
                    "its keys exclude each other: a state, an ICMP type, a loopback address"
                }
                Unseen::Unless(_) => why.help(""),
            };
            sink.report(
                Diagnostic::warning(Code::NeverMatches, rule.span, why.message()).help(help),
            );
        } else if self.redundant == self.places && !self.behind.is_empty() {
            let message = "without this rule no packet would be treated otherwise";
            let finding = Diagnostic::note(Code::Redundant, rule.span, message);
            let text = "does the same with its packets";
            sink.report(label(&self.behind, text, finding).help(match accepts {
                true => "remove it; if it was meant to narrow what is accepted, the later rule opens more",
                false => "remove it, if it is not there to be read",
            }));
        }
    }
}

/// Whether a rule is about connections that were accepted before only.
fn is_below_established(plan: &Plan, rule: &Rule) -> bool {
    let decided = [State::Established, State::Related];
    let states = rule.state.as_ref();
    plan.defaults.established
        && states.is_some_and(|states| states.iter().all(|state| decided.contains(state)))
}

/// Returns whether a rule does more than to accept or deny all packets of some services, so that its writer misses it where the
/// preamble does the same with its packets.
fn says_more(plan: &Plan, rule: &Rule) -> bool {
    let Rule {
        action,
        from,
        source,
        ipset,
        mac,
        mark,
        log,
        limit,
        connections,
        // A service as such is what the preamble accepts, whatever else narrows it.
        service: _,
        scope: _,
        state: _,
        to: _,
        destination: _,
        tcp_flags: _,
        user: _,
        group: _,
        schedule: _,
        expires: _,
        stage: _,
        order: _,
        enabled: _,
        span: _,
        label: _,
        named: _,
        comment: _,
        remark: _,
    } = rule;
    // An interface on lo is reported as such.
    let is_loopback = |place: &Place| match place {
        Place::Interface(index) => {
            let mut devices = plan.interfaces[*index].devices.iter();
            devices.all(|device| device.as_str() == "lo")
        }
        _ => false,
    };
    let is_whole = |place: &Place| *place == Place::Host || is_loopback(place);
    let narrows = |from: &Vec<Place>| !from.contains(&Place::Any) && !from.iter().all(is_whole);
    let accepts_some = *action == RuleAction::Accept
        && (from.as_ref().is_some_and(narrows)
            || source.is_some()
            || ipset.is_some()
            || mac.is_some()
            || mark.is_some());
    accepts_some || log.is_some() || limit.is_some() || connections.is_some()
}

fn is_icmp(rule: &Rule) -> bool {
    let is_icmp =
        |part: &ServicePart| matches!(part, ServicePart::Icmp(_) | ServicePart::Icmpv6(_));
    let parts = rule.service.as_ref();
    parts.is_some_and(|parts| parts.iter().all(is_icmp))
}

/// At most so many other rules are shown beside a finding.
const MOST_LABELS: usize = 4;

fn unreached(hook: Hook, rule: usize, plan: &Plan, policy: &Policy, sink: &mut Sink) {
    let written = &policy.defaults;
    let (key, written, default) = match hook {
        Hook::Input => ("input", &written.input, plan.defaults.input),
        Hook::Forward => ("forward", &written.forward, plan.defaults.forward),
        Hook::Output => ("output", &written.output, plan.defaults.output),
    };
    let same = match plan.rules[rule].action {
        RuleAction::Accept => default == DefaultAction::Accept,
        RuleAction::Drop => default == DefaultAction::Drop,
        RuleAction::Reject(_) => default == DefaultAction::Reject,
        RuleAction::Log => return,
    };
    let span: Span = plan.rules[rule].span;
    let message =
        format!("no packet reaches the default of {key}: this rule decides all that is left");
    let mut finding = match same {
        true => Diagnostic::note(Code::DefaultUnreached, span, message),
        false => Diagnostic::warning(Code::DefaultUnreached, span, message),
    };
    if let Some(written) = written {
        finding = finding.also(written.span, "the default");
    }
    sink.report(finding.help(format!(
        "narrow the rule, or say it as the default: `{key} = ...` under [defaults]"
    )));
}
