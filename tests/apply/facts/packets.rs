//! What the kernel does with packets while rules change.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use super::super::Test;
use super::super::namespace::{Backend, Namespace};
use super::super::support::namespace::Namespace as Net;
use super::super::support::network::{End, Reply, expecting, link, ping};
use super::super::support::tools::find;
use super::{Result, has, load, load_text, saved, text};

pub const TESTS: &[(&str, Test)] = &[
    (
        "fact_a_hashlimit_bucket_outlives_its_rule",
        a_hashlimit_bucket_outlives_its_rule,
    ),
    (
        "fact_a_limit_bucket_is_full_again_when_its_rule_is_written",
        a_limit_bucket_is_full_again_when_its_rule_is_written,
    ),
    (
        "fact_connections_from_before_the_first_stateful_rule_stall",
        connections_from_before_the_first_stateful_rule_stall,
    ),
    (
        "fact_forgetting_a_connection_does_not_cut_it",
        forgetting_a_connection_does_not_cut_it,
    ),
    (
        "fact_nat_decides_once_for_a_connection",
        nat_decides_once_for_a_connection,
    ),
    (
        "fact_log_writes_nothing_in_a_namespace",
        log_writes_nothing_in_a_namespace,
    ),
    (
        "fact_a_native_base_chain_is_not_seen_and_drops",
        a_native_base_chain_is_not_seen_and_drops,
    ),
];

/// Sends so many datagrams to port 9 of this host itself.
fn send(ns: &Namespace, number: usize) {
    ns.net().enter(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..number {
            socket.send_to(b"x", "127.0.0.1:9").unwrap();
        }
    });
}

const HASHLIMIT: &str = "-A INPUT -p udp -m udp --dport 9 -m hashlimit --hashlimit-upto RATE --hashlimit-burst BURST --hashlimit-name fact -j ACCEPT";

fn a_hashlimit_bucket_outlives_its_rule(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let rule = |rate: &str, burst: &str| HASHLIMIT.replace("RATE", rate).replace("BURST", burst);
    load(&ns, &[], "filter", &[&rule("1/hour", "1")]).expect(0);
    send(&ns, 5);
    has(&saved(&ns), "[1:29] -A INPUT");
    load(&ns, &[], "filter", &[&rule("500/sec", "100")]).expect(0);
    has(&saved(&ns), "--hashlimit-upto 500/sec");
    // Not one of them at the new rate.
    send(&ns, 5);
    has(&saved(&ns), "[0:0] -A INPUT");
    Ok(())
}

fn a_limit_bucket_is_full_again_when_its_rule_is_written(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let rule = "-A one -p udp -m udp --dport 9 -m limit --limit 1/hour --limit-burst 2 -j ACCEPT";
    let lines = [":one - [0:0]", ":two - [0:0]", "-A INPUT -j one", rule];
    load(&ns, &[], "filter", &lines).expect(0);
    send(&ns, 5);
    has(&saved(&ns), "[2:58] -A one");
    let again = format!("[2:58] {rule}");
    let edit = [":one - [0:0]", &again];
    load(&ns, &["--noflush", "--counters"], "filter", &edit).expect(0);
    send(&ns, 5);
    has(&saved(&ns), "[4:116] -A one");
    // A change to another chain of the table.
    let edit = [":two - [0:0]", "-A two -j DROP"];
    load(&ns, &["--noflush", "--counters"], "filter", &edit).expect(0);
    send(&ns, 5);
    let passed = match backend {
        Backend::Nft => "[4:116] -A one",
        // There each change writes the whole table.
        Backend::Legacy => "[6:174] -A one",
    };
    has(&saved(&ns), passed);
    Ok(())
}

/// A host, one that talks to it, and an open connection: both of its ends.
struct Talk {
    host: Namespace,
    _client: Net,
    outside: TcpStream,
    inside: TcpStream,
}

const HOST: &str = "10.96.0.1";

impl Talk {
    fn new(backend: Backend, prepare: impl Fn(&Namespace)) -> std::result::Result<Self, String> {
        let host = Namespace::new(backend);
        let client = Net::new()?;
        link(
            &End(host.net(), "eth0", &["10.96.0.1/24"]),
            &End(&client, "eth0", &["10.96.0.2/24"]),
        )?;
        prepare(&host);
        let server = host.net().enter(|| TcpListener::bind((HOST, 80)).unwrap());
        let outside = connect(&client, 80).map_err(|error| error.to_string())?;
        let (inside, _) = server.accept().unwrap();
        Ok(Self {
            host,
            _client: client,
            outside,
            inside,
        })
    }
}

fn connect(client: &Net, port: u16) -> std::io::Result<TcpStream> {
    let address = SocketAddr::new(HOST.parse::<IpAddr>().unwrap(), port);
    client.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)))
}

/// What comes within the time; `None`: nothing.
fn heard(socket: &TcpStream, time: Duration) -> Option<std::io::Result<u8>> {
    let until = Instant::now() + time;
    let mut byte = [0];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // No time at all would mean for ever.
        socket
            .set_read_timeout(Some(left.max(Duration::from_millis(1))))
            .unwrap();
        return match { socket }.read(&mut byte) {
            Ok(0) => Some(Err(ErrorKind::UnexpectedEof.into())),
            Ok(_) => Some(Ok(byte[0])),
            // A signal to the process says nothing of the socket.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                None
            }
            Err(error) => Some(Err(error)),
        };
    }
}

