//! Sets on real kernels: made, changed and removed with the rules, and never more than that.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::Test;
use super::namespace::{Backend, Namespace, SSH, TOOLS};
use super::support::namespace::Namespace as Net;
use super::support::network::{End, Reply, expecting, link, tcp};
use super::support::tools::find;

pub const TESTS: &[(&str, Test)] = &[
    ("first_apply_makes_sets", first_apply_makes_sets),
    (
        "second_apply_with_sets_changes_nothing",
        second_apply_with_sets_changes_nothing,
    ),
    (
        "changed_members_block_and_let_through",
        changed_members_block_and_let_through,
    ),
    (
        "dynamic_members_stay_through_a_changed_timeout",
        dynamic_members_stay_through_a_changed_timeout,
    ),
    (
        "dynamic_members_stay_through_a_changed_size",
        dynamic_members_stay_through_a_changed_size,
    ),
    (
        "dynamic_members_stay_through_counters_and_comments",
        dynamic_members_stay_through_counters_and_comments,
    ),
    (
        "a_changed_type_stops_apply_and_keeps_the_members",
        a_changed_type_stops_apply_and_keeps_the_members,
    ),
    (
        "sets_that_nobody_needs_are_removed",
        sets_that_nobody_needs_are_removed,
    ),
    ("set_of_others_is_used", set_of_others_is_used),
    (
        "set_of_another_type_stops_apply",
        set_of_another_type_stops_apply,
    ),
    ("dry_run_changes_no_set", dry_run_changes_no_set),
    ("diff_shows_sets", diff_shows_sets),
    (
        "persisted_files_load_in_a_fresh_namespace",
        persisted_files_load_in_a_fresh_namespace,
    ),
];

type Result = std::result::Result<(), String>;

/// A policy with a set of `members`, and one that others fill.
fn policy(members: &[&str], timeout: &str) -> String {
    format!(
        "version = 1\n\n[addresses]\nblocked = {{ include = {}, set = true }}\nbanned = {{ set = \"dynamic\", timeout = \"{timeout}\" }}\n\n[[rules]]\nsource = \"blocked\"\naction = \"drop\"\n\n[[rules]]\nsource = \"banned\"\naction = \"drop\"\n\n[[rules]]\nservice = \"http\"\n",
        json!(members)
    )
}

const MEMBERS: [&str; 3] = ["192.0.2.0/24", "198.51.100.7", "2001:db8:bad::/48"];

/// A namespace whose `sets.toml` blocks these.
fn namespace(backend: Backend) -> std::result::Result<Namespace, String> {
    find("ipset")?;
    let ns = Namespace::new(backend);
    write(&ns, &policy(&MEMBERS, "1h"));
    Ok(ns)
}

fn write(ns: &Namespace, policy: &str) {
    fs::write(ns.path("sets.toml"), policy).unwrap();
}

/// The commands run one after another.
fn ipset(ns: &Namespace, commands: &str) {
    ns.run("ipset", &["restore"], commands).expect(0);
}

/// What the kernel has: all but how memory is laid out.
fn sets(ns: &Namespace) -> String {
    ns.run("ipset", &["save"], "").expect(0).out
}

fn names(ns: &Namespace) -> Vec<String> {
    let listed = ns.run("ipset", &["list", "-n"], "").expect(0).out;
    let mut names: Vec<_> = listed.lines().map(str::to_owned).collect();
    names.sort();
    names
}

fn lists(ns: &Namespace, member: &str) -> bool {
    sets(ns)
        .lines()
        .any(|line| line == member || line.starts_with(&format!("{member} ")))
}

fn count(ns: &Namespace) -> String {
    for tool in TOOLS {
        let counted = ns
            .saved_family(tool)
            .replace("[0:0] -A INPUT", "[7:700] -A INPUT");
        ns.restore(tool, &counted).expect(0);
    }
    let saved = ns.saved();
    assert!(saved.contains("[7:700] -A INPUT"), "{saved}");
    saved
}

fn first_apply_makes_sets(backend: Backend) -> Result {
    let ns = namespace(backend)?;
    let applied = ns.apply("sets.toml", &[]).expect(0);
    assert!(
        applied
            .out
            .contains("created sets: fwc4-banned, fwc4-blocked, fwc6-banned, fwc6-blocked\n"),
        "{}",
        applied.out
    );
    for member in [
        "add fwc4-blocked 192.0.2.0/24",
        "add fwc4-blocked 198.51.100.7",
        "add fwc6-blocked 2001:db8:bad::/48",
    ] {
        assert!(lists(&ns, member), "{member}: {}", sets(&ns));
    }
    assert!(ns.saved().contains("--match-set fwc6-banned src"));
    ns.fwc(&["diff", "sets.toml"]).expect(0);
    let folder = ns.path("iptables");
    ns.fwc(&["diff", "live", folder.to_str().unwrap()])
        .expect(0);
    Ok(())
}

