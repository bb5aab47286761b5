//! Renders a context to the text of a rules file, and finds the rule of the policy that each line comes from.

use super::context::FileContext;
use super::templates::{TemplateError, Templates};
use crate::net::{Family, PerFamily};
use crate::resolve::{Plan, PlannedRule};
use crate::source::Span;

/// The first line of rules files, whatever the templates are: `apply` and the boot unit recognise fwc's files by it.
pub const RULES_HEADING: &str = "# Made by fwc from a policy: edit the policy, not this file.";

/// The files that a policy becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Both rules files.
    pub rules: PerFamily<RenderedFile>,
    /// The sets that the rules name, for `ipset restore`; `None` if there are none.
    pub ipsets: Option<String>,
}

/// The rule or entry that a line comes from, by its index in the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LineOrigin {
    /// A rule.
    Rule(usize),
    /// A rule that decides untracked replies.
    Reply(usize),
    /// An entry of nat: the line translates, or accepts translated packets.
    Nat(usize),
    /// An entry of mangle.
    Mangle(usize),
    /// An entry of raw: the line treats packets, or jumps to the rules for their replies.
    Raw(usize),
    /// A custom rule.
    Custom(usize),
}

impl LineOrigin {
    /// Returns the word for the kind in a mark, and the index.
    fn word(self) -> (&'static str, usize) {
        match self {
            Self::Rule(index) => ("rule", index),
            Self::Reply(index) => ("reply", index),
            Self::Nat(index) => ("nat", index),
            Self::Mangle(index) => ("mangle", index),
            Self::Raw(index) => ("raw", index),
            Self::Custom(index) => ("custom", index),
        }
    }

    /// Returns the mark that templates put at the end of a line. [`render`] removes it again.
    pub(super) fn mark(self) -> String {
        let (word, index) = self.word();
        format!("{BEGIN}{word} {index}{END}")
    }

    /// Returns the origin of a mark; `None` for any other text.
    pub(super) fn of_mark(text: &str) -> Option<Self> {
        let text = text.strip_prefix(BEGIN)?.strip_suffix(END)?;
        let (word, index) = text.split_once(' ')?;
        let index = index.parse().ok()?;
        let kinds = [
            Self::Rule(index),
            Self::Reply(index),
            Self::Nat(index),
            Self::Mangle(index),
            Self::Raw(index),
            Self::Custom(index),
        ];
        kinds.into_iter().find(|kind| kind.word().0 == word)
    }

    /// Returns the label of the rule or entry, and its place in the policy.
    pub fn written(self, plan: &Plan) -> Option<(&str, Span)> {
        let packets: &PlannedRule = match self {
            Self::Rule(index) | Self::Reply(index) => plan.rules.get(index)?,
            Self::Nat(index) => &plan.nat.get(index)?.packets,
            Self::Mangle(index) => &plan.mangle.get(index)?.packets,
            Self::Raw(index) => &plan.raw.get(index)?.packets,
            Self::Custom(index) => {
                let custom = plan.custom.get(index)?;
                return Some((&custom.label, custom.span));
            }
        };
        Some((&packets.label, packets.span))
    }
}

/// The text of one rules file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RenderedFile {
    text: String,
    /// For each line its origin.
    origins: Vec<Option<LineOrigin>>,
}

impl Rendered {
    /// Returns the text of each rules file.
    pub fn texts(&self) -> PerFamily<String> {
        PerFamily::from_fn(|family| self.rules[family].text.clone())
    }
}

impl Rendered {
    /// Returns the files with a line in each that they are not proven.
    pub(crate) fn unproven(mut self) -> Self {
        const MARK: &str = "# NOT PROVEN: built with --no-verify.\n";
        for family in Family::ALL {
            let file = &mut self.rules[family];
            let second = file.text.find('\n').map_or(0, |end| end + 1);
            file.text.insert_str(second, MARK);
            file.origins.insert(1.min(file.origins.len()), None);
        }
        if let Some(ipsets) = &mut self.ipsets {
            let second = ipsets.find('\n').map_or(0, |end| end + 1);
            ipsets.insert_str(second, MARK);
        }
        self
    }
}

impl RenderedFile {
    /// Returns the whole text, ready for iptables-restore.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the origin of a line; lines count from 1.
    pub fn origin(&self, line: usize) -> Option<LineOrigin> {
        self.origins.get(line.checked_sub(1)?).copied().flatten()
    }

    /// Returns the origins of all lines that have one, in the order of the lines.
    pub fn origins(&self) -> impl Iterator<Item = LineOrigin> {
        self.origins.iter().copied().flatten()
    }
}

// Marks are in control characters, which no value of a context may contain, so that no text of a policy can fake one.
const BEGIN: char = '\u{1}';
const END: char = '\u{2}';

/// Renders one file, and moves the marks of its lines to [`RenderedFile::origin`].
pub fn render(context: FileContext, templates: &Templates) -> Result<RenderedFile, TemplateError> {
    let chains = context.chains.iter();
    let chains = chains.chain(&context.mangle).chain(&context.raw);
    let lines: usize = chains
        .chain(&context.nat)
        .flat_map(|chain| &chain.groups)
        .map(|group| group.lines.len())
        .sum();
    let marked = templates.render(context, lines)?;
    let mut file = RenderedFile {
        text: String::with_capacity(marked.len() + RULES_HEADING.len() + 1),
        origins: Vec::new(),
    };
    for line in [RULES_HEADING].into_iter().chain(marked.lines()) {
        let (rule, mark) = line.split_at(line.find(BEGIN).unwrap_or(line.len()));
        file.text.push_str(rule);
        file.text.push('\n');
        file.origins.push(LineOrigin::of_mark(mark));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_says_its_origin() {
        let kinds = [
            LineOrigin::Rule,
            LineOrigin::Reply,
            LineOrigin::Nat,
            LineOrigin::Mangle,
            LineOrigin::Raw,
            LineOrigin::Custom,
        ];
        for (index, kind) in kinds.into_iter().enumerate() {
            assert_eq!(LineOrigin::of_mark(&kind(index).mark()), Some(kind(index)));
        }
        for text in ["", "rule 1", "\u{1}rule x\u{2}", "\u{1}role 1\u{2}"] {
            assert_eq!(LineOrigin::of_mark(text), None, "{text:?}");
        }
    }

    #[test]
    fn origins_stand_with_their_lines() {
        let file = RenderedFile {
            text: "# Generated by fwc.\n*filter\n-A INPUT -j ACCEPT\n".to_owned(),
            origins: vec![None, None, Some(LineOrigin::Rule(7))],
        };
        let mut rules = PerFamily::from_fn(|_| file.clone());
        rules.v6 = RenderedFile::default();
        let rendered = Rendered {
            rules,
            ipsets: None,
        };
        for rendered in [rendered.clone(), rendered.unproven()] {
            let file = &rendered.rules.v4;
            let rule = |line: &str| line.starts_with("-A");
            for (number, line) in (1..).zip(file.text.lines()) {
                let origin = rule(line).then_some(LineOrigin::Rule(7));
                assert_eq!(file.origin(number), origin, "{line}");
            }
            assert_eq!(file.origins().collect::<Vec<_>>(), [LineOrigin::Rule(7)]);
            assert_eq!(file.origin(0), None);
        }
    }
}
