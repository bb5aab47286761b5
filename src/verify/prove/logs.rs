//! Each log line of the policy is one of the rules, in the same order.

use super::Prover;
use crate::analysis::{BaseChain, Effect, GaveUp, Set};
use crate::iptables::TableName;
use crate::net::Hook;
use crate::verify::both_sides::{BothSides, contradiction};
use crate::verify::logging::LogLine;
use crate::verify::proof::DisagreementKind;

impl Prover<'_> {
    /// Each log line by the policy is one line with one limit in the rules.
    pub(super) fn logs(&mut self, views: &BothSides<'_>, hook: Hook) -> Result<(), GaveUp> {
        let family = self.space.family();
        let place = (TableName::Filter, BaseChain::from(hook));
        let says = views.spec.behaviour.flow(self.space, place);
        let does = views.text.flow(self.space, place);
        // Where the verdict is wrong the log is too, and that was said.
        let wrong = self.space.differ(says.verdicts, does.verdicts)?;
        let (says, does) = (says.effects, does.effects);
        let mut wanted: Vec<(LogLine, Set)> = Vec::new();
        for (effect, set) in &says {
            let logging = views.spec.logs.get(effect);
            let line = logging.and_then(|logging| {
                LogLine::of_plan(self.plan, logging.class, logging.rule, family)
            });
            wanted.extend(line.map(|line| (line, *set)));
        }
        let custom = says
            .iter()
            .filter(|(effect, _)| !views.spec.logs.contains_key(*effect));
        for (effect, set) in custom {
            if does.get(effect) != Some(set) {
                self.found(DisagreementKind::StrangeLog(0, effect.to_string()));
            }
        }
        let mut found: Vec<(&Effect, LogLine, Set)> = Vec::new();
        for (effect, set) in &does {
            match views.tagged.logs.get(effect) {
                Some(line) => {
                    found.push((effect, line.clone(), *set));
                }
                // What a custom rule does is the same on both sides, or it stands elsewhere.
                None if says.get(effect) == Some(set) => {}
                // A line that no policy asks for was reported with its rule; other effects are nobody's.
                None => {
                    let strange = views.tagged.strange.iter();
                    if !strange
                        .into_iter()
                        .any(|(_, text)| text.ends_with(&**effect))
                    {
                        self.found(DisagreementKind::StrangeLog(0, effect.to_string()));
                    }
                }
            }
        }
        self.log_order(views, hook, &wanted, &found)?;
        let mut found: Vec<_> = found
            .into_iter()
            .map(|(_, line, set)| (line, set))
            .collect();
        remove_equal(&mut wanted, &mut found);
        while let Some((line, _)) = wanted.first().or(found.first()).cloned() {
            let of_line = |all: &mut Vec<(LogLine, Set)>| -> Vec<Set> {
                let own = all.extract_if(.., |(other, _)| *other == line);
                own.map(|(_, set)| set).collect()
            };
            let (says, does) = (of_line(&mut wanted), of_line(&mut found));
            let all_says = self.space.any(says.iter().copied())?;
            let all_does = self.space.any(does.iter().copied())?;
            let only = self.space.or(
                self.space.minus(all_says, all_does)?,
                self.space.minus(all_does, all_says)?,
            )?;
            let unsaid = self.space.minus(only, wrong)?;
            let what = if only == self.space.none() {
                DisagreementKind::Buckets {
                    hook,
                    line,
                    wanted: says.len(),
                    found: does.len(),
                }
            } else if unsaid == self.space.none() {
                continue;
            } else {
                match views.walk(hook, unsaid)? {
                    Ok(walked) if !walked.same_logs() => DisagreementKind::Logs(walked),
                    other => contradiction(
                        other,
                        "the logs of a set of packets differ, those of one of them do not",
                    ),
                }
            };
            self.found(what);
        }
        Ok(())
    }

    /// Two lines that one packet may have both of stand in the order of the policy. Both lists are in their orders, as far as
    /// packets come to a line by one way only.
    fn log_order(
        &mut self,
        views: &BothSides<'_>,
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
                let several_ways = |effect: &Effect| views.tagged.unordered.contains(effect);
                if *other_place < place && !several_ways(effect) && !several_ways(other) {
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
                let early = views.logged_before(hook, first, last)?;
                let late = self.space.minus(both, early)?;
                if late != self.space.none() {
                    let what = match views.walk(hook, late)? {
                        Ok(walked) if !walked.same_logs() => DisagreementKind::Logs(walked),
                        other => contradiction(other, "two lines are logged in another order"),
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

/// Takes out what is on both sides, each as often as on the other.
fn remove_equal(left: &mut Vec<(LogLine, Set)>, right: &mut Vec<(LogLine, Set)>) {
    left.retain(|one| match right.iter().position(|other| other == one) {
        Some(at) => {
            right.swap_remove(at);
            false
        }
        None => true,
    });
}
