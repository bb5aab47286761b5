//! `fwc check`

mod rules;

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use serde_json::json;

use crate::cli::applied::concerns_json;
use crate::cli::build::FamilyArg;
use crate::cli::hosts::{Host, Line, Outcome, PoliciesArgs, Report, proof_line};
use crate::cli::look::look;
use crate::cli::rules::Stop;
use crate::cli::state::StateArgs;
use crate::cli::{Exit, Output};
use crate::compile::Compiled;
use crate::diag::{Code, Diagnostic, JsonFinding, did_you_mean, to_github, to_json, to_sarif};
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
    /// Check a rules file, or a folder with rules.v4 and rules.v6, instead of a policy: which of its rules do nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["policies", "templates", "no_verify", "live"])]
    rules: Option<PathBuf>,
    /// The family of a rules file that does not show its own: ipv4 or ipv6
    #[arg(
        long,
        value_name = "FAMILY",
        requires = "rules",
        hide_possible_values = true
    )]
    family: Option<FamilyArg>,
    /// Print what a code means, with an example, and check nothing
    #[arg(long, value_name = "CODE", conflicts_with_all = ["policies", "rules"], value_parser = code)]
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
    if let Some(path) = &args.rules {
        return match args.of_rules(path, output) {
            Ok(exit) => exit,
            Err(stop) => stop.say(output),
        };
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
        let mut report = match args.format {
            Format::Sarif => to_sarif(outcomes.iter().flat_map(findings)),
            _ => {
                let findings = outcomes
                    .iter()
                    .flat_map(|outcome| to_json(&outcome.findings, &outcome.compilation.sources));
                report(exit, findings.collect())
            }
        };
        if args.live && args.format == Format::Json {
            report["concerns"] = concerns_json(&concerns);
        }
        output.json(&report);
        return exit;
    }
    if args.format == Format::Github {
        beside_lines(outcomes.iter().flat_map(findings), output);
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

fn report(exit: Exit, findings: Vec<JsonFinding>) -> serde_json::Value {
    json!({
        "schema": "fwc.check/1",
        "ok": exit == Exit::Fine,
        "findings": findings,
    })
}

/// The findings as GitHub shows them, beside the lines that they are about.
fn beside_lines<'a>(
    findings: impl Iterator<Item = (&'a Diagnostic, &'a SourceMap)>,
    output: &Output,
) {
    for (finding, sources) in findings {
        output.result(&(to_github(finding, sources) + "\n"));
    }
}

impl Args {
    /// Checks rules that no policy is known of.
    fn of_rules(&self, path: &Path, output: &Output) -> Result<Exit, Stop> {
        let family = self.family.map(Family::from);
        let (sources, sink, count) = rules::findings(path, family, &self.policies.denied())?;
        let exit = match sink.has_errors() {
            true => Exit::Failed,
            false => Exit::Fine,
        };
        let sorted = sink.sorted();
        let with_sources = sorted.iter().map(|finding| (*finding, &sources));
        match self.format {
            Format::Json => {
                output.json(&report(exit, to_json(sorted, &sources)));
                return Ok(exit);
            }
            Format::Sarif => {
                output.json(&to_sarif(with_sources));
                return Ok(exit);
            }
            Format::Github => beside_lines(with_sources, output),
            Format::Text => {}
        }
        output.diagnostics(&sink, &sources);
        let said = match (count, sink.iter().next()) {
            (Some(1), None) => format!("{}: 1 rule, nothing to be said of it", path.display()),
            (Some(count), None) => {
                format!(
                    "{}: {count} rules, nothing to be said of them",
                    path.display()
                )
            }
            _ => crate::cli::compile::count(&sink, path),
        };
        output.message(&said);
        Ok(exit)
    }
}

fn findings(outcome: &Outcome) -> impl Iterator<Item = (&Diagnostic, &SourceMap)> {
    let sources = &outcome.compilation.sources;
    outcome
        .findings
        .iter()
        .map(move |finding| (finding, sources))
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
