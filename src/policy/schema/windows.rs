//! `hits` and `within` of a limit: a sliding window, as `ufw limit` has it.

use super::limits::{LIMIT_TABLE, LimitPer, OVER_KEY, read_number};
use super::names::OVERRIDE;
use super::times::{DURATION, read_duration};
use crate::diag::{Code, Diagnostic, Sink};
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::CheckedTable;
use crate::source::{Located, Span};

/// A sliding window: the packet that makes so many of its source or destination in a time is over, and counts too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitWindow {
    /// The first packet that is over, counted from the oldest in the window.
    pub hits: u8,
    /// The length of the window in seconds.
    pub within: u32,
}

/// The least number of hits: with 1 no packet would pass.
const LEAST_HITS: i64 = 2;
/// The highest number of hits that every kernel takes for `-m recent` (`XT_RECENT_MAX_NSTAMPS` before Linux 6.10).
const MOST_HITS: i64 = 255;
/// The longest window, a week. The kernel multiplies the seconds by its ticks in 32 bits, which allows 24 days on some.
const LONGEST_WINDOW: u32 = 7 * 24 * 60 * 60;

/// The key `hits`.
pub(super) const HITS: Key = Key::new(
    "hits",
    Shape::Number(LEAST_HITS, MOST_HITS),
    "The packet that is over: with 6, five of a source pass within the time, and refused packets count.",
)
.example("6");

/// The key `within`.
pub(super) const WITHIN: Key = Key::new(
    "within",
    DURATION,
    "The time in which hits count, at most a week.",
)
.example("'30s'");

/// The keys of a limit in a window.
pub(super) const WINDOW_KEYS: TableKeys = TableKeys {
    of: LIMIT_TABLE,
    known: &[HITS.required(), WITHIN.required(), WINDOW_PER, OVER_KEY],
};

/// The keys of a named limit in a window.
pub(super) const NAMED_WINDOW_KEYS: TableKeys = TableKeys {
    of: LIMIT_TABLE,
    known: &[
        HITS.required(),
        WITHIN.required(),
        WINDOW_PER,
        OVER_KEY,
        OVERRIDE,
    ],
};

const WINDOW_PER: Key = Key::new(
    "per",
    Shape::Form(WINDOW_PER_FORM),
    "Whose hits count together: those of a `source` (an IPv4 address, or a /64 of IPv6) or of a `destination`. Prefixes as for rates.",
)
.example("'source'")
.required();

const WINDOW_PER_FORM: &str = concat!(
    "(source|destination)",
    "(/([1-9]|[12][0-9]|3[0-2])/([1-9][0-9]?|1[01][0-9]|12[0-8])|/([1-9][0-9]?|1[01][0-9]|12[0-8]))?",
);

/// Returns `true` if a limit has a key of windows.
pub(super) fn is_window(table: CheckedTable<'_>) -> bool {
    table.get("hits").is_some() || table.get("within").is_some()
}

/// Reads a window and its `per`. `per` is `None` if the table has none, `Some(None)` if it is wrong.
pub(super) fn read_window(
    table: CheckedTable<'_>,
    span: Span,
    per: Option<Option<Located<LimitPer>>>,
    sink: &mut Sink,
) -> Option<(LimitWindow, Located<LimitPer>)> {
    for (key, message) in [
        ("rate", "a limit with `hits` has no rate"),
        ("burst", "a limit with `hits` has no burst"),
    ] {
        if table.get(key).is_some() {
            sink.report(
                Diagnostic::error(Code::Conflict, table.key_span(key), message)
                    .with_note("it counts the packets of a window of time, and nothing refills")
                    .help(format!(
                        "leave `{key}` out, or write a `rate` without `hits` and `within`"
                    )),
            );
        }
    }
    let has_no_rate = table.get("rate").is_none() && table.get("burst").is_none();
    let missing = |key: &str, help: &str| {
        let message = format!("the limit has no `{key}`");
        Diagnostic::error(Code::MissingKey, span, message).help(help)
    };
    let hits = match table.get("hits") {
        Some(_) => read_number(table, "hits", LEAST_HITS, MOST_HITS, sink),
        None => {
            sink.report(missing(
                "hits",
                "write the number of the first packet that is over the limit, such as `hits = 6`",
            ));
            None
        }
    };
    let within = match table.get("within") {
        Some(value) => read_duration("within", value, LONGEST_WINDOW, "a week", sink),
        None => {
            sink.report(missing(
                "within",
                "write the time in which packets are counted, such as `within = \"30s\"`",
            ));
            None
        }
    };
    let Some(per) = per else {
        sink.report(missing(
            "per",
            "write `per = \"source\"` or `per = \"destination\"`, the address whose packets are counted",
        ));
        return None;
    };
    let per = per?;
    let LimitPer {
        source,
        destination,
        destination_port,
    } = per.value;
    if destination_port || (source.is_some() && destination.is_some()) {
        sink.report(
            Diagnostic::error(
                Code::Conflict,
                per.span,
                "a limit with `hits` counts by one address",
            )
            .with_note("the kernel keeps the times of a source or of a destination")
            .help("write `per = \"source\"` or `per = \"destination\"`")
            .help("write a `rate` instead of `hits` to count combinations"),
        );
        return None;
    }
    let window = LimitWindow {
        hits: hits?.value,
        within: within?.value,
    };
    has_no_rate.then_some((window, per))
}
