//! The rates of `limit` and `hashlimit`.
//!
//! The kernel keeps a rate as the cost of one packet (packets per time) or as bytes per second in steps, and
//! `iptables-save` computes a text from that. Reading does the same arithmetic, so that a rate compares equal to what the
//! kernel gives back.

use super::argument::{self, Parsed};
use super::model::{Match, ModuleOption};
use super::spec::*;
use crate::net::Family;

/// The units of cost in a second, for `limit` (`XT_LIMIT_SCALE`) and for `hashlimit` (`XT_HASHLIMIT_SCALE_v2`).
const LIMIT_SCALE: u64 = 10_000;
const HASHLIMIT_SCALE: u64 = 1_000_000;
/// The burst that `iptables-save` does not print for `limit`.
const DEFAULT_BURST: &str = "5";

/// The units of time: the word that is read, the word that is printed, and the seconds.
const UNITS: [(&str, &str, u64); 4] = [
    ("day", "day", 86_400),
    ("hour", "hour", 3_600),
    ("minute", "min", 60),
    ("second", "sec", 1),
];

/// Reads a rate. Returns the cost of one packet in units of `1/scale` seconds, and the seconds of the unit that was
/// written.
fn cost(text: &str, scale: u64) -> Parsed<(u64, u64)> {
    let bad = || format!("bad rate `{text}`");
    let (count, unit) = match text.split_once('/') {
        None => (text, "second"),
        Some((_, "")) => return Err(bad()),
        Some(parts) => parts,
    };
    let begins = |name: &str| {
        name.get(..unit.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(unit))
    };
    // The tool tries the shortest unit first.
    let unit = UNITS.iter().rev().find(|(name, ..)| begins(name));
    let (.., seconds) = unit.ok_or_else(bad)?;
    // The tool uses `atoi`: what follows the digits is ignored.
    let count = count.trim_start();
    let digits = count.strip_prefix('+').unwrap_or(count);
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    let count: u64 = digits[..end].parse().map_err(|_| bad())?;
    match (scale * seconds).checked_div(count) {
        None => Err(bad()),
        Some(0) => Err(format!("rate too fast: `{text}`")),
        Some(cost) => Ok((cost, *seconds)),
    }
}

/// Returns the rate of a cost, in the smallest unit that shows it without too much of a remainder (`print_rate`), and the
/// seconds of that unit.
fn rate_text(cost: u64, scale: u64) -> (String, u64) {
    let mut best = 0;
    for (index, (.., seconds)) in UNITS.iter().enumerate().skip(1) {
        let unit = seconds * scale;
        if cost > unit || unit / cost < unit % cost {
            break;
        }
        best = index;
    }
    let (_, name, seconds) = UNITS[best];
    (format!("{}/{name}", seconds * scale / cost), seconds)
}

/// The operand of `--limit`.
pub(super) fn limit(text: &str, _: Family) -> Parsed<String> {
    let (cost, _) = cost(text, LIMIT_SCALE)?;
    Ok(rate_text(cost, LIMIT_SCALE).0)
}

pub(super) fn make_limit(given: &Arguments<'_, '_>) -> Made<Match> {
    let mut settings = Vec::new();
    match given.find("limit") {
        Some(limit) => settings.push(given.setting(limit)?),
        // Without `--limit` the tool takes 3 packets an hour.
        None => settings.push(setting("limit", "3/hour")),
    }
    if let Some(burst) = given.find("limit-burst") {
        let burst = given.setting(burst)?;
        if &*burst.value != DEFAULT_BURST && &*burst.value != "0" {
            settings.push(burst);
        }
    }
    Ok(other_match("limit", settings))
}

pub(super) static HASHLIMIT: [Opt; 13] = [
    own("hashlimit-upto")
        .also(&["hashlimit"])
        .not()
        .excludes(&["hashlimit-above"]),
    own("hashlimit-above").not().excludes(&["hashlimit-upto"]),
    own("hashlimit-burst"),
    value("hashlimit-mode", Form::By(mode)),
    value("hashlimit-name", Form::By(name)).required(),
    value("hashlimit-htable-size", Form::Number(0, u32::MAX as u64)),
    value("hashlimit-htable-max", Form::Number(0, u32::MAX as u64)),
    value(
        "hashlimit-htable-gcinterval",
        Form::Number(0, u32::MAX as u64),
    ),
    value("hashlimit-htable-expire", Form::Number(0, u32::MAX as u64)),
    value("hashlimit-srcmask", Form::By(prefix_length)),
    value("hashlimit-dstmask", Form::By(prefix_length)),
    flag("hashlimit-rate-match"),
    own("hashlimit-rate-interval"),
];