fn second_apply_with_sets_changes_nothing(backend: Backend) -> Result {
    let ns = namespace(backend)?;
    ns.apply("sets.toml", &[]).expect(0);
    ipset(&ns, "add fwc4-banned 203.0.113.9 timeout 0\n");
    let (rules, before) = (count(&ns), sets(&ns));
    let again = ns.apply("sets.toml", &[]).expect(0);
    assert!(again.out.contains("nothing to do"), "{}", again.out);
    assert_eq!(ns.saved(), rules);
    // The kernel's number of each set shows that it is the same one.
    assert_eq!(sets(&ns), before);
    Ok(())
}

fn changed_members_block_and_let_through(backend: Backend) -> Result {
    let ns = namespace(backend)?;
    let peer = Net::new()?;
    link(
        &End(ns.net(), "here", &["10.9.0.1/24"]),
        &End(&peer, "there", &["10.9.0.2/24"]),
    )?;
    let page = || tcp(&peer, ns.net(), "10.9.0.1:80".parse().unwrap());
    ns.apply("sets.toml", &[]).expect(0);
    assert_eq!(page()?, Reply::Answer);
    let chains = |saved: &str| -> Vec<String> {
        let rules = saved.lines().filter(|line| line.contains("-A "));
        rules
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect()
    };
    let rules = count(&ns);
    write(&ns, &policy(&["10.9.0.0/30", "2001:db8:bad::/48"], "1h"));
    let report = ns.apply("sets.toml", &["--format", "json"]).expect(0);
    let report: Value = serde_json::from_str(&report.out).unwrap();
    assert_eq!(report["sets"]["replaced"], json!(["fwc4-blocked"]));
    assert_eq!(report["sets"]["created"], json!([]));
    assert_eq!(report["replaced"], json!([]));
    assert_eq!(expecting(Reply::Silence, page)?, Reply::Silence);
    // The rules are those from before, with what they counted, and more.
    let now = ns.saved();
    assert_eq!(chains(&now), chains(&rules));
    assert!(now.contains("[7:700] -A INPUT"), "{now}");
    assert!(names(&ns).iter().all(|name| !name.ends_with('~')));
    assert!(!lists(&ns, "add fwc4-blocked 192.0.2.0/24"));

    write(&ns, &policy(&MEMBERS, "1h"));
    ns.apply("sets.toml", &[]).expect(0);
    assert_eq!(page()?, Reply::Answer);

    // What somebody else did to a set of the policy's is a difference.
    ipset(&ns, "add fwc4-blocked 10.9.0.2\n");
    assert_eq!(expecting(Reply::Silence, page)?, Reply::Silence);
    let diff = ns.fwc(&["diff", "--unified", "sets.toml"]);
    let diff = diff.expect(2).out;
    assert!(diff.contains("-add fwc4-blocked 10.9.0.2/32\n"), "{diff}");
    ns.apply("sets.toml", &[]).expect(0);
    assert_eq!(page()?, Reply::Answer);
    Ok(())
}

fn dynamic_members_stay_through_a_changed_timeout(backend: Backend) -> Result {
    let ns = namespace(backend)?;
    ns.apply("sets.toml", &[]).expect(0);
    ipset(
        &ns,
        "add fwc4-banned 203.0.113.9\nadd fwc4-banned 203.0.113.10 timeout 0\nadd fwc6-banned 2001:db8::9 timeout 500\n",
    );
    ns.fwc(&["diff", "sets.toml"]).expect(0);
    ns.apply("sets.toml", &[]).expect(0);
    assert!(lists(&ns, "add fwc4-banned 203.0.113.9"));

    write(&ns, &policy(&MEMBERS, "2h"));
    let diff = ns.fwc(&["diff", "sets.toml"]).expect(2).out;
    assert!(diff.contains("set fwc4-banned (made anew)\n"), "{diff}");
    assert!(diff.contains("maxelem 65536 timeout 7200\n"), "{diff}");
    assert!(!diff.contains("203.0.113.9"), "{diff}");
    let rules = count(&ns);
    let applied = ns.apply("sets.toml", &[]).expect(0);
    assert!(
        applied
            .out
            .contains("replaced sets: fwc4-banned, fwc6-banned\n"),
        "{}",
        applied.out
    );
    assert_eq!(ns.saved(), rules);
    let now = sets(&ns);
    assert!(
        now.contains("timeout 7200") && !now.contains("timeout 3600 "),
        "{now}"
    );
    let left = |member: &str| -> u32 {
        let line = now.lines().find(|line| line.starts_with(member));
        let line = line.unwrap_or_else(|| panic!("{member} is not in\n{now}"));
        line.split_ascii_whitespace()
            .last()
            .unwrap()
            .parse()
            .unwrap()
    };
    // Each keeps the time that was left to it.
    assert!((3500..=3600).contains(&left("add fwc4-banned 203.0.113.9 ")));
    assert_eq!(left("add fwc4-banned 203.0.113.10 "), 0);
    assert!((400..=500).contains(&left("add fwc6-banned 2001:db8::9 ")));
    ns.fwc(&["diff", "sets.toml"]).expect(0);
    let kept = fs::read_to_string(ns.path("iptables/ipsets")).unwrap();
    assert!(!kept.contains("add fwc4-banned"), "{kept}");
    Ok(())
}

