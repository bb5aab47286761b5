//! Links between hosts, and clients and servers that show which packets pass.

use std::cell::Cell;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::unistd::{Uid, setfsuid};

use super::namespace::Namespace;

/// The bound for an expected reply. It comes in a moment; the bound is for busy machines.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long no reply counts as silence: long enough for a second attempt, since TCP retransmits a SYN after a second.
const SILENCE: Duration = Duration::from_millis(1500);

thread_local! {
    static EXPECTED: Cell<Reply> = const { Cell::new(Reply::Answer) };
}

/// Runs `body`, in which this reply is expected. Tests that expect silence wait 1.5 seconds only; with the bound for answers each
/// of them would take 30.
pub fn expecting<T>(reply: Reply, body: impl FnOnce() -> T) -> T {
    let before = EXPECTED.replace(reply);
    let done = body();
    EXPECTED.set(before);
    done
}

/// Returns how long this thread waits for a reply.
fn patience() -> Duration {
    match EXPECTED.get() {
        Reply::Answer | Reply::Refusal => PATIENCE,
        Reply::Silence => SILENCE,
    }
}

/// What a client receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Data that the server sent.
    Answer,
    /// A TCP reset, or an ICMP destination unreachable.
    Refusal,
    /// Nothing.
    Silence,
}

impl fmt::Display for Reply {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Answer => "an answer",
            Self::Refusal => "a refusal",
            Self::Silence => "silence",
        })
    }
}

/// One end of a link: the host, its device there, and the device's addresses with prefix lengths.
pub struct End<'a>(pub &'a Namespace, pub &'a str, pub &'a [&'a str]);

/// Connects two hosts by a veth pair.
pub fn link(left: &End<'_>, right: &End<'_>) -> Result<(), String> {
    let peer = right.0.path();
    left.0.ip([format!(
        "link add {} type veth peer name {} netns {peer}",
        left.1, right.1
    )])?;
    for End(host, device, addresses) in [left, right] {
        let lines = addresses.iter().map(|address| {
            // Usable at once, without duplicate address detection.
            let option = if address.contains(':') { "nodad" } else { "" };
            format!("addr add {address} dev {device} {option}")
        });
        host.ip(lines.chain([format!("link set {device} up")]))?;
    }
    for End(host, device, _) in [left, right] {
        host.set_up(&[device])?;
        host.await_addresses()?;
    }
    Ok(())
}

/// Starts a server on `to` at a TCP port and connects to it from `from`.
pub fn tcp(from: &Namespace, to: &Namespace, address: SocketAddr) -> Result<Reply, String> {
    tcp_as(None, from, to, address)
}

/// Like [`tcp`], with a client that runs as this user.
pub fn tcp_as(
    user: Option<u32>,
    from: &Namespace,
    to: &Namespace,
    address: SocketAddr,
) -> Result<Reply, String> {
    match connect(user, from, to, address)? {
        Ok(connection) => connection.talk(),
        Err(reply) => Ok(reply),
    }
}

/// An open connection: both of its ends.
#[derive(Debug)]
pub struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    /// Returns the client's address as the server sees it.
    pub fn seen(&self) -> Result<SocketAddr, String> {
        self.server.peer_addr().map_err(|error| error.to_string())
    }

    /// Returns the address that the client called, as the server sees it.
    pub fn called(&self) -> Result<SocketAddr, String> {
        self.server.local_addr().map_err(|error| error.to_string())
    }

    /// Returns the client's maximum segment size, in bytes.
    pub fn segment(&self) -> Result<u32, String> {
        getsockopt(&self.client, sockopt::TcpMaxSeg).map_err(|error| error.to_string())
    }

    /// Returns the maximum segment sizes of the client and the server, in bytes.
    pub fn segments(&self) -> Result<[u32; 2], String> {
        let of_server = getsockopt(&self.server, sockopt::TcpMaxSeg);
        Ok([
            self.segment()?,
            of_server.map_err(|error| error.to_string())?,
        ])
    }

    /// Sends text from the client, and waits until the server has received it.
    pub fn say(&self, text: &str) -> Result<(), String> {
        let said = (&self.client).write_all(text.as_bytes());
        said.map_err(|error| format!("asking: {error}"))?;
        // Only the arrival shows that the text passed the rules.
        let mut heard = vec![0; text.len()];
        let set = self.server.set_read_timeout(Some(PATIENCE));
        let read = set.and_then(|()| (&self.server).read_exact(&mut heard));
        read.map_err(|error| format!("the client's text did not arrive: {error}"))
    }

    /// Sends a byte from the server, and returns what the client receives.
    pub fn talk(&self) -> Result<Reply, String> {
        let failed = |error: std::io::Error| format!("serving: {error}");
        (&self.server).write_all(b"x").map_err(failed)?;
        heard(self.client.set_read_timeout(Some(patience())), || {
            (&self.client).read(&mut [0])
        })
    }

    /// Sends a byte from the client, and returns what the server receives.
    pub fn talk_back(&self) -> Result<Reply, String> {
        let failed = |error: std::io::Error| format!("asking: {error}");
        (&self.client).write_all(b"x").map_err(failed)?;
        heard(self.server.set_read_timeout(Some(patience())), || {
            (&self.server).read(&mut [0])
        })
    }
}

