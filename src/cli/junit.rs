//! The results of `[[tests]]` in the form that JUnit gave its own: what CI servers read.

use std::path::Path;

use quick_xml::Writer;
use quick_xml::events::BytesText;

use crate::compile::{Stopped, Tested};
use crate::diag::{Diagnostic, Severity, Style, harmless, render};
use crate::resolve::Test;
use crate::verify::Outcome;

/// One suite a policy, one case a test. A policy that does not compile is a case that could not be run.
pub fn report(tested: &[(impl AsRef<Path>, Tested)]) -> std::io::Result<String> {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    writer
        .create_element("testsuites")
        .with_attribute(("name", "fwc"))
        .write_inner_content(|writer| {
            tested
                .iter()
                .try_for_each(|(path, tested)| suite(path.as_ref(), tested, writer))
        })?;
    let text = String::from_utf8_lossy(&writer.into_inner()).into_owned();
    Ok(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{text}\n"
    ))
}

fn suite(path: &Path, tested: &Tested, writer: &mut Writer<Vec<u8>>) -> std::io::Result<()> {
    let cases = cases(tested);
    let count = |kind| {
        let such = |case: &&Case<'_>| matches!(&case.problem, Some((it, _)) if *it == kind);
        cases.iter().filter(such).count().to_string()
    };
    let path = harmless(&path.display().to_string());
    writer
        .create_element("testsuite")
        .with_attributes([
            ("name", path.as_str()),
            ("tests", cases.len().to_string().as_str()),
            ("failures", count(FAILURE).as_str()),
            ("errors", count(ERROR).as_str()),
        ])
        .write_inner_content(|writer| {
            cases.iter().try_for_each(|case| {
                let name = harmless(case.name);
                let element = writer
                    .create_element("testcase")
                    .with_attributes([("name", name.as_str()), ("classname", path.as_str())]);
                let Some((kind, why)) = &case.problem else {
                    element.write_empty()?;
                    return Ok(());
                };
                let message = why.lines().next().unwrap_or_default();
                let inner = element.write_inner_content(|writer| {
                    writer
                        .create_element(*kind)
                        .with_attribute(("message", message))
                        .write_text_content(BytesText::new(why))?;
                    Ok(())
                });
                inner.map(drop)
            })
        })
        .map(drop)
}

const FAILURE: &str = "failure";
const ERROR: &str = "error";

/// A test, and where it does not hold: the element that says so, and why.
struct Case<'a> {
    name: &'a str,
    problem: Option<(&'static str, String)>,
}

fn cases(tested: &Tested) -> Vec<Case<'_>> {
    let outcomes = match &tested.result {
        Ok(outcomes) => outcomes,
        Err(Stopped) => {
            return vec![Case {
                name: "the policy compiles",
                problem: Some((ERROR, said(tested, |_| true))),
            }];
        }
    };
    let cases = outcomes.iter().map(|(test, outcome)| {
        let kind = match outcome {
            Outcome::Holds => None,
            Outcome::Fails(_) | Outcome::FitsNothing => Some(FAILURE),
            Outcome::Unclear(_) | Outcome::GaveUp(..) => Some(ERROR),
        };
        Case {
            name: &test.name,
            problem: kind.map(|kind| (kind, said(tested, |finding| is_about(finding, test)))),
        }
    });
    cases.collect()
}

/// What has no place may be about any test.
fn is_about(finding: &Diagnostic, test: &Test) -> bool {
    let places = [test.span, test.expect_span];
    let place = finding.primary.as_ref();
    place.is_none_or(|label| places.contains(&label.span))
}

/// The errors of such a kind, as people see them.
fn said(tested: &Tested, such: impl Fn(&Diagnostic) -> bool) -> String {
    let errors = tested.findings.sorted().into_iter();
    let errors = errors.filter(|finding| finding.severity == Severity::Error && such(finding));
    let texts = errors.map(|finding| render(finding, &tested.sources, Style::Plain));
    texts.collect::<Vec<_>>().join("\n\n")
}
