//! `fwc explain`

use serde_json::Value;

use crate::fwc::{folder, root, run};

const POLICY: &str = r#"version = 1

[defaults]
input = "drop"

[interfaces]
wan = "eth0"
lan = { device = "eth1", networks = ["192.168.1.0/24"] }

[zones]
dmz = { interfaces = "lan", networks = ["192.168.1.128/25"] }

[addresses]
office = "203.0.113.0/24"
banned = { set = "dynamic" }

[[rules]]
name = "banned"
action = "drop"
stage = "early"
source = "banned"
scope = "ipv4"

[[rules]]
name = "ssh from the office"
from = "wan"
source = "office"
service = "ssh"
limit = { rate = "6/minute", per = "source" }

[[rules]]
name = "web for the dmz"
from = "wan"
to = "dmz"
service = ["http", "https"]
log = true
"#;

/// A router as an administrator would write it, without a policy.
const ROUTER: &str = "\
*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -i eth0 -p tcp -m tcp --dport 8080 -j MARK --set-xmark 0x1/0xffffffff
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -i eth0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.8.0.5:80
-A POSTROUTING -o eth0 -j MASQUERADE
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:WEB - [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -d 10.8.0.5/32 -p tcp -m tcp --dport 80 -j WEB
-A FORWARD -i eth1 -o eth0 -j ACCEPT
-A WEB -s 198.51.100.0/25 -j RETURN
-A WEB -m mark --mark 0x1 -j ACCEPT
COMMIT
";

fn assert_explained(name: &str, files: &[(&str, &str)], arguments: &[&str]) {
    let folder = folder(files);
    let run = run(folder.path(), &[&["explain"], arguments].concat());
    assert_eq!((run.status, run.err.as_str()), (0, ""), "{arguments:?}");
    insta::assert_snapshot!(name, run.out);
}

#[test]
fn one_packet() {
    let arguments = [
        "--from",
        "wan",
        "--source",
        "203.0.113.9",
        "--service",
        "ssh",
    ];
    assert_explained("one_packet", &[("fwc.toml", POLICY)], &arguments);
}

#[test]
fn many_packets() {
    let arguments = ["--service", "ssh", "--family", "ipv4"];
    assert_explained("many_packets", &[("fwc.toml", POLICY)], &arguments);
}

#[test]
fn through_the_host() {
    let arguments = ["--from", "wan", "--to", "lan", "--family", "ipv4"];
    assert_explained("through_the_host", &[("fwc.toml", POLICY)], &arguments);
}

#[test]
fn what_is_never_new() {
    let arguments = ["--family", "ipv6", "--icmp-type", "neighbour-solicitation"];
    assert_explained("never_new", &[("fwc.toml", POLICY)], &arguments);
}

/// What arrives for port 8080 is marked, translated, and judged by what it is then; what leaves is translated last.
#[test]
fn translated() {
    let files = [("rules.v4", ROUTER)];
    let to_web = [
        "--rules",
        "rules.v4",
        "--in",
        "eth0",
        "--out",
        "eth1",
        "--destination",
        "203.0.113.5",
        "--service",
        "8080/tcp",
    ];
    assert_explained("translated", &files, &to_web);
    let out = [
        "--rules", "rules.v4", "--in", "eth1", "--out", "eth0", "--source", "10.8.0.5",
    ];
    assert_explained("masqueraded", &files, &out);
}

#[test]
fn colours() {
    let folder = folder(&[("fwc.toml", POLICY)]);
    let arguments = [
        "explain",
        "--service",
        "telnet",
        "--family",
        "ipv4",
        "--color",
        "always",
    ];
    let run = run(folder.path(), &arguments);
    assert!(
        run.out.contains("\u{1b}[1m\u{1b}[31mDROP\u{1b}[0m"),
        "{}",
        run.out
    );
}

#[test]
fn for_programs() {
    let folder = folder(&[("rules.v4", ROUTER)]);
    let arguments = [
        "explain",
        "--rules",
        ".",
        "--format",
        "json",
        "--in",
        "eth0",
        "--out",
        "eth1",
        "--service",
        "8080/tcp",
    ];
    let run = run(folder.path(), &arguments);
    assert_eq!((run.status, run.err.as_str()), (0, ""));
    let found: Value = serde_json::from_str(&run.out).expect("JSON");
    assert_eq!(found["schema"], "fwc.explain/1");
    for one in found["boxes"].as_array().expect("boxes") {
        for key in [
            "family",
            "hook",
            "where",
            "example",
            "depends_on",
            "verdict",
            "rule",
        ] {
            assert!(one.get(key).is_some(), "no `{key}`: {one}");
        }
    }
    insta::assert_snapshot!("for_programs", run.out);
}

/// `--destination host` is any address of this host, as in tests: what a forward without a destination takes.
#[test]
fn for_any_address_of_this_host() {
    let policy = "version = 1\n[interfaces]\nwan = \"eth0\"\ndmz = \"eth1\"\n[[nat]]\ntype = \"dnat\"\nfrom = \"wan\"\n\
                  to = \"dmz\"\nservice = \"https\"\nto-destination = \"10.9.0.4\"\n[[rules]]\nservice = \"ssh\"\n";
    let folder = folder(&[("fwc.toml", policy)]);
    let explain = |more: &[&str]| {
        let common = [
            "explain",
            "--family",
            "ipv4",
            "--service",
            "https",
            "--from",
            "wan",
        ];
        run(folder.path(), &[&common, more].concat())
    };
    let any = explain(&["--to", "dmz"]);
    let elsewhere = "where not `goes to an address of this host`";
    assert!(any.out.contains(elsewhere), "{}", any.out);
    let host = explain(&["--to", "dmz", "--destination", "host"]);
    assert_eq!((host.status, host.err.as_str()), (0, ""));
    assert!(
        host.out.contains("DNAT --to-destination 10.9.0.4"),
        "{}",
        host.out
    );
    assert!(!host.out.contains(elsewhere), "{}", host.out);
    let both = explain(&["--destination", "host,192.0.2.1"]);
    assert_eq!(both.status, 64, "{}", both.err);
}

/// A packet that no kernel shows is not an error; there is nothing to explain.
#[test]
fn impossible() {
    let folder = folder(&[("fwc.toml", POLICY)]);
    let arguments = ["explain", "--from", "wan", "--source", "224.0.0.1"];
    let impossible = run(folder.path(), &arguments);
    assert_eq!((impossible.status, impossible.out.as_str()), (0, ""));
    assert_eq!(
        impossible.err,
        "no real packet can match: there is nothing to explain\n"
    );
    // A setting of the kernel lets these in.
    let arguments = ["explain", "--from", "wan", "--source", "127.0.0.1"];
    let rare = run(folder.path(), &arguments);
    let setting = "such packets come only where route_localnet is on";
    assert!(rare.out.contains(setting), "{}", rare.out);
}

/// A comment of a rule may hold anything; the terminal gets none of it.
#[test]
fn nothing_steers_the_terminal() {
    let rules = "*filter\n:INPUT DROP [0:0]\n-A INPUT -m comment --comment \"x\u{1b}[2Jy\" -j ACCEPT\nCOMMIT\n";
    let folder = folder(&[("rules.v4", rules)]);
    let run = run(folder.path(), &["explain", "--rules", "rules.v4"]);
    assert_eq!(run.status, 0, "{}", run.err);
    assert!(run.out.contains("x\u{fffd}[2Jy") && !run.out.contains('\u{1b}'));
}

#[test]
fn wrong_usage() {
    let folder = folder(&[("fwc.toml", POLICY), ("rules.v4", ROUTER)]);
    let mut said = String::new();
    for arguments in [
        "--from wann",
        "--from 10.0.0.1",
        "--from eth0",
        "--to dmz --source ofice",
        "--service sssh",
        "--service 22",
        "--family ipv6 --source office",
        "--from wan --hook output",
        "--from host --in eth0",
        "--from wan --to host --out eth1",
        "--from host --to host",
        "--from host --mac 02:00:5e:10:00:01",
        "--destination-port 22",
        "--protocol icmp --destination-port 22",
        "--protocol udp --tcp-flags syn/syn",
        "--protocol icmp --family ipv6",
        "--protocol tpc",
        "--icmp-type 8",
        "--icmp-type echo-rquest",
        "--icmp-type echo-request --source-port 1024",
        "--service ssh --protocol tcp",
        "--protocol tcp --destination-port 0",
        "--state old",
        "--mark 0x1ffffffff",
        "--in eth0/1",
        "--rules rules.v4 --from wan",
        "--rules rules.v4 --source office",
        "--rules rules.v4 --family ipv6 --source 2001:db8::1",
        "--rules rules.v4 --live",
        "fwc.toml --rules rules.v4",
    ] {
        let words: Vec<&str> = arguments.split(' ').collect();
        let run = run(folder.path(), &[&["explain"], &words[..]].concat());
        assert_eq!(run.status, 64, "{arguments}: {}", run.err);
        assert_eq!(run.out, "", "{arguments}");
        said.push_str(&format!("$ fwc explain {arguments}\n{}\n", run.err));
    }
    insta::assert_snapshot!("wrong_usage", said);
}

#[test]
fn what_cannot_be_explained() {
    let folder = folder(&[
        ("fwc.toml", "version = 1\n[[rules]]\nservice = \"htps\"\n"),
        ("broken.v4", "*filter\n-A INPUT -p tpc -j ACCEPT\nCOMMIT\n"),
        ("empty/readme", ""),
    ]);
    for (arguments, said) in [
        (&["explain"][..], "no service named `htps`"),
        (&["explain", "missing.toml"], "missing.toml"),
        (&["explain", "--rules", "missing.v4"], "missing.v4"),
        (&["explain", "--rules", "broken.v4"], "tpc"),
        (
            &["explain", "--rules", "empty"],
            "neither rules.v4 nor rules.v6",
        ),
    ] {
        let run = run(folder.path(), arguments);
        assert_eq!((run.status, run.out.as_str()), (1, ""), "{arguments:?}");
        assert!(run.err.contains(said), "{arguments:?}: {}", run.err);
    }
}

/// The examples of a page: a command, what it prints, and the folder of an example that it is run in; without one it is run
/// beside the rules that the page shows. With `INSTA_UPDATE=always` the page is written anew.
fn assert_page(name: &str, at_least: usize) {
    let path = root().join(name);
    let page = std::fs::read_to_string(&path).expect("a page");
    let rules = page
        .split_once("```iptables\n")
        .and_then(|(_, rest)| rest.split_once("```"));
    let beside = folder(&[("rules.v4", rules.map_or("", |(rules, _)| rules))]);
    let mut blocks = page.split("```console");
    let mut printed = blocks.next().expect("a beginning").to_owned();
    let mut seen = 0;
    for block in blocks {
        let (place, rest) = block.split_once('\n').expect("a fence");
        let (block, after) = rest.split_once("```").expect("an end");
        let command = block.lines().next().expect("a command");
        let words = command.strip_prefix("$ fwc ").expect("fwc");
        let words: Vec<&str> = words.split(' ').collect();
        let place = match place.trim() {
            "" => beside.path().to_owned(),
            example => root().join("examples").join(example),
        };
        let run = run(&place, &words);
        assert_eq!((run.status, run.err.as_str()), (0, ""), "{command}");
        let place = block_place(&page, command);
        printed.push_str(&format!(
            "```console{place}\n{command}\n{}\n```{after}",
            run.out.trim_end()
        ));
        seen += 1;
    }
    assert!(seen >= at_least, "{seen}");
    if std::env::var("INSTA_UPDATE").is_ok_and(|it| it == "always") {
        std::fs::write(&path, &printed).expect("a page");
    }
    assert!(
        page == printed,
        "{name}: what the commands print has changed: look at it with INSTA_UPDATE=always"
    );
}

/// What stands on the fence before a command.
fn block_place<'a>(page: &'a str, command: &str) -> &'a str {
    let (before, _) = page
        .split_once(&format!("\n{command}\n"))
        .expect("the command");
    before.rsplit_once("```console").expect("a fence").1
}

