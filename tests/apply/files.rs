//! `fwc diff` between files, and what fwc says where something is missing: root, namespaces, iptables.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Completion, Failed, Trial};
use rustix::process::geteuid;

use super::namespace::{Ended, WEB, run};

type Result = std::result::Result<(), String>;

type Test = fn() -> Result;

const TESTS: &[(&str, Test)] = &[
    (
        "apply_without_root_says_what_to_do",
        apply_without_root_says_what_to_do,
    ),
    (
        "live_rules_without_root_say_what_to_do",
        live_rules_without_root_say_what_to_do,
    ),
    (
        "diff_compares_in_the_kernels_form",
        diff_compares_in_the_kernels_form,
    ),
    (
        "diff_names_a_family_on_one_side",
        diff_names_a_family_on_one_side,
    ),
    (
        "diff_refuses_what_has_nothing_in_common",
        diff_refuses_what_has_nothing_in_common,
    ),
    (
        "diff_refuses_a_file_that_does_not_load",
        diff_refuses_a_file_that_does_not_load,
    ),
    ("diff_of_files_needs_no_sets", diff_of_files_needs_no_sets),
    ("diff_in_json", diff_in_json),
    ("wrong_usage_is_64", wrong_usage_is_64),
    (
        "apply_without_scratch_namespaces_changes_nothing",
        apply_without_scratch_namespaces_changes_nothing,
    ),
    (
        "missing_iptables_says_how_to_install",
        missing_iptables_says_how_to_install,
    ),
    (
        "missing_ipset_matters_to_policies_with_sets_only",
        missing_ipset_matters_to_policies_with_sets_only,
    ),
    (
        "build_leaves_sets_of_others_alone",
        build_leaves_sets_of_others_alone,
    ),
];

pub fn trials() -> Vec<Trial> {
    TESTS
        .iter()
        .map(|&(name, test)| {
            Trial::ignorable_test(
                format!("files::{name}"),
                move || match std::panic::catch_unwind(test) {
                    Ok(Ok(())) => Ok(Completion::Completed),
                    Ok(Err(reason)) => Ok(Completion::ignored_with(reason)),
                    Err(panic) => Err(Failed::from(super::words(&*panic))),
                },
            )
        })
        .collect()
}

/// A folder with a copy of the program that every user may run.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // By another process: a file that this one has open for writing can be so in a child of another thread too, and
        // is then "busy" when it is to be run.
        let mut install = Command::new("install");
        install.args(["-m", "755", env!("CARGO_BIN_EXE_fwc")]);
        run(install.arg(folder.path()), "").expect(0);
        Self(folder)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Runs fwc as a user without rights.
    fn fwc(&self, arguments: &[&str]) -> Ended {
        self.fwc_with(arguments, None)
    }

    fn fwc_with(&self, arguments: &[&str], backend: Option<&str>) -> Ended {
        let mut command = Command::new(self.0.path().join("fwc"));
        command
            .args(arguments)
            .current_dir(self.0.path())
            .env_remove("FWC_IPTABLES");
        if let Some(backend) = backend {
            command.env("FWC_IPTABLES", backend);
        }
        if geteuid().is_root() {
            command.uid(65534).gid(65534);
        }
        run(&mut command, "")
    }
}

/// Runs a script in namespaces of its own; `Err` where they are not allowed.
fn unshared(bench: &Bench, options: &str, script: &str) -> std::result::Result<Ended, String> {
    let command = |script: &str| {
        let mut command = Command::new("unshare");
        command
            .args([options, "sh", "-c", script])
            .current_dir(bench.0.path())
            .env("FWC_STATE_DIR", bench.0.path().join("state"))
            .env("XTABLES_LOCKFILE", bench.0.path().join("xtables.lock"));
        command
    };
    let possible = run(&mut command("true"), "");
    if possible.code != Some(0) {
        return Err(format!("`unshare {options}`: {}", possible.err.trim()));
    }
    Ok(run(&mut command(script), ""))
}

fn ruleset(body: &str) -> String {
    format!(
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n{body}COMMIT\n"
    )
}

fn installed() -> Result {
    if Path::new("/usr/sbin/iptables-save").exists() {
        Ok(())
    } else {
        Err("iptables is not installed".to_owned())
    }
}

