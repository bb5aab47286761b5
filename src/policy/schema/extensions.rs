//! `[extensions]`: matches and targets that the target's iptables has, and fwc does not know.

use crate::diag::{Code, Diagnostic, Sink};
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::CheckedTable;
use crate::source::Located;

/// `[extensions]` of all files together.
#[derive(Clone, Debug, Default)]
pub struct PolicyExtensions {
    /// `matches`
    pub matches: Vec<Located<String>>,
    /// `targets`
    pub targets: Vec<Located<String>>,
}

/// The name of an extension: 28 bytes at most (`XT_EXTENSION_MAXNAMELEN`, which counts the final zero).
const NAME: Shape = Shape::Form("[A-Za-z0-9_][A-Za-z0-9_-]{0,27}");
const LONGEST_NAME: usize = 28;

pub(super) const KEYS: TableKeys = TableKeys {
    of: "[extensions]",
    known: &[
        Key::new(
            "matches",
            Shape::List(&NAME),
            "Names of matches (`-m NAME`) for `match` and custom rules. fwc takes their options as they are.",
        )
        .example("['geoip']"),
        Key::new(
            "targets",
            Shape::List(&NAME),
            "Names of targets (`-j NAME`) for custom rules. fwc assumes that they may do anything.",
        )
        .example("['TARPIT']"),
    ],
};

pub(super) fn read(root: CheckedTable<'_>, extensions: &mut PolicyExtensions, sink: &mut Sink) {
    let Some(value) = root.get("extensions") else {
        return;
    };
    let Some(table) = value.table("extensions", sink) else {
        return;
    };
    table.check(KEYS, sink);
    extensions.matches.extend(names(table, "matches", sink));
    extensions.targets.extend(names(table, "targets", sink));
}

fn names(table: CheckedTable<'_>, key: &str, sink: &mut Sink) -> Vec<Located<String>> {
    let mut names = table.texts(key, sink).unwrap_or_default();
    names.retain(|name| {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        let is_name = name.value.bytes().all(word) && !name.value.starts_with('-');
        if !is_name || name.value.is_empty() || name.value.len() > LONGEST_NAME {
            let message = format!(
                "`{}` is not a valid name of an extension",
                name.value.escape_debug()
            );
            sink.report(
                Diagnostic::error(Code::BadName, name.span, message)
                    .with_note("letters, digits, `_` and `-`, 28 at most, as after `-m` or `-j`"),
            );
            return false;
        }
        true
    });
    let names = names.into_iter();
    names.map(|name| name.map(str::to_owned)).collect()
}
