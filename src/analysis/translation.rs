//! Address translation as an outcome of the nat table: `DNAT`, `SNAT`, `MASQUERADE`, `REDIRECT`, `NETMAP`.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use crate::iptables::{NatTarget, Target};

/// What the nat table does with a connection, parsed, and as `iptables-save` prints it. Two translations are equal if
/// their texts are.
///
/// ```
/// use fwc::analysis::Translation;
/// use fwc::iptables::{NatKind, NatTarget};
///
/// let mut nat = NatTarget::new(NatKind::Dnat);
/// nat.addresses = Some(("10.8.0.5".parse()?, "10.8.0.5".parse()?));
/// let translation = Translation::of(&nat);
/// assert_eq!(translation.text(), "DNAT --to-destination 10.8.0.5");
/// assert_eq!(translation.nat().kind, NatKind::Dnat);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone)]
pub struct Translation {
    text: Box<str>,
    nat: Box<NatTarget>,
}

impl Translation {
    /// Creates the translation of a nat target.
    pub fn of(nat: &NatTarget) -> Self {
        let text = Target::Nat(Box::new(nat.clone())).to_text();
        Self {
            text: text.trim_start_matches("-j ").into(),
            nat: Box::new(nat.clone()),
        }
    }

    /// Returns the target as `iptables-save` prints it, without `-j`: `DNAT --to-destination 10.8.0.5:8080`.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the parsed target.
    pub fn nat(&self) -> &NatTarget {
        &self.nat
    }
}

impl fmt::Display for Translation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl fmt::Debug for Translation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, out)
    }
}

impl PartialEq for Translation {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Translation {}

impl Hash for Translation {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl Ord for Translation {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl PartialOrd for Translation {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
