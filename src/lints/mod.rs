//! The lints: findings about what is allowed and probably not meant, each of which a policy may silence or make an error.
//!
//! A file a code. It has the severity by default and the words of the finding; what it does, why, an example that is reported
//! and one that is not are on its page, `docs/errors/CODE.md`. What finds it stands where the facts are, and is named in the
//! file.

mod registry;

use crate::diag::{Code, Diagnostic, Severity};
use crate::source::Span;

macro_rules! lints {
    ($($module:ident)*) => {
        $(pub mod $module;)*

        /// All lints, in the order of their codes.
        pub const ALL: &[Lint] = &[$($module::LINT,)*];
    };
}

lints! {
    expires_soon expiring_deny notrack_answers forward_no_devices one_family interface_lo state_below_established large_list
    unused_name unused_allow any_is_forward forward_untested shadowed redundant never_matches contradiction default_unreached
    world_open
}

/// A finding of which a policy may choose the level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lint {
    /// Its code, by which `[lints]` and `--deny` name it.
    pub code: Code,
    /// How bad it is where nobody says otherwise. Single findings may be milder or worse.
    pub severity: Severity,
}

impl Lint {
    const fn note(code: Code) -> Self {
        let severity = Severity::Note;
        Self { code, severity }
    }

    const fn warning(code: Code) -> Self {
        let severity = Severity::Warning;
        Self { code, severity }
    }

    /// Begins a finding at a place.
    fn at(self, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: self.severity,
            ..Diagnostic::warning(self.code, span, message)
        }
    }
}
