//! What else is on a host: the other backend, nft, sets, the lock, the distribution's own tool.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::process::Stdio;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use super::super::Test;
use super::super::confirm::until;
use super::super::namespace::{Backend, Namespace};
use super::super::support::tools::find;
use super::{Result, has, lacks, load, refused, saved, text};

pub const TESTS: &[(&str, Test)] = &[
    (
        "fact_a_native_rule_makes_a_table_unreadable",
        a_native_rule_makes_a_table_unreadable,
    ),
    (
        "fact_a_native_rule_may_be_shown_wrong",
        a_native_rule_may_be_shown_wrong,
    ),
    (
        "fact_rules_of_the_other_backend_are_not_seen",
        rules_of_the_other_backend_are_not_seen,
    ),
    (
        "fact_looking_with_legacy_makes_empty_tables",
        looking_with_legacy_makes_empty_tables,
    ),
    (
        "fact_flush_ruleset_erases_rules_of_iptables_nft",
        flush_ruleset_erases_rules_of_iptables_nft,
    ),
    (
        "fact_legacy_waits_for_the_lock_and_nft_does_not",
        legacy_waits_for_the_lock,
    ),
    (
        "fact_an_unreadable_table_takes_edits",
        an_unreadable_table_takes_edits,
    ),
    (
        "fact_a_comment_may_have_two_lines",
        a_comment_may_have_two_lines,
    ),
    (
        "fact_the_kernel_names_its_tables",
        the_kernel_names_its_tables,
    ),
    (
        "fact_a_lock_is_held_by_who_inherited_it",
        a_lock_is_held_by_who_inherited_it,
    ),
    ("fact_sets_have_types_and_ends", sets_have_types_and_ends),
    (
        "fact_iptables_apply_keeps_the_rules_when_its_terminal_dies",
        iptables_apply_keeps_the_rules_when_its_terminal_dies,
    ),
];

fn is_nft(backend: Backend) -> Result {
    match backend {
        Backend::Nft => Ok(()),
        Backend::Legacy => Err("a fact about nft".to_owned()),
    }
}

/// Every rule of this chain was made by nft.
fn with_native(ns: &Namespace, rule: &str) -> String {
    let table = format!(
        "flush ruleset\ntable ip filter {{\n chain INPUT {{\n type filter hook input priority 0;\n {rule}\n }}\n}}\n"
    );
    ns.run("nft", &["-f", "-"], &table).expect(0);
    let ended = ns.run("iptables-nft-save", &[], "").expect(0);
    ended.out + &ended.err
}

fn a_native_rule_makes_a_table_unreadable(backend: Backend) -> Result {
    is_nft(backend)?;
    let ns = Namespace::new(backend);
    let all = with_native(&ns, "ct state new accept");
    has(&all, "# Table `filter' is incompatible, use 'nft' tool.");
    lacks(&all, "COMMIT");
    Ok(())
}

fn a_native_rule_may_be_shown_wrong(backend: Backend) -> Result {
    is_nft(backend)?;
    let ns = Namespace::new(backend);
    let all = with_native(&ns, "tcp dport { 22, 80 } accept");
    has(&all, "-A INPUT -p tcp -j ACCEPT\n");
    let all = with_native(&ns, "ip saddr 192.0.2.1-192.0.2.9 accept");
    has(&all, "-A INPUT -s 192.0.2.9/32 -j ACCEPT\n");
    Ok(())
}

fn rules_of_the_other_backend_are_not_seen(backend: Backend) -> Result {
    is_nft(backend)?;
    let ns = Namespace::new(backend);
    let rules = text("filter", &["-A INPUT -s 192.0.2.1 -j DROP"]);
    ns.run("iptables-legacy-restore", &[], &rules).expect(0);
    let ended = ns.run("iptables-nft-save", &[], "").expect(0);
    lacks(&ended.out, "192.0.2.1");
    has(&(ended.out + &ended.err), "legacy tables present");
    Ok(())
}

