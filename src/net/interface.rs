//! Names of network devices, and the patterns of names that `-i` and `-o` take.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest device name that the kernel takes, in bytes: `IFNAMSIZ` less the final zero.
pub const LONGEST_DEVICE: usize = 15;

/// A device name, or with a trailing `+` a pattern for all devices whose names begin like it (iptables(8)).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InterfacePattern(String);

/// Why a text is not a valid device name or pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// The text is empty, or `+` alone, which would match every device.
    Empty,
    /// The text is longer than [`LONGEST_DEVICE`] bytes.
    TooLong,
    /// The text has white space, `/`, `:`, a `+` that is not last, or another character that is not allowed in a device
    /// name.
    BadCharacter,
}

impl InterfacePattern {
    /// Parses `eth0` or `wg+`.
    pub fn parse(text: &str) -> Result<Self, DeviceError> {
        let name = text.strip_suffix('+').unwrap_or(text);
        if name.is_empty() {
            return Err(DeviceError::Empty);
        }
        if text.len() > LONGEST_DEVICE {
            return Err(DeviceError::TooLong);
        }
        // iptables would take a leading `!` for a negation and a leading `-` for an option.
        let good = |b: u8| b.is_ascii_alphanumeric() || b"._-@".contains(&b);
        if !name.bytes().all(good) || name.starts_with('-') || name == "." || name == ".." {
            return Err(DeviceError::BadCharacter);
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the text as iptables takes it, with the `+`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns `true` if a device with this name matches.
    pub fn matches(&self, device: &str) -> bool {
        match self.0.strip_suffix('+') {
            Some(prefix) => device.starts_with(prefix),
            None => device == self.0,
        }
    }

    /// Returns `true` if some device name matches both patterns.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self.0.strip_suffix('+'), other.0.strip_suffix('+')) {
            (Some(one), Some(two)) => one.starts_with(two) || two.starts_with(one),
            (Some(_), None) => self.matches(&other.0),
            _ => other.matches(&self.0),
        }
    }
}

impl fmt::Display for InterfacePattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let parse = |text| InterfacePattern::parse(text).unwrap();
        assert!(parse("wg+").matches("wg"));
        assert!(parse("wg+").matches("wg0"));
        assert!(!parse("wg0").matches("wg"));
        assert!(parse("wg+").overlaps(&parse("wg0")));
        assert!(parse("wg0").overlaps(&parse("w+")));
        assert!(parse("wg+").overlaps(&parse("wg1+")));
        assert!(!parse("eth0").overlaps(&parse("eth1")));
        for (text, error) in [
            ("", DeviceError::Empty),
            ("+", DeviceError::Empty),
            ("abcdefghijklmnop", DeviceError::TooLong),
            ("eth 0", DeviceError::BadCharacter),
            ("eth+0", DeviceError::BadCharacter),
            ("-j", DeviceError::BadCharacter),
            ("!eth0", DeviceError::BadCharacter),
            ("eth/0", DeviceError::BadCharacter),
            ("eth0:1", DeviceError::BadCharacter),
            ("..", DeviceError::BadCharacter),
        ] {
            assert_eq!(InterfacePattern::parse(text), Err(error), "{text}");
        }
    }
}
