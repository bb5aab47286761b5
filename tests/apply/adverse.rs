//! Surroundings that no tidy host has: an environment that wants to be heard, a umask that denies all, thousands of chains of others,
//! busybox in place of iproute2, rules in both backends.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::Test;
use super::confirm::{is_open, until};
use super::namespace::{Backend, Namespace, TOOLS, run};
use super::support::tools::find;

pub const TESTS: &[(&str, Test)] = &[
    (
        "environment_does_not_reach_the_commit",
        environment_does_not_reach_the_commit,
    ),
    ("umask_changes_no_mode", umask_changes_no_mode),
    (
        "thousands_of_chains_of_others_stay",
        thousands_of_chains_of_others_stay,
    ),
    ("busybox_ip_stops_nothing", busybox_ip_stops_nothing),
    (
        "rules_in_both_backends_stop_no_way_to_close",
        rules_in_both_backends_stop_no_way_to_close,
    ),
];

type Result = std::result::Result<(), String>;

/// Notes which program it was loaded into.
const PRELOADED: &str = r#"
#include <stdio.h>
#include <unistd.h>
__attribute__((constructor)) static void loaded(void) {
    char name[4096] = {0};
    if (readlink("/proc/self/exe", name, sizeof name - 1) < 0) return;
    FILE *out = fopen(SEEN, "a");
    if (out) { fprintf(out, "%s\n", name); fclose(out); }
}
"#;

