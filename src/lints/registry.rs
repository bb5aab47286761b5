//! Looks up lints by code and by name.

use super::{ALL, Lint};
use crate::diag::Code;

impl Lint {
    /// Returns the lint of a code; `None` where findings of the code are always errors.
    pub fn of(code: Code) -> Option<&'static Self> {
        ALL.iter().find(|lint| lint.code == code)
    }

    /// Returns the lint of a name, as `[lints]` has it.
    pub fn named(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|lint| lint.name() == name)
    }

    /// Returns the names of all lints.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ALL.iter().map(|lint| lint.name())
    }

    /// Returns its name.
    pub const fn name(&self) -> &'static str {
        self.code.as_str()
    }

    /// Returns what it reports, as its page begins.
    pub fn about(&self) -> String {
        let paragraph = self.code.page().split("\n\n").nth(1);
        paragraph.unwrap_or_default().replace('\n', " ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page says the severity, what the lint reports, why, and shows what is reported and what is not.
    #[test]
    fn every_lint_has_its_page() {
        for lint in ALL {
            let name = lint.name();
            let page = lint.code.page();
            let severity = format!("*A lint: {} by default", lint.severity.keyword());
            assert!(lint.about().starts_with(&severity), "{name}: {severity}");
            let parts = ["\n## Why\n", "\n## Reported\n", "\n## Not reported\n"];
            let places = parts.map(|part| page.find(part));
            assert!(places.iter().all(Option::is_some), "{name}: {parts:?}");
            assert!(places.is_sorted(), "{name}: {parts:?}");
        }
    }

    /// No page of another code says that it is one of a lint.
    #[test]
    fn no_other_page_is_one_of_a_lint() {
        for code in Code::ALL.iter().filter(|code| Lint::of(**code).is_none()) {
            assert!(!code.page().contains("*A lint:"), "{}", code.as_str());
        }
    }
}
