//! `schedule` and `expires` of rules.

use crate::diag::{Code, Diagnostic, Sink};
use crate::net::{Date, TimeOfDay, Weekday};
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::{CheckedTable, FileValue};
use crate::source::{Located, Span};

const DAYS: &[(&str, Weekday)] = &[
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

/// `schedule`: the times at which the rule is active.
#[derive(Clone, Debug)]
pub struct PolicySchedule {
    /// The place of the whole value.
    pub span: Span,
    /// The days, ascending; `None` means every day.
    pub days: Option<Vec<Weekday>>,
    /// Start and end. If the end is before the start, the time runs past midnight and belongs to the day on which it
    /// starts. `None` means the whole day.
    pub hours: Option<(TimeOfDay, TimeOfDay)>,
    /// `true` for the kernel's own time zone, `false` for UTC.
    pub local: bool,
}

/// The key `schedule` of a rule.
pub(super) const SCHEDULE: Key = Key::new(
    "schedule",
    Shape::Table(&KEYS),
    "When the rule holds: on some days, at some hours, or both. Hours across midnight belong to the day on which they begin.",
)
.example("{ days = ['mon', 'fri'], from = '08:00', until = '18:00' }");

/// The key `expires` of a rule.
pub(super) const EXPIRES: Key = Key::new(
    "expires",
    Shape::Date,
    "The last day of the rule, in UTC: the kernel itself ends it then. `fwc check` warns two weeks before.",
)
.example("2027-03-31");

const TIME: Shape = Shape::Form("([01][0-9]|2[0-3]):[0-5][0-9]");

const ZONES: &[(&str, bool)] = &[("utc", false), ("local", true)];

const KEYS: TableKeys = TableKeys {
    of: "a schedule",
    known: &[
        Key::new(
            "days",
            Shape::List(&Shape::Word(&DAYS)),
            "The days; left out: every day.",
        )
        .example("['mon', 'fri']"),
        Key::new("from", TIME, "When it begins, `00:00` to `23:59`.").example("'08:00'"),
        Key::new("until", TIME, "When it ends, `00:00` to `23:59`.").example("'18:00'"),
        Key::new(
            "timezone",
            Shape::Word(&ZONES),
            "`local`: the kernel's own, which nobody may have set.",
        )
        .default("'utc'"),
    ],
};

pub(super) fn read_schedule(table: CheckedTable<'_>, sink: &mut Sink) -> Option<PolicySchedule> {
    let value = table.get("schedule")?;
    let table = value.table("schedule", sink)?;
    let errors = sink.errors();
    table.check(KEYS, sink);
    let days = table.list("days", sink).map(|list| {
        let words = list.into_iter().filter_map(|v| v.word("days", DAYS, sink));
        let mut days: Vec<_> = words.map(|day| day.value).collect();
        days.sort_unstable();
        days.dedup();
        days
    });
    let local = table.word("timezone", ZONES, sink);
    let from = table
        .get("from")
        .map(|value| read_time("from", value, sink));
    let until = table
        .get("until")
        .map(|value| read_time("until", value, sink));
    let at = |message: &str| Diagnostic::error(Code::BadSchedule, value.span, message);
    let hours = match (from, until) {
        (Some(from), Some(until)) => Some((from?, until?)),
        (None, None) => None,
        _ => {
            sink.report(
                at("the schedule has only one of `from` and `until`")
                    .help("say both, or neither for the whole day"),
            );
            return None;
        }
    };
    if hours.is_some_and(|(from, until)| from == until) {
        sink.report(
            at("the schedule ends when it begins")
                .help("for the whole day leave `from` and `until` out"),
        );
    }
    if hours.is_none() && days.is_none() && sink.errors() == errors {
        sink.report(at("the schedule says neither days nor hours").help("leave it out for always"));
    }
    Some(PolicySchedule {
        span: value.span,
        days,
        hours,
        local: local.is_some_and(|local| local.value),
    })
}

fn read_time(key: &str, value: FileValue<'_>, sink: &mut Sink) -> Option<TimeOfDay> {
    let text = value.text(key, sink)?;
    let time = TimeOfDay::parse(text.value);
    if time.is_none() {
        let message = format!("`{}` is not a valid time of day", text.value.escape_debug());
        sink.report(
            Diagnostic::error(Code::BadSchedule, text.span, message)
                .help("write hours and minutes from `00:00` to `23:59`"),
        );
    }
    time
}

/// A length of time such as `30s`; see [`read_duration`].
pub(super) const DURATION: Shape = Shape::Form("[0-9]+[smhd]");

/// Reads a length of time in seconds, from one to `most`, which `most_in_words` says.
pub(super) fn read_duration(
    key: &str,
    value: FileValue<'_>,
    most: u32,
    most_in_words: &str,
    sink: &mut Sink,
) -> Option<Located<u32>> {
    let text = value.text(key, sink)?;
    let units = [("s", 1u32), ("m", 60), ("h", 60 * 60), ("d", 24 * 60 * 60)];
    let parsed = units.iter().find_map(|(unit, seconds)| {
        let number = text.value.strip_suffix(unit)?;
        let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        number
            .parse::<u32>()
            .ok()
            .filter(|_| plain)?
            .checked_mul(*seconds)
    });
    let seconds = parsed.filter(|seconds| (1..=most).contains(seconds));
    if seconds.is_none() {
        let shown = text.value.escape_debug();
        let message = match key {
            "timeout" => format!("`{shown}` is not a valid timeout"),
            _ => format!("`{shown}` is not a valid time for `{key}`"),
        };
        sink.report(
            Diagnostic::error(Code::BadValue, text.span, message).help(format!(
                "write a number and `s`, `m`, `h` or `d`, up to {most_in_words}: `1h`"
            )),
        );
    }
    Some(Located::new(seconds?, text.span))
}

/// The last date that a rule can expire on: the kernel counts seconds in 31 bits, until 2038-01-19T03:14:07
/// (`xt_time.c`).
const LAST_DATE: Date = Date::constant(2038, 1, 18);

pub(super) fn read_expires(table: CheckedTable<'_>, sink: &mut Sink) -> Option<Located<Date>> {
    let value = table.get("expires")?;
    let Some(date) = value.as_date() else {
        value.wrong_type("expires", "a date without quotes, such as 2027-03-31", sink);
        return None;
    };
    if date > LAST_DATE {
        let message = format!("the kernel cannot end a rule on {date}");
        sink.report(
            Diagnostic::error(Code::BadExpiry, value.span, message)
                .with_note(format!("the last day that it can count to is {LAST_DATE}")),
        );
        return None;
    }
    Some(Located::new(date, value.span))
}