/// The list of `--hashlimit-mode`, in the order of printing.
fn mode(text: &str, _: Family) -> Parsed<String> {
    let known = ["srcip", "srcport", "dstip", "dstport"];
    let words = || text.split([',', '|']).filter(|word| !word.is_empty());
    if let Some(wrong) = words().find(|word| !known.contains(word)) {
        return Err(format!("`{wrong}` is none of {}", known.join(", ")));
    }
    Ok(list(
        known
            .iter()
            .filter(|&&name| words().any(|word| word == name)),
    ))
}

/// `--hashlimit-name`, which becomes a file in /proc/net/ipt_hashlimit: no slash.
fn name(text: &str, _: Family) -> Parsed<String> {
    match text.is_empty() || text.contains('/') {
        true => Err(format!("bad name `{text}`")),
        false => word(cut(text, 254)),
    }
}

/// The length of a prefix, up to the bits of an address.
pub(super) fn prefix_length(text: &str, family: Family) -> Parsed<String> {
    argument::number(text, 0, family.bits().into()).map(|length| length.to_string())
}

pub(super) fn make_hashlimit(given: &Arguments<'_, '_>) -> Made<Match> {
    let Some(rate) = given
        .find("hashlimit-upto")
        .or_else(|| given.find("hashlimit-above"))
    else {
        return Err(
            given.missing("you have to specify --hashlimit-upto or --hashlimit-above".into())
        );
    };
    // `! --hashlimit-upto` is saved as `--hashlimit-above`, and the reverse.
    let above = (rate.option.name == "hashlimit-above") != rate.negated;
    let problem = |message| given.problem(rate, message);
    let text = given.text(rate);
    // With `b/s` in it, the tool reads the rate as bytes per second, else as packets.
    let shown = match text.find("b/s") {
        Some(index) if index > 0 => bytes(text, given).map_err(problem)?,
        _ => packets(text, given).map_err(problem)?,
    };
    let option = if above {
        "hashlimit-above"
    } else {
        "hashlimit-upto"
    };
    let mut settings = vec![setting(option, shown.rate)];
    settings.extend(shown.burst.map(|burst| setting("hashlimit-burst", burst)));

    let whole = given.family.bits().to_string();
    // Values that are defaults are not printed. For the expiry, what counts is the default of the rate that is printed, not
    // of the rate that was written: `60/min` has a default of 60 s, but is printed as `1/sec`, whose default is 1 s.
    let quiet = |one: &ModuleOption| match one.name {
        "hashlimit-mode" => one.value.is_empty(),
        "hashlimit-htable-size" | "hashlimit-htable-max" => &*one.value == "0",
        "hashlimit-htable-gcinterval" => &*one.value == "1000",
        "hashlimit-htable-expire" => *one.value == *shown.shown_expire,
        "hashlimit-srcmask" | "hashlimit-dstmask" => *one.value == *whole,
        _ => false,
    };
    let mut kept = given.settings(&HASHLIMIT)?;
    if !given.has("hashlimit-htable-expire") {
        // The expiry is printed between `gcinterval` and the masks.
        let before = kept.iter().position(|one| {
            matches!(
                one.name,
                "hashlimit-srcmask" | "hashlimit-dstmask" | "hashlimit-rate-match"
            )
        });
        let index = before.unwrap_or(kept.len());
        kept.insert(
            index,
            setting("hashlimit-htable-expire", shown.expire.as_str()),
        );
    }
    kept.retain(|one| !quiet(one));
    settings.extend(kept);
    if let Some(interval) = shown.interval.filter(|&seconds| seconds != 1) {
        settings.push(setting("hashlimit-rate-interval", interval.to_string()));
    }
    Ok(other_match("hashlimit", settings))
}

/// A rate of `hashlimit` as `iptables-save` prints it.
struct Shown {
    rate: String,
    burst: Option<String>,
    /// The defaults of `--hashlimit-htable-expire` in milliseconds: for the rate as written, and for the rate as printed.
    expire: String,
    shown_expire: String,
    interval: Option<u64>,
}

/// Reads `--hashlimit-rate-interval`, in seconds.
fn interval(given: &Arguments<'_, '_>) -> Parsed<Option<u64>> {
    let text = given.text_of("hashlimit-rate-interval");
    text.map(|text| argument::number(text, 1, i32::MAX as u64))
        .transpose()
}