fn dynamic_members_stay_through_a_changed_size(backend: Backend) -> Result {
    let ns = namespace(backend)?;
    let sized =
        |size: &str| policy(&MEMBERS, "1h").replace("\"1h\" }", &format!("\"1h\"{size} }}"));
    write(&ns, &sized(", size = 3"));
    ns.apply("sets.toml", &[]).expect(0);
    ipset(
        &ns,
        "add fwc4-banned 203.0.113.1\nadd fwc4-banned 203.0.113.2\nadd fwc4-banned 203.0.113.3\n",
    );
    let full = ns.run("ipset", &["add", "fwc4-banned", "203.0.113.4"], "");
    assert_eq!(full.code, Some(1), "{}", full.err);
    let all = |count: usize| {
        let now = sets(&ns);
        assert_eq!(now.matches("add fwc4-banned ").count(), count, "{now}");
        now
    };
    // Too small for what is in it: nothing is changed.
    write(&ns, &sized(", size = 2"));
    let refused = ns.apply("sets.toml", &[]).expect(1);
    assert!(refused.err.contains("has 3 members"), "{}", refused.err);
    assert!(
        refused.err.contains("nothing was changed"),
        "{}",
        refused.err
    );
    assert!(all(3).contains("maxelem 3 "));
    // Larger, and beyond its old size before it is taken back.
    write(&ns, &sized(", size = 200000"));
    ns.apply("sets.toml", &["--confirm"]).expect(0);
    assert!(all(3).contains("maxelem 200000 "));
    ipset(&ns, "add fwc4-banned 203.0.113.4\n");
    ns.kept(&["rollback"]).expect(0);
    assert!(all(4).contains("maxelem 200000 "));
    ns.apply("sets.toml", &[]).expect(0);
    all(4);
    write(&ns, &sized(""));
    ns.apply("sets.toml", &[]).expect(0);
    assert!(all(4).contains("maxelem 65536 "));
    Ok(())
}

/// A policy whose dynamic set has these keys more.
fn typed(keys: &str) -> String {
    policy(&MEMBERS, "1h").replace("\"1h\" }", &format!("\"1h\"{keys} }}"))
}

fn dynamic_members_stay_through_counters_and_comments(backend: Backend) -> Result {
    let ns = namespace(backend)?;
    write(&ns, &typed(", type = \"address,port\""));
    ns.apply("sets.toml", &[]).expect(0);
    assert!(ns.saved().contains("--match-set fwc4-banned src,dst"));
    ns.fwc(&["diff", "sets.toml"]).expect(0);
    ipset(
        &ns,
        "add fwc4-banned 203.0.113.9,tcp:80\nadd fwc4-banned 203.0.113.9,tcp:443 timeout 0\nadd fwc6-banned 2001:db8::9,udp:53\n",
    );
    let all = |options: &str, more: [&str; 3]| {
        let now = sets(&ns);
        assert!(now.contains(options), "{options}: {now}");
        for (member, more) in [
            "add fwc4-banned 203.0.113.9,tcp:80 ",
            "add fwc4-banned 203.0.113.9,tcp:443 ",
            "add fwc6-banned 2001:db8::9,udp:53 ",
        ]
        .iter()
        .zip(more)
        {
            let mut lines = now.lines();
            let is_there = lines.any(|line| line.starts_with(member) && line.ends_with(more));
            assert!(is_there, "{member}{more}: {now}");
        }
    };
    let keys = ", type = \"address,port\", counters = true, comments = true";
    write(&ns, &typed(keys));
    let diff = ns.fwc(&["diff", "sets.toml"]).expect(2).out;
    assert!(diff.contains("set fwc4-banned (made anew)\n"), "{diff}");
    ns.apply("sets.toml", &["--confirm"]).expect(0);
    all("timeout 3600 counters comment ", ["bytes 0"; 3]);
    ipset(
        &ns,
        "add -exist fwc4-banned 203.0.113.9,tcp:80 packets 7 bytes 700 comment \"two  spaces # and more\"\n",
    );
    ns.kept(&["confirm"]).expect(0);
    // The members keep what is known about them through a change of the size.
    write(&ns, &typed(&format!("{keys}, size = 1000")));
    ns.apply("sets.toml", &[]).expect(0);
    let kept = "packets 7 bytes 700 comment \"two  spaces # and more\"";
    all(
        "maxelem 1000 timeout 3600 counters comment ",
        [kept, "bytes 0", "bytes 0"],
    );
    ns.fwc(&["diff", "sets.toml"]).expect(0);
    // What the new set does not have is lost, and no member is.
    write(&ns, &typed(", type = \"address,port\", comments = true"));
    ns.apply("sets.toml", &[]).expect(0);
    all(
        "timeout 3600 comment ",
        ["comment \"two  spaces # and more\"", "", ""],
    );
    let again = ns.apply("sets.toml", &[]).expect(0).out;
    assert!(again.contains("nothing to do"), "{again}");
    Ok(())
}