/// Starts a server on `to` and opens a connection from `from`. The inner error is what the client receives instead.
pub fn connect(
    user: Option<u32>,
    from: &Namespace,
    to: &Namespace,
    address: SocketAddr,
) -> Result<Result<Connection, Reply>, String> {
    let listener = Listener::new(to, address)?;
    Ok(match dial(user, from, address) {
        Ok(client) => Ok(Connection {
            client,
            server: listener.accept()?,
        }),
        Err(reply) => Err(reply),
    })
}

/// A TCP server. Its address may differ from the one that clients call, if a rule translates it.
pub struct Listener(TcpListener);

impl Listener {
    /// Starts the server.
    pub fn new(on: &Namespace, address: SocketAddr) -> Result<Self, String> {
        let listener = bound(on, || TcpListener::bind(address));
        let listener = listener.map_err(|error| format!("listening at {address}: {error}"))?;
        Ok(Self(listener))
    }

    /// Starts a server that accepts connections to addresses of other hosts, which a TPROXY rule hands to it.
    pub fn transparent(on: &Namespace, address: SocketAddr) -> Result<Self, String> {
        let listener = Self::new(on, address)?;
        // For IPv6 too: the kernel has one flag for both.
        let set = setsockopt(&listener.0, sockopt::IpTransparent, &true);
        set.map_err(|error| format!("a transparent socket: {error}"))?;
        Ok(listener)
    }

    fn accept(&self) -> Result<TcpStream, String> {
        let accepted = self.0.accept();
        let (server, _) = accepted.map_err(|error| format!("serving: {error}"))?;
        Ok(server)
    }
}

/// Opens a connection to an address that rules translate to one of these servers. Returns the connection and the index of the
/// server that accepted it; the inner error is what the client receives instead.
pub fn connect_to_one(
    from: &Namespace,
    address: SocketAddr,
    servers: &[Listener],
) -> Result<Result<(Connection, usize), Reply>, String> {
    let client = match dial(None, from, address) {
        Ok(client) => client,
        Err(reply) => return Ok(Err(reply)),
    };
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        for (number, Listener(listener)) in servers.iter().enumerate() {
            let waits = |non_blocking| listener.set_nonblocking(non_blocking);
            waits(true).map_err(|error| error.to_string())?;
            if let Ok((server, _)) = listener.accept() {
                waits(false).map_err(|error| error.to_string())?;
                return Ok(Ok((Connection { client, server }, number)));
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(format!("{address}: none of the servers got the connection"))
}

/// Binds an address, and tries again while it is in use. A program that another thread starts holds our sockets between its fork
/// and its exec, so a socket that was closed just now may keep its address for a moment.
fn bound<S: Send>(
    on: &Namespace,
    bind: impl Fn() -> std::io::Result<S> + Send + Sync,
) -> std::io::Result<S> {
    on.enter(|| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match bind() {
                Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(1));
                }
                done => return done,
            }
        }
    })
}

