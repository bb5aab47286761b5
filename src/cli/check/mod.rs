//! `fwc check`

mod rules;

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use serde::Serialize;

use crate::cli::batch::{
    CompileManyArgs, HostLine, HostOutcome, HostPolicy, HostReport, proof_line,
};
use crate::cli::build::FamilyArg;
use crate::cli::change_report::JsonConcern;
use crate::cli::live_check::check_live;
use crate::cli::output::Document;
use crate::cli::rules::Stop;
use crate::cli::state::StateArgs;
use crate::cli::{Exit, Format, Output};
use crate::compile::Compiled;
use crate::diag::{Code, Diagnostic, JsonFinding, did_you_mean, to_github, to_json, to_sarif};
use crate::net::Family;
use crate::source::SourceMap;

/// Check a policy: everything that `build` does, without writing files
///
/// Shows every problem of every file at once, with its position, a stable code and what to do. Loads and writes nothing;
/// needs no root, except with --live.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    policies: CompileManyArgs,
    /// Check a rules file, or a folder with rules.v4 and rules.v6, instead of a policy: find rules that do nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["policies", "templates", "no_verify", "live"])]
    rules: Option<PathBuf>,
    /// The family of the rules file, if it does not show it: ipv4 or ipv6
    #[arg(
        long,
        value_name = "FAMILY",
        requires = "rules",
        hide_possible_values = true
    )]
    family: Option<FamilyArg>,
    /// Explain an error code with an example, and check nothing
    #[arg(long, value_name = "CODE", conflicts_with_all = ["policies", "rules"], value_parser = code)]
    explain: Option<Code>,
    /// Also check this host as `apply` would, without changing it: what would stop `apply`, and what changes the rules' effect
    #[arg(long, conflicts_with = "explain")]
    live: bool,
    #[command(flatten, next_help_heading = "With --live")]
    state: StateArgs,
    /// The format of the findings
    #[arg(long, value_parser = Format::parser([Format::Text, Format::Json, Format::Github, Format::Sarif]), default_value = "text", help_heading = "Output")]
    format: Format,
}

fn code(text: &str) -> Result<Code, String> {
    let known = || Code::ALL.iter().map(|code| code.as_str());
    let found = Code::ALL.iter().find(|code| code.as_str() == text);
    found
        .copied()
        .ok_or_else(|| match did_you_mean(text, known()) {
            Some(near) => format!("unknown code; did you mean `{near}`?"),
            None => "unknown code; docs/reference/errors lists them".to_owned(),
        })
}

/// The findings of some policies, or of rules.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CheckDocument {
    /// Whether nothing is wrong.
    ok: bool,
    findings: Vec<JsonFinding>,
    /// With `--live`: host settings outside of iptables that change what the rules do.
    #[serde(skip_serializing_if = "Option::is_none")]
    concerns: Option<Vec<JsonConcern>>,
}

impl Document for CheckDocument {
    const SCHEMA: &'static str = "fwc.check/1";
}

/// Runs the command.
pub fn run(args: &Args, output: &mut Output) -> Exit {
    if let Some(code) = args.explain {
        output.result(code.page());
        return Exit::Fine;
    }
    if let Some(path) = &args.rules {
        return match args.check_rules(path, output) {
            Ok(exit) => exit,
            Err(stop) => stop.report(output),
        };
    }
    if args.live {
        if args.policies.are_several() {
            output.fatal("`--live` checks this host against one policy: name one file");
            return Exit::Usage;
        }
        if let Some(text) = StateArgs::needs_root("check --live") {
            output.fatal(&text);
            return Exit::Failed;
        }
    }
    let outcomes = match args.policies.each(summary) {
        Ok(outcomes) => outcomes,
        Err(error) => {
            output.fatal(&error);
            return Exit::Failed;
        }
    };
    let exit = outcomes
        .iter()
        .fold(Exit::Fine, |exit, outcome| exit.and(outcome.exit()));
    let check_host = || match outcomes.first() {
        Some(outcome) if args.live => check_live(outcome, &args.state, output),
        _ => (Exit::Fine, Vec::new()),
    };
    match args.format {
        Format::Json => {
            let (live, concerns) = check_host();
            let exit = exit.and(live);
            let findings = outcomes
                .iter()
                .flat_map(|outcome| to_json(&outcome.findings, &outcome.compilation.sources));
            output.json(&CheckDocument {
                ok: exit == Exit::Fine,
                findings: findings.collect(),
                concerns: args
                    .live
                    .then(|| concerns.iter().map(JsonConcern::from).collect()),
            });
            return exit;
        }
        Format::Sarif => {
            let exit = exit.and(check_host().0);
            output.foreign_json(&to_sarif(outcomes.iter().flat_map(findings)));
            return exit;
        }
        Format::Github => print_annotations(outcomes.iter().flat_map(findings), output),
        _ => {}
    }
    for outcome in &outcomes {
        outcome.print(output);
    }
    if outcomes.len() > 1 {
        let ok = outcomes.iter().filter(|o| o.exit() == Exit::Fine).count();
        output.message(&format!("{ok} of {} policies are ok", outcomes.len()));
    }
    exit.and(check_host().0)
}

/// Prints the findings as workflow commands, which GitHub Actions shows at their lines.
fn print_annotations<'a>(
    findings: impl Iterator<Item = (&'a Diagnostic, &'a SourceMap)>,
    output: &Output,
) {
    for (finding, sources) in findings {
        output.result(&(to_github(finding, sources) + "\n"));
    }
}

impl Args {
    /// Checks rules files that have no policy.
    fn check_rules(&self, path: &Path, output: &Output) -> Result<Exit, Stop> {
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
                output.json(&CheckDocument {
                    ok: exit == Exit::Fine,
                    findings: to_json(sorted, &sources),
                    concerns: None,
                });
                return Ok(exit);
            }
            Format::Sarif => {
                output.foreign_json(&to_sarif(with_sources));
                return Ok(exit);
            }
            Format::Github => print_annotations(with_sources, output),
            _ => {}
        }
        output.diagnostics(&sink, &sources);
        let summary = match (count, sink.iter().next()) {
            (Some(1), None) => format!("{}: 1 rule, no findings", path.display()),
            (Some(count), None) => {
                format!("{}: {count} rules, no findings", path.display())
            }
            _ => crate::cli::compile::count(&sink, path),
        };
        output.message(&summary);
        Ok(exit)
    }
}

fn findings(outcome: &HostOutcome) -> impl Iterator<Item = (&Diagnostic, &SourceMap)> {
    let sources = &outcome.compilation.sources;
    outcome
        .findings
        .iter()
        .map(move |finding| (finding, sources))
}

/// Reports a policy that compiles: the number of rules and lines, and the proof.
fn summary(host: &HostPolicy, compiled: &Compiled) -> HostReport {
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
        "{}: ok; {enabled} {}, {} lines in rules.v4, {} in rules.v6",
        host.path.display(),
        if enabled == 1 { "rule" } else { "rules" },
        lines(Family::V4),
        lines(Family::V6),
    );
    HostReport {
        exit: Exit::Fine,
        lines: vec![HostLine::Message(line), proof_line(host, compiled)],
    }
}
