//! `fwc test`

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use serde::Serialize;

use super::batch::PolicyPaths;
use super::compile::{count, test_quietly};
use super::output::Document;
use super::{Exit, Format, Output, junit};
use crate::compile::{CompilationStopped, Tested};
use crate::diag::{JsonFinding, to_json};
use crate::resolve;
use crate::verify;

/// Prove the tests of a policy, for every packet that they describe
///
/// Each of the `[[tests]]` is proven on the compiled rules. A test that fails shows a packet that breaks it and the rule
/// that decides that packet. Loads and writes nothing; needs no root.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    hosts: PolicyPaths,
    /// A folder of templates that replace the built-in ones of the same name
    #[arg(long, value_name = "DIR")]
    templates: Option<PathBuf>,
    /// The format of the result
    #[arg(long, value_parser = Format::parser([Format::Text, Format::Json, Format::Junit]), default_value = "text", help_heading = "Output")]
    format: Format,
}

/// The outcome of the tests of some policies.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TestDocument {
    /// Whether every policy compiles and every test holds.
    ok: bool,
    policies: Vec<JsonTested>,
}

impl Document for TestDocument {
    const SCHEMA: &'static str = "fwc.test/1";
}

/// The outcome of the tests of a policy.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct JsonTested {
    /// The policy's file.
    policy: String,
    /// Whether it compiles and every test holds.
    ok: bool,
    /// Its tests; empty if the policy does not compile.
    tests: Vec<JsonTest>,
    findings: Vec<JsonFinding>,
}

/// The outcome of a test.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct JsonTest {
    /// Its name.
    name: String,
    /// The file that has it.
    file: String,
    /// Its line in that file, from 1.
    line: usize,
    /// What it expects.
    expect: &'static str,
    /// `holds`, `fails`, `fits-nothing`, `unclear` or `gave-up`.
    outcome: &'static str,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Exit {
    let tested = args.hosts.each(|host| {
        let tested = test_quietly(&host.path, args.templates.as_deref());
        (host.path, tested)
    });
    let tested = match tested {
        Ok(tested) => tested,
        Err(error) => {
            output.fatal(&error);
            return Exit::Failed;
        }
    };
    let holds = tested.iter().all(|(_, tested)| tested.holds());
    match args.format {
        Format::Json => {
            let policies = tested.iter().map(|(path, tested)| policy(path, tested));
            output.json(&TestDocument {
                ok: holds,
                policies: policies.collect(),
            });
        }
        Format::Junit => match junit::report(&tested) {
            Ok(report) => output.result(&report),
            Err(error) => {
                output.fatal(&format!("cannot write the report: {error}"));
                return Exit::Failed;
            }
        },
        _ => tested.iter().for_each(|(path, it)| print(path, it, output)),
    }
    match holds {
        true => Exit::Fine,
        false => Exit::Failed,
    }
}

fn print(path: &Path, tested: &Tested, output: &Output) {
    output.diagnostics(&tested.findings, &tested.sources);
    let outcomes = match &tested.result {
        Ok(outcomes) => outcomes,
        Err(CompilationStopped) => return output.message(&count(&tested.findings, path)),
    };
    for (test, outcome) in outcomes {
        let word = if outcome.holds() { "ok" } else { "FAILED" };
        output.tell(&format!("{word:<6} {}\n", test.name));
    }
    let hold = outcomes
        .iter()
        .filter(|(_, outcome)| outcome.holds())
        .count();
    let summary = match (hold, outcomes.len()) {
        (_, 0) => "the policy has no tests".to_owned(),
        (1, 1) => "1 test holds for every packet".to_owned(),
        (hold, all) if hold == all => format!("{all} tests hold for every packet"),
        (hold, all) => format!("{} of {all} tests failed", all - hold),
    };
    output.message(&format!("{}: {summary}", path.display()));
}

fn policy(path: &Path, tested: &Tested) -> JsonTested {
    let outcomes = tested.result.iter().flatten();
    JsonTested {
        policy: path.display().to_string(),
        ok: tested.holds(),
        tests: outcomes
            .map(|(test, outcome)| one(test, outcome, tested))
            .collect(),
        findings: to_json(tested.findings.sorted(), &tested.sources),
    }
}

fn one(test: &resolve::PlannedTest, outcome: &verify::TestOutcome, tested: &Tested) -> JsonTest {
    let file = tested.sources.file(test.span.file);
    let (line, _) = file.position(test.span.start);
    JsonTest {
        name: test.name.clone(),
        file: file.path().display().to_string(),
        line,
        expect: test.expect.as_str(),
        outcome: match outcome {
            verify::TestOutcome::Holds => "holds",
            verify::TestOutcome::FitsNothing => "fits-nothing",
            verify::TestOutcome::Fails(_) => "fails",
            verify::TestOutcome::Unclear(_) => "unclear",
            verify::TestOutcome::GaveUp(..) => "gave-up",
        },
    }
}
