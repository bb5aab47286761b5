//! What becomes of open connections: they end or go on, as a user wants it.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::Test;
use super::namespace::{Backend, Namespace};
use super::support::namespace::Namespace as Net;
use super::support::network::{End, link};
use super::support::tools::find;

pub const TESTS: &[(&str, Test)] = &[
    ("warm_keeps_open_connections", warm_keeps_open_connections),
    ("cut_ends_what_may_not_begin", cut_ends_what_may_not_begin),
    ("cut_ends_what_is_forwarded", cut_ends_what_is_forwarded),
    ("cut_ends_udp", cut_ends_udp),
];

type Result = std::result::Result<(), String>;

const HOST: &str = "10.94.0.1";

/// A host and one that talks to it.
fn pair(backend: Backend) -> std::result::Result<(Namespace, Net), String> {
    let (host, client) = (Namespace::new(backend), Net::new()?);
    link(
        &End(host.net(), "eth0", &["10.94.0.1/24", "2001:db8:94::1/64"]),
        &End(&client, "eth0", &["10.94.0.2/24", "2001:db8:94::2/64"]),
    )?;
    Ok((host, client))
}

/// An open connection: the client's end and the host's.
fn open(host: &Namespace, client: &Net, address: &str) -> (TcpStream, TcpStream) {
    let address: SocketAddr = address.parse().unwrap();
    let server = host.net().enter(|| TcpListener::bind(address).unwrap());
    let outside = client.enter(|| TcpStream::connect_timeout(&address, PATIENCE).unwrap());
    let (inside, _) = server.accept().unwrap();
    // Somebody goes on listening: who began a connection is told by that.
    std::mem::forget(server);
    (outside, inside)
}

const PATIENCE: Duration = Duration::from_secs(20);