fn looking_with_legacy_makes_empty_tables(backend: Backend) -> Result {
    let looks: &[(&str, &[&str], &str)] = &[
        ("iptables-legacy", &["-S"], ""),
        ("iptables-legacy-restore", &["--test"], "*filter\nCOMMIT\n"),
    ];
    let tables = |ns: &Namespace| ns.run("cat", &["/proc/net/ip_tables_names"], "").out;
    for (program, arguments, input) in looks {
        let ns = Namespace::new(backend);
        ns.run("iptables-legacy-save", &[], "").expect(0);
        assert_eq!(tables(&ns), "");
        ns.run(program, arguments, input).expect(0);
        assert_eq!(tables(&ns), "filter\n", "{program}");
        let ended = ns.run("iptables-nft-save", &[], "").expect(0);
        has(&(ended.out + &ended.err), "legacy tables present");
    }
    Ok(())
}

fn flush_ruleset_erases_rules_of_iptables_nft(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    load(&ns, &[], "filter", &["-A INPUT -j DROP"]).expect(0);
    ns.run("nft", &["flush", "ruleset"], "").expect(0);
    match backend {
        Backend::Nft => lacks(&saved(&ns), "-A INPUT"),
        Backend::Legacy => has(&saved(&ns), "-A INPUT -j DROP"),
    }
    Ok(())
}

