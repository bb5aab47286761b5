//! The connections in the kernel's connection tracking. Unlike sockets, they include forwarded connections and those of
//! UDP.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::{Error, tools};
use crate::net::Protocol;

/// A TCP or UDP connection in the kernel's connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tracked {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The end that opened it.
    pub from: SocketAddr,
    /// The original destination of its first packet.
    pub to: SocketAddr,
    /// The end that answers; another one than `to` if the destination is translated.
    pub answers_from: SocketAddr,
    /// The destination of the answers; another one than `from` if the source is translated.
    pub answers_to: SocketAddr,
}

impl fmt::Display for Tracked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} -> {}", word(self.protocol), self.from, self.to)?;
        if self.to != self.answers_from {
            write!(out, " ({})", self.answers_from)?;
        }
        Ok(())
    }
}

const fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::TCP => "tcp",
        _ => "udp",
    }
}

/// Returns the tracked connections of this network namespace, without expected ones (such as the data connections of
/// FTP) and without those in conntrack zones.
pub fn tracked() -> Result<Vec<Tracked>, Error> {
    let program = tools::find("conntrack")?;
    let mut all: Vec<Tracked> = Vec::new();
    for family in ["ipv4", "ipv6"] {
        let list = |more: &[&str]| -> Result<HashSet<Tracked>, Error> {
            let mut command = tools::clean(&program);
            command.args(["--dump", "--family", family]).args(more);
            let output = tools::run(command, "")?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                return Err(Error::Io {
                    what: "cannot list the tracked connections".to_owned(),
                    source: std::io::Error::other(said.trim().to_owned()),
                });
            }
            let text = String::from_utf8_lossy(&output.stdout);
            Ok(text.lines().filter_map(line).collect())
        };
        let expected = list(&["--status", "EXPECTED"])?;
        let open = list(&[])?;
        all.extend(open.difference(&expected));
    }
    all.sort_by_key(|one| (one.from, one.to));
    Ok(all)
}

/// Deletes connections from the kernel's tracking, so that rules and nat see their next packets as new. Returns those
/// that are still tracked.
pub fn forget(connections: &[Tracked]) -> Result<Vec<Tracked>, Error> {
    if connections.is_empty() {
        return Ok(Vec::new());
    }
    let program = tools::find("conntrack")?;
    for one in connections {
        let mut command = tools::clean(&program);
        let family = if one.from.is_ipv4() { "ipv4" } else { "ipv6" };
        command.args([
            "--delete",
            "--family",
            family,
            "--proto",
            word(one.protocol),
        ]);
        for (option, end) in [("src", one.from), ("dst", one.to)] {
            command.arg(format!("--orig-{option}"));
            command.arg(end.ip().to_string());
        }
        for (option, end) in [("sport", one.from), ("dport", one.to)] {
            command.arg(format!("--{option}"));
            command.arg(end.port().to_string());
        }
        tools::run(command, "")?;
    }
    let open: HashSet<Tracked> = tracked()?.into_iter().collect();
    let left = connections.iter().filter(|one| open.contains(one));
    Ok(left.copied().collect())
}

/// Parses `tcp 6 99 ESTABLISHED src=... dst=... sport=... dport=... src=... dst=... sport=... dport=... [ASSURED]
/// mark=0 use=1`.
fn line(line: &str) -> Option<Tracked> {
    let mut words = line.split_ascii_whitespace();
    let protocol = match words.next()? {
        "tcp" if line.contains(" ESTABLISHED ") => Protocol::TCP,
        "udp" => Protocol::UDP,
        _ => return None,
    };
    let values = |name: &str| -> Vec<&str> {
        let words = line.split_ascii_whitespace();
        let named = words.filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        named.collect()
    };
    let is_zoned = ["zone", "zone-orig", "zone-reply"];
    if is_zoned.iter().any(|name| !values(name).is_empty()) {
        return None;
    }
    let end = |address: &str, port: &str, at: usize| -> Option<SocketAddr> {
        let address: IpAddr = values(address).get(at)?.parse().ok()?;
        Some(SocketAddr::new(
            address,
            values(port).get(at)?.parse().ok()?,
        ))
    };
    Some(Tracked {
        protocol,
        from: end("src", "sport", 0)?,
        to: end("dst", "dport", 0)?,
        answers_from: end("src", "sport", 1)?,
        answers_to: end("dst", "dport", 1)?,
    })
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn lines_are_read() {
        let tcp = "tcp      6 99 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=1000 dport=80 src=10.0.0.3 dst=10.9.9.9 sport=8080 dport=1001 [ASSURED] mark=0 use=1";
        let read = line(tcp).unwrap();
        assert_eq!(
            read.to_string(),
            "tcp 10.0.0.1:1000 -> 10.0.0.2:80 (10.0.0.3:8080)"
        );
        assert_eq!(read.answers_to.to_string(), "10.9.9.9:1001");
        let udp = "udp      17 29 src=2001:db8::5 dst=2001:db8::6 sport=1000 dport=53 [UNREPLIED] src=2001:db8::6 dst=2001:db8::5 sport=53 dport=1000 mark=0 use=1";
        assert_eq!(
            line(udp).unwrap().to_string(),
            "udp [2001:db8::5]:1000 -> [2001:db8::6]:53"
        );
        assert_eq!(line(&tcp.replace("ESTABLISHED", "TIME_WAIT")), None);
        assert_eq!(line(&tcp.replace(" mark=0", " zone=7 mark=0")), None);
        assert_eq!(
            line(
                "icmp     1 29 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=1 src=10.0.0.2 dst=10.0.0.1 type=0 code=0 id=1 mark=0 use=1"
            ),
            None
        );
    }
}
