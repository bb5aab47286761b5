//! Which network namespace this process is in.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

/// The identity of a network namespace while the machine runs.
///
/// The kernel gives the inode of a namespace that ended to a new one: a state that is found under an identity may be
/// that of a predecessor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceId {
    /// The boot, as the kernel names it.
    pub boot: String,
    device: u64,
    inode: u64,
}

impl NamespaceId {
    /// The namespace of this process.
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

/// Fit for a file's name.
impl fmt::Display for NamespaceId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}-{}", self.boot, self.device, self.inode)
    }
}
