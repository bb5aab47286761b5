//! Wrong policies: each file of `tests/wrong/` has one snapshot, the whole of what a user gets to see.
//! Nothing is written for any of them.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fwc::compile::{Deny, Options, compile};
use fwc::diag::{Code, Severity, Sink, Style, is_harmful, render};
use fwc::files::Access;
use fwc::net::Date;
use fwc::source::SourceMap;

use crate::fwc::{Run, command, root, run};

/// The day of all cases, and a second of it since 1970.
const TODAY: Date = Date::constant(2026, 6, 1);
const NOW: &str = "1780315200";

/// The cases: paths from the root of the crate, as the user would name them there.
fn cases() -> Vec<PathBuf> {
    let folder = Path::new("tests/wrong");
    let entries = std::fs::read_dir(root().join(folder)).expect("tests/wrong");
    let mut cases: Vec<_> = entries
        .map(|entry| folder.join(entry.expect("an entry").file_name()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    cases.sort();
    cases
}

fn name(case: &Path) -> String {
    case.file_stem()
        .expect("a name")
        .to_string_lossy()
        .into_owned()
}

/// What the library finds. The tests of a package run in its root.
fn findings(case: &Path) -> (SourceMap, Sink) {
    let options = Options {
        access: Access::Read,
        templates: None,
        deny: &Deny::default(),
        verify: true,
        max_lines: None,
        today: TODAY,
    };
    let compilation = compile(case, options);
    assert!(
        compilation.result.is_err(),
        "{} is compiled",
        case.display()
    );
    (compilation.sources, compilation.findings)
}

fn shown(sources: &SourceMap, sink: &Sink) -> String {
    let shown = sink.shown(sources);
    let blocks = shown
        .iter()
        .map(|finding| render(finding, sources, Style::Plain) + "\n\n");
    blocks.collect()
}

fn snapshots() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(root().join("tests/wrong"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings
}

/// Every message of every case, and the same from the binary.
#[test]
fn messages() {
    let cases = cases();
    let mut failed = Vec::new();
    for case in &cases {
        let check = AssertUnwindSafe(|| {
            let (sources, sink) = findings(case);
            let text = shown(&sources, &sink);
            assert!(sink.has_errors(), "{} is not wrong", case.display());
            let harmful = |c: char| is_harmful(c) && c != '\n';
            assert!(!text.contains(harmful), "control characters: {text:?}");
            snapshots().bind(|| insta::assert_snapshot!(name(case), text));
        });
        if catch_unwind(check).is_err() {
            failed.push(case);
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(cases.len() >= 60, "only {} cases", cases.len());
}

#[test]
fn nothing_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("rules");
    for case in cases() {
        let (sources, sink) = findings(&case);
        let arguments = ["build", "-o"].map(str::to_owned);
        let paths = [output.display().to_string(), case.display().to_string()];
        let arguments = [arguments, paths].concat();
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let mut command = command(root(), &arguments);
        let ended = command.env("SOURCE_DATE_EPOCH", NOW).output();
        let run = Run::from(ended.expect("fwc can be started"));
        assert_eq!(run.status, 1, "{}", case.display());
        assert_eq!(run.out, "", "{}", case.display());
        assert!(!output.exists(), "{} wrote something", case.display());
        let (messages, count) = run.err.trim_end().rsplit_once('\n').expect("several lines");
        assert_eq!(
            messages.trim_end(),
            shown(&sources, &sink).trim_end(),
            "{}",
            case.display()
        );
        let errors = sink.errors();
        let plural = if errors == 1 { "" } else { "s" };
        let start = format!("{}: {errors} error{plural}", case.display());
        assert!(count.starts_with(&start), "{count}");
    }
}

/// Files that were there already stay as they were.
#[test]
fn old_files_are_not_touched() {
    let folder = crate::fwc::folder(&[
        ("fwc.toml", "version = 1\n[[rules]]\nservice = \"sssh\"\n"),
        ("out/rules.v4", "mine\n"),
    ]);
    let run = run(folder.path(), &["build", "-o", "out"]);
    assert_eq!(run.status, 1);
    let files = crate::fwc::files_below(folder.path());
    assert_eq!(files, ["fwc.toml", "out/rules.v4"]);
    let kept = std::fs::read_to_string(folder.path().join("out/rules.v4"));
    assert_eq!(kept.expect("the file"), "mine\n");
}

/// Codes that no file of `tests/wrong/` can have: they need files that are no policies, or are about what a template
/// makes of a policy.
const ELSEWHERE: &[Code] = &[
    Code::UnsafeFile,
    Code::HookProgram,
    Code::ProofFailed,
    Code::AnalysisGaveUp,
    Code::BadTemplate,
    Code::BadRules,
    Code::BackendsDiffer,
    Code::UnclosedQuote,
    Code::TextCut,
];

#[test]
fn every_code_has_a_case() {
    let mut seen = BTreeSet::new();
    for case in cases() {
        let (_, sink) = findings(&case);
        let errors = sink.iter().filter(|f| f.severity == Severity::Error);
        seen.extend(errors.map(|finding| finding.code));
    }
    seen.extend(ELSEWHERE);
    let missing: Vec<_> = Code::ALL
        .iter()
        .filter(|code| !seen.contains(code))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Each case says in its first line what is wrong with it.
#[test]
fn every_case_says_what_it_is() {
    for case in cases() {
        let text = std::fs::read_to_string(root().join(&case)).expect("a case");
        let first = text.lines().next().unwrap_or_default();
        assert!(
            first.len() > 4 && first.starts_with("# "),
            "{}",
            case.display()
        );
    }
}