fn say(socket: &TcpStream, byte: u8) {
    { socket }.write_all(&[byte]).unwrap();
}

/// Long, for a machine that has other work.
const SOON: Duration = Duration::from_secs(20);

/// Several attempts of TCP.
const NEVER: Duration = Duration::from_millis(700);

const STATEFUL: [&str; 3] = [
    ":INPUT DROP [0:0]",
    "-A INPUT -i lo -j ACCEPT",
    "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
];

fn connections_from_before_the_first_stateful_rule_stall(backend: Backend) -> Result {
    let talk = Talk::new(backend, |_| ())?;
    load(&talk.host, &[], "filter", &STATEFUL).expect(0);
    say(&talk.outside, b'a');
    assert!(heard(&talk.inside, NEVER).is_none(), "it was let in");
    // From now on the kernel knows the connection.
    say(&talk.inside, b'b');
    assert!(matches!(heard(&talk.outside, SOON), Some(Ok(b'b'))));
    assert!(matches!(heard(&talk.inside, SOON), Some(Ok(b'a'))));
    Ok(())
}

fn forgetting_a_connection_does_not_cut_it(backend: Backend) -> Result {
    find("conntrack")?;
    find("ss")?;
    let talk = Talk::new(backend, |ns| {
        let mut lines = STATEFUL.to_vec();
        lines.push("-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT");
        load(ns, &[], "filter", &lines).expect(0);
    })?;
    load(&talk.host, &[], "filter", &STATEFUL).expect(0);
    let deleted = talk
        .host
        .run("conntrack", &["-D", "-p", "tcp"], "")
        .expect(0);
    has(&deleted.err, "1 flow entries have been deleted");
    say(&talk.inside, b'a');
    assert!(matches!(heard(&talk.outside, SOON), Some(Ok(b'a'))));
    say(&talk.outside, b'b');
    assert!(matches!(heard(&talk.inside, SOON), Some(Ok(b'b'))));
    let killed = talk
        .host
        .run("ss", &["-K", "sport", "=", ":80"], "")
        .expect(0);
    has(&killed.out, HOST);
    assert!(matches!(heard(&talk.inside, SOON), Some(Err(_))));
    Ok(())
}

fn nat_decides_once_for_a_connection(backend: Backend) -> Result {
    let to = |port: u16| {
        let line =
            format!("-A PREROUTING -p tcp -m tcp --dport 8000 -j REDIRECT --to-ports {port}");
        text("nat", &[&line])
    };
    let host = Namespace::new(backend);
    let client = Net::new()?;
    link(
        &End(host.net(), "eth0", &["10.96.0.1/24"]),
        &End(&client, "eth0", &["10.96.0.2/24"]),
    )?;
    load_text(&host, &[], &to(8001)).expect(0);
    let servers = [8001, 8002].map(|port| {
        let server = host
            .net()
            .enter(|| TcpListener::bind((HOST, port)).unwrap());
        server.set_nonblocking(true).unwrap();
        server
    });
    let first = connect(&client, 8000).map_err(|error| error.to_string())?;
    let (old, _) = servers[0].accept().unwrap();
    load_text(&host, &[], &to(8002)).expect(0);
    say(&first, b'a');
    old.set_nonblocking(false).unwrap();
    assert!(matches!(heard(&old, SOON), Some(Ok(b'a'))));
    let _second = connect(&client, 8000).map_err(|error| error.to_string())?;
    assert!(servers[1].accept().is_ok());
    Ok(())
}

fn log_writes_nothing_in_a_namespace(backend: Backend) -> Result {
    let all = std::fs::read_to_string("/proc/sys/net/netfilter/nf_log_all_netns");
    if all.is_ok_and(|text| text.trim() != "0") {
        return Err("nf_log_all_netns is on".to_owned());
    }
    let mut log = File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open("/dev/kmsg")
        .map_err(|error| format!("/dev/kmsg: {error}"))?;
    std::io::Seek::seek(&mut log, std::io::SeekFrom::End(0))
        .map_err(|error| format!("/dev/kmsg: {error}"))?;
    let ns = Namespace::new(backend);
    let prefix = format!("fact-{}-{backend} ", std::process::id());
    let line = format!("-A INPUT -p udp -m udp --dport 9 -j LOG --log-prefix \"{prefix}\"");
    load(&ns, &[], "filter", &[&line]).expect(0);
    send(&ns, 3);
    has(&saved(&ns), "[3:87] -A INPUT");
    let mut record = [0; 8192];
    while let Ok(length) = log.read(&mut record) {
        let text = String::from_utf8_lossy(&record[..length]);
        assert!(!text.contains(prefix.trim()), "{text}");
    }
    Ok(())
}

fn a_native_base_chain_is_not_seen_and_drops(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let itself: IpAddr = "127.0.0.1".parse().unwrap();
    assert_eq!(ping(ns.net(), itself), Reply::Answer);
    let table =
        "table inet own {\n chain in {\n type filter hook input priority 0; policy drop;\n }\n}\n";
    ns.run("nft", &["-f", "-"], table).expect(0);
    let seen = ns
        .run(&format!("iptables-{backend}-save"), &[], "")
        .expect(0);
    assert_eq!((seen.out.as_str(), seen.err.as_str()), ("", ""));
    let unheard = expecting(Reply::Silence, || ping(ns.net(), itself));
    assert_eq!(unheard, Reply::Silence);
    Ok(())
}
