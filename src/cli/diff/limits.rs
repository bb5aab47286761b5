//! Describes a change of a rate: `4/minute -> 10/minute`.

use std::collections::BTreeMap;

/// Returns the change between two conditions, given as `iptables-save` prints them: `4/minute -> 10/minute`. If more than
/// rates differ it is both conditions in full.
pub fn changed(before: &str, after: &str) -> String {
    short(before, after).unwrap_or_else(|| format!("{before} -> {after}"))
}

fn short(before: &str, after: &str) -> Option<String> {
    let (old, new) = (options(before), options(after));
    let mut parts = Vec::new();
    // The expander computes how long the table keeps an entry from the rate and the burst, so its change says nothing new.
    const FOLLOWS: &str = "hashlimit-htable-expire";
    for name in old.keys().chain(new.keys()) {
        let (old, new) = (old.get(name), new.get(name));
        let known = parts.iter().any(|(known, _)| known == name);
        if old == new || known || *name == FOLLOWS {
            continue;
        }
        let (rank, words) = words(name)?;
        let render = |value: Option<&&str>| match value {
            Some(value) => words(value),
            None => words("5 (the default)"),
        };
        if !name.ends_with("burst") && (old.is_none() || new.is_none()) {
            return None;
        }
        parts.push((*name, (rank, format!("{} -> {}", render(old), render(new)))));
    }
    let mut parts: Vec<_> = parts.into_iter().map(|(_, part)| part).collect();
    parts.sort();
    let parts: Vec<String> = parts.into_iter().map(|(_, text)| text).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Returns the options of a condition by name, without dashes; the module has the empty name.
fn options(condition: &str) -> BTreeMap<&str, &str> {
    let mut parts = condition.split(" --");
    let module = parts.next().unwrap_or_default();
    let options = parts.map(|part| part.split_once(' ').unwrap_or((part, "")));
    std::iter::once(("", module)).chain(options).collect()
}

/// Renders the value of an option for people.
type InWords = fn(&str) -> String;

/// Returns how to render the value of an option, and its rank in the output; `None` for an option that is not a rate.
fn words(option: &str) -> Option<(u8, InWords)> {
    Some(match option {
        "limit" | "hashlimit-upto" => (0, rate),
        "hashlimit-above" => (0, |value| format!("above {}", rate(value))),
        "connlimit-upto" => (0, |value| format!("up to {value} connections")),
        "connlimit-above" => (0, |value| format!("above {value} connections")),
        "limit-burst" | "hashlimit-burst" => (1, |value| format!("burst {value}")),
        "quota" => (0, |value| format!("{value} bytes")),
        "every" => (0, |value| format!("every {value}")),
        "probability" => (0, |value| format!("probability {value}")),
        "seconds" => (0, |value| format!("{value} s")),
        "hitcount" => (1, |value| format!("{value} packets")),
        _ => return None,
    })
}

/// Returns a rate with its unit in full: `4/minute` for `4/min`.
fn rate(value: &str) -> String {
    let long = [("sec", "second"), ("min", "minute")];
    let named = value.split_once('/').and_then(|(count, unit)| {
        let (_, name) = long.iter().find(|(short, _)| *short == unit)?;
        Some(format!("{count}/{name}"))
    });
    named.unwrap_or_else(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::changed;

    #[test]
    fn rates_are_rendered_briefly() {
        let said = |before: &str, after: &str| changed(before, after);
        assert_eq!(
            said("-m limit --limit 4/min", "-m limit --limit 10/min"),
            "4/minute -> 10/minute"
        );
        assert_eq!(
            said(
                "-m limit --limit 4/min",
                "-m limit --limit 1/sec --limit-burst 9"
            ),
            "4/minute -> 1/second, burst 5 (the default) -> burst 9"
        );
        let hash = |rate: &str, expire: &str| {
            format!(
                "-m hashlimit --hashlimit-upto {rate} --hashlimit-burst 4 --hashlimit-mode srcip --hashlimit-name ssh --hashlimit-htable-expire {expire}"
            )
        };
        assert_eq!(
            said(&hash("4/min", "60000"), &hash("10/min", "24000")),
            "4/minute -> 10/minute"
        );
        assert_eq!(
            said(
                "-m connlimit --connlimit-upto 3",
                "-m connlimit --connlimit-upto 4"
            ),
            "up to 3 connections -> up to 4 connections"
        );
        // If something else differs both are shown in full.
        let other = hash("10/min", "24000").replace("srcip", "dstip");
        assert_eq!(
            said(&hash("4/min", "60000"), &other),
            format!("{} -> {other}", hash("4/min", "60000"))
        );
        assert_eq!(
            said("-m limit --limit 4/min", "-m quota --quota 5"),
            "-m limit --limit 4/min -> -m quota --quota 5"
        );
    }
}
