//! `[ownership]`

use crate::diag::{Code, Diagnostic, Sink};
use crate::policy::keys::{Key, Keys, Shape};
use crate::policy::reader::Table;

pub(super) const KEYS: Keys = Keys {
    of: "[ownership]",
    known: &[Key::new(
        "mode",
        Shape::Literally("exclusive"),
        "`exclusive`: every table that fwc writes is the policy's.",
    )
    .default("'exclusive'")],
    later: &["preserve"],
};

/// Exclusive is the only mode so far, and the one that is meant when nothing is said.
pub(super) fn read(root: Table<'_>, sink: &mut Sink) {
    let Some(value) = root.get("ownership") else {
        return;
    };
    let Some(table) = value.table("ownership", sink) else {
        return;
    };
    table.check(KEYS, sink);
    let Some(mode) = table.get("mode") else {
        return;
    };
    if mode.as_text() == Some("shared") {
        sink.report(
            Diagnostic::error(
                Code::NotSupportedYet,
                mode.span,
                "`mode = \"shared\"` is not supported yet",
            )
            .help("this version of fwc owns every table that it writes"),
        );
        return;
    }
    mode.word("mode", &[("exclusive", ()), ("shared", ())], sink);
}
