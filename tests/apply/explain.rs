//! `fwc explain --live`: what it says of a packet is what becomes of it.

use serde_json::Value;

use super::Test;
use super::namespace::{Backend, Namespace};
use super::support::namespace::Namespace as Net;
use super::support::network::{End, Reply, expecting, link, tcp};
use super::support::tools::find;

pub const TESTS: &[(&str, Test)] = &[
    (
        "explain_live_says_what_the_kernel_does",
        explain_live_says_what_the_kernel_does,
    ),
    ("explain_live_changes_nothing", explain_live_changes_nothing),
];

type Result = std::result::Result<(), String>;

/// Port 8080 is another name of port 80; who is in the set is refused there, everybody else is let in.
const RULES: &str = "\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -i here -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 80
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:WEB - [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m tcp --dport 80 -j WEB
-A WEB -p tcp -m set --match-set blocked src -j REJECT --reject-with tcp-reset
-A WEB -m conntrack --ctstate DNAT -j ACCEPT
COMMIT
";

fn host(backend: Backend) -> std::result::Result<Namespace, String> {
    find("ipset")?;
    let ns = Namespace::new(backend);
    let made = ns.run(
        "ipset",
        &["restore"],
        "create blocked hash:net family inet\n",
    );
    made.expect(0);
    ns.restore("iptables", RULES).expect(0);
    Ok(ns)
}

/// What is said of a new connection from the peer: verdict, and the text of the rule that decides.
fn said(ns: &Namespace, port: u16) -> (String, String) {
    let service = format!("{port}/tcp");
    let arguments = [
        "explain",
        "--live",
        "--format",
        "json",
        "--in",
        "here",
        "--source",
        "10.9.0.2",
        "--destination",
        "10.9.0.1",
        "--mark",
        "0",
        "--service",
        &service,
    ];
    let ended = ns.fwc(&arguments).expect(0);
    let found: Value = serde_json::from_str(&ended.out).unwrap();
    let boxes = found["boxes"].as_array().unwrap();
    let [one] = &boxes[..] else {
        panic!("one packet, one verdict: {}", ended.out)
    };
    let text = |value: &Value| value.as_str().unwrap_or("policy").to_owned();
    (text(&one["verdict"]), text(&one["rule"]["text"]))
}

fn explain_live_says_what_the_kernel_does(backend: Backend) -> Result {
    let ns = host(backend)?;
    let peer = Net::new()?;
    link(
        &End(ns.net(), "here", &["10.9.0.1/24"]),
        &End(&peer, "there", &["10.9.0.2/24"]),
    )?;
    // The server listens where the translation goes.
    let heard = |port: u16| -> std::result::Result<Reply, String> {
        match port {
            8080 => {
                let before = ns.saved_family("iptables");
                let opened = std::net::SocketAddr::from(([10, 9, 0, 1], 8080));
                let reply = tcp(&peer, ns.net(), opened);
                let after = ns.saved_family("iptables");
                assert_ne!(before, after, "nothing was counted");
                reply
            }
            port => expecting(Reply::Silence, || {
                tcp(&peer, ns.net(), ([10, 9, 0, 1], port).into())
            }),
        }
    };
    assert_eq!(said(&ns, 22), ("drop".to_owned(), "policy".to_owned()));
    assert_eq!(heard(22)?, Reply::Silence);
    assert_eq!(said(&ns, 80), ("drop".to_owned(), "policy".to_owned()));
    assert_eq!(heard(80)?, Reply::Silence);

    let (verdict, rule) = said(&ns, 8080);
    assert_eq!(verdict, "accept");
    assert_eq!(rule, "-m conntrack --ctstate DNAT -j ACCEPT");
    // Accepted, and nobody listens at port 80: the host itself refuses.
    assert_eq!(heard(8080)?, Reply::Refusal);
    assert!(counted(&ns, &rule), "{}", ns.saved_family("iptables"));

    ns.run("ipset", &["add", "blocked", "10.9.0.0/30"], "")
        .expect(0);
    let (verdict, rule) = said(&ns, 8080);
    assert_eq!(verdict, "reject");
    assert!(
        rule.ends_with("-j REJECT --reject-with tcp-reset"),
        "{rule}"
    );
    assert!(!counted(&ns, &rule));
    assert_eq!(heard(8080)?, Reply::Refusal);
    assert!(counted(&ns, &rule), "{}", ns.saved_family("iptables"));
    Ok(())
}

/// Whether packets have met a rule.
fn counted(ns: &Namespace, rule: &str) -> bool {
    let saved = ns.saved_family("iptables");
    let mut lines = saved.lines().filter(|line| line.ends_with(rule));
    let line = lines.next().unwrap_or_else(|| panic!("`{rule}`: {saved}"));
    !line.starts_with("[0:0]")
}

fn explain_live_changes_nothing(backend: Backend) -> Result {
    let ns = host(backend)?;
    let before = ns.saved();
    let told = ns.fwc(&["explain", "--live", "--in", "here"]).expect(0).out;
    assert!(
        told.contains("IPv4, to this host") && told.contains("IPv6"),
        "{told}"
    );
    assert_eq!(ns.saved(), before);
    let wrong = ns.fwc(&["explain", "--live", "--from", "wan"]).expect(64);
    assert!(wrong.err.contains("--in eth0"), "{}", wrong.err);
    Ok(())
}
