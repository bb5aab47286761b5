//! Reads the file of `--interfaces`: the networks behind each device.

use std::path::Path;

use super::Stop;
use crate::analysis::DevicesBehind;
use crate::net::{AddressRange, InterfacePattern};

/// Reads lines of `DEVICE = NETWORK, NETWORK`. Brackets and quotes as in TOML are allowed, and `#` begins a comment.
pub fn read(path: &Path) -> Result<DevicesBehind, Stop> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Stop::Because(format!("cannot read `{shown}`: {error}")))?;
    parse(&text).map_err(|(line, message)| Stop::Because(format!("{shown}:{line}: {message}")))
}

fn parse(text: &str) -> Result<DevicesBehind, (usize, String)> {
    let mut networks = Vec::new();
    // The device whose list continues on the next line.
    let mut open: Option<InterfacePattern> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let (device, list) = match (open.take(), line.split_once('=')) {
            (Some(device), None) => (device, line),
            (None, Some((name, list))) => {
                let name = name.trim().trim_matches(['"', '\'']);
                let device = InterfacePattern::parse(name).map_err(|_| {
                    (
                        number,
                        format!("`{}` is not a valid device name", name.escape_debug()),
                    )
                })?;
                let list = list.trim();
                let is_open = list.starts_with('[') && !list.contains(']');
                open = is_open.then(|| device.clone());
                (device, list)
            }
            _ => {
                let message = "expected a line such as `eth1 = 10.0.0.0/8, 192.0.2.0/24`";
                return Err((number, message.to_owned()));
            }
        };
        if open.is_none() && !list.contains(']') && !line.contains('=') {
            open = Some(device.clone());
        }
        let words = list.split(|c: char| c.is_whitespace() || "[],\"'".contains(c));
        for word in words.filter(|word| !word.is_empty()) {
            let range = AddressRange::parse(word).map_err(|_| {
                let word = word.escape_debug();
                (
                    number,
                    format!("`{word}` is not a valid address, prefix or range"),
                )
            })?;
            networks.push((range, device.as_str().to_owned()));
        }
    }
    match open {
        Some(device) => {
            let message = format!("the list of `{}` has no closing `]`", device.as_str());
            Err((text.lines().count(), message))
        }
        None => Ok(DevicesBehind::new(networks)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_lists() {
        let same = [
            "eth0 = 10.0.0.0/8, fd00::/8\neth0.100 = 192.0.2.1\n",
            "# who is where\neth0 = [\"10.0.0.0/8\", \"fd00::/8\"]  # inside\n\"eth0.100\" = '192.0.2.1'\n",
            "eth0 = [\n  \"10.0.0.0/8\",\n\n  \"fd00::/8\",\n]\neth0.100 = [192.0.2.1]",
        ];
        let read = same.map(|text| format!("{:?}", parse(text)));
        assert!(read[0].starts_with("Ok"), "{}", read[0]);
        assert_eq!(read[0], read[1]);
        assert_eq!(read[0], read[2]);
    }

    #[test]
    fn errors_have_their_line() {
        for (text, wrong) in [
            (
                "eth0 = 10.0.0.0/8\neth 1 = 10.0.0.0/8",
                (2, "`eth 1` is not a valid device name"),
            ),
            (
                "eth0 = 10.0.0.1/8",
                (1, "`10.0.0.1/8` is not a valid address, prefix or range"),
            ),
            (
                "eth0",
                (
                    1,
                    "expected a line such as `eth1 = 10.0.0.0/8, 192.0.2.0/24`",
                ),
            ),
            (
                "eth0 = [\n10.0.0.0/8\n",
                (2, "the list of `eth0` has no closing `]`"),
            ),
        ] {
            let (line, message) = parse(text).unwrap_err();
            assert_eq!((line, message.as_str()), wrong);
        }
    }
}
