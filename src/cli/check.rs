//! `fwc check`

use clap::Args as ClapArgs;
use serde_json::json;

use super::compile::{PolicyArgs, compile_quietly, policy_path, say};
use super::{Exit, Format, Output};
use crate::diag::to_json;
use crate::files::Access;
use crate::net::Family;

/// Check a policy: everything that `build` does but write
///
/// Every problem of every file is shown at once, with its place, a stable code and what to do. Nothing is
/// loaded and nothing is written; root is not needed.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    policy: PolicyArgs,
    /// The form of the findings: text (on standard error) or json (on standard output)
    #[arg(
        long,
        value_enum,
        default_value = "text",
        hide_possible_values = true,
        help_heading = "Output"
    )]
    format: Format,
}

/// Runs the command.
pub fn run(args: &Args, output: &mut Output) -> Exit {
    let path = policy_path(args.policy.policy.as_deref());
    let compilation = compile_quietly(&path, &args.policy.templates, Access::Read);
    let (findings, sources) = (&compilation.findings, &compilation.sources);
    if args.format == Format::Json {
        let list: Vec<_> = findings
            .sorted()
            .into_iter()
            .map(|finding| to_json(finding, sources))
            .collect();
        output.json(&json!({
            "schema": "fwc.check/1",
            "ok": compilation.result.is_ok(),
            "findings": list,
        }));
    } else {
        output.diagnostics(findings, sources);
    }
    match &compilation.result {
        Ok(compiled) => {
            let rules = compiled.plan.rules.iter();
            let enabled = rules.filter(|rule| rule.enabled).count();
            let lines = |family: Family| {
                let text = compiled.rendered.rules[family].text();
                text.lines().filter(|line| line.starts_with("-A ")).count()
            };
            output.message(&format!(
                "{}: good; {enabled} {}, {} lines in rules.v4, {} in rules.v6",
                path.display(),
                if enabled == 1 { "rule" } else { "rules" },
                lines(Family::V4),
                lines(Family::V6),
            ));
            Exit::Fine
        }
        Err(stopped) => {
            say(stopped, findings, &path, output);
            Exit::Failed
        }
    }
}