fn a_changed_type_stops_apply_and_keeps_the_members(backend: Backend) -> Result {
    let ns = namespace(backend)?;
    ns.apply("sets.toml", &[]).expect(0);
    ipset(&ns, "add fwc4-banned 203.0.113.9\n");
    let rules = ns.saved();
    for (kind, shown) in [
        ("address", "hash:ip"),
        ("net,port", "hash:net,port"),
        ("address,port", "hash:ip,port"),
    ] {
        write(&ns, &typed(&format!(", type = \"{kind}\"")));
        let refused = ns.apply("sets.toml", &[]).expect(1).err;
        let wanted = format!("has the type `hash:net`, but the policy wants `{shown}`");
        assert!(refused.contains(&wanted), "{refused}");
        assert!(refused.contains("nothing was changed"), "{refused}");
        assert_eq!(ns.saved(), rules);
        assert!(lists(&ns, "add fwc4-banned 203.0.113.9"));
    }
    // As the message says: without the set once, then with the new type.
    ns.apply("ssh.toml", &[]).expect(0);
    write(&ns, &typed(", type = \"address\""));
    ns.apply("sets.toml", &[]).expect(0);
    assert!(sets(&ns).contains("create fwc4-banned hash:ip family inet "));
    Ok(())
}

fn sets_that_nobody_needs_are_removed(backend: Backend) -> Result {
    let ns = namespace(backend)?;
    ns.apply("sets.toml", &[]).expect(0);
    // One that others use, one that is not fwc's, one that only looks like it.
    ipset(
        &ns,
        "create fwc4-inuse hash:net\ncreate all list:set\nadd all fwc4-inuse\ncreate mine hash:net\ncreate fwc4-ports bitmap:port range 1-9\n",
    );
    let dry = ns.apply("ssh.toml", &["--dry-run"]).expect(2).out;
    assert!(dry.contains("-create fwc4-blocked hash:net"), "{dry}");
    assert!(!dry.contains("inuse") && !dry.contains("mine"), "{dry}");
    let applied = ns.apply("ssh.toml", &[]).expect(0).out;
    assert!(
        applied.contains("removed sets: fwc4-banned, fwc4-blocked, fwc6-banned, fwc6-blocked\n"),
        "{applied}"
    );
    assert!(!applied.contains("could not"), "{applied}");
    assert_eq!(names(&ns), ["all", "fwc4-inuse", "fwc4-ports", "mine"]);
    assert!(!ns.path("iptables/ipsets").exists());
    let again = ns.apply("ssh.toml", &[]).expect(0).out;
    assert!(again.contains("nothing to do"), "{again}");
    ns.fwc(&["diff", "ssh.toml"]).expect(0);
    Ok(())
}