#[test]
fn the_page_shows_what_is_printed() {
    assert_page("docs/guides/explain.md", 3);
}

#[test]
fn the_readme_shows_what_is_printed() {
    assert_page("README.md", 1);
}

#[test]
fn the_page_on_ci_shows_what_is_printed() {
    assert_page("docs/guides/ci.md", 1);
}

/// The kernel forwards no packet with a hop limit of 1 or 0, which no rule of FORWARD tells.
#[test]
fn a_hop_limit_that_ends_before_routing_is_named() {
    let rules = |target: &str| {
        format!(
            "*mangle\n:PREROUTING ACCEPT [0:0]\n:hops - [0:0]\n-A PREROUTING -i eth7 -j hops\n-A hops -j {target}\nCOMMIT\n\
             *filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"
        )
    };
    let says = |target: &str, asked: &[&str]| {
        let folder = folder(&[("rules.v4", &rules(target))]);
        let said = run(folder.path(), asked);
        assert_eq!(said.status, 0, "{}", said.err);
        said.err
            .contains("a rule of PREROUTING lowers the hop limit")
    };
    let forward = ["explain", "--rules", "rules.v4", "--hook", "forward"];
    let input = ["explain", "--rules", "rules.v4", "--hook", "input"];
    let matrix = ["matrix", "--rules", "rules.v4"];
    for target in ["TTL --ttl-set 1", "TTL --ttl-dec 1"] {
        assert!(says(target, &forward), "{target}");
        assert!(says(target, &matrix), "{target}");
        assert!(!says(target, &input), "{target}");
    }
    for target in ["TTL --ttl-set 64", "TTL --ttl-inc 1", "ACCEPT"] {
        assert!(!says(target, &forward), "{target}");
        assert!(!says(target, &matrix), "{target}");
    }
}