fn dial(user: Option<u32>, from: &Namespace, address: SocketAddr) -> Result<TcpStream, Reply> {
    let patience = patience();
    let connected = from.enter(|| {
        // `setfsuid` applies to this thread alone, and the socket belongs to the user from its creation.
        user.map(|user| setfsuid(Uid::from_raw(user)));
        TcpStream::connect_timeout(&address, patience)
    });
    connected.map_err(|error| silence_or_refusal(error.kind()))
}

/// Sends a datagram to a server on `to` that sends it back.
pub fn udp(from: &Namespace, to: &Namespace, address: SocketAddr) -> Result<Reply, String> {
    udp_by_way(from, address, to, address).map(|(reply, _)| reply)
}

/// Like [`udp`], with a server at another address than the one that is called. Also returns the client as the server sees it.
pub fn udp_by_way(
    from: &Namespace,
    address: SocketAddr,
    to: &Namespace,
    listening: SocketAddr,
) -> Result<(Reply, Option<SocketAddr>), String> {
    let failed = |error: std::io::Error| format!("udp at {address}: {error}");
    let server = bound(to, || UdpSocket::bind(listening)).map_err(failed)?;
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => ([0; 4], 0).into(),
        SocketAddr::V6(_) => ([0; 16], 0).into(),
    };
    let client = from
        .enter(|| {
            let client = UdpSocket::bind(any)?;
            client.connect(address)?;
            Ok(client)
        })
        .map_err(failed)?;
    match client.send(b"x") {
        Ok(_) => {}
        // OUTPUT dropped it, which the kernel reports to the sender of a datagram as EPERM.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Ok((Reply::Silence, None));
        }
        Err(error) => return Err(failed(error)),
    }
    server.set_read_timeout(Some(patience())).map_err(failed)?;
    let seen = server.recv_from(&mut [0]).ok().map(|(_, client)| client);
    if let Some(client) = seen {
        server.send_to(b"x", client).map_err(failed)?;
    }
    let reply = heard(client.set_read_timeout(Some(patience())), || {
        client.recv(&mut [0])
    })?;
    Ok((reply, seen))
}

/// Waits until no connection of a host is open or being closed, so that no packet of them is under way.
pub fn no_open_tcp(host: &Namespace) -> Result<(), String> {
    // The states of `include/net/tcp_states.h` that send no packets.
    const TIME_WAIT: &str = "06";
    const LISTEN: &str = "0A";
    let deadline = Instant::now() + PATIENCE;
    loop {
        let tables = host.enter(|| {
            ["tcp", "tcp6"]
                .map(|name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")))
        });
        let mut open = String::new();
        for table in tables {
            let table = table.map_err(|error| error.to_string())?;
            let lines = table.lines().skip(1).filter(|line| {
                let state = line.split_whitespace().nth(3).unwrap_or_default();
                ![TIME_WAIT, LISTEN].contains(&state)
            });
            open.extend(lines.map(|line| format!("{line}\n")));
        }
        if open.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("connections are still open:\n{open}"));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Pings an address, and returns whether it answers.
pub fn ping(from: &Namespace, address: IpAddr) -> Reply {
    let address = address.to_string();
    // With `-w` ping sends requests until the deadline, and with `-c 1` it ends at the first answer.
    let seconds = patience().as_secs_f32().ceil().to_string();
    match from.run("ping", &["-n", "-c", "1", "-w", &seconds, &address], "") {
        Ok(_) => Reply::Answer,
        Err(_) => Reply::Silence,
    }
}

fn heard(
    prepared: std::io::Result<()>,
    mut read: impl FnMut() -> std::io::Result<usize>,
) -> Result<Reply, String> {
    prepared.map_err(|error| error.to_string())?;
    loop {
        return Ok(match read() {
            Ok(1) => Reply::Answer,
            Ok(_) => Reply::Silence,
            // A signal interrupted the call; the socket is not affected.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => silence_or_refusal(error.kind()),
        });
    }
}

fn silence_or_refusal(error: ErrorKind) -> Reply {
    match error {
        ErrorKind::ConnectionRefused
        | ErrorKind::ConnectionReset
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable => Reply::Refusal,
        _ => Reply::Silence,
    }
}
