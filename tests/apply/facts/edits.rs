//! What `iptables-restore` does with a file.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use super::super::Test;
use super::super::confirm::until;
use super::super::namespace::{Backend, Namespace, run};
use super::super::support::tools::find;
use super::{Result, has, lacks, load, load_text, refused, saved, text};

pub const TESTS: &[(&str, Test)] = &[
    (
        "fact_a_file_is_atomic_for_each_table_only",
        a_file_is_atomic_for_each_table_only,
    ),
    (
        "fact_tables_come_into_force_one_after_another",
        tables_come_into_force_one_after_another,
    ),
    (
        "fact_test_accepts_a_jump_to_no_chain_with_nft",
        test_accepts_a_jump_to_no_chain_with_nft,
    ),
    ("fact_test_finds_a_missing_set", test_finds_a_missing_set),
    (
        "fact_test_accepts_masquerade_in_filter",
        test_accepts_masquerade_in_filter,
    ),
    (
        "fact_noflush_refills_the_chains_that_it_declares",
        noflush_refills_the_chains_that_it_declares,
    ),
    (
        "fact_noflush_sets_a_policy_and_keeps_the_rules",
        noflush_sets_a_policy_and_keeps_the_rules,
    ),
    (
        "fact_noflush_takes_edits_in_one_commit",
        noflush_takes_edits_in_one_commit,
    ),
    (
        "fact_noflush_deleting_what_is_not_there_fails_the_table",
        noflush_deleting_what_is_not_there_fails_the_table,
    ),
    (
        "fact_noflush_takes_the_counters_of_a_rule",
        noflush_takes_the_counters_of_a_rule,
    ),
    (
        "fact_without_commit_nothing_changes",
        without_commit_nothing_changes,
    ),
    (
        "fact_an_empty_ruleset_saves_as_nothing",
        an_empty_ruleset_saves_as_nothing,
    ),
    (
        "fact_a_user_can_load_rules_in_a_namespace_of_its_own",
        a_user_can_load_rules_in_a_namespace_of_its_own,
    ),
    (
        "fact_a_name_without_an_address_fails_the_file",
        a_name_without_an_address_fails_the_file,
    ),
    (
        "fact_reject_is_no_policy_and_postrouting_knows_no_input",
        reject_is_no_policy_and_postrouting_knows_no_input,
    ),
];

fn a_file_is_atomic_for_each_table_only(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let good = text("filter", &["-A INPUT -s 192.0.2.1 -j DROP"]);
    let bad = text("nat", &["-A POSTROUTING -j REJECT"]);
    refused(load_text(&ns, &[], &(good + &bad)));
    has(&saved(&ns), "-A INPUT -s 192.0.2.1/32 -j DROP");
    Ok(())
}

fn tables_come_into_force_one_after_another(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let program = format!("iptables-{backend}-restore");
    let mut command = ns.command(&program, &[]);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = ns.net().enter(|| command.spawn()).unwrap();
    let mut input = child.stdin.take().unwrap();
    let nat = text("nat", &["-A PREROUTING -p tcp --dport 80 -j REDIRECT"]);
    input.write_all(nat.as_bytes()).unwrap();
    until("nat is in force", || saved(&ns).contains("-j REDIRECT"));
    // The same file goes on.
    lacks(&saved(&ns), "-j DROP");
    let filter = text("filter", &["-A INPUT -j DROP"]);
    input.write_all(filter.as_bytes()).unwrap();
    drop(input);
    assert!(child.wait().unwrap().success());
    has(&saved(&ns), "-A INPUT -j DROP");
    Ok(())
}

fn test_accepts_a_jump_to_no_chain_with_nft(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let lines = ["-A INPUT -j no-such-chain"];
    let tested = load(&ns, &["--test"], "filter", &lines);
    match backend {
        Backend::Nft => drop(tested.expect(0)),
        Backend::Legacy => drop(refused(tested)),
    }
    refused(load(&ns, &[], "filter", &lines));
    lacks(&saved(&ns), "no-such-chain");
    Ok(())
}

fn test_finds_a_missing_set(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let lines = ["-A INPUT -m set --match-set no-such-set src -j DROP"];
    refused(load(&ns, &["--test"], "filter", &lines));
    Ok(())
}

fn test_accepts_masquerade_in_filter(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let lines = ["-A INPUT -s 192.0.2.1 -j DROP", "-A INPUT -j MASQUERADE"];
    load(&ns, &["--test"], "filter", &lines).expect(0);
    let ended = refused(load(&ns, &[], "filter", &lines));
    lacks(&saved(&ns), "192.0.2.1");
    let line = match backend {
        Backend::Nft => "line 3:",
        // That of COMMIT.
        Backend::Legacy => "line 4 failed",
    };
    has(&ended.err, line);
    Ok(())
}

/// Rules with counters in two chains.
const TWO: [&str; 5] = [
    ":INPUT DROP [1:100]",
    ":one - [0:0]",
    ":two - [0:0]",
    "[5:500] -A one -s 192.0.2.1 -j DROP",
    "[6:600] -A two -s 192.0.2.2 -j DROP",
];

fn two(backend: Backend) -> Namespace {
    let ns = Namespace::new(backend);
    load(&ns, &["--counters"], "filter", &TWO).expect(0);
    ns
}

