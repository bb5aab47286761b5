//! The system's tools: iptables of both backends, iproute2, conntrack.

use std::fmt;
use std::path::PathBuf;

use fwc::net::Family;

/// Which kernel interface the iptables tools use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// `iptables-nft`: nf_tables.
    Nft,
    /// `iptables-legacy`: x_tables.
    Legacy,
}

impl Backend {
    /// Both backends.
    pub const ALL: [Self; 2] = [Self::Nft, Self::Legacy];

    /// Returns the name of a tool of this backend: `iptables-nft-save`, `ip6tables-legacy-restore`, `iptables-nft`.
    pub fn tool(self, family: Family, action: Option<&str>) -> String {
        let program = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        match action {
            Some(action) => format!("{program}-{self}-{action}"),
            None => format!("{program}-{self}"),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        })
    }
}

/// Returns the path of a tool, or a message that it is not installed.
pub fn find(name: &str) -> Result<PathBuf, String> {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .map(|directory| PathBuf::from(directory).join(name))
        .find(|path| path.exists())
        .ok_or_else(|| format!("{name} is not installed"))
}
