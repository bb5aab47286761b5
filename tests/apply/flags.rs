//! What a user may insist on: plans that are kept, strays that stay, connections that end or go on.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::Test;
use super::namespace::{Backend, Ended, Namespace};
use super::support::namespace::Namespace as Net;
use super::support::network::{End, link};
use super::support::tools::find;

pub const TESTS: &[(&str, Test)] = &[
    (
        "plan_that_was_kept_is_applied",
        plan_that_was_kept_is_applied,
    ),
    (
        "plan_that_is_not_so_any_more_is_refused",
        plan_that_is_not_so_any_more_is_refused,
    ),
    (
        "plan_that_somebody_changed_is_refused",
        plan_that_somebody_changed_is_refused,
    ),
    ("plan_looks_at_own_parts_only", plan_looks_at_own_parts_only),
    ("keep_stray_stops", keep_stray_stops),
    (
        "no_rehearse_where_nothing_can_be_rehearsed",
        no_rehearse_where_nothing_can_be_rehearsed,
    ),
    ("warm_keeps_open_connections", warm_keeps_open_connections),
    ("cut_ends_what_may_not_begin", cut_ends_what_may_not_begin),
];

type Result = std::result::Result<(), String>;

fn save_plan(ns: &Namespace, policy: &str) -> Ended {
    ns.apply(policy, &["--dry-run", "--save-plan", "plan.json"])
        .expect(2)
}