fn apply_without_root_says_what_to_do() -> Result {
    let bench = Bench::new();
    bench.write("fwc.toml", WEB);
    let refused = bench.fwc(&["apply", "--yes"]).expect(1);
    assert!(refused.err.contains("sudo"), "{}", refused.err);
    Ok(())
}

fn live_rules_without_root_say_what_to_do() -> Result {
    let bench = Bench::new();
    bench.write("a.v4", &ruleset(""));
    for arguments in [&["diff", "a.v4"][..], &["explain", "--live"]] {
        let refused = bench.fwc(arguments).expect(1);
        assert!(refused.err.contains("sudo"), "{}", refused.err);
    }
    Ok(())
}

/// `-p tcp --dport` and `-p tcp -m tcp --dport` are the same rule.
fn diff_compares_in_the_kernels_form() -> Result {
    let bench = Bench::new();
    bench.write("a.v4", &ruleset("-A INPUT -p tcp --dport 22 -j ACCEPT\n"));
    bench.write(
        "b.v4",
        &ruleset("-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n"),
    );
    let same = bench.fwc(&["diff", "--unified", "a.v4", "b.v4"]);
    assert_eq!(same.expect(0).out, "");
    bench.write(
        "b.v4",
        &ruleset("-A INPUT -p tcp -m tcp --dport 23 -j ACCEPT\n"),
    );
    let diff = bench.fwc(&["diff", "--unified", "a.v4", "b.v4"]);
    let diff = diff.expect(2).out;
    assert!(
        diff.starts_with("--- a.v4 (IPv4)\n+++ b.v4 (IPv4)\n@@"),
        "{diff}"
    );
    Ok(())
}

fn diff_names_a_family_on_one_side() -> Result {
    let bench = Bench::new();
    bench.write("a/rules.v4", &ruleset(""));
    bench.write("a/rules.v6", "what is not compared is not loaded either\n");
    bench.write("b.v4", &ruleset(""));
    let same = bench.fwc(&["diff", "a", "b.v4"]).expect(0);
    assert!(
        same.err.contains("IPv6: only in a, not compared"),
        "{}",
        same.err
    );
    Ok(())
}

fn diff_refuses_what_has_nothing_in_common() -> Result {
    let bench = Bench::new();
    bench.write("a.v4", &ruleset(""));
    bench.write("b.v6", &ruleset(""));
    bench.write("c", &ruleset(""));
    let refused = bench.fwc(&["diff", "a.v4", "b.v6"]).expect(1);
    assert!(
        refused.err.contains("no family in common"),
        "{}",
        refused.err
    );
    let refused = bench.fwc(&["diff", "a.v4", "c"]).expect(1);
    assert!(refused.err.contains("--family"), "{}", refused.err);
    bench
        .fwc(&["diff", "a.v4", "c", "--family", "ipv4"])
        .expect(0);
    Ok(())
}

fn diff_refuses_a_file_that_does_not_load() -> Result {
    let bench = Bench::new();
    bench.write("a.v4", &ruleset(""));
    bench.write(
        "b.v4",
        &ruleset("-A INPUT -p tcp --no-such-option 22 -j ACCEPT\n"),
    );
    let refused = bench.fwc(&["diff", "a.v4", "b.v4"]).expect(1);
    assert!(refused.err.contains("b.v4:5") && refused.err.contains("no-such-option"));
    Ok(())
}

fn diff_of_files_needs_no_sets() -> Result {
    let bench = Bench::new();
    bench.write(
        "a.v4",
        &ruleset("-A INPUT -m set --match-set nope src -j DROP\n"),
    );
    bench.write(
        "b.v4",
        &ruleset("-A INPUT -m set --match-set nope dst -j DROP\n"),
    );
    let diff = bench.fwc(&["diff", "--unified", "a.v4", "b.v4"]).expect(2);
    assert!(
        diff.out
            .contains("+-A INPUT -m set --match-set nope dst -j DROP\n"),
        "{}",
        diff.out
    );
    Ok(())
}

fn diff_in_json() -> Result {
    let bench = Bench::new();
    bench.write("a.v6", &ruleset(""));
    bench.write("b.v6", &ruleset("-A INPUT -j DROP\n"));
    let diff = bench
        .fwc(&["diff", "a.v6", "b.v6", "--unified", "--format", "json"])
        .expect(2);
    let diff: serde_json::Value = serde_json::from_str(&diff.out).unwrap();
    assert_eq!(diff["schema"], "fwc.diff/1");
    assert_eq!(diff["different"], true);
    assert_eq!(diff["compared"], serde_json::json!(["ipv6"]));
    assert!(
        diff["unified"]["ipv6"]
            .as_str()
            .unwrap()
            .contains("+-A INPUT -j DROP")
    );
    Ok(())
}

