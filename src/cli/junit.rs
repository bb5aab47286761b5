//! The results of `[[tests]]` as JUnit's XML, which CI servers read.

use std::path::Path;

use quick_junit::{NonSuccessKind, Report, SerializeError, TestCase, TestCaseStatus, TestSuite};

use crate::compile::{CompilationStopped, Tested};
use crate::diag::{Diagnostic, Severity, Style, harmless, render};
use crate::resolve::PlannedTest;
use crate::verify::TestOutcome;

/// Writes a suite for each policy, with a case for each test. A policy that does not compile is one case that ended in an error.
pub fn report(tested: &[(impl AsRef<Path>, Tested)]) -> Result<String, SerializeError> {
    let mut report = Report::new("fwc");
    for (path, tested) in tested {
        let name = harmless(&path.as_ref().display().to_string());
        let mut suite = TestSuite::new(name.clone());
        for (test, status) in cases(tested) {
            let mut case = TestCase::new(harmless(test), status);
            case.set_classname(name.clone());
            suite.add_test_case(case);
        }
        report.add_test_suite(suite);
    }
    report.to_string()
}

/// Returns the tests of a policy by name, with their status.
fn cases(tested: &Tested) -> Vec<(&str, TestCaseStatus)> {
    let outcomes = match &tested.result {
        Ok(outcomes) => outcomes,
        Err(CompilationStopped) => {
            let why = errors(tested, |_| true);
            return vec![("the policy compiles", failed(NonSuccessKind::Error, &why))];
        }
    };
    let status = |test: &PlannedTest, outcome: &TestOutcome| {
        let kind = match outcome {
            TestOutcome::Holds => return TestCaseStatus::success(),
            TestOutcome::Fails(_) | TestOutcome::FitsNothing => NonSuccessKind::Failure,
            TestOutcome::Unclear(_) | TestOutcome::GaveUp(..) => NonSuccessKind::Error,
        };
        failed(kind, &errors(tested, |finding| is_about(finding, test)))
    };
    let cases = outcomes.iter();
    cases
        .map(|(test, outcome)| (test.name.as_str(), status(test, outcome)))
        .collect()
}

fn failed(kind: NonSuccessKind, why: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_message(why.lines().next().unwrap_or_default());
    status.set_description(why);
    status
}

/// Returns `true` if a finding is about this test. A finding without a position may be about any test.
fn is_about(finding: &Diagnostic, test: &PlannedTest) -> bool {
    let places = [test.span, test.expect_span];
    let place = finding.primary.as_ref();
    place.is_none_or(|label| places.contains(&label.span))
}

/// Returns the errors that `wanted` accepts, as they are printed for people.
fn errors(tested: &Tested, wanted: impl Fn(&Diagnostic) -> bool) -> String {
    let errors = tested.findings.sorted().into_iter();
    let errors = errors.filter(|finding| finding.severity == Severity::Error && wanted(finding));
    let texts = errors.map(|finding| render(finding, &tested.sources, Style::Plain));
    texts.collect::<Vec<_>>().join("\n\n")
}
