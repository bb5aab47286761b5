//! Network devices.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest name that the kernel takes: `IFNAMSIZ` less the final zero.
pub const LONGEST_DEVICE: usize = 15;

/// A device's name, or with a trailing `+` all devices whose names begin like it (iptables(8)).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InterfacePattern(String);

/// Why a text is no device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// Nothing, or `+` alone, which is every device.
    Empty,
    /// More than 15 bytes.
    TooLong,
    /// White space, `/`, `:`, a `+` that is not last, or a character that no device name has.
    BadCharacter,
}

impl InterfacePattern {
    /// Reads `eth0` or `wg+`.
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

    /// As iptables takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a device of that name is meant.
    pub fn matches(&self, device: &str) -> bool {
        match self.0.strip_suffix('+') {
            Some(prefix) => device.starts_with(prefix),
            None => device == self.0,
        }
    }

    /// Whether some device is meant by both.
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
