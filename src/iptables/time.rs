//! The `time` match: times of day, days and dates.
//!
//! `iptables-save` prints it in other words than it was written: days as lists without `!`, whole days not at all, and
//! always an end date (fact `fact_times_and_users_come_back_in_other_words`).

use jiff::ToSpan;
use jiff::civil::Date;

use super::argument::{self, Parsed};
use super::model::Match;
use super::spec::*;

pub(super) static TIME: [Opt; 9] = [
    own("timestart"),
    own("timestop"),
    own("monthdays").not(),
    own("weekdays").not(),
    own("datestart"),
    own("datestop"),
    flag("kerneltz").also(&["localtz"]).excludes(&["utc"]),
    flag("utc").excludes(&["kerneltz"]),
    flag("contiguous"),
];

pub(super) fn time(given: &Arguments<'_, '_>) -> Made<Match> {
    const WHOLE_DAY: (u32, u32) = (0, 86_399);
    let start = given
        .read("timestart", day_time)?
        .map_or(WHOLE_DAY.0, |time| time.value);
    let stop = given
        .read("timestop", day_time)?
        .map_or(WHOLE_DAY.1, |time| time.value);
    let mut settings = Vec::new();
    if (start, stop) != WHOLE_DAY {
        let shown =
            |time: u32| format!("{:02}:{:02}:{:02}", time / 3600, time / 60 % 60, time % 60);
        settings.push(setting("timestart", shown(start)));
        settings.push(setting("timestop", shown(stop)));
    }
    if let Some(days) = given.read("monthdays", month_days)? {
        let set = (1..=31).filter(|day| (days.value >> day & 1 != 0) != days.negated);
        if set.clone().count() < 31 {
            settings.push(setting("monthdays", list(set)));
        }
    }
    if let Some(days) = given.read("weekdays", week_days)? {
        let set = (1..=7).filter(|day| (days.value >> day & 1 != 0) != days.negated);
        if set.clone().count() < 7 {
            settings.push(setting(
                "weekdays",
                list(set.map(|day: usize| WEEK[day - 1])),
            ));
        }
    }
    if let Some(date) = given.read("datestart", date)?
        && date.value != "1970-01-01T00:00:00"
    {
        settings.push(setting("datestart", date.value));
    }
    // The end date is always printed: the default is the last second of the kernel's 31 bits, but iptables compares it with
    // another number to find out whether it is the default.
    let stop_date = given.read("datestop", date)?;
    let last = || "2038-01-19T03:14:07".to_owned();
    settings.push(setting(
        "datestop",
        stop_date.map_or_else(last, |date| date.value),
    ));
    for name in ["kerneltz", "contiguous"] {
        settings.extend(given.has(name).then(|| setting(name, "")));
    }
    match given.has("contiguous") && start < stop {
        true => {
            Err(given.missing("--contiguous only makes sense when stop is before start".into()))
        }
        false => Ok(other_match("time", settings)),
    }
}

const WEEK: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// Reads `hh:mm[:ss]` as seconds since midnight.
fn day_time(text: &str) -> Parsed<u32> {
    let mut parts = text.split(':').map(|part| decimal(part, 60));
    let bad = || format!("invalid time `{text}`: hh:mm[:ss]");
    let mut part = || parts.next().unwrap_or(None);
    let (hour, minute) = (part().ok_or_else(bad)?, part().ok_or_else(bad)?);
    let second = match text.matches(':').count() {
        1 => 0,
        2 => part().ok_or_else(bad)?,
        _ => return Err(bad()),
    };
    match hour < 24 && minute < 60 && second < 60 {
        true => Ok(hour * 3600 + minute * 60 + second),
        false => Err(bad()),
    }
}

/// Reads a decimal number up to a bound.
fn decimal(text: &str, max: u32) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .then(|| text.parse().ok())?
        .filter(|number| *number <= max)
}

/// Reads `YYYY[-MM[-DD[Thh[:mm[:ss]]]]]` and returns it in full.
fn date(text: &str) -> Parsed<String> {
    let bad = || format!("invalid date `{text}`: YYYY[-MM[-DD[Thh[:mm[:ss]]]]]");
    let mut fields = [1970, 1, 1, 0, 0, 0];
    let limits = [(1970, 2038), (1, 12), (1, 31), (0, 23), (0, 59), (0, 59)];
    let mut rest = text;
    for (index, (field, (min, max))) in fields.iter_mut().zip(limits).enumerate() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let number = decimal(&rest[..end], max).filter(|number| *number >= min);
        *field = number.ok_or_else(bad)?;
        rest = &rest[end..];
        let separator = ["-", "-", "T", ":", ":", ""][index];
        match rest.strip_prefix(separator) {
            _ if rest.is_empty() => break,
            Some(after) if !separator.is_empty() => rest = after,
            _ => return Err(bad()),
        }
    }
    let [year, month, day, hour, minute, second] = fields;
    // The C library turns 30 February into a day of March, and so does the tool (`mktime`).
    let first = Date::new(year as i16, month as i8, 1).map_err(|_| bad())?;
    let date = first.saturating_add((i64::from(day) - 1).days());
    Ok(format!("{date}T{hour:02}:{minute:02}:{second:02}"))
}

/// Reads a list of days of the month as bits 1 to 31.
fn month_days(text: &str) -> Parsed<u32> {
    let mut days = 0u32;
    for word in text.split(',') {
        days |= 1
            << argument::number(word, 0, 31)
                .map_err(|_| format!("`{word}` is not a day of the month"))?;
    }
    Ok(days)
}

/// Reads a list of weekdays, by number or by the first two letters, as bits 1 (Monday) to 7.
fn week_days(text: &str) -> Parsed<u32> {
    let mut days = 0u32;
    for word in text.split(',') {
        let named = WEEK
            .iter()
            .position(|day| word.get(..2) == day.get(..2))
            .map(|index| index as u64 + 1);
        let number = argument::number(word, 1, 7).ok();
        days |= 1
            << named
                .or(number)
                .ok_or_else(|| format!("`{word}` is not a day of the week"))?;
    }
    Ok(days)
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_are_counted_as_the_c_library_counts() {
        for (text, full) in [
            ("1999", "1999-01-01T00:00:00"),
            ("2027-02-30T5:6", "2027-03-02T05:06:00"),
            ("2028-02-29T23:59:59", "2028-02-29T23:59:59"),
            ("2027-12-31", "2027-12-31T00:00:00"),
        ] {
            assert_eq!(date(text).as_deref(), Ok(full), "{text}");
        }
        for bad in [
            "1969",
            "2039",
            "2027-13",
            "2027-01-32",
            "2027-1-1T24",
            "27.1.",
        ] {
            assert!(date(bad).is_err(), "{bad}");
        }
    }
}
