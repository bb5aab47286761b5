//! The TCP connections of this host, from /proc/net.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Error, tools};

/// A TCP connection, as seen from this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpConnection {
    /// The remote end.
    pub remote: SocketAddr,
    /// The local end.
    pub local: SocketAddr,
}

impl fmt::Display for TcpConnection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} -> {}", self.remote, self.local)
    }
}

/// Returns the established connections of this network namespace.
pub fn established() -> Vec<TcpConnection> {
    let rows = table("self");
    let open = rows.into_iter().filter(|row| row.state == ESTABLISHED);
    open.map(|row| row.connection).collect()
}

/// Returns the ports on which a process of this network namespace listens.
pub fn listening() -> HashSet<u16> {
    let rows = table("self").into_iter();
    let listen = rows.filter(|row| row.state == LISTEN);
    listen.map(|row| row.connection.local.port()).collect()
}

/// Adds these connections to the kernel's connection tracking, unless it knows them already. Returns the reasons for
/// those that failed.
///
/// A network namespace without stateful rules tracks no connections, so it knows none of those that were opened before
/// the first such rule. Incoming data on them would be dropped until this host sends.
pub fn track(connections: &[TcpConnection]) -> Result<Vec<String>, Error> {
    let program = tools::find("conntrack")?;
    let listening = listening();
    let mut failures = Vec::new();
    for one in connections {
        let (from, to) = match listening.contains(&one.local.port()) {
            // If this host listens on the port, the other side opened the connection.
            true => (one.remote, one.local),
            false => (one.local, one.remote),
        };
        let [source, destination] = [from, to].map(|end| end.ip().to_string());
        let [from, to] = [from, to].map(|end| end.port().to_string());
        let mut command = tools::clean(&program);
        command.args(["--create", "--proto", "tcp"]);
        command.args(["--src", &source, "--dst", &destination]);
        command.args(["--sport", &from, "--dport", &to]);
        // The timeout of five days is the kernel's own for an established connection.
        command.args(["--state", "ESTABLISHED", "--timeout", "432000"]);
        command.args(["--status", "SEEN_REPLY,ASSURED"]);
        let output = tools::run(command, "")?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() && !said.contains("exists") {
            failures.push(format!("{one}: {}", said.trim()));
        }
    }
    Ok(failures)
}

/// Closes the sockets of these connections on this host, and returns the connections that are still open. Deleting
/// conntrack entries would not close them: the next packet that this host sends creates the entry again.
pub fn close(connections: &[TcpConnection]) -> Result<Vec<TcpConnection>, Error> {
    let program = tools::find("ss")?;
    for one in connections {
        let mut command = tools::clean(&program);
        let [local, remote] = [one.local, one.remote].map(|end| end.to_string());
        command.args(["--kill", "--tcp", "--no-header", "--numeric"]);
        command.args(["state", "connected", "src", &local, "dst", &remote]);
        tools::run(command, "")?;
    }
    let mut left = established();
    left.retain(|one| connections.contains(one));
    Ok(left)
}

const ESTABLISHED: &str = "01";
const LISTEN: &str = "0A";

struct Row {
    connection: TcpConnection,
    state: String,
    inode: u64,
}

/// Returns the established TCP connections that a process has open.
pub(super) fn held_by(pid: &str) -> Vec<TcpConnection> {
    let sockets = sockets(pid);
    if sockets.is_empty() {
        return Vec::new();
    }
    let rows = table(pid).into_iter();
    let held = rows.filter(|row| row.state == ESTABLISHED && sockets.contains(&row.inode));
    held.map(|row| row.connection).collect()
}

/// Returns `true` if a connection is established in the network namespace of a process.
pub(super) fn is_established_for(pid: &str, connection: &TcpConnection) -> bool {
    let mut rows = table(pid).into_iter();
    rows.any(|row| row.state == ESTABLISHED && row.connection == *connection)
}

/// Reads the rows of `/proc/PID/net/tcp` and `tcp6`.
fn table(pid: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for name in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
        rows.extend(text.lines().skip(1).filter_map(row));
    }
    rows
}

fn row(line: &str) -> Option<Row> {
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    Some(Row {
        connection: TcpConnection {
            local: socket_address(words.get(1)?)?,
            remote: socket_address(words.get(2)?)?,
        },
        state: (*words.get(3)?).to_owned(),
        inode: words.get(9)?.parse().ok()?,
    })
}

/// Parses `0100007F:0016`: 32-bit words in the machine's byte order, then the port as a number.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::new();
    for at in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let address: IpAddr = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(four) => Ipv4Addr::from(four).into(),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?).into(),
    };
    Some(SocketAddr::new(address.to_canonical(), port))
}

/// Parses the value of `SSH_CONNECTION`: `198.51.100.7 40000 192.0.2.1 22`.
pub(super) fn parse_ssh(text: &str) -> Option<TcpConnection> {
    let mut words = text.split_ascii_whitespace();
    let mut end = || {
        // A link-local address has its device behind `%`.
        let address: IpAddr = words.next()?.split('%').next()?.parse().ok()?;
        Some(SocketAddr::new(
            address.to_canonical(),
            words.next()?.parse().ok()?,
        ))
    };
    Some(TcpConnection {
        remote: end()?,
        local: end()?,
    })
}

/// Returns the inodes of the sockets that a process has open.
fn sockets(pid: &str) -> HashSet<u64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return HashSet::new();
    };
    let links = entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok());
    links
        .filter_map(|link| {
            let name = link
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')?
                .to_owned();
            name.parse().ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{parse_ssh, row};

    #[test]
    fn rows_are_read() {
        let line = "   1: 0100007F:0016 0200007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 20 4 24 10 -1";
        let v4 = row(line).unwrap();
        // The kernel prints addresses in the byte order of the machine. The expected text is for little-endian ones.
        #[cfg(target_endian = "little")]
        assert_eq!(v4.connection.to_string(), "127.0.0.2:40000 -> 127.0.0.1:22");
        assert_eq!((v4.state.as_str(), v4.inode), ("01", 4711));
        let mapped = line.replace("0100007F:", "0000000000000000FFFF00000100007F:");
        #[cfg(target_endian = "little")]
        assert_eq!(row(&mapped).unwrap().connection.local, v4.connection.local);
        assert!(row("sl local").is_none());
    }

    #[test]
    fn ssh_says_who_and_where() {
        let said = parse_ssh("fe80::1%eth0 40000 2001:db8::1 22").unwrap();
        assert_eq!(said.to_string(), "[fe80::1]:40000 -> [2001:db8::1]:22");
        assert!(parse_ssh("198.51.100.7 40000").is_none());
    }
}
