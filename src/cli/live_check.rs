//! Checks whether a policy can be applied on this host: `fwc check --live`.

use super::batch::HostOutcome;
use super::change::{print_concerns, print_unchecked, ruleset_of};
use super::state::StateArgs;
use super::{Exit, Output};
use crate::apply::{self, Error, Overrides, Request};
use crate::compile::{Compiled, check_hooks};
use crate::diag::Sink;
use crate::live::Concern;
use crate::live::requester::ClientConnection;

/// Checks a policy against this host as `apply` would. Prints what would stop `apply`, and returns the concerns.
pub fn check_live(
    outcome: &HostOutcome,
    state: &StateArgs,
    output: &Output,
) -> (Exit, Vec<Concern>) {
    let Ok(compiled) = &outcome.compilation.result else {
        return (Exit::Failed, Vec::new());
    };
    let mut unfit = Sink::new();
    check_hooks(&compiled.policy, &mut unfit);
    if unfit.has_errors() {
        output.diagnostics(&unfit, &outcome.compilation.sources);
        return (Exit::Failed, Vec::new());
    }
    let policy = outcome.host.path.display().to_string();
    match concerns(&policy, compiled, state, output) {
        Ok(concerns) => (Exit::Fine, concerns),
        Err(error) => {
            output.fatal(&error.to_string());
            (Exit::Failed, Vec::new())
        }
    }
}

fn concerns(
    policy: &str,
    compiled: &Compiled,
    state: &StateArgs,
    output: &Output,
) -> Result<Vec<Concern>, Error> {
    let (host, store) = state.open()?;
    let ruleset = ruleset_of(compiled);
    let persist_dir = state.persist_dir();
    let request = Request {
        ruleset: &ruleset,
        policy,
        persist_dir: &persist_dir,
        insist: Overrides::default(),
    };
    let plan = apply::plan(&host, &store, request)?;
    let mut concerns = plan.concerns(&host)?;
    concerns.retain(|concern| !ruleset.allowed_concerns.contains(&concern.name));
    print_concerns(&concerns, output);
    let client = ClientConnection::current();
    print_unchecked(&client, output);
    let lockouts = plan.lockouts(&host, &client)?;
    if !lockouts.is_empty() {
        return Err(Error::Lockout(lockouts));
    }
    output.message(&format!("{policy}: ready to apply on this host"));
    Ok(concerns)
}