fn environment_does_not_reach_the_commit(backend: Backend) -> Result {
    let compiler = find("cc")?;
    let ns = Namespace::new(backend);
    let at = |name: &str| ns.path(name).display().to_string();
    fs::write(ns.path("evil.c"), PRELOADED).unwrap();
    let seen = format!("-DSEEN=\"{}\"", at("seen"));
    let (library, source) = (at("evil.so"), at("evil.c"));
    let arguments = ["-shared", "-fPIC", &seen, "-o", &library, &source];
    run(Command::new(compiler).args(arguments), "").expect(0);
    // Whatever is looked for by PATH is a program that tells.
    fs::create_dir(ns.path("bin")).unwrap();
    let script = format!("#!/bin/sh\necho \"$0\" >> {}\n", at("seen"));
    let saves = ["save", "restore"].map(|verb| format!("iptables-{verb}"));
    let names = [
        "ipset", "ip", "unshare", "modprobe", "nft", "iptables", "sh",
    ];
    for name in names
        .iter()
        .copied()
        .chain(saves.iter().map(String::as_str))
    {
        let file = ns.path("bin").join(name);
        fs::write(&file, &script).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let sets = "version = 1\n[addresses]\nblocked = { include = [\"192.0.2.1\"], set = true }\n[[rules]]\nsource = \"blocked\"\naction = \"drop\"\n[[rules]]\nservice = \"ssh\"\n";
    fs::write(ns.path("sets.toml"), sets).unwrap();
    let persist = at("iptables");
    let fwc = |arguments: &[&str]| {
        let all = [arguments, &["--persist-dir", &persist]].concat();
        let mut command = ns.command(env!("CARGO_BIN_EXE_fwc"), &all);
        command
            .env("LD_PRELOAD", &library)
            .env("LD_LIBRARY_PATH", at("bin"))
            .env("PATH", at("bin"))
            .env("XTABLES_LIBDIR", at("bin"))
            .env("IPTABLES_LIB_DIR", at("bin"))
            .env("IP6TABLES_LIB_DIR", at("bin"))
            .env("XTABLES_COMPAT", "no")
            .env("IPTABLES_OPTS", "-A INPUT -j ACCEPT")
            .env("IPSET_LIB_DIR", at("bin"))
            .env("MODPROBE_OPTIONS", "--config=/dev/null")
            .env("BASH_ENV", &source)
            .env("ENV", &source)
            .env("IFS", "/")
            .env("TMPDIR", "/nonexistent")
            .env("LANG", "tr_TR.UTF-8")
            .env("LC_ALL", "tr_TR.UTF-8")
            .env("LANGUAGE", "tr")
            .env("POSIXLY_CORRECT", "1")
            .env("GCONV_PATH", at("bin"));
        ns.net().enter(|| run(&mut command, ""))
    };
    fwc(&["apply", "sets.toml", "--yes"]).expect(0);
    fwc(&["apply", "web.toml", "--confirm", "--timeout", "60s"]).expect(0);
    fwc(&["rollback"]).expect(0);
    fwc(&["apply", "web.toml", "--confirm", "--timeout", "1s"]).expect(0);
    until("the watchdog takes it back", || !is_open(&ns));
    assert!(ns.saved().contains("--match-set fwc4-blocked src -j DROP"));
    let seen = fs::read_to_string(ns.path("seen")).unwrap();
    let strange: Vec<&str> = seen
        .lines()
        .filter(|line| *line != env!("CARGO_BIN_EXE_fwc"))
        .collect();
    // fwc itself cannot keep it out: the linker is before it. What it starts never sees it, its watchdog neither.
    assert!(strange.is_empty(), "{strange:?}");
    assert_eq!(seen.lines().count(), 4, "{seen}");
    Ok(())
}

fn umask_changes_no_mode(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let persist = ns.path("iptables").display().to_string();
    for command in [
        "apply ssh.toml --yes",
        "apply web.toml --confirm --timeout 60s",
        "confirm",
    ] {
        let script = format!(
            "umask 0777 && exec {} {command} --persist-dir {persist}",
            env!("CARGO_BIN_EXE_fwc")
        );
        ns.run("sh", &["-c", &script], "").expect(0);
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    for name in ["iptables/rules.v4", "iptables/rules.v6"] {
        assert_eq!(mode(&ns.path(name)), 0o640, "{name}");
    }
    let mut open = vec![ns.path("state")];
    while let Some(folder) = open.pop() {
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else {
                // Root reads what nobody may, and does not on a disk of the network.
                assert_eq!(mode(&path) & 0o600, 0o600, "{}", path.display());
                assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
            }
        }
    }
    Ok(())
}

/// Kubernetes has a few for each service.
fn thousands_of_chains_of_others_stay(backend: Backend) -> Result {
    const CHAINS: usize = 4_000;
    let ns = Namespace::new(backend);
    let mut text = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n".to_owned();
    for number in 0..CHAINS {
        writeln!(text, ":KUBE-SVC-{number:05} - [0:0]").unwrap();
    }
    text.push_str("-A FORWARD -j KUBE-SERVICES\n");
    for number in 0..CHAINS {
        let (high, low) = (number / 250, number % 250);
        writeln!(
            text,
            "-A KUBE-SERVICES -d 10.7.{high}.{low}/32 -j KUBE-SVC-{number:05}\n-A KUBE-SVC-{number:05} -p tcp -m tcp --dport 80 -j ACCEPT"
        )
        .unwrap();
    }
    text.push_str("COMMIT\n");
    ns.restore("iptables", &text).expect(0);
    let others = || -> Vec<String> {
        let saved = ns.saved_family("iptables");
        let lines = saved.lines().filter(|line| line.contains("KUBE-"));
        lines.map(str::to_owned).collect()
    };
    let before = others();
    assert_eq!(before.len(), 2 + 3 * CHAINS);
    let shared = |service: &str| {
        format!("version = 1\n[ownership]\nmode = \"shared\"\n[[rules]]\nservice = \"{service}\"\n")
    };
    fs::write(ns.path("one.toml"), shared("ssh")).unwrap();
    fs::write(ns.path("two.toml"), shared("http")).unwrap();
    let begun = Instant::now();
    ns.apply("one.toml", &[]).expect(0);
    ns.apply("two.toml", &["--confirm"]).expect(0);
    ns.kept(&["rollback"]).expect(0);
    let again = ns.apply("one.toml", &[]).expect(0);
    assert!(!again.out.contains("replaced"), "{}", again.out);
    ns.kept(&["status"]).expect(0);
    let line = format!(
        "{backend}: two applies, a rollback, an apply of nothing and a status beside {CHAINS} chains of others: {:.1} s\n",
        begun.elapsed().as_secs_f64()
    );
    // Past the harness, which shows what is printed of failing tests only.
    let _ = std::io::stderr().write_all(line.as_bytes());
    assert!(others() == before, "not all of others' rules are there");
    // Alone it names whose they are, and not each of them at length.
    let refused = ns.apply("ssh.toml", &[]).expect(1);
    assert!(refused.err.contains("Kubernetes"), "{}", refused.err);
    Ok(())
}

/// Alpine has busybox's `ip` first. It knows fewer words, and fwc none that it needs.
fn busybox_ip_stops_nothing(backend: Backend) -> Result {
    let busybox = find("busybox")?;
    let ns = Namespace::new(backend);
    let persist = ns.path("iptables").display().to_string();
    // A mount namespace in which every `ip` is busybox's.
    let places = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    let places = places.map(|folder| Path::new(folder).join("ip"));
    let mut script = String::new();
    for place in places.iter().filter(|place| place.exists()) {
        let place = place.display();
        writeln!(
            script,
            "mount --bind {} {place} || exit 9",
            busybox.display()
        )
        .unwrap();
    }
    script.push_str("ip -o link show | grep -q 'lo:' || exit 8\nexec \"$@\"");
    let fwc = |arguments: &[&str]| {
        let shell = ["--mount", "--", "/bin/sh", "-c", &script, "sh"];
        let all = [
            &shell[..],
            &[env!("CARGO_BIN_EXE_fwc")],
            arguments,
            &["--persist-dir", &persist],
        ]
        .concat();
        ns.run("unshare", &all, "")
    };
    let policy =
        "version = 1\n[interfaces]\nwan = \"eth9\"\n[[rules]]\nfrom = \"wan\"\nservice = \"ssh\"\n";
    fs::write(ns.path("wan.toml"), policy).unwrap();
    let told = fwc(&["apply", "wan.toml", "--yes"]).expect(0);
    // It lists devices, so that one that is not there is seen.
    assert!(told.err.contains("no device `eth9`"), "{}", told.err);
    fwc(&["apply", "web.toml", "--confirm"]).expect(0);
    fwc(&["confirm"]).expect(0);
    fwc(&["status"]);
    assert!(ns.saved().contains("--dport 80 "));
    Ok(())
}

/// A tool of the other backend put rules there, which these tools do not show.
fn rules_in_both_backends_stop_no_way_to_close(backend: Backend) -> Result {
    let other = match backend {
        Backend::Nft => Backend::Legacy,
        Backend::Legacy => Backend::Nft,
    };
    Namespace::possible(other)?;
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    let add = |ns: &Namespace| {
        for tool in TOOLS {
            let tool = format!("{tool}-{other}");
            ns.run(&tool, &["-A", "INPUT", "-j", "ACCEPT"], "")
                .expect(0);
        }
    };
    let words = format!("in the {other} backend too");
    add(&ns);
    for command in [
        &["apply", "web.toml", "--yes"][..],
        &["status"],
        &["check", "--live", "ssh.toml"],
    ] {
        let told = match command[0] {
            "check" => ns.fwc(command),
            _ => ns.kept(command),
        };
        assert_ne!(told.code, Some(0), "{command:?}");
        let all = told.out + &told.err;
        assert!(all.contains(&words), "{command:?}: {all}");
    }
    // What closes does not ask.
    ns.fwc(&["panic"]).expect(0);
    assert!(ns.saved().contains("-A PREROUTING -j FWC-PANIC"));
    ns.fwc(&["panic", "--off"]).expect(0);
    let booted = ns.sibling();
    add(&booted);
    booted.kept(&["recover", "--boot"]);
    assert!(booted.saved().contains("--dport 22 "), "not closed at boot");
    Ok(())
}