/// Reads a rate of packets.
fn packets(text: &str, given: &Arguments<'_, '_>) -> Parsed<Shown> {
    let (mut cost, seconds) = cost(text, HASHLIMIT_SCALE)?;
    let burst = match given.text_of("hashlimit-burst") {
        Some(burst) => argument::number(burst, 1, 1_000_000)?.to_string(),
        None => DEFAULT_BURST.to_owned(),
    };
    let matches_rate = given.has("hashlimit-rate-match");
    let interval = interval(given)?;
    if matches_rate {
        cost = (cost / seconds).max(1);
    }
    let (rate, shown_seconds) = rate_text(cost, HASHLIMIT_SCALE);
    Ok(Shown {
        rate,
        burst: Some(burst),
        expire: (seconds * 1000).to_string(),
        shown_expire: (shown_seconds * 1000).to_string(),
        interval: matches_rate.then(|| interval.unwrap_or(seconds)),
    })
}

/// Returns the cost of a rate in bytes per second, which the kernel counts in steps of 16 bytes.
fn bytes_to_cost(bytes: u64) -> u64 {
    u64::from(u32::MAX) / (u64::from((bytes >> 4) as u32) + 1)
}

/// Returns the rate in bytes per second of a cost; less than the rate that was written, by the rounding.
fn cost_to_bytes(cost: u64) -> u64 {
    let steps = u64::from(u32::MAX)
        .checked_div(cost)
        .unwrap_or(u32::MAX.into());
    steps.saturating_sub(1) << 4
}

/// The units of bytes that are printed, largest first.
const SIZES: [(&str, u64); 3] = [("m", 1 << 20), ("k", 1 << 10), ("", 1)];

/// Returns the factor of a unit letter; no letter means bytes.
fn factor(unit: Option<char>) -> u64 {
    match unit {
        Some('m') => 1 << 20,
        Some('k') => 1 << 10,
        _ => 1,
    }
}

/// Reads a rate of bytes per second, with its burst in bytes.
fn bytes(text: &str, given: &Arguments<'_, '_>) -> Parsed<Shown> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let count: u64 = text[..end]
        .parse()
        .map_err(|_| format!("bad rate `{text}`"))?;
    let unit = text
        .split("b/s")
        .next()
        .and_then(|before| before.chars().last());
    let cost = count.checked_mul(factor(unit)).map_or(0, bytes_to_cost);
    if count == 0 || cost == 0 {
        return Err(format!("rate too high or zero: `{text}`"));
    }
    let step = cost_to_bytes(cost);
    let fits =
        |&&(_, size): &&(&str, u64)| step >= size && bytes_to_cost(step & !(size - 1)) == cost;
    let (name, size) = *SIZES[..2].iter().find(fits).unwrap_or(&SIZES[2]);
    let mut burst = None;
    if let Some(text) = given.text_of("hashlimit-burst") {
        let bad = || format!("bad burst `{text}`");
        let (count, rest) = argument::leading_number(text).ok_or_else(bad)?;
        let asked = count
            .checked_mul(factor(rest.chars().next()))
            .ok_or_else(bad)?;
        if step == 0 || asked < step {
            return Err(format!("burst cannot be smaller than {step}b"));
        }
        let total = asked.div_ceil(step).saturating_mul(step);
        let (name, size) = *SIZES
            .iter()
            .find(|(_, size)| total >= *size)
            .unwrap_or(&SIZES[2]);
        burst = Some(format!("{}{name}b", total / size));
    }
    let expire = if burst.is_some() { "60000" } else { "15000" }.to_owned();
    let matches_rate = given.has("hashlimit-rate-match");
    Ok(Shown {
        rate: format!("{}{name}b/s", step / size),
        burst,
        shown_expire: expire.clone(),
        expire,
        interval: match interval(given)? {
            asked if matches_rate => Some(asked.unwrap_or(1)),
            _ => None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_become_what_the_tool_saves() {
        let limit = |text: &str| limit(text, Family::V4);
        assert_eq!(limit("300/min").unwrap(), "5/sec");
        assert_eq!(limit("60/hour").unwrap(), "1/min");
        assert_eq!(limit("7/min").unwrap(), "7/min");
        assert_eq!(limit("10").unwrap(), "10/sec");
        assert_eq!(limit("1/Second").unwrap(), "1/sec");
        assert_eq!(limit("2/d").unwrap(), "2/day");
        assert!(limit("10001/sec").is_err());
        assert!(limit("0/sec").is_err() && limit("1/week").is_err() && limit("5/").is_err());
    }
}
