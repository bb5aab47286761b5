//! Files of addresses, and sets with the file for `ipset restore`.

use std::path::Path;

use crate::fwc::{Run, files_below, folder, proven, rules_in, run};

const FROM_FILE: &str = "\
version = 1

[addresses]
office = { file = \"lists/office.txt\" }

[[rules]]
source = \"office\"
service = \"ssh\"
";

const SETS: &str = "\
version = 1

[addresses]
bad = { set = true, include = [\"192.0.2.0/24\", \"198.51.100.7\", \"2001:db8::/32\"] }
banned = { set = \"dynamic\", timeout = \"1h\" }

[[rules]]
action = \"drop\"
source = [\"bad\"]

[[rules]]
action = \"drop\"
source = \"banned\"
";

const WITHOUT_SETS: &str = "version = 1\n\n[[rules]]\nservice = \"ssh\"\n";

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).expect("a file")
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("a file");
}

fn build(folder: &Path) -> Run {
    run(folder, &["build", "-o", "out"])
}

/// The sources that ssh is accepted from, by the IPv4 file.
fn sources(list: &str) -> Vec<String> {
    let folder = folder(&[("fwc.toml", FROM_FILE), ("lists/office.txt", list)]);
    let run = build(folder.path());
    assert_eq!(run.status, 0, "{}", run.err);
    let text = read(folder.path(), "out/rules.v4");
    let lines = text.lines().filter(|line| line.contains("--dport 22 "));
    let words = lines.map(|line| line.split(' ').nth(3).expect("an address"));
    words.map(str::to_owned).collect()
}

#[test]
fn an_address_file() {
    let plain = sources("192.0.2.0/24\n198.51.100.7\n2001:db8::/32\n");
    assert_eq!(plain, ["192.0.2.0/24", "198.51.100.7/32"]);
    for same in [
        "192.0.2.0/24\r\n198.51.100.7\r\n2001:db8::/32\r\n",
        "192.0.2.0/24\n198.51.100.7\n2001:db8::/32",
        "# the office\n\n  192.0.2.0/24\t# all of it\n\n198.51.100.7#x\n#1.2.3.4\n2001:db8::/32\n",
    ] {
        assert_eq!(sources(same), plain, "{same:?}");
    }
}

fn wrong(files: &[(&str, &str)]) -> String {
    let folder = folder(&[&[("fwc.toml", FROM_FILE)], files].concat());
    let before = files_below(folder.path());
    let run = build(folder.path());
    assert_eq!((run.status, run.out.as_str()), (1, ""), "{}", run.err);
    assert_eq!(files_below(folder.path()), before, "nothing is written");
    run.err
}

/// The place is that in the list, whatever its line ends are.
#[test]
fn a_wrong_line() {
    for end in ["\n", "\r\n"] {
        let list = ["# office", "192.0.2.1", "  10.0.0.1/8 # wrong", "192.0.2.2"].join(end);
        let said = wrong(&[("lists/office.txt", &list)]);
        assert!(said.starts_with("error[host-bits-set]: "), "{said}");
        assert!(said.contains(" --> lists/office.txt:3:3\n"), "{said}");
        assert!(said.ends_with("fwc.toml: 1 error\n"), "{said}");
    }
}

#[test]
fn a_list_without_an_address() {
    for list in ["", "\n\n", "# nobody\r\n"] {
        let said = wrong(&[("lists/office.txt", list)]);
        assert!(
            said.starts_with(
                "error[empty-list]: `lists/office.txt` has no address\n --> fwc.toml:4:19\n"
            ),
            "{said}"
        );
    }
}

#[test]
fn a_list_that_is_not_there() {
    let said = wrong(&[]);
    assert!(
        said.starts_with(
            "error[include-nothing]: there is no file `lists/office.txt`\n --> fwc.toml:4:19\n"
        ),
        "{said}"
    );
    let folder = wrong(&[("lists/office.txt/x", "")]);
    assert!(folder.starts_with("error[unreadable]: "), "{folder}");
}

/// The list of an included policy lies beside that policy.
#[test]
fn a_list_of_an_included_file() {
    let root = "version = 1\ninclude = \"roles/base.toml\"\n\n[[rules]]\nsource = \"office\"\n";
    let base = "[addresses]\noffice = { file = \"office.txt\" }\n";
    let folder = folder(&[
        ("fwc.toml", root),
        ("roles/base.toml", base),
        ("roles/office.txt", "192.0.2.1\n"),
    ]);
    let run = build(folder.path());
    assert_eq!(run.status, 0, "{}", run.err);
    assert!(read(folder.path(), "out/rules.v4").contains("-s 192.0.2.1/32 "));
}

#[test]
fn the_sets_are_a_file() {
    let folder = folder(&[("fwc.toml", SETS)]);
    let run = build(folder.path());
    let told = proven(rules_in(&folder.path().join("out")));
    let told = told.trim_end().to_owned()
        + "; not verified: members that other programs add to `banned`\n\
           out/rules.v4 written\nout/rules.v6 written\nout/ipsets written\n";
    assert_eq!((run.status, run.err), (0, told));
    assert_eq!(
        read(folder.path(), "out/ipsets"),
        "# Made by fwc from a policy: edit the policy, not this file.\n\
         create fwc4-bad hash:net family inet maxelem 65536\n\
         add fwc4-bad 192.0.2.0/24\n\
         add fwc4-bad 198.51.100.7/32\n\
         create fwc6-bad hash:net family inet6 maxelem 65536\n\
         add fwc6-bad 2001:db8::/32\n\
         create fwc4-banned hash:net family inet maxelem 65536 timeout 3600\n\
         create fwc6-banned hash:net family inet6 maxelem 65536 timeout 3600\n"
    );
    for (file, names) in [
        ("out/rules.v4", ["fwc4-bad", "fwc4-banned"]),
        ("out/rules.v6", ["fwc6-bad", "fwc6-banned"]),
    ] {
        let text = read(folder.path(), file);
        for name in names {
            let found = text.contains(&format!(" -m set --match-set {name} src "));
            assert!(found, "{name} in {file}");
        }
    }
    let again = build(folder.path());
    assert!(
        again.err.ends_with("out/ipsets is up to date\n"),
        "{}",
        again.err
    );
}

/// The port of a member is the one that a packet goes to; replies come from it.
#[test]
fn sets_of_other_types() {
    let policy = "version = 1\n[defaults]\noutput = \"drop\"\n\
        [addresses]\nbans = { set = \"dynamic\", type = \"address,port\", size = 200000, counters = true, comments = true }\n\
        peers = { set = \"dynamic\", type = \"net,port\", timeout = \"60s\" }\nsingle = { set = \"dynamic\", type = \"address\" }\n\
        [[raw]]\ntype = \"notrack\"\nfrom = \"any\"\nto = \"host\"\nservice = \"53/udp\"\nsource = \"peers\"\n\
        [[rules]]\nservice = \"53/udp\"\nsource = \"peers\"\n\
        [[rules]]\naction = \"drop\"\nsource = \"!bans\"\nservice = \"ssh\"\n\
        [[rules]]\nfrom = \"host\"\ndestination = [\"peers\", \"single\"]\nservice = \"https\"\n";
    let folder = folder(&[("fwc.toml", policy)]);
    let run = build(folder.path());
    assert_eq!(run.status, 0, "{}", run.err);
    let sets = read(folder.path(), "out/ipsets");
    let created: Vec<&str> = sets.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        created,
        [
            "create fwc4-bans hash:ip,port family inet maxelem 200000 counters comment",
            "create fwc6-bans hash:ip,port family inet6 maxelem 200000 counters comment",
            "create fwc4-peers hash:net,port family inet maxelem 65536 timeout 60",
            "create fwc6-peers hash:net,port family inet6 maxelem 65536 timeout 60",
            "create fwc4-single hash:ip family inet maxelem 65536",
            "create fwc6-single hash:ip family inet6 maxelem 65536",
        ]
    );
    for (file, number) in [("out/rules.v4", 4), ("out/rules.v6", 6)] {
        let text = read(folder.path(), file);
        let has = |words: [&str; 2]| {
            let mut lines = text.lines();
            let found = lines.any(|line| words.iter().all(|words| line.contains(words)));
            assert!(found, "{words:?} in {file}\n{text}");
        };
        let set = |words: &str| format!(" --match-set fwc{number}-{words}");
        has(["-A PREROUTING ", &set("peers src,dst ")]);
        has(["-A OUTPUT ", &set("peers dst,src ")]);
        has(["--dport 53 ", &set("peers src,dst ")]);
        has(["--sport 53 ", &set("peers dst,src ")]);
        has(["--dport 22 ", &format!(" !{}", set("bans src,dst "))]);
        has(["--dport 443 ", &set("peers dst,dst ")]);
        has(["--dport 443 ", &set("single dst ")]);
    }
}

#[test]
fn a_set_from_a_file() {
    let policy = "version = 1\n\n[addresses]\nbad = { set = true, file = \"bad.txt\" }\n\n[[rules]]\naction = \"drop\"\nscope = \"ipv4\"\nsource = \"bad\"\n";
    let folder = folder(&[
        ("fwc.toml", policy),
        (
            "bad.txt",
            "192.0.2.2\r\n192.0.2.0/31 # both\r\n192.0.2.3\r\n",
        ),
    ]);
    let run = build(folder.path());
    assert_eq!(run.status, 0, "{}", run.err);
    assert!(
        read(folder.path(), "out/ipsets").ends_with("maxelem 65536\nadd fwc4-bad 192.0.2.0/30\n"),
        "the fewest prefixes"
    );
}

/// A zone that the addresses of a rule exclude gives a chain no rule, and so no preamble, which would drop INVALID packets.
#[test]
fn rules_without_packets_because_of_sets_are_no_rules() {
    for (networks, source) in [
        ("bad", "\"!bad\""),
        ("192.0.2.0/25", "\"!bad\""),
        ("192.0.2.0/24", "\"worse\""),
        ("192.0.2.0/24", "[\"worse\", \"203.0.113.7\"]"),
        // A dynamic set may lack any address, and may have any.
        ("bad", "{ not = [\"bad\", \"banned\"] }"),
    ] {
        let rules = forwarded_from(networks, source);
        assert!(!rules.contains("-A FORWARD"), "{source}\n{rules}");
    }
    let rules = forwarded_from("192.0.2.0/24", "[\"worse\", \"banned\"]");
    assert!(
        rules.contains("-A FORWARD -s 192.0.2.0/24 -m set --match-set fwc4-banned src -j DROP\n"),
        "{rules}"
    );
}

/// The IPv4 rules of a rule for packets of this host, and of forwarded packets from a zone, with such sources.
fn forwarded_from(networks: &str, source: &str) -> String {
    let policy = format!(
        "version = 1\n[defaults]\nforward = \"accept\"\n\
         [addresses]\nbad = {{ set = true, include = [\"192.0.2.0/24\"] }}\n\
         worse = {{ set = true, include = [\"198.51.100.0/24\"] }}\nbanned = {{ set = \"dynamic\" }}\n\
         [zones]\npartner = {{ networks = [\"{networks}\"] }}\n\
         [[rules]]\naction = \"drop\"\nfrom = [\"partner\", \"host\"]\nto = \"any\"\nsource = {source}\nscope = \"ipv4\"\n"
    );
    let folder = folder(&[("fwc.toml", &policy)]);
    let run = build(folder.path());
    assert_eq!(run.status, 0, "{policy}\n{}", run.err);
    read(folder.path(), "out/rules.v4")
}

#[test]
fn sets_that_are_not_needed_any_more() {
    let folder = folder(&[("fwc.toml", SETS)]);
    build(folder.path());
    write(folder.path(), "fwc.toml", WITHOUT_SETS);

    let check = run(folder.path(), &["build", "-o", "out", "--check"]);
    assert_eq!(check.status, 2);
    let line = "out/ipsets is not needed any more: build again\n";
    assert!(check.err.ends_with(line), "{}", check.err);
    assert!(folder.path().join("out/ipsets").exists());

    let removed = build(folder.path());
    assert_eq!(removed.status, 0, "{}", removed.err);
    let line = "out/ipsets removed: the policy has no sets\n";
    assert!(removed.err.ends_with(line), "{}", removed.err);
    let out = folder.path().join("out");
    assert_eq!(files_below(&out), ["rules.v4", "rules.v6"]);
    let check = run(folder.path(), &["build", "-o", "out", "--check"]);
    assert_eq!(check.status, 0, "{}", check.err);
}

/// A file with sets that fwc did not write is somebody's.
#[test]
fn sets_of_others_stay() {
    let folder = folder(&[
        ("fwc.toml", WITHOUT_SETS),
        ("out/ipsets", "create x hash:ip\n"),
    ]);
    for more in [&[][..], &["--check"]] {
        let run = run(folder.path(), &[&["build", "-o", "out"], more].concat());
        assert_eq!(run.status, 0, "{}", run.err);
        assert!(!run.err.contains("ipsets"), "{}", run.err);
    }
    assert_eq!(read(folder.path(), "out/ipsets"), "create x hash:ip\n");
}

/// A packet may be in the set and in the list; a rule that counts it must not count it twice.
#[test]
fn a_packet_of_a_set_and_a_list_counts_once() {
    let policy = "version = 1\n\n[addresses]\nbad = { include = [\"203.0.113.7\"], set = true }\n\n[[rules]]\nname = \"seen\"\naction = \"continue\"\nsource = [\"bad\", \"203.0.113.0/24\"]\n\n[[rules]]\nservice = \"ssh\"\n";
    let folder = folder(&[("fwc.toml", policy)]);
    let run = build(folder.path());
    assert_eq!(run.status, 0, "{}", run.err);
    let rules = read(folder.path(), "out/rules.v4");
    // `-g` returns to the base chain, past the other lines.
    let enter = rules.lines().filter(|line| line.contains(" -g FWC-"));
    assert_eq!(enter.count(), 2, "{rules}");
    assert!(!rules.contains("-A INPUT -s 203.0.113.0/24"), "{rules}");
}
