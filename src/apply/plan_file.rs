//! Plan files: a plan that was reviewed, to be applied later (`--save-plan`, `--plan`).
//!
//! fwc never executes a plan file. It compiles and proves the policy again and reads the live rules again, and both must be what
//! the file says. So the worst that a forged file can do is to be refused.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::plan::ApplyPlan;
use super::records::RulesetFiles;
use super::{clock, sets, text_diff};
use crate::diag::Style;
use crate::fault::{self, Point};
use crate::files::{Access, InputFile, Staged, Trust};
use crate::net::PerFamily;

const SCHEMA: &str = "fwc.plan/1";

/// A plan file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanFile {
    schema: String,
    /// When the plan was made, in UTC.
    made: String,
    /// Where the ruleset comes from, in words.
    policy: String,
    /// The ruleset of the policy.
    ruleset: RulesetFiles,
    /// fwc's parts of the live firewall when the plan was made.
    live: FirewallState,
    /// Those parts after the commit, in the kernel's form.
    target: FirewallState,
}

/// fwc's parts of a firewall.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FirewallState {
    rules: PerFamily<String>,
    sets: String,
}

impl PlanFile {
    /// Returns the file of a plan.
    pub fn of(plan: &ApplyPlan<'_>) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            made: clock::now(),
            policy: plan.request.policy.to_owned(),
            ruleset: plan.request.ruleset.clone(),
            live: FirewallState {
                rules: plan.live.clone(),
                sets: plan.sets.live.text(),
            },
            target: FirewallState {
                rules: plan.target.clone(),
                sets: plan.sets.target.text(),
            },
        }
    }

    /// Writes the file, whole or not at all. Only its owner can read it.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let failed = |source| Error::io("cannot write the plan", path, source);
        fault::at(Point::SavePlan).map_err(failed)?;
        let text = serde_json::to_string_pretty(self).map_err(|error| failed(error.into()))?;
        let staged = Staged::new(path, &(text + "\n"), 0o600, Trust::Anybody).map_err(failed)?;
        fault::at(Point::PlanStaged).map_err(failed)?;
        staged.publish().map(drop).map_err(failed)
    }

    /// Reads a file, and refuses one that a user other than root could have written.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bad = |reason: String| Error::BadPlan {
            path: path.to_owned(),
            reason,
        };
        let text = InputFile::open(path).and_then(|file| file.read(Access::Apply));
        let text = text.map_err(|error| bad(error.to_string()))?;
        let read: Self = serde_json::from_str(&text).map_err(|error| {
            bad(format!(
                "not a valid plan of `fwc apply --save-plan`: {error}"
            ))
        })?;
        if read.schema != SCHEMA {
            return Err(bad(format!("its schema is `{}`", read.schema)));
        }
        Ok(read)
    }

    /// Stops unless `plan` is the same as this one.
    pub fn check(&self, plan: &ApplyPlan<'_>) -> Result<(), Error> {
        let now = Self::of(plan);
        if self.ruleset != now.ruleset || self.target != now.target {
            let diff = differences(&self.target, &now.target, ["planned", "policy now"])?;
            let rest =
                "the rules are the same, but the files for the next boot or the hooks differ";
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

fn differences(
    from: &FirewallState,
    to: &FirewallState,
    names: [&str; 2],
) -> Result<String, Error> {
    let sets = |state: &FirewallState| sets::parse(&state.sets);
    Ok(
        text_diff::sets(&sets(from)?, &sets(to)?, names, Style::Plain)
            + &text_diff::rules(&from.rules, &to.rules, names, Style::Plain),
    )
}
