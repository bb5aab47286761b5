//! Writes unified diffs of rules.

use std::fmt::Write;
use std::time::Duration;

use similar::{Algorithm, TextDiff};

use crate::diag::Style;
use crate::iptables::{Chain, ChainPolicy, Ruleset};

/// One of the two texts.
#[derive(Clone, Copy, Debug)]
pub struct TextSide<'a> {
    /// Its name in the header.
    pub name: &'a str,
    /// Its lines.
    pub text: &'a str,
}

/// The time to search for the shortest diff; after it a longer diff is accepted.
const PATIENCE: Duration = Duration::from_secs(5);

/// Returns rules in the form of `iptables-save`. Rulesets that the tools treat as equal have the same text: it has no
/// counters, no comments, and no tables that do nothing.
pub fn plain_text(ruleset: &Ruleset) -> String {
    let mut plain = ruleset.normalised();
    let does_nothing =
        |chain: &Chain| chain.rules.is_empty() && chain.policy == Some(ChainPolicy::Accept);
    plain
        .tables
        .retain(|table| !table.chains.iter().all(does_nothing));
    plain.to_string()
}

/// Returns the unified diff with three lines of context; `None` if the texts are equal.
pub fn unified(from: TextSide<'_>, to: TextSide<'_>, style: Style) -> Option<String> {
    if from.text == to.text {
        return None;
    }
    let diff = TextDiff::configure()
        .algorithm(Algorithm::Histogram)
        .timeout(PATIENCE)
        .diff_lines(from.text, to.text);
    let plain = diff
        .unified_diff()
        .header(from.name, to.name)
        .missing_newline_hint(false)
        .to_string();
    Some(match style {
        Style::Plain => plain,
        Style::Coloured => colour(&plain),
    })
}

fn colour(diff: &str) -> String {
    use anstyle::{AnsiColor, Style};

    let bold = Style::new().bold();
    let mut coloured = String::new();
    // The first two lines name the sides; after them every line begins with its mark.
    for (index, line) in diff.lines().enumerate() {
        let style = match line.as_bytes().first() {
            _ if index < 2 => bold,
            Some(b'-') => AnsiColor::Red.on_default(),
            Some(b'+') => AnsiColor::Green.on_default(),
            Some(b'@') => AnsiColor::Cyan.on_default(),
            _ => Style::new(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(coloured, "{style}{line}{style:#}");
    }
    coloured
}

#[cfg(test)]
mod tests {
    use super::{TextSide, unified};
    use crate::diag::Style;

    fn side<'a>(name: &'a str, text: &'a str) -> TextSide<'a> {
        TextSide { name, text }
    }

    #[test]
    fn equal_texts_have_no_diff() {
        assert_eq!(
            unified(side("a", "x\n"), side("b", "x\n"), Style::Plain),
            None
        );
    }

    #[test]
    fn header_names_the_sides() {
        let diff = unified(
            side("live (IPv4)", "-A INPUT -j DROP\n"),
            side("web.toml (IPv4)", "-A INPUT -j ACCEPT\n"),
            Style::Plain,
        );
        assert_eq!(
            diff.as_deref(),
            Some(
                "--- live (IPv4)\n+++ web.toml (IPv4)\n@@ -1 +1 @@\n--A INPUT -j DROP\n+-A INPUT -j ACCEPT\n"
            )
        );
    }

    #[test]
    fn colours_are_by_line() {
        let diff = unified(side("a", "x\n"), side("b", "y\n"), Style::Coloured).unwrap();
        assert!(diff.contains("\u{1b}[31m-x\u{1b}[0m\n\u{1b}[32m+y\u{1b}[0m\n"));
    }
}
