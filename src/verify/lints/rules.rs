//! Lints on the rules of one hook and family: what earlier and later rules leave of each rule.

use std::cell::OnceCell;

use super::Found;
use super::world::{self, GUARDED, is_most, sources, to_guarded};
use crate::analysis::{BaseChain, Behaviour, Covers, GaveUp, Path, Set, Space, Verdict};
use crate::diag::Diagnostic;
use crate::iptables::TableName;
use crate::lints::{contradiction, world_open};
use crate::net::{Hook, State};
use crate::policy::DefaultAction;
use crate::resolve::{Endpoint, Plan, PlannedRule, RuleAction};
use crate::verify::spec::{Spec, SpecStep};

/// A rule in a hook, or a step of the preamble or the default.
pub(super) struct Line {
    /// The rule, by index; `None` for the preamble and the default.
    rule: Option<usize>,
    /// The packets that it decides, or only logs.
    set: Set,
    /// The verdict for all of them; `None` if they have several, or continue to the next line.
    verdict: Option<Verdict>,
    /// `true` if they do not continue to the next line.
    decides: bool,
    /// `true` if `set` depends on conditions that a packet alone does not answer.
    opaque: bool,
}

/// The lines of a hook in a family.
pub(super) struct LintedChain<'a> {
    plan: &'a Plan,
    space: &'a Space,
    hook: Hook,
    pub lines: Vec<Line>,
    /// The packets that each line decides under all circumstances.
    sure: Covers<'a>,
    /// The packets that each line decides under some circumstances.
    may: Covers<'a>,
    /// For each line the earlier lines that together decide all its packets, if there are any.
    covered: Vec<Option<Vec<usize>>>,
    /// The real packets at the hook.
    valid: Set,
    /// The real packets that open a connection to a guarded port.
    guarded: Set,
    /// What the tables do, if one before the filter table drops packets.
    drops_before: Option<Behaviour>,
    /// The path of new connections through these tables, once it was needed.
    path: OnceCell<Path>,
    default: DefaultAction,
    /// Whether the default logs what it denies.
    logs_default: bool,
}

impl<'a> LintedChain<'a> {
    pub fn new(plan: &'a Plan, space: &'a Space, spec: &Spec, hook: Hook) -> Result<Self, GaveUp> {
        let none = Vec::new();
        let decisions = spec.decisions.get(&hook).unwrap_or(&none);
        let mut lines: Vec<Line> = Vec::new();
        for SpecStep { rule, set, verdict } in decisions {
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
        // A rule with a limit that drops the packets beyond it has two steps, which together decide all packets for certain.
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
        let defaults = &plan.defaults[space.family()];
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
            drops_before: drops_before(space, spec, hook)?,
            path: OnceCell::new(),
            lines,
            default: defaults.actions[hook],
            logs_default: defaults.log[hook].is_some(),
        })
    }

    /// Adds the results for one line.
    pub fn check(&self, at: usize, found: &mut Found) -> Result<(), GaveUp> {
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

    /// Returns the later rules that do the same with all packets of a rule, without logging, so that the rule can be removed;
    /// `None` if it is needed.
    fn same_behind(&self, at: usize, rule: &PlannedRule) -> Result<Option<Vec<usize>>, GaveUp> {
        let Some(verdict) = self.lines[at]
            .verdict
            .as_ref()
            .filter(|_| rule.log.is_none())
        else {
            return Ok(None);
        };
        let by_default = match self.default {
            DefaultAction::Accept => *verdict == Verdict::Accept,
            DefaultAction::Drop => *verdict == Verdict::Drop && !self.logs_default,
            DefaultAction::Reject | DefaultAction::Continue => false,
        };
        // A shadowed rule is reported as shadowed, not as the reason for another finding: of two rules that do the same, only
        // one is idle.
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

    /// Returns `true` if a line gives all its packets this verdict and logs none, under all circumstances.
    fn does(&self, line: &Line, verdict: &Verdict) -> bool {
        let logs = line
            .rule
            .is_some_and(|rule| self.plan.rules[rule].log.is_some());
        // A default that denies may log what it denies, which the rule does not.
        let is_default = line.rule.is_none() && *verdict != Verdict::Accept;
        !line.opaque && !logs && !is_default && line.verdict.as_ref() == Some(verdict)
    }

    /// Returns a finding if the next rule denies packets that this rule accepts, and neither has all packets of the other: the
    /// order decides then, which may be a mistake.
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
            RuleAction::Accept | RuleAction::Log | RuleAction::Continue
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
        let finding = contradiction::finding(
            (two.span, &two.label),
            (one.span, &one.label),
            witness.packet.to_string(),
        );
        Ok(Some(finding))
    }

    /// Returns the rule after which no packet is left for the default; `None` if some are left.
    pub fn closed_by(&self) -> Result<Option<usize>, GaveUp> {
        let Some(last) = self.lines.iter().rposition(|line| line.rule.is_some()) else {
            return Ok(None);
        };
        let all = last + 1;
        // A few sample packets are enough for most chains to show that something is left.
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

    /// Returns the packets, as they arrive, that may become those of a set in the filter table, and that a table before it does
    /// not drop.
    fn arriving(&self, shown: Set) -> Result<Set, GaveUp> {
        let Some(behaviour) = &self.drops_before else {
            return Ok(shown);
        };
        let space = self.space;
        let path = match self.path.get() {
            Some(path) => path,
            None => {
                let new = space.and(space.as_state(State::New)?, self.valid)?;
                let path = Path::of(space, behaviour, self.hook, new)?;
                self.path.get_or_init(|| path)
            }
        };
        let filter = (TableName::Filter, BaseChain::from(self.hook));
        let before = path.before(space, filter, shown)?;
        let passes = path.may(space, |end| end.verdict == Verdict::Accept)?;
        space.and(space.whatever_is_chosen(before)?, passes)
    }

    /// Returns a finding if a rule opens a guarded port to more than half of all addresses.
    fn world_open(&self, at: usize, rule: &PlannedRule) -> Result<Option<Diagnostic>, GaveUp> {
        let anywhere =
            [None, Some(vec![Endpoint::Any])].contains(&rule.from) && rule.not_from.is_none();
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
            let arriving = self.arriving(shown)?;
            if !is_most(space.family(), &sources(space, arriving)?) {
                continue;
            }
            let port = format!("{protocol} {first}");
            return Ok(Some(world_open::rule(rule.span, name, &port)));
        }
        Ok(None)
    }
}

/// Returns what the tables do, if the raw or the mangle table drops packets before the filter table sees them in a hook.
fn drops_before(space: &Space, spec: &Spec, hook: Hook) -> Result<Option<Behaviour>, GaveUp> {
    for (table, chain) in [
        (TableName::Raw, BaseChain::Prerouting),
        (TableName::Mangle, BaseChain::Prerouting),
        (TableName::Mangle, hook.into()),
    ] {
        let verdicts = spec.behaviour.flow(space, (table, chain)).verdicts;
        if space.decided(verdicts, &Verdict::Drop)? != space.none() {
            return Ok(Some(spec.behaviour.silent()));
        }
    }
    Ok(None)
}
