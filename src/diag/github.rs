//! Diagnostics for GitHub Actions: workflow commands
//! (<https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands>).

use super::{Diagnostic, Region, Severity, harmless};
use crate::source::SourceMap;

/// Returns the workflow command that puts a finding beside its line: one line without a newline.
pub fn to_github(finding: &Diagnostic, sources: &SourceMap) -> String {
    let command = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "notice",
    };
    let mut properties = Vec::new();
    if let Some(label) = &finding.primary {
        let Region { file, start, end } = Region::of(label, sources);
        properties.push(format!("file={}", property(&file)));
        properties.push(format!("line={},endLine={}", start.0, end.0));
        // Columns are for one line only; the last one is within.
        if start.0 == end.0 {
            let last = (end.1 - 1).max(start.1);
            properties.push(format!("col={},endColumn={last}", start.1));
        }
    }
    properties.push(format!("title={}", finding.code.as_str()));
    let mut message = finding.message.clone();
    for label in finding
        .primary
        .iter()
        .filter(|label| !label.text.is_empty())
    {
        message.push_str(&format!("\n{}", label.text));
    }
    for label in &finding.secondary {
        message.push_str(&format!("\n{}: {}", sources.place(label.span), label.text));
    }
    for note in &finding.notes {
        message.push_str(&format!("\nnote: {note}"));
    }
    for help in &finding.help {
        message.push_str(&format!("\nhelp: {help}"));
    }
    format!("::{command} {}::{}", properties.join(","), value(&message))
}

/// Escapes the text after the last `::`.
fn value(text: &str) -> String {
    harmless(text)
        .replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

/// Escapes a property, which must not end the list of properties either.
fn property(text: &str) -> String {
    value(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::Code;
    use crate::source::Span;

    /// What a policy says can neither end the command nor begin another.
    #[test]
    fn one_command_a_finding() {
        let mut sources = SourceMap::new();
        let file = sources.add("a,b:c.toml", "service = \"htps\"\n");
        let finding = Diagnostic::error(
            Code::UnknownService,
            Span::new(file, 10..16),
            "no `50%`\n::set-env name=A::b",
        );
        let finding = finding
            .suggest(Some("https"))
            .also(Span::new(file, 0..7), "here");
        assert_eq!(
            to_github(&finding, &sources),
            "::error file=a%2Cb%3Ac.toml,line=1,endLine=1,col=11,endColumn=16,title=unknown-service\
             ::no `50%25`%0A::set-env name=A::b%0Adid you mean `https`?%0Aa,b:c.toml:1:1: here"
        );
        let nowhere = Diagnostic::error_without_place(Code::Unreadable, "no file");
        assert_eq!(
            to_github(&nowhere, &sources),
            "::error title=unreadable::no file"
        );
    }
}
