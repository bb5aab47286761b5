//! `fwc apply`

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::change::{ChangeArgs, PlanFiles, ruleset_of};
use super::compile::{PolicyArgs, compile, policy_path};
use super::{Exit, Format, Output, change_report};
use crate::files::Access;

/// Apply a policy to the live firewall of this network namespace
///
/// The rules are first loaded in a scratch network namespace. If one family fails to load, if the kernel reads back other
/// rules than it was given, or if fwc dies, fwc reverts both families and the sets. fwc refuses to replace rules that it
/// did not make, unless --take-over is given.
#[derive(Debug, ClapArgs)]
// `--no-verify` comes with the compile options that all commands share. It stays accepted but hidden, so that `run` can
// refuse it with a reason; clap would only call it unexpected.
#[command(mut_arg("no_verify", |argument| argument.hide(true)))]
pub struct Args {
    #[command(flatten)]
    policy: PolicyArgs,
    /// With --dry-run: save the plan to FILE, for a later `fwc apply --plan FILE`
    #[arg(long, value_name = "FILE", requires = "dry_run")]
    save_plan: Option<PathBuf>,
    /// Apply only what this saved plan shows; stop if the policy or fwc's live rules have changed since
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    plan: Option<PathBuf>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Runs the command.
pub fn run(args: &Args, output: &mut Output) -> Exit {
    if args.policy.compile.no_verify {
        output.fatal("`apply` loads only verified rules: leave `--no-verify` out");
        return Exit::Usage;
    }
    if let Some((exit, text)) = args.change.refusal("apply") {
        output.fatal(&text);
        return exit;
    }
    let path = policy_path(args.policy.policy.as_deref());
    let Some(compiled) = compile(&path, &args.policy.compile, Access::Apply, output) else {
        if args.change.format == Format::Json {
            output.json(&change_report::ApplyDocument::failed(
                "the policy has errors".to_owned(),
                false,
            ));
        }
        return Exit::Failed;
    };
    let ruleset = ruleset_of(&compiled);
    let path = path.display().to_string();
    let plans = PlanFiles {
        expected: args.plan.as_deref(),
        save: args.save_plan.as_deref(),
    };
    args.change.run_planned(&ruleset, &path, plans, output)
}