fn noflush_refills_the_chains_that_it_declares(backend: Backend) -> Result {
    let ns = two(backend);
    let edit = [":one - [0:0]", "-A one -s 192.0.2.3 -j DROP"];
    load(&ns, &["--noflush"], "filter", &edit).expect(0);
    let saved = saved(&ns);
    lacks(&saved, "-A one -s 192.0.2.1/32");
    has(&saved, "[0:0] -A one -s 192.0.2.3/32 -j DROP\n");
    has(&saved, "[6:600] -A two -s 192.0.2.2/32 -j DROP\n");
    has(&saved, ":INPUT DROP ");
    Ok(())
}

fn noflush_sets_a_policy_and_keeps_the_rules(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let first = ["[5:500] -A INPUT -s 192.0.2.1 -j ACCEPT"];
    load(&ns, &["--counters"], "filter", &first).expect(0);
    load(&ns, &["--noflush"], "filter", &[":INPUT DROP"]).expect(0);
    has(&saved(&ns), ":INPUT DROP ");
    has(&saved(&ns), "[5:500] -A INPUT -s 192.0.2.1/32 -j ACCEPT\n");
    Ok(())
}

fn noflush_takes_edits_in_one_commit(backend: Backend) -> Result {
    let ns = two(backend);
    let edit = [
        "-D one -s 192.0.2.1 -j DROP",
        "-X one",
        "-I two 1 -s 192.0.2.4 -j DROP",
        "-P FORWARD DROP",
    ];
    load(&ns, &["--noflush"], "filter", &edit).expect(0);
    let saved = saved(&ns);
    lacks(&saved, ":one ");
    has(
        &saved,
        "[0:0] -A two -s 192.0.2.4/32 -j DROP\n[6:600] -A two -s 192.0.2.2/32 -j DROP\n",
    );
    has(&saved, ":FORWARD DROP ");
    // All or nothing.
    let before = super::saved(&ns);
    let edit = ["-P FORWARD ACCEPT", "-F two", "-X no-such-chain"];
    refused(load(&ns, &["--noflush"], "filter", &edit));
    assert_eq!(super::saved(&ns), before);
    Ok(())
}

fn noflush_deleting_what_is_not_there_fails_the_table(backend: Backend) -> Result {
    let ns = two(backend);
    let before = saved(&ns);
    let edit = ["-A two -j ACCEPT", "-D two -s 198.51.100.1 -j DROP"];
    refused(load(&ns, &["--noflush"], "filter", &edit));
    assert_eq!(saved(&ns), before);
    Ok(())
}

fn noflush_takes_the_counters_of_a_rule(backend: Backend) -> Result {
    let ns = two(backend);
    let edit = ["[7:700] -A one -s 192.0.2.5 -j DROP"];
    load(&ns, &["--noflush", "--counters"], "filter", &edit).expect(0);
    has(&saved(&ns), "[7:700] -A one -s 192.0.2.5/32 -j DROP\n");
    has(&saved(&ns), "[5:500] -A one -s 192.0.2.1/32 -j DROP\n");
    Ok(())
}

fn without_commit_nothing_changes(backend: Backend) -> Result {
    let ns = two(backend);
    let before = saved(&ns);
    load_text(
        &ns,
        &[],
        "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j ACCEPT\n",
    )
    .expect(1);
    assert_eq!(saved(&ns), before);
    Ok(())
}

fn an_empty_ruleset_saves_as_nothing(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let empty = ns
        .run(&format!("iptables-{backend}-save"), &[], "")
        .expect(0);
    assert_eq!(empty.out, "");
    load(&ns, &[], "filter", &[":INPUT DROP"]).expect(0);
    // What was saved does not bring it back, what is written out does.
    load_text(&ns, &[], &empty.out);
    has(&saved(&ns), ":INPUT DROP ");
    load(&ns, &[], "filter", &[":INPUT ACCEPT"]).expect(0);
    lacks(&saved(&ns), "DROP");
    Ok(())
}

fn a_user_can_load_rules_in_a_namespace_of_its_own(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    fs::set_permissions(ns.path(""), fs::Permissions::from_mode(0o777)).unwrap();
    find("setpriv")?;
    let script = |then: &str| {
        format!(
            "printf '*filter\\n-A INPUT -j DROP\\nCOMMIT\\n' | iptables-{backend}-restore && {then}"
        )
    };
    let as_nobody = |script: &str| {
        let words = [
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "unshare",
            "-Urn",
            "--",
        ];
        let mut command = ns.command("setpriv", &[&words[..], &["sh", "-c", script]].concat());
        run(command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "")
    };
    if as_nobody("true").code != Some(0) {
        return Err("users may not make user namespaces here".to_owned());
    }
    as_nobody(&script("true")).expect(0);
    let read = as_nobody(&script(&format!("iptables-{backend}-save")));
    match backend {
        Backend::Nft => has(&read.expect(0).out, "-A INPUT -j DROP"),
        Backend::Legacy => lacks(&read.out, "-A INPUT"),
    }
    Ok(())
}

fn a_name_without_an_address_fails_the_file(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let lines = [
        "-A INPUT -s 192.0.2.1 -j DROP",
        "-A INPUT -s no-such-host.invalid -j DROP",
    ];
    refused(load(&ns, &[], "filter", &lines));
    lacks(&saved(&ns), "-A INPUT");
    Ok(())
}

fn reject_is_no_policy_and_postrouting_knows_no_input(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    refused(load(&ns, &[], "filter", &[":INPUT REJECT"]));
    let program = format!("iptables-{backend}");
    refused(ns.run(&program, &["-P", "INPUT", "REJECT"], ""));
    let lines = ["-A POSTROUTING -i eth0 -j MASQUERADE"];
    refused(load(&ns, &[], "nat", &lines));
    Ok(())
}
