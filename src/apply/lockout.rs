//! A finding of the lockout guard.

use std::fmt;

use crate::net::Packet;

/// A connection to this host that the new rules would block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lockout {
    /// What is blocked, in words.
    pub what: String,
    /// The blocked packet; `None` if fwc cannot tell what it looks like.
    pub packet: Option<Packet>,
    /// The rule or chain policy that blocks it, in words.
    pub by: String,
}

impl fmt::Display for Lockout {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.what)?;
        if let Some(packet) = &self.packet {
            write!(out, "\n    packet: {packet}")?;
        }
        write!(out, "\n    stopped by: {}", self.by)
    }
}