fn wrong_usage_is_64() -> Result {
    let bench = Bench::new();
    bench.write("a.v4", &ruleset(""));
    fs::create_dir(bench.0.path().join("empty")).unwrap();
    for arguments in [
        &["diff", "git:", "a.v4"][..],
        &["diff", "empty", "a.v4"],
        &["diff", "a.v4", "a.v4", "a.v4"],
        &["apply", "--iptables", "new"],
        &["apply"],
    ] {
        bench.fwc(arguments).expect(64);
    }
    let refused = bench
        .fwc_with(&["diff", "a.v4", "a.v4"], Some("new"))
        .expect(64);
    assert!(refused.err.contains("FWC_IPTABLES") || refused.err.contains("--iptables"));
    Ok(())
}

fn apply_without_scratch_namespaces_changes_nothing() -> Result {
    installed()?;
    let bench = Bench::new();
    bench.write("fwc.toml", WEB);
    // In a user namespace the limit on namespaces can be set without harm to anybody.
    let script = "echo 0 >/proc/sys/user/max_net_namespaces || exit 99
        ./fwc diff --iptables nft fwc.toml >&2; test $? = 2 || exit 96
        ./fwc apply --iptables nft --yes --persist-dir rules; test $? = 1 || exit 98
        ./fwc apply --iptables nft --dry-run --persist-dir rules; test $? = 1 || exit 97
        iptables-nft-save";
    let ended = unshared(&bench, "-Urn", script)?.expect(0);
    assert_eq!(ended.out, "");
    assert!(
        ended
            .err
            .contains("could not try first; nothing was changed"),
        "{}",
        ended.err
    );
    assert!(!bench.0.path().join("rules").exists());
    Ok(())
}

fn missing_iptables_says_how_to_install() -> Result {
    let bench = Bench::new();
    bench.write("fwc.toml", WEB);
    fs::create_dir(bench.0.path().join("nothing")).unwrap();
    let script = "for folder in /usr/sbin /sbin; do mount --bind nothing $folder || exit 99; done
        ./fwc apply --yes --persist-dir rules";
    let ended = unshared(&bench, "-mn", script)?;
    if ended.code == Some(99) || Path::new("/usr/bin/iptables-save").exists() {
        return Err("iptables cannot be hidden here".to_owned());
    }
    let refused = ended.expect(1);
    assert!(
        refused.err.contains("apt install iptables"),
        "{}",
        refused.err
    );
    Ok(())
}

fn missing_ipset_matters_to_policies_with_sets_only() -> Result {
    installed()?;
    let bench = Bench::new();
    bench.write("web.toml", WEB);
    bench.write(
        "sets.toml",
        &format!("{WEB}source = \"list\"\n\n[addresses]\nlist = {{ include = [\"192.0.2.1\"], set = true }}\n"),
    );
    let script = "mkdir tools && cp -a /usr/sbin/*tables* tools || exit 99
        for folder in /usr/sbin /sbin; do mount --bind tools $folder || exit 99; done
        ./fwc apply --iptables nft --yes --persist-dir rules sets.toml; test $? = 1 || exit 98
        ./fwc apply --iptables nft --yes --persist-dir rules web.toml || exit 97";
    let ended = unshared(&bench, "-mn", script)?;
    if ended.code == Some(99) || Path::new("/usr/bin/ipset").exists() {
        return Err("ipset cannot be hidden here".to_owned());
    }
    let ended = ended.expect(0);
    assert!(ended.err.contains("apt install ipset"), "{}", ended.err);
    Ok(())
}

fn build_leaves_sets_of_others_alone() -> Result {
    let bench = Bench::new();
    bench.write("web.toml", WEB);
    bench.write("rules/ipsets", "create mine hash:net\n");
    let folder = bench.0.path().join("rules");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    bench.fwc(&["build", "-o", "rules", "web.toml"]).expect(0);
    bench
        .fwc(&["build", "-o", "rules", "--check", "web.toml"])
        .expect(0);
    assert!(bench.0.path().join("rules/ipsets").exists());
    Ok(())
}
