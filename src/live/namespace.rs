//! The network namespace that this process is in.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

/// The identity of a network namespace, valid until the machine is restarted.
///
/// When a namespace ends, the kernel may give its inode to a new one: state found under an identity may belong to an
/// earlier namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceId {
    /// The kernel's identifier of the current boot.
    pub boot: String,
    device: u64,
    inode: u64,
}

impl NamespaceId {
    /// Returns the namespace of this process.
    pub fn current() -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let namespace = fs::metadata("/proc/self/ns/net")?;
        Ok(Self {
            boot: boot.trim().to_owned(),
            device: namespace.dev(),
            inode: namespace.ino(),
        })
    }
}

/// Formats the identity so that it can be part of a file name.
impl fmt::Display for NamespaceId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}-{}", self.boot, self.device, self.inode)
    }
}
