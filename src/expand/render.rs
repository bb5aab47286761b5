//! From a context to the text of a rules file, with the rules that its lines come from.

use std::collections::HashSet;

use super::context::FileContext;
use super::templates::{TemplateError, Templates};
use crate::net::{Family, PerFamily};

/// Everything that comes out of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Both rules files.
    pub rules: PerFamily<RenderedFile>,
    /// The sets that the rules name, for `ipset restore`; `None` where there are none.
    pub ipsets: Option<String>,
}

/// The text of one rules file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RenderedFile {
    text: String,
    /// The rules of the plan, by index, that lines come from.
    rules: HashSet<usize>,
}

impl Rendered {
    /// The two texts.
    pub fn texts(&self) -> PerFamily<String> {
        PerFamily::from_fn(|family| self.rules[family].text.clone())
    }
}

impl Rendered {
    /// The same with a mark in every file that nobody proved it.
    pub(crate) fn unproven(mut self) -> Self {
        const MARK: &str = "# NOT PROVEN: built with --no-verify.\n";
        for family in Family::ALL {
            let file = &mut self.rules[family];
            let second = file.text.find('\n').map_or(0, |end| end + 1);
            file.text.insert_str(second, MARK);
        }
        if let Some(ipsets) = &mut self.ipsets {
            let second = ipsets.find('\n').map_or(0, |end| end + 1);
            ipsets.insert_str(second, MARK);
        }
        self
    }
}

impl RenderedFile {
    /// The whole text, ready for iptables-restore.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a line comes from the rule of this index in the plan.
    pub fn has_origin(&self, rule: usize) -> bool {
        self.rules.contains(&rule)
    }
}

const BEGIN: char = '\u{1}';
const END: char = '\u{2}';

/// What a template puts at the end of a line so that its origin is known. It is taken out again.
pub fn origin_mark(rule: usize) -> String {
    format!("{BEGIN}{rule}{END}")
}

/// Whether a text is such a mark and nothing else.
pub fn is_origin_mark(text: &str) -> bool {
    let number = text
        .strip_prefix(BEGIN)
        .and_then(|rest| rest.strip_suffix(END));
    number.is_some_and(|number| number.parse::<usize>().is_ok())
}

/// Renders one file.
pub fn render(context: FileContext, templates: &Templates) -> Result<RenderedFile, TemplateError> {
    let lines: usize = context
        .chains
        .iter()
        .flat_map(|chain| &chain.groups)
        .map(|group| group.lines.len())
        .sum();
    let marked = templates.render(context.into_value(), lines)?;
    let mut file = RenderedFile {
        text: String::with_capacity(marked.len()),
        rules: HashSet::new(),
    };
    for line in marked.lines() {
        match line.split_once(BEGIN) {
            Some((rule, mark)) => {
                file.text.push_str(rule);
                file.rules
                    .extend(mark.trim_end_matches(END).parse::<usize>());
            }
            None => file.text.push_str(line),
        }
        file.text.push('\n');
    }
    Ok(file)
}
