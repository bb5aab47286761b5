//! Recognizes what people write from habit, in the words of iptables, ufw or nftables, and suggests the line of the
//! policy language.

use super::reader::{CheckedTable, FileValue};
use super::schema::is_name;
use crate::net::{AddressRange, PortRange, Protocol};

/// Returns the line of the language that an unknown key of a table probably means, if there is one. `knows` returns
/// `true` for the keys of the table.
pub fn line_for(
    table: CheckedTable<'_>,
    key: &str,
    value: FileValue<'_>,
    knows: impl Fn(&str) -> bool,
) -> Option<String> {
    if knows("service") {
        match key {
            "port" | "ports" | "dport" | "dports" | "destination-port" | "protocol" | "proto" => {
                return service_line(table);
            }
            "src" | "saddr" | "source-address" => return addresses("source", value),
            "dst" | "dest" | "daddr" | "destination-address" => {
                return addresses("destination", value);
            }
            "in" | "iif" | "in-interface" => return names("from", value),
            "out" | "oif" | "out-interface" => return names("to", value),
            _ => {}
        }
    }
    let is_of_block = ["from", "to", "stage", "order", "expires"].contains(&key);
    if is_of_block && knows("action") {
        return Some(format!("`{key}` in the block: it holds for all its rules"));
    }
    let action = action_meant(key)?;
    let service = services(value).map(|items| list("service", &items));
    let words = match (action, service) {
        ("accept", Some(service)) => format!("`{service}`"),
        (_, Some(service)) => format!("`action = \"{action}\"` and `{service}`"),
        (_, None) => format!("`action = \"{action}\"`"),
    };
    if knows("action") {
        Some(words)
    } else if knows("rules") {
        Some(format!("a rule: `[[rules]]` with {words}"))
    } else {
        None
    }
}

/// Returns the action of the language that a word of another program means.
pub fn action_meant(word: &str) -> Option<&'static str> {
    match word.to_ascii_lowercase().as_str() {
        "accept" | "allow" | "permit" | "pass" => Some("accept"),
        "drop" | "deny" | "block" | "discard" => Some("drop"),
        "reject" | "refuse" => Some("reject"),
        _ => None,
    }
}

/// Returns the services that a text in another notation means: `tcp/22`, `22`, `80,443/tcp`, `tcp:80-90`, `53/UDP`.
pub fn services_meant(text: &str) -> Option<Vec<String>> {
    let parts: Vec<&str> = match text.split_once('/').or_else(|| text.split_once(' ')) {
        Some((one, other)) => vec![one.trim(), other.trim()],
        None => match text.split_once(':') {
            Some((one, other)) if protocol(one).or(protocol(other)).is_some() => vec![one, other],
            _ => vec![text.trim(), "tcp"],
        },
    };
    let [one, other] = parts[..] else {
        return None;
    };
    let (ports, protocol) = match (protocol(one), protocol(other)) {
        (None, Some(protocol)) => (one, protocol),
        (Some(protocol), None) => (other, protocol),
        _ => return None,
    };
    let ports = ports.split(',').map(|ports| {
        let ports = ports_meant(ports)?;
        Some(format!("{ports}/{protocol}"))
    });
    ports.collect()
}

/// Returns the ports that a text with white space, leading zeros or the colon of iptables means.
pub fn ports_meant(ports: &str) -> Option<PortRange> {
    let plain: String = ports.split_whitespace().collect();
    let ends = plain
        .split([':', '-'])
        .map(|end| end.trim_start_matches('0'));
    PortRange::parse(&ends.collect::<Vec<_>>().join("-")).ok()
}

/// Writes a key with one value, or with a list.
pub fn list(key: &str, values: &[String]) -> String {
    match values {
        [one] => format!("{key} = \"{one}\""),
        more => format!("{key} = [\"{}\"]", more.join("\", \"")),
    }
}

/// Returns the name of a protocol with ports, in upper or lower case. A number is taken for a port and not for a
/// protocol.
fn protocol(text: &str) -> Option<&'static str> {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let protocol = Protocol::parse(&text.to_ascii_lowercase())?;
    protocol.name().filter(|_| protocol.has_ports())
}

