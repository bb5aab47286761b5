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
