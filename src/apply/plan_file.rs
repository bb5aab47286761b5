//! A plan as a file: what was looked at and decided, to be applied later.
//!
//! Nothing of it is ever followed: the policy is compiled and proven again, live is read again, and both have to be what the
//! file says. So a file that somebody tampered with can at worst be refused.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::plan::ApplyPlan;
use super::records::RulesetFiles;
use super::{clock, text_diff};
use crate::diag::Style;
use crate::fault::{self, Point};
use crate::files::{Access, InputFile, Staged, Trust};
use crate::live::Ipsets;
use crate::net::PerFamily;

const SCHEMA: &str = "fwc.plan/1";

/// A plan, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanFile {
    schema: String,
    /// When it was made, in UTC.
    made: String,
    /// Where the ruleset comes from, in words.
    policy: String,
    /// What the policy gave.
    ruleset: RulesetFiles,
    /// fwc's part of live, on which it was decided.
    live: State,
    /// The same, as it will be, in the kernel's form.
    target: State,
}

/// fwc's part of a firewall.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    rules: PerFamily<String>,
    sets: String,
}

impl PlanFile {
    /// Of a plan.
    pub fn of(plan: &ApplyPlan<'_>) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            made: clock::now(),
            policy: plan.request.policy.to_owned(),
            ruleset: plan.request.ruleset.clone(),
            live: State {
                rules: plan.live.clone(),
                sets: plan.sets.live.text(),
            },
            target: State {
                rules: plan.target.clone(),
                sets: plan.sets.target.text(),
            },
        }
    }

    /// Writes it, whole or not at all; only root can read it.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let failed = |source| Error::io("cannot write the plan", path, source);
        fault::at(Point::SavePlan).map_err(failed)?;
        let text = serde_json::to_string_pretty(self).map_err(|error| failed(error.into()))?;
        let staged = Staged::new(path, &(text + "\n"), 0o600, Trust::Anybody).map_err(failed)?;
        fault::at(Point::PlanStaged).map_err(failed)?;
        staged.publish().map(drop).map_err(failed)
    }

    /// Reads one that nobody else could have written.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bad = |reason: String| Error::BadPlan {
            path: path.to_owned(),
            reason,
        };
        let text = InputFile::open(path).and_then(|file| file.read(Access::Apply));
        let text = text.map_err(|error| bad(error.to_string()))?;
        let read: Self = serde_json::from_str(&text)
            .map_err(|error| bad(format!("not a valid plan of `fwc apply --save-plan`: {error}")))?;
        if read.schema != SCHEMA {
            return Err(bad(format!("its schema is `{}`", read.schema)));
        }
        Ok(read)
    }

    /// Stops unless this plan is what is about to be done.
    pub fn check(&self, plan: &ApplyPlan<'_>) -> Result<(), Error> {
        let now = Self::of(plan);
        if self.ruleset != now.ruleset || self.target != now.target {
            let diff = differences(&self.target, &now.target, ["planned", "policy now"])?;
            let rest = "the rules are the same, but the files for the next boot or the hooks differ";
            return Err(Error::PlanOfOther(match diff.as_str() {
                "" => rest.to_owned(),
                _ => diff,
            }));
        }
        if self.live != now.live {
            let diff = differences(&self.live, &now.live, ["live when planned", "live now"])?;
            return Err(Error::PlanIsOld(diff));
        }
        Ok(())
    }
}

fn differences(from: &State, to: &State, names: [&str; 2]) -> Result<String, Error> {
    let sets = |state: &State| Ipsets::parse(&state.sets).map_err(Error::Sets);
    Ok(
        text_diff::sets(&sets(from)?, &sets(to)?, names, Style::Plain)
            + &text_diff::rules(&from.rules, &to.rules, names, Style::Plain),
    )
}
