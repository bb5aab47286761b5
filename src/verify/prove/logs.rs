//! The comparison of log lines: the same lines for the same packets, in the same order; and of rules that only count.

use std::collections::BTreeMap;

use super::Prover;
use crate::analysis::{BaseChain, Effect, GaveUp, Set};
use crate::iptables::TableName;
use crate::net::Hook;
use crate::verify::both_sides::{BothSides, contradiction};
use crate::verify::logging::LogLine;
use crate::verify::proof::DisagreementKind;

impl Prover<'_> {
    /// Compares the log lines of a hook: each line of the policy must be one line of the rules, with one limit.
    pub(super) fn logs(&mut self, sides: &BothSides<'_>, hook: Hook) -> Result<(), GaveUp> {
        let family = self.space.family();
        let place = (TableName::Filter, BaseChain::from(hook));
        let expected = sides.spec.behaviour.flow(self.space, place);
        let actual = sides.text.flow(self.space, place);
        // A wrong verdict usually makes the log wrong too; `verdicts` has reported these packets.
        let wrong = self.space.differ(expected.verdicts, actual.verdicts)?;
        let (mut expected, mut actual) = (expected.effects, actual.effects);
        self.counts(sides, hook, &expected, &actual)?;
        expected.retain(|effect, _| !sides.spec.counts.contains_key(effect));
        actual.retain(|effect, _| !sides.normalised.counts.contains_key(effect));
        let mut wanted: Vec<(LogLine, Set)> = Vec::new();
        for (effect, set) in &expected {
            let logging = sides.spec.logs.get(effect);
            let line = logging.and_then(|logging| {
                LogLine::of_plan(self.plan, logging.class, logging.rule, family)
            });
            wanted.extend(line.map(|line| (line, *set)));
        }
        let custom = expected
            .iter()
            .filter(|(effect, _)| !sides.spec.logs.contains_key(*effect));
        for (effect, set) in custom {
            if actual.get(effect) != Some(set) {
                self.found(DisagreementKind::UnexpectedLog(0, effect.to_string()));
            }
        }
        let mut found: Vec<(&Effect, LogLine, Set)> = Vec::new();
        for (effect, set) in &actual {
            match sides.normalised.logs.get(effect) {
                Some(line) => {
                    found.push((effect, line.clone(), *set));
                }
                // An effect of a custom rule, at its position.
                None if expected.get(effect) == Some(set) => {}
                // A strange log rule was reported already; any other effect has no counterpart in the policy.
                None => {
                    let strange = sides.normalised.strange.iter();
                    if !strange
                        .into_iter()
                        .any(|(_, text)| text.ends_with(&**effect))
                    {
                        self.found(DisagreementKind::UnexpectedLog(0, effect.to_string()));
                    }
                }
            }
        }
        self.log_order(sides, hook, &wanted, &found)?;
        let mut found: Vec<_> = found
            .into_iter()
            .map(|(_, line, set)| (line, set))
            .collect();
        remove_equal(&mut wanted, &mut found);
        while let Some((only, buckets)) = self.next_line(place, &mut wanted, &mut found)? {
            let unexplained = self.space.minus(only, wrong)?;
            let passing = self.passing_raw(sides, hook, unexplained)?;
            let what = if only == self.space.none() {
                buckets
            } else if unexplained == self.space.none() {
                continue;
            } else if passing == self.space.none() {
                DisagreementKind::DroppedBefore(place.1)
            } else {
                match sides.walk(hook, passing)? {
                    Ok(walked) if !walked.same_logs() => DisagreementKind::Logs(walked),
                    other => contradiction(
                        other,
                        "the log lines of a set of packets differ, but not those of one of them",
                    ),
                }
            };
            self.found(what);
        }
        Ok(())
    }

    /// Takes the next log line out of those that are wanted and found in a base chain, wherever it stands in both. Returns the
    /// packets that only one of them logs, and the disagreement if there are none: the same packets have other buckets.
    fn next_line(
        &self,
        (table, chain): (TableName, BaseChain),
        wanted: &mut Vec<(LogLine, Set)>,
        found: &mut Vec<(LogLine, Set)>,
    ) -> Result<Option<(Set, DisagreementKind)>, GaveUp> {
        let Some((line, _)) = wanted.first().or(found.first()).cloned() else {
            return Ok(None);
        };
        let of_line = |all: &mut Vec<(LogLine, Set)>| -> Vec<Set> {
            let own = all.extract_if(.., |(other, _)| *other == line);
            own.map(|(_, set)| set).collect()
        };
        let (expected, actual) = (of_line(wanted), of_line(found));
        let all_expected = self.space.any(expected.iter().copied())?;
        let all_actual = self.space.any(actual.iter().copied())?;
        let only = self.space.or(
            self.space.minus(all_expected, all_actual)?,
            self.space.minus(all_actual, all_expected)?,
        )?;
        let buckets = DisagreementKind::Buckets {
            table,
            chain,
            line,
            wanted: expected.len(),
            found: actual.len(),
        };
        Ok(Some((only, buckets)))
    }

    /// Compares the log lines of entries in a base chain of the raw, mangle or nat table: each log of an entry must be one line
    /// of the rules, with one limit.
    pub(super) fn entry_logs(
        &mut self,
        sides: &BothSides<'_>,
        place: (TableName, BaseChain),
    ) -> Result<(), GaveUp> {
        let (space, family) = (self.space, self.space.family());
        let expected = sides.spec.behaviour.flow(space, place).effects;
        let actual = sides.text.flow(space, place).effects;
        let mut wanted: Vec<(LogLine, Set)> = Vec::new();
        for (effect, set) in &expected {
            let class = sides.spec.entry_logs.get(effect);
            let line = class.and_then(|class| LogLine::of_plan(self.plan, *class, None, family));
            wanted.extend(line.map(|line| (line, *set)));
        }
        let mut found: Vec<(LogLine, Set)> = Vec::new();
        for (effect, set) in &actual {
            let line = sides.normalised.logs.get(effect);
            found.extend(line.map(|line| (line.clone(), *set)));
        }
        remove_equal(&mut wanted, &mut found);
        while let Some((only, buckets)) = self.next_line(place, &mut wanted, &mut found)? {
            if only == space.none() {
                self.found(buckets);
                continue;
            }
            let what = match sides.treat(place, only)? {
                Ok(treated) if !treated.same() => DisagreementKind::Treatment(treated),
                // Another difference of the chain, which is reported, may hide or make this one.
                Ok(_) if !self.proof.disagreements.is_empty() => continue,
                Ok(treated) => DisagreementKind::Internal(
                    None,
                    format!(
                        "the log lines of a set of packets differ, but not those of its packet {}",
                        treated.packet
                    ),
                ),
                Err(no_witness) => no_witness.into(),
            };
            self.found(what);
        }
        Ok(())
    }

    /// Compares the packets that rules without a verdict count: those with a comment of a rule by this comment, all others
    /// together, because a user's templates may leave the comments out.
    fn counts(
        &mut self,
        sides: &BothSides<'_>,
        hook: Hook,
        expected: &BTreeMap<Effect, Set>,
        actual: &BTreeMap<Effect, Set>,
    ) -> Result<(), GaveUp> {
        let (plan, space) = (self.plan, self.space);
        let mut found: Vec<(Option<&str>, Set)> = Vec::new();
        for (effect, set) in actual {
            if let Some(comment) = sides.normalised.counts.get(effect) {
                found.push((comment.as_deref(), *set));
            }
        }
        let mut wanted: Vec<(Option<&str>, Set)> = Vec::new();
        for (effect, set) in expected {
            if let Some(rule) = sides.spec.counts.get(effect) {
                let comment = plan
                    .rules
                    .get(*rule)
                    .and_then(|rule| rule.comment.as_deref());
                let is_found = found.iter().any(|(other, _)| *other == comment);
                wanted.push((comment.filter(|_| is_found), *set));
            }
        }
        for (comment, _) in &mut found {
            let is_wanted = wanted.iter().any(|(other, _)| other == comment);
            *comment = comment.filter(|_| is_wanted);
        }
        let mut comments: Vec<_> = wanted.iter().chain(&found).map(|one| one.0).collect();
        comments.sort_unstable();
        comments.dedup();
        for comment in comments {
            let own = |all: &[(Option<&str>, Set)]| {
                let own = all.iter().filter(|(other, _)| *other == comment);
                space.any(own.map(|(_, set)| *set))
            };
            if own(&wanted)? != own(&found)? {
                let comment = comment.map(str::to_owned);
                self.found(DisagreementKind::Counted { hook, comment });
            }
        }
        Ok(())
    }

    /// Compares the order of log lines that the same packet can have. Both lists are in the order in which packets meet the
    /// lines, except for lines that packets reach by several paths (`unordered`): those are compared pair by pair.
    fn log_order(
        &mut self,
        sides: &BothSides<'_>,
        hook: Hook,
        wanted: &[(LogLine, Set)],
        found: &[(&Effect, LogLine, Set)],
    ) -> Result<(), GaveUp> {
        let mut left: Vec<_> = wanted.iter().map(Some).collect();
        let mut placed: Vec<(usize, &Effect, Set)> = Vec::new();
        for (effect, line, set) in found {
            let same = |other: &(LogLine, Set)| other.0 == *line && other.1 == *set;
            let Some(place) = left.iter().position(|other| other.is_some_and(same)) else {
                continue;
            };
            left[place] = None;
            for (other_place, other, other_set) in &placed {
                let on_several_paths =
                    |effect: &Effect| sides.normalised.unordered.contains(effect);
                if *other_place < place && !on_several_paths(effect) && !on_several_paths(other) {
                    continue;
                }
                let both = self.space.and(*set, *other_set)?;
                if both == self.space.none() {
                    continue;
                }
                let (first, last) = match *other_place < place {
                    true => (*other, *effect),
                    false => (*effect, *other),
                };
                let early = sides.logged_before(hook, first, last)?;
                let late = self.space.minus(both, early)?;
                if late != self.space.none() {
                    let what = match sides.walk(hook, late)? {
                        Ok(walked) if !walked.same_logs() => DisagreementKind::Logs(walked),
                        other => contradiction(
                            other,
                            "two log lines are in another order for a set of packets, but not for one of them",
                        ),
                    };
                    self.found(what);
                    return Ok(());
                }
            }
            placed.push((place, effect, *set));
        }
        Ok(())
    }
}

/// Removes the lines that are in both lists, each as many times as in both.
fn remove_equal(left: &mut Vec<(LogLine, Set)>, right: &mut Vec<(LogLine, Set)>) {
    left.retain(|one| match right.iter().position(|other| other == one) {
        Some(at) => {
            right.swap_remove(at);
            false
        }
        None => true,
    });
}