/// A signal to the process says nothing of a socket.
fn whole<T>(mut read: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match read() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Whether what one side says arrives.
fn arrives(mut from: &TcpStream, mut to: &TcpStream) -> bool {
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    from.write_all(b"x").is_ok() && matches!(whole(|| to.read(&mut [0])), Ok(1))
}

fn warm_keeps_open_connections(backend: Backend) -> Result {
    find("conntrack")?;
    let (host, client) = pair(backend)?;
    let address = format!("{HOST}:22");
    let four = open(&host, &client, &address);
    let six = open(&host, &client, "[2001:db8:94::1]:22");
    let told = host.apply("ssh.toml", &["--dry-run"]).expect(2);
    assert!(told.err.contains("`fwc apply --warm`"), "{}", told.err);
    let done = host.apply("ssh.toml", &["--warm"]).expect(0);
    assert!(
        done.err.contains("added 2 open TCP connections"),
        "{}",
        done.err
    );
    // The other side speaks first: nothing that this host sent made them known.
    for (outside, inside) in [&four, &six] {
        assert!(arrives(outside, inside));
        assert!(arrives(inside, outside));
    }
    // The second time they are known.
    let done = host.apply("web.toml", &["--warm"]).expect(0);
    assert!(!done.err.contains("open TCP connections"), "{}", done.err);
    Ok(())
}

fn cut_ends_what_may_not_begin(backend: Backend) -> Result {
    find("ss")?;
    let (host, client) = pair(backend)?;
    host.apply("web.toml", &[]).expect(0);
    let ssh = open(&host, &client, &format!("{HOST}:22"));
    let web = open(&host, &client, &format!("{HOST}:80"));
    let six = open(&host, &client, "[2001:db8:94::1]:80");
    let refused = host.apply("ssh.toml", &["--cut", "--confirm"]).expect(64);
    assert!(refused.err.contains("add --wait"), "{}", refused.err);
    let done = host.apply("ssh.toml", &["--cut"]).expect(0);
    assert_eq!(
        done.err.matches("closed 10.94.0.2:").count(),
        1,
        "{}",
        done.err
    );
    assert_eq!(
        done.err.matches("closed [2001:db8:94::2]:").count(),
        1,
        "{}",
        done.err
    );
    for (_, mut inside) in [web, six] {
        let ended = inside.read(&mut [0]);
        assert!(
            ended
                .as_ref()
                .is_err_and(|error| error.kind() == ErrorKind::ConnectionAborted),
            "{ended:?}"
        );
    }
    assert!(arrives(&ssh.0, &ssh.1) && arrives(&ssh.1, &ssh.0));
    Ok(())
}

/// What does not arrive in this time is taken for lost: long enough for a packet that is sent again. What has to arrive has
/// [`PATIENCE`].
const SOON: Duration = Duration::from_millis(1500);

/// Whether nothing arrives that one side says.
fn is_lost(mut from: &TcpStream, mut to: &TcpStream) -> bool {
    to.set_read_timeout(Some(SOON)).unwrap();
    from.write_all(b"x").is_err() || !matches!(whole(|| to.read(&mut [0])), Ok(1))
}

/// A router between a client and a server, whose ports 80, 81 and 8080 are forwarded to it at first.
fn cut_ends_what_is_forwarded(backend: Backend) -> Result {
    for tool in ["ss", "conntrack"] {
        find(tool)?;
    }
    let (router, client) = pair(backend)?;
    let server = Net::new()?;
    link(
        &End(router.net(), "eth1", &["10.93.0.1/24"]),
        &End(&server, "eth0", &["10.93.0.2/24"]),
    )?;
    router.net().sysctl(&[("ipv4/ip_forward", "1")])?;
    client.ip(["route add 10.93.0.0/24 via 10.94.0.1"])?;
    server.ip(["route add default via 10.93.0.1"])?;
    let policy = |name: &str, ports: &str, translated: &str, back: &str| {
        let text = format!(
            r#"
version = 1

[interfaces]
wan = "eth0"
lan = "eth1"

[[nat]]
type = "dnat"
scope = "ipv4"
from = "wan"
to = "lan"
service = "{translated}/tcp"
to-destination = "10.93.0.2:8080"

[[rules]]
scope = "ipv4"
from = "wan"
to = "lan"
service = [{ports}]
{back}"#
        );
        fs::write(router.path(name), text).unwrap();
    };
    let back = "\n[[rules]]\nfrom = \"lan\"\nto = \"wan\"\n";
    policy("first.toml", "\"80/tcp\", \"81/tcp\"", "8080", "");
    policy("second.toml", "\"80/tcp\"", "8081", "");
    policy("third.toml", "\"82/tcp\"", "8081", back);
    router.apply("first.toml", &[]).expect(0);
    let listen = |port: u16| {
        let address = SocketAddr::from(([10, 93, 0, 2], port));
        server.enter(|| TcpListener::bind(address).unwrap())
    };
    let listeners = [80, 81, 8080].map(listen);
    let connect = |listener: &TcpListener, address: &str| {
        let address = address.parse().unwrap();
        let outside = client.enter(|| TcpStream::connect_timeout(&address, PATIENCE).unwrap());
        (outside, listener.accept().unwrap().0)
    };
    let stays = connect(&listeners[0], "10.93.0.2:80");
    let ends = connect(&listeners[1], "10.93.0.2:81");
    let moved = connect(&listeners[2], "10.94.0.1:8080");
    // As always: it goes on under rules that would not let it begin.
    router.apply("second.toml", &[]).expect(0);
    for (outside, inside) in [&stays, &ends, &moved] {
        assert!(arrives(outside, inside) && arrives(inside, outside));
    }
    router.apply("first.toml", &[]).expect(0);
    let done = router.apply("second.toml", &["--cut"]).expect(0);
    let told: Vec<&str> = done
        .err
        .lines()
        .filter(|line| line.contains("do not allow"))
        .collect();
    assert_eq!(told.len(), 2, "{}", done.err);
    for words in ["-> 10.93.0.2:81,", "-> 10.94.0.1:8080 (10.93.0.2:8080),"] {
        let ended = told
            .iter()
            .filter(|line| line.starts_with("closed tcp 10.94.0.2:") && line.contains(words));
        assert_eq!(ended.count(), 1, "{words} {told:?}");
    }
    assert!(arrives(&stays.0, &stays.1) && arrives(&stays.1, &stays.0));
    for (outside, inside) in [&ends, &moved] {
        assert!(is_lost(outside, inside) && is_lost(inside, outside));
    }
    // What answers may begin.
    let done = router.apply("third.toml", &["--cut"]).expect(0);
    let warned =
        "-> 10.93.0.2:80, which the new rules do not allow, may continue if its other side";
    assert!(done.err.contains(warned), "{}", done.err);
    Ok(())
}

fn cut_ends_udp(backend: Backend) -> Result {
    for tool in ["ss", "conntrack"] {
        find(tool)?;
    }
    let (host, client) = pair(backend)?;
    let policy = |name: &str, services: &str, output: &str| {
        let text = format!(
            "version = 1\n\n[defaults]\noutput = \"{output}\"\n\n[[rules]]\nservice = [{services}]\n"
        );
        fs::write(host.path(name), text).unwrap();
    };
    policy("open.toml", "\"7000/udp\", \"7001/udp\"", "accept");
    policy("closed.toml", "\"7000/udp\"", "drop");
    host.apply("open.toml", &[]).expect(0);
    let bind = |net: &Net, address: &str| net.enter(|| UdpSocket::bind(address).unwrap());
    let here = ["7000", "7001"].map(|port| bind(host.net(), &format!("10.94.0.1:{port}")));
    let six = bind(host.net(), "[2001:db8:94::1]:7001");
    let there = bind(&client, "10.94.0.2:9000");
    let there_six = bind(&client, "[2001:db8:94::2]:9000");
    let heard = |from: &UdpSocket, to: &UdpSocket, patience: Duration| {
        to.set_read_timeout(Some(patience)).unwrap();
        from.send_to(b"x", to.local_addr().unwrap()).unwrap();
        whole(|| to.recv(&mut [0; 8])).is_ok()
    };
    let says = |from: &UdpSocket, to: &UdpSocket| heard(from, to, PATIENCE);
    let is_unheard = |from: &UdpSocket, to: &UdpSocket| !heard(from, to, SOON);
    for one in &here {
        assert!(says(&there, one) && says(one, &there));
    }
    assert!(says(&there_six, &six) && says(&six, &there_six));
    let done = host.apply("closed.toml", &["--cut"]).expect(0);
    for words in [
        "closed udp 10.94.0.2:9000 -> 10.94.0.1:7001,",
        "closed udp [2001:db8:94::2]:9000 -> [2001:db8:94::1]:7001,",
    ] {
        assert!(done.err.contains(words), "{words}: {}", done.err);
    }
    assert_eq!(done.err.matches("closed udp").count(), 2, "{}", done.err);
    assert!(says(&there, &here[0]) && says(&here[0], &there));
    assert!(is_unheard(&there, &here[1]) && is_unheard(&there_six, &six));
    // From here it may begin, and so goes on when this host sends.
    host.apply("open.toml", &[]).expect(0);
    assert!(says(&there, &here[1]) && says(&here[1], &there));
    policy("closed.toml", "\"7000/udp\"", "accept");
    let done = host.apply("closed.toml", &["--cut"]).expect(0);
    assert!(
        done.err
            .contains("10.94.0.1:7001, which the new rules do not allow, may continue"),
        "{}",
        done.err
    );
    assert!(is_unheard(&there, &here[1]));
    Ok(())
}