fn legacy_waits_for_the_lock(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let lines = ["-A INPUT -j DROP"];
    let lock = File::create(ns.path("xtables.lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    // Without a time it waits for ever.
    let ended = load(&ns, &["--wait", "1"], "filter", &lines);
    match backend {
        Backend::Nft => drop(ended.expect(0)),
        Backend::Legacy => {
            has(&ended.expect(4).err, "xtables lock");
            drop(lock);
            load(&ns, &[], "filter", &lines).expect(0);
        }
    }
    Ok(())
}

/// Nothing of iptables: with one backend as good as with two.
fn sets_have_types_and_ends(backend: Backend) -> Result {
    is_nft(backend)?;
    find("ipset")?;
    let ns = Namespace::new(backend);
    let ipset = |text: &str| ns.run("ipset", &["-exist", "restore"], text);
    let sets = "create net hash:net\ncreate ip hash:ip\ncreate six hash:net family inet6\n";
    ipset(sets).expect(0);
    has(&ns.run("ipset", &["save"], "").out, "maxelem 65536");
    refused(ipset("swap net ip\n"));
    refused(ipset("swap net six\n"));
    refused(ipset("add six 2001:db8::1-2001:db8::9\n"));
    refused(ipset("add net 0.0.0.0/0\n"));
    ipset("add net 192.0.2.0/24\n").expect(0);
    // The file does not have it; it stays.
    ipset("create net hash:net\nadd net 198.51.100.0/24\n").expect(0);
    has(&ns.run("ipset", &["save", "net"], "").out, "192.0.2.0/24");
    Ok(())
}

fn iptables_apply_keeps_the_rules_when_its_terminal_dies(backend: Backend) -> Result {
    let tool = find("iptables-apply")?;
    let ns = Namespace::new(backend);
    fs::create_dir(ns.path("bin")).unwrap();
    for verb in ["save", "restore"] {
        let program = find(&format!("iptables-{backend}-{verb}"))?;
        symlink(program, ns.path("bin").join(format!("iptables-{verb}"))).unwrap();
    }
    fs::write(
        ns.path("rules"),
        text("filter", &["-A INPUT -s 192.0.2.1 -j DROP"]),
    )
    .unwrap();
    // It stops the fail2ban of the whole host, where its script is there.
    let script = "mount -t tmpfs none /etc/init.d && PATH=$PWD/bin:$PATH exec \"$0\" -t 60 rules";
    let arguments = [
        "--mount",
        "--",
        "/bin/sh",
        "-c",
        script,
        tool.to_str().unwrap(),
    ];
    let mut command = ns.command("unshare", &arguments);
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = ns.net().enter(|| command.spawn()).unwrap();
    until("it is in force", || saved(&ns).contains("192.0.2.1"));
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    for signal in [Signal::HUP, Signal::TERM] {
        // The first one may have ended it.
        let _ = kill_process(pid, signal);
    }
    drop(child.stdin.take());
    until("it ends", || child.try_wait().unwrap().is_some());
    has(&saved(&ns), "192.0.2.1");
    Ok(())
}

fn an_unreadable_table_takes_edits(backend: Backend) -> Result {
    is_nft(backend)?;
    let ns = Namespace::new(backend);
    let rules = [
        ":INPUT DROP [0:0]",
        ":mine - [0:0]",
        "-A INPUT -j mine",
        "-A mine -j ACCEPT",
    ];
    load(&ns, &[], "filter", &rules).expect(0);
    let native = "add set ip filter seen { type ipv4_addr; flags dynamic; timeout 1m; }\nadd rule ip filter mine add @seen { ip saddr }\n";
    ns.run("nft", &["-f", "-"], native).expect(0);
    let out = ns.run("iptables-nft-save", &[], "").expect(0).out;
    has(&out, "`filter' is incompatible");
    let edits = [
        ":INPUT ACCEPT [0:0]",
        ":mine - [0:0]",
        "-F INPUT",
        "-A INPUT -j LOG",
        "-X mine",
    ];
    load(&ns, &["--noflush"], "filter", &edits).expect(0);
    let out = saved(&ns);
    has(&out, ":INPUT ACCEPT");
    has(&out, "-A INPUT -j LOG");
    lacks(&out, "mine");
    Ok(())
}

fn a_comment_may_have_two_lines(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let comment = "one\ntwo \"three\"";
    ns.iptables(
        "iptables",
        &[
            "-A",
            "INPUT",
            "-m",
            "comment",
            "--comment",
            comment,
            "-j",
            "LOG",
        ],
    );
    has(&saved(&ns), "--comment \"one\ntwo \\\"three\\\"\" -j LOG\n");
    Ok(())
}

/// `nft list tables`, and the files that `iptables-legacy-save` goes by; an empty table is among them, and is saved.
fn the_kernel_names_its_tables(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let names = || match backend {
        Backend::Nft => ns.run("nft", &["list", "tables", "ip"], "").expect(0).out,
        Backend::Legacy => {
            ns.run("cat", &["/proc/self/net/ip_tables_names"], "")
                .expect(0)
                .out
        }
    };
    assert_eq!((names(), saved(&ns)), (String::new(), String::new()));
    load(
        &ns,
        &[],
        "raw",
        &[":PREROUTING ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]"],
    )
    .expect(0);
    has(&names(), "raw");
    has(&saved(&ns), "*raw\n");
    Ok(())
}

/// What fwc ends a change by: its tools inherit its lock, and whoever decides needs it.
fn a_lock_is_held_by_who_inherited_it(_: Backend) -> Result {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock");
    let script = "exec 9>\"$0\"; flock 9; sleep 600 & echo $!";
    let mut command = std::process::Command::new("/bin/sh");
    command
        .args(["-c", script])
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut shell = command.spawn().unwrap();
    let mut line = String::new();
    let out = shell.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
    shell.wait().unwrap();
    let other = File::open(&path).unwrap();
    let take = || flock(&other, FlockOperation::NonBlockingLockExclusive).is_ok();
    assert!(!take());
    // `/proc/locks` names the one that took it, which is gone; the descriptor of the one that inherited it says so.
    let child = line.trim();
    let info = fs::read_to_string(format!("/proc/{child}/fdinfo/9")).unwrap();
    has(&info, "FLOCK");
    let pid = Pid::from_raw(child.parse().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    until("it is free", take);
    Ok(())
}