fn plan_that_was_kept_is_applied(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    let before = ns.saved();
    save_plan(&ns, "web.toml");
    assert_eq!(ns.saved(), before);
    let mode = fs::metadata(ns.path("plan.json"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    ns.apply("web.toml", &["--plan", "plan.json"]).expect(0);
    assert!(ns.saved().contains("--dport 80 "));
    // It is done: live is not what it was made of any more.
    let again = ns.apply("web.toml", &["--plan", "plan.json"]).expect(1);
    assert!(
        again.err.contains("not what was planned on"),
        "{}",
        again.err
    );
    Ok(())
}

fn plan_that_is_not_so_any_more_is_refused(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    save_plan(&ns, "web.toml");
    // Another policy.
    let changed = fs::read_to_string(ns.path("web.toml"))
        .unwrap()
        .replace("http", "https");
    fs::write(ns.path("other.toml"), changed).unwrap();
    let before = ns.saved();
    let refused = ns.apply("other.toml", &["--plan", "plan.json"]).expect(1);
    assert!(
        refused.err.contains("does not give what was planned"),
        "{}",
        refused.err
    );
    assert!(
        refused.err.contains("+-A INPUT -p tcp -m tcp --dport 443 "),
        "{}",
        refused.err
    );
    assert_eq!(ns.saved(), before);
    // Another live firewall.
    ns.iptables(
        "iptables",
        &["-A", "FORWARD", "-s", "192.0.2.7", "-j", "DROP"],
    );
    let before = ns.saved();
    let refused = ns.apply("web.toml", &["--plan", "plan.json"]).expect(1);
    assert!(
        refused.err.contains("not what was planned on"),
        "{}",
        refused.err
    );
    assert!(
        refused.err.contains("+-A FORWARD -s 192.0.2.7/32 -j DROP"),
        "{}",
        refused.err
    );
    assert_eq!(ns.saved(), before);
    Ok(())
}

fn plan_that_somebody_changed_is_refused(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    save_plan(&ns, "web.toml");
    let before = ns.saved();
    let path = ns.path("plan.json");
    let text = fs::read_to_string(&path).unwrap();
    let tampered = [
        text.replace("--dport 80 ", "--dport 81 "),
        text.replacen("--dport 22 ", "--dport 23 ", 1),
        text.replace("fwc.plan/1", "fwc.plan/9"),
        text.replacen('{', "{\"more\": 1,", 1),
        text[..text.len() / 2].to_owned(),
        String::new(),
    ];
    for tampered in tampered {
        assert_ne!(tampered, text);
        fs::write(&path, &tampered).unwrap();
        let refused = ns.apply("web.toml", &["--plan", "plan.json"]).expect(1);
        assert!(!refused.err.is_empty());
        assert_eq!(ns.saved(), before, "{}", refused.err);
    }
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let refused = ns.apply("web.toml", &["--plan", "plan.json"]).expect(1);
    assert!(
        refused.err.contains("others can write it"),
        "{}",
        refused.err
    );
    assert_eq!(ns.saved(), before);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    ns.apply("web.toml", &["--plan", "plan.json"]).expect(0);
    Ok(())
}

/// What others do between plan and apply is none of its business.
fn plan_looks_at_own_parts_only(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let shared = "version = 1\n\n[ownership]\nmode = \"shared\"\n\n[[rules]]\nservice = \"ssh\"\n";
    fs::write(ns.path("shared.toml"), shared).unwrap();
    ns.iptables("iptables", &["-N", "f2b-sshd"]);
    ns.iptables("iptables", &["-A", "INPUT", "-j", "f2b-sshd"]);
    save_plan(&ns, "shared.toml");
    ns.iptables(
        "iptables",
        &["-A", "f2b-sshd", "-s", "203.0.113.9", "-j", "DROP"],
    );
    ns.iptables(
        "iptables",
        &["-I", "FORWARD", "-s", "203.0.113.9", "-j", "DROP"],
    );
    ns.apply("shared.toml", &["--plan", "plan.json"]).expect(0);
    let saved = ns.saved_family("iptables");
    assert_eq!(
        saved.matches("203.0.113.9/32 -j DROP").count(),
        2,
        "{saved}"
    );
    assert!(saved.contains("-A INPUT -j FWC-INPUT\n"), "{saved}");
    Ok(())
}

fn keep_stray_stops(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    ns.iptables(
        "iptables",
        &["-A", "INPUT", "-s", "192.0.2.7", "-j", "DROP"],
    );
    let before = ns.saved();
    let refused = ns.apply("web.toml", &["--keep-stray"]).expect(1);
    for words in ["-A INPUT -s 192.0.2.7/32 -j DROP", "leave out --keep-stray"] {
        assert!(refused.err.contains(words), "{words}: {}", refused.err);
    }
    assert_eq!(ns.saved(), before);
    let done = ns.apply("web.toml", &[]).expect(0);
    assert!(
        done.out.contains("removed (added by hand): "),
        "{}",
        done.out
    );
    ns.apply("ssh.toml", &["--keep-stray"]).expect(0);
    Ok(())
}

/// In a user namespace that may have no further network namespace, as some containers are.
fn no_rehearse_where_nothing_can_be_rehearsed(backend: Backend) -> Result {
    if backend == Backend::Legacy {
        return Err("legacy rules cannot be read in a user namespace".to_owned());
    }
    let ns = Namespace::new(backend);
    let limit = "echo 0 > /proc/sys/user/max_net_namespaces";
    let inside = |arguments: &str, then: &str| {
        let script = format!(
            "{limit} && {} apply ssh.toml --yes --persist-dir iptables {arguments} && {then}",
            env!("CARGO_BIN_EXE_fwc")
        );
        ns.run("unshare", &["-Urn", "--", "sh", "-c", &script], "")
    };
    let possible = ns.run("unshare", &["-Urn", "--", "sh", "-c", limit], "");
    if possible.code != Some(0) {
        return Err(format!("no user namespaces here: {}", possible.err));
    }
    let refused = inside("", "true");
    assert_eq!(refused.code, Some(1), "{}{}", refused.out, refused.err);
    for words in ["cannot make a scratch network namespace", "--no-rehearse"] {
        assert!(refused.err.contains(words), "{words}: {}", refused.err);
    }
    let done = inside("--no-rehearse", "iptables-nft-save").expect(0);
    assert!(done.err.contains("were not tried first"), "{}", done.err);
    assert!(
        done.out.contains("-A INPUT -p tcp -m tcp --dport 22 "),
        "{}",
        done.out
    );
    // Where it is possible it is done, and nothing is said.
    let done = ns.apply("ssh.toml", &["--no-rehearse"]).expect(0);
    assert!(!done.err.contains("were not tried first"), "{}", done.err);
    Ok(())
}

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

/// Whether what one side says arrives.
fn arrives(mut from: &TcpStream, mut to: &TcpStream) -> bool {
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    from.write_all(b"x").is_ok() && matches!(to.read(&mut [0]), Ok(1))
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
        done.err.contains("made 2 open TCP connections"),
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
        done.err.matches("ended 10.94.0.2:").count(),
        1,
        "{}",
        done.err
    );
    assert_eq!(
        done.err.matches("ended [2001:db8:94::2]:").count(),
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
