//! `fwc apply`

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::change::{ChangeArgs, Planned, ruleset_of};
use super::compile::{PolicyArgs, compile, policy_path};
use super::{Exit, Format, Output, change_report};
use crate::files::Access;

/// Put a policy in force, in the network namespace that fwc runs in
///
/// The rules are loaded in a scratch network namespace first. When loading one family fails, the kernel holds other
/// rules than it was given, or fwc dies, both families and the sets go back to what they were. Rules that fwc did not make
/// stop it.
#[derive(Debug, ClapArgs)]
#[command(mut_arg("no_verify", |argument| argument.hide(true)))] // refused with words of its own
pub struct Args {
    #[command(flatten)]
    policy: PolicyArgs,
    /// With --dry-run: keep the plan in a file, to be applied with --plan
    #[arg(long, value_name = "FILE", requires = "dry_run")]
    save_plan: Option<PathBuf>,
    /// Apply only what this plan says: the policy and fwc's part of the live firewall have to be what it was made of
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    plan: Option<PathBuf>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Runs the command.
pub fn run(args: &Args, output: &mut Output) -> Exit {
    if args.policy.compile.no_verify {
        output.fatal("`apply` puts only in force what is proven: leave `--no-verify` out");
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
    let planned = Planned {
        before: args.plan.as_deref(),
        keep: args.save_plan.as_deref(),
    };
    args.change.run_planned(&ruleset, &path, planned, output)
}
