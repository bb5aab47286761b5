//! `fwc apply`

use clap::Args as ClapArgs;

use super::change::ChangeArgs;
use super::compile::{PolicyArgs, compile, policy_path};
use super::{Exit, Format, Output, applied};
use crate::apply::Ruleset;
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
            output.json(&applied::failure_json("the policy has errors", false));
        }
        return Exit::Failed;
    };
    let ruleset = Ruleset {
        rules: compiled.rendered.texts(),
        sets: compiled.rendered.ipsets.clone(),
        ownership: compiled.plan.ownership.clone(),
    };
    let path = path.display().to_string();
    args.change.run(&ruleset, &path, output)
}
