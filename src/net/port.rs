//! Ports and port ranges as a policy writes them.

use std::fmt;

/// A range of ports, both ends included. It never includes port 0, which no packet of a service carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

/// Why a text is not a valid port or port range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortError {
    /// The text is not a number from 1 to 65535; the value is the text.
    NotAPort(String),
    /// The range ends before it begins; the value is the range with its ends in order.
    Reversed(String),
}

impl PortRange {
    /// Parses `80` or `8000-8100`.
    pub fn parse(text: &str) -> Result<Self, PortError> {
        let Some((first, last)) = text.split_once('-') else {
            let port = parse_port(text)?;
            return Ok(Self {
                first: port,
                last: port,
            });
        };
        let (first, last) = (parse_port(first)?, parse_port(last)?);
        if last < first {
            return Err(PortError::Reversed(format!("{last}-{first}")));
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(out, "{}", self.first)
        } else {
            write!(out, "{}-{}", self.first, self.last)
        }
    }
}

fn parse_port(text: &str) -> Result<u16, PortError> {
    // No sign, which Rust would accept, and no leading zero, which iptables reads as octal.
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|port| plain && *port > 0 && !text.starts_with('0'))
        .ok_or_else(|| PortError::NotAPort(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        let range = |first, last| Ok(PortRange { first, last });
        assert_eq!(PortRange::parse("80"), range(80, 80));
        assert_eq!(PortRange::parse("80-80"), range(80, 80));
        assert_eq!(PortRange::parse("1-65535"), range(1, 65535));
        assert_eq!(
            PortRange::parse("90-80"),
            Err(PortError::Reversed("80-90".into()))
        );
        for bad in [
            "", "0", "65536", "022", "+5", "8 0", "80-", "-80", "1-2-3", "http",
        ] {
            assert!(
                matches!(PortRange::parse(bad), Err(PortError::NotAPort(_))),
                "{bad}"
            );
        }
    }
}