fn set_of_others_is_used(backend: Backend) -> Result {
    let ns = namespace(backend)?;
    let theirs = "\n[[rules]]\nipset = \"theirs\"\nscope = \"ipv4\"\nservice = \"http\"\n";
    write(&ns, &format!("{SSH}{theirs}"));
    let before = ns.saved();
    let refused = ns.apply("sets.toml", &[]).expect(1).err;
    assert!(refused.contains("the set `theirs`"), "{refused}");
    assert_eq!(ns.saved(), before);
    assert!(ns.rules_files().is_empty());

    ipset(
        &ns,
        "create theirs hash:ip counters comment timeout 60\nadd theirs 192.0.2.1 timeout 0\n",
    );
    let set = sets(&ns);
    ns.apply("sets.toml", &[]).expect(0);
    assert!(ns.saved().contains("--match-set theirs src"));
    assert_eq!(sets(&ns), set);
    ns.fwc(&["diff", "sets.toml"]).expect(0);
    // Nothing of it is kept for the next boot.
    assert!(!ns.path("iptables/ipsets").exists());
    let again = ns.apply("sets.toml", &[]).expect(0).out;
    assert!(again.contains("nothing to do"), "{again}");
    Ok(())
}

fn set_of_another_type_stops_apply(backend: Backend) -> Result {
    let ns = namespace(backend)?;
    ipset(
        &ns,
        "create fwc4-banned hash:net,iface\nadd fwc4-banned 192.0.2.0/24,eth0\n",
    );
    let (rules, set) = (ns.saved(), sets(&ns));
    let refused = ns.apply("sets.toml", &[]).expect(1).err;
    assert!(
        refused.contains("`fwc4-banned` of the type `hash:net,iface`"),
        "{refused}"
    );
    assert_eq!((ns.saved(), sets(&ns)), (rules, set));
    Ok(())
}

fn dry_run_changes_no_set(backend: Backend) -> Result {
    let ns = namespace(backend)?;
    let dry = ns.apply("sets.toml", &["--dry-run"]).expect(2).out;
    assert!(dry.contains("+add fwc4-blocked 192.0.2.0/24\n"), "{dry}");
    assert!(dry.contains("would create sets: fwc4-banned, "), "{dry}");
    assert_eq!(sets(&ns), "");
    ns.apply("sets.toml", &[]).expect(0);
    let before = (ns.saved(), sets(&ns));
    write(&ns, &policy(&["10.0.0.0/8"], "2h"));
    ns.apply("sets.toml", &["--dry-run"]).expect(2);
    ns.apply("ssh.toml", &["--dry-run"]).expect(2);
    assert_eq!((ns.saved(), sets(&ns)), before);
    Ok(())
}

fn diff_shows_sets(backend: Backend) -> Result {
    let ns = namespace(backend)?;
    ns.fwc(&["build", "-o", "old", "sets.toml"]).expect(0);
    write(&ns, &policy(&["192.0.2.0/24", "2001:db8:bad::/48"], "1h"));
    ns.fwc(&["build", "-o", "new", "sets.toml"]).expect(0);
    let diff = ns.fwc(&["diff", "--unified", "old", "new"]).expect(2);
    assert!(
        diff.out.starts_with("--- old (sets)\n+++ new (sets)\n"),
        "{}",
        diff.out
    );
    assert!(diff.out.contains("\n-add fwc4-blocked 198.51.100.7/32\n"));
    ns.fwc(&["diff", "new", "sets.toml"]).expect(0);
    let report = ns
        .fwc(&["diff", "old", "sets.toml", "--unified", "--format", "json"])
        .expect(2);
    let report: Value = serde_json::from_str(&report.out).unwrap();
    assert!(report["unified"]["sets"].is_string());
    assert!(report["unified"]["ipv4"].is_null());
    Ok(())
}

fn persisted_files_load_in_a_fresh_namespace(backend: Backend) -> Result {
    let ns = namespace(backend)?;
    ns.apply("sets.toml", &[]).expect(0);
    ipset(&ns, "add fwc4-banned 203.0.113.9\n");
    let fresh = ns.sibling();
    let read = |name: &str| fs::read_to_string(Path::new(&ns.path("iptables")).join(name)).unwrap();
    // As the plugin of netfilter-persistent does.
    let load = || {
        let text = read("ipsets");
        fresh.run("ipset", &["restore", "-exist"], &text).expect(0);
        for (tool, file) in TOOLS.into_iter().zip(["rules.v4", "rules.v6"]) {
            fresh.restore(tool, &read(file)).expect(0);
        }
    };
    load();
    write(&fresh, &policy(&MEMBERS, "1h"));
    fresh.fwc(&["diff", "sets.toml"]).expect(0);
    assert!(lists(&fresh, "add fwc4-blocked 192.0.2.0/24"));
    assert!(!lists(&fresh, "add fwc4-banned 203.0.113.9"));
    let again = fresh.apply("sets.toml", &[]).expect(0).out;
    assert!(again.contains("nothing to do"), "{again}");
    // And again, beside what is there.
    load();
    Ok(())
}
