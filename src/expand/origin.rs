//! The rule or entry of the policy that a line comes from, and its mark in the output of templates.

use crate::resolve::{Plan, PlannedRule};
use crate::source::Span;

// Marks are in control characters, which no value of a context may contain, so that no text of a policy can fake one.
pub(super) const BEGIN: char = '\u{1}';
const END: char = '\u{2}';

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

    /// Returns the mark that templates put at the end of a line. The renderer removes it again.
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
