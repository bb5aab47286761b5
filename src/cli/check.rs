//! `fwc check`

use clap::Args as ClapArgs;
use serde_json::json;

use super::applied::concerns_json;
use super::hosts::{Host, Line, Outcome, PoliciesArgs, Report, proof_line};
use super::look::look;
use super::state::StateArgs;
use super::{Exit, Output};
use crate::compile::{Compilation, Compiled};
use crate::diag::{Code, Diagnostic, did_you_mean, to_github, to_json, to_sarif};
use crate::net::Family;
use crate::source::SourceMap;

/// Check a policy: everything that `build` does but write
///
/// Every problem of every file is shown at once, with its place, a stable code and what to do. Nothing is
/// loaded and nothing is written; root is not needed but for --live.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    policies: PoliciesArgs,
    /// Print what a code means, with an example, and check nothing
    #[arg(long, value_name = "CODE", conflicts_with = "policies", value_parser = code)]
    explain: Option<Code>,
    /// Then look at this machine as `apply` would, and change nothing: what stops it, and what makes the rules mean something else
    #[arg(long, conflicts_with = "explain")]
    live: bool,
    #[command(flatten, next_help_heading = "With --live")]
    state: StateArgs,
    /// The form of the findings
    #[arg(long, value_enum, default_value = "text", help_heading = "Output")]
    format: Format,
}

/// The forms of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people, on standard error
    Text,
    /// For programs
    Json,
    /// For GitHub Actions: beside the lines that they are about, and for people
    Github,
    /// For tools that collect findings: SARIF 2.1.0
    Sarif,
}

fn code(text: &str) -> Result<Code, String> {
    let known = || Code::ALL.iter().map(|code| code.as_str());
    let found = Code::ALL.iter().find(|code| code.as_str() == text);
    found
        .copied()
        .ok_or_else(|| match did_you_mean(text, known()) {
            Some(near) => format!("no finding has that code; did you mean `{near}`?"),
            None => "no finding has that code".to_owned(),
        })
}

/// Runs the command.
pub fn run(args: &Args, output: &mut Output) -> Exit {
    if let Some(code) = args.explain {
        output.result(code.page());
        return Exit::Fine;
    }
    if args.live {
        if args.policies.are_several() {
            output.fatal("`--live` looks at this machine: name the one policy that is for it");
            return Exit::Usage;
        }
        if let Some(text) = StateArgs::needs_root("check --live") {
            output.fatal(&text);
            return Exit::Failed;
        }
    }
    let outcomes = match args.policies.each(good) {
        Ok(outcomes) => outcomes,
        Err(error) => {
            output.fatal(&error);
            return Exit::Failed;
        }
    };
    let exit = outcomes
        .iter()
        .fold(Exit::Fine, |exit, outcome| exit.and(outcome.exit()));
    let looked_at = || match outcomes.first() {
        Some(outcome) if args.live => look(outcome, &args.state, output),
        _ => (Exit::Fine, Vec::new()),
    };
    if matches!(args.format, Format::Json | Format::Sarif) {
        let (live, concerns) = looked_at();
        let exit = exit.and(live);
        let findings = outcomes.iter().flat_map(findings);
        let mut report = match args.format {
            Format::Sarif => to_sarif(findings),
            _ => json!({
                "schema": "fwc.check/1",
                "ok": exit == Exit::Fine,
                "findings": findings.map(|(it, sources)| to_json(it, sources)).collect::<Vec<_>>(),
            }),
        };
        if args.live && args.format == Format::Json {
            report["concerns"] = concerns_json(&concerns);
        }
        output.json(&report);
        return exit;
    }
    if args.format == Format::Github {
        for (finding, sources) in outcomes.iter().flat_map(findings) {
            output.result(&(to_github(finding, sources) + "\n"));
        }
    }
    for outcome in &outcomes {
        outcome.print(output);
    }
    if outcomes.len() > 1 {
        let good = outcomes.iter().filter(|o| o.exit() == Exit::Fine).count();
        output.message(&format!("{good} of {} policies are good", outcomes.len()));
    }
    exit.and(looked_at().0)
}

fn findings(outcome: &Outcome) -> impl Iterator<Item = (&Diagnostic, &SourceMap)> {
    let Compilation {
        sources, findings, ..
    } = &outcome.compilation;
    let sorted = findings.sorted().into_iter();
    sorted.map(move |finding| (finding, sources))
}

fn good(host: &Host, compiled: &Compiled) -> Report {
    let enabled = compiled
        .plan
        .rules
        .iter()
        .filter(|rule| rule.enabled)
        .count();
    let lines = |family: Family| {
        let text = compiled.rendered.rules[family].text();
        text.lines().filter(|line| line.starts_with("-A ")).count()
    };
    let line = format!(
        "{}: good; {enabled} {}, {} lines in rules.v4, {} in rules.v6",
        host.path.display(),
        if enabled == 1 { "rule" } else { "rules" },
        lines(Family::V4),
        lines(Family::V6),
    );
    Report {
        exit: Exit::Fine,
        lines: vec![Line::Message(line), proof_line(host, compiled)],
    }
}
