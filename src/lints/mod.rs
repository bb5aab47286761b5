//! The lints: findings about what is allowed and probably not meant, each of which a policy may silence or make an error.
//!
//! Each code has a file, with its default severity and the words of its findings. What it reports and why, with an example
//! that is reported and one that is not, is on its page, `docs/reference/errors/CODE.md`. A finding is made where the facts are; the
//! first line of the file names that place.

pub mod any_is_forward;
pub mod contradiction;
pub mod default_unreached;
pub mod expires_soon;
pub mod expiring_deny;
pub mod forward_no_devices;
pub mod forward_untested;
pub mod interface_lo;
pub mod large_list;
pub mod limit_table;
pub mod never_matches;
pub mod notrack_answers;
pub mod one_family;
pub mod recent_families;
pub mod redundant;
mod registry;
pub mod shadowed;
pub mod state_below_established;
pub mod unused_allow;
pub mod unused_name;
pub mod world_open;

use crate::diag::{Code, Diagnostic, Severity};
use crate::source::Span;

/// All lints, in the order of their codes.
pub const ALL: &[Lint] = &[
    expires_soon::LINT,
    expiring_deny::LINT,
    notrack_answers::LINT,
    forward_no_devices::LINT,
    one_family::LINT,
    interface_lo::LINT,
    state_below_established::LINT,
    large_list::LINT,
    limit_table::LINT,
    recent_families::LINT,
    unused_name::LINT,
    unused_allow::LINT,
    any_is_forward::LINT,
    forward_untested::LINT,
    shadowed::LINT,
    redundant::LINT,
    never_matches::LINT,
    contradiction::LINT,
    default_unreached::LINT,
    world_open::LINT,
];

/// A finding of which a policy may choose the level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lint {
    /// Its code, by which `[lints]` and `--deny` name it.
    pub code: Code,
    /// Its default severity. Single findings may be milder or worse.
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