/// Returns the `service` line that the keys for ports and protocols of a table mean.
fn service_line(table: CheckedTable<'_>) -> Option<String> {
    let of = |keys: &[&str]| {
        let values = keys.iter().find_map(|key| table.get(key))?;
        texts(values)
    };
    let protocols = of(&["protocol", "proto"]);
    let ports = of(&["port", "ports", "dport", "dports", "destination-port"]);
    let mut items = Vec::new();
    match (ports, protocols) {
        (Some(ports), protocols) => {
            let protocols = protocols.unwrap_or_else(|| vec!["tcp".to_owned()]);
            for text in &protocols {
                let protocol = protocol(text)?;
                for ports in ports.iter().flat_map(|ports| ports.split(',')) {
                    let ports = match is_name(ports) {
                        true => {
                            items.push(ports.to_owned());
                            continue;
                        }
                        false => ports_meant(ports)?,
                    };
                    items.push(format!("{ports}/{protocol}"));
                }
            }
        }
        (None, Some(protocols)) => {
            for text in &protocols {
                match (text.to_ascii_lowercase().as_str(), protocol(text)) {
                    (_, Some(protocol)) => items.push(format!("1-65535/{protocol}")),
                    ("icmp" | "icmpv6" | "ipv6-icmp", None) => items.push("ping".to_owned()),
                    _ => return None,
                }
            }
        }
        (None, None) => return None,
    }
    items.dedup();
    Some(format!("`{}`", list("service", &items)))
}

/// Returns the services that a value names, if every element is a service.
fn services(value: FileValue<'_>) -> Option<Vec<String>> {
    let items = texts(value)?.into_iter().map(|text| match is_name(&text) {
        true => Some(vec![text]),
        false => services_meant(&text),
    });
    Some(items.collect::<Option<Vec<_>>>()?.concat())
}

fn addresses(key: &str, value: FileValue<'_>) -> Option<String> {
    let texts = texts(value)?;
    let good = |text: &String| is_name(text) || AddressRange::parse(text).is_ok();
    texts
        .iter()
        .all(good)
        .then(|| format!("`{}`", list(key, &texts)))
}

fn names(key: &str, value: FileValue<'_>) -> Option<String> {
    let texts = texts(value)?;
    let good = texts.iter().all(|text| is_name(text));
    good.then(|| format!("`{}`", list(key, &texts)))
}

/// Returns the strings and numbers of a value or a list as text.
fn texts(value: FileValue<'_>) -> Option<Vec<String>> {
    let values = value.as_array().unwrap_or_else(|| vec![value]);
    let text = |value: FileValue<'_>| match (value.as_text(), value.as_integer()) {
        (Some(text), _) => Some(text.to_owned()),
        (_, Some(number)) => Some(number.to_string()),
        _ => None,
    };
    let texts: Option<Vec<String>> = values.into_iter().map(text).collect();
    texts.filter(|texts| !texts.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_that_are_written_otherwise() {
        for (text, meant) in [
            ("tcp/22", &["22/tcp"][..]),
            ("80,443/tcp", &["80/tcp", "443/tcp"]),
            ("udp/53,5353", &["53/udp", "5353/udp"]),
            ("UDP:500", &["500/udp"]),
            ("22", &["22/tcp"]),
            ("8000:8100/tcp", &["8000-8100/tcp"]),
            ("22 tcp", &["22/tcp"]),
            ("53/UDP", &["53/udp"]),
        ] {
            assert_eq!(
                services_meant(text).as_deref(),
                Some(
                    &meant
                        .iter()
                        .map(|one| (*one).to_owned())
                        .collect::<Vec<_>>()[..]
                ),
                "{text}"
            );
        }
        for text in [
            "",
            "/",
            "tcp/udp",
            "22/80",
            "0/tcp",
            "70000/tcp",
            "x,y/tcp",
            "192.0.2.1/24",
        ] {
            assert_eq!(services_meant(text), None, "{text}");
        }
    }
}
