//! Rules about packets that are not tracked: what they have in common is decided for all packets.

use crate::fwc::{Run, folder, run};

fn check(entry: &str, rule: &str) -> Run {
    let policy = format!(
        "version = 1\n[zones]\npartner = {{ networks = [\"198.51.100.0/24\"] }}\n[[raw]]\ntype = \"notrack\"\nservice = \"dns\"\n{entry}\n\
         [[rules]]\nservice = \"dns\"\nstate = \"new\"\n{rule}\n"
    );
    let folder = folder(&[("fwc.toml", &policy)]);
    run(folder.path(), &["check"])
}

/// Such packets are never new, but a rule that none of them meets may ask for new ones.
#[test]
fn a_rule_for_new_packets_is_wrong_where_it_meets_untracked_ones() {
    for (entry, rule, is_wrong) in [
        ("", "", true),
        ("from = \"partner\"", "from = \"partner\"", true),
        ("from = \"partner\"", "source = \"192.0.2.7\"", false),
        ("source = \"192.0.2.0/24\"", "from = \"partner\"", false),
        ("", "mac = \"02:00:00:00:00:01\"", true),
        ("", "enabled = false", false),
        (
            "source = \"192.0.2.0/24\"",
            "source = \"192.0.2.128/25\"",
            true,
        ),
        (
            "source = \"192.0.2.0/24\"",
            "source = \"198.51.100.0/24\"",
            false,
        ),
        ("", "mark = 3", true),
    ] {
        let run = check(entry, rule);
        let said = run.err.contains("error[notrack-state]");
        assert_eq!(said, is_wrong, "{entry}\n{rule}\n{}", run.err);
    }
}

/// A set matches the source; turned round that is the destination: of the replies that a rule lets pass, and of the packets
/// that answer those of a `clamp-mss` entry. The proof holds the rules to it.
#[test]
fn what_goes_back_asks_a_set_about_its_destination() {
    let policy = r#"version = 1
[defaults]
output = "drop"

[interfaces]
guests = "eth3"
wan = "ppp0"

[[raw]]
type = "notrack"
from = "guests"
to = "host"
service = "53/udp"

[[rules]]
from = "guests"
service = "53/udp"
ipset = "registered"
scope = "ipv4"

[[rules]]
from = "guests"
to = "wan"

[[mangle]]
type = "clamp-mss"
from = "guests"
to = "wan"
ipset = "registered"
scope = "ipv4"
"#;
    let folder = folder(&[("fwc.toml", policy)]);
    let built = run(folder.path(), &["build", "-o", "-", "--family", "ipv4"]);
    assert_eq!(built.status, 0, "{}", built.err);
    assert!(built.err.contains("verified: all "), "{}", built.err);
    let sides = |chain: &str| {
        let lines = built.out.lines();
        let lines = lines.filter(|line| {
            line.starts_with(&format!("-A {chain} ")) && line.contains("--match-set registered")
        });
        let side = |line: &str| match line.contains("--match-set registered src ") {
            true => "src",
            false => "dst",
        };
        let device = |line: &str| line.contains("-i eth3 ");
        lines
            .map(|line| (device(line), side(line)))
            .collect::<Vec<_>>()
    };
    assert_eq!(sides("INPUT"), [(true, "src")]);
    assert_eq!(sides("FWC-OUTPUT-REPLIES"), [(false, "dst")]);
    assert_eq!(sides("FORWARD"), [(true, "src"), (false, "dst")]);
}
