//! Several policies at once: folders with one policy a host.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::Value;

use crate::fwc::{Run, files_below, folder, proven, rules_in, run};

const SSH: &str = "version = 1\n\n[[rules]]\nservice = \"ssh\"\n";
const WEB: &str = "version = 1\n\n[[rules]]\nservice = [\"http\", \"https\"]\n";
const WRONG: &str = "version = 1\n\n[[rules]]\nservice = \"sssh\"\n";

fn build(folder: &Path, more: &[&str]) -> Run {
    run(folder, &[&["build", "hosts", "-o", "out"], more].concat())
}

fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).expect("a file").ino()
}

/// What `build` says of a host.
fn told(folder: &Path, host: &str, state: &str) -> String {
    let proof = proven(rules_in(&folder.join("out").join(host)));
    format!("{host}: {proof}out/{host}/rules.v4 {state}\nout/{host}/rules.v6 {state}\n")
}

#[test]
fn each_host_has_a_folder() {
    let folder = folder(&[
        ("hosts/web.toml", WEB),
        ("hosts/gate.toml", SSH),
        ("hosts/README", "notes"),
    ]);
    let run = build(folder.path(), &[]);
    let both = told(folder.path(), "gate", "written") + &told(folder.path(), "web", "written");
    assert_eq!((run.status, run.err), (0, both), "in the order of names");
    assert_eq!(
        files_below(&folder.path().join("out")),
        [
            "gate/rules.v4",
            "gate/rules.v6",
            "web/rules.v4",
            "web/rules.v6"
        ]
    );
    let alone = crate::fwc::run(
        folder.path(),
        &[
            "build",
            "-q",
            "-o",
            "-",
            "--family",
            "ipv4",
            "hosts/web.toml",
        ],
    );
    let text = std::fs::read_to_string(folder.path().join("out/web/rules.v4"));
    assert_eq!(text.expect("a file"), alone.out, "the same as alone");
}

/// A folder with one host is still a folder; a file alone is none.
#[test]
fn one_host() {
    let folder = folder(&[("hosts/web.toml", WEB)]);
    assert_eq!(build(folder.path(), &[]).status, 0);
    let alone = run(folder.path(), &["build", "hosts/web.toml", "-o", "alone"]);
    assert_eq!(alone.status, 0, "{}", alone.err);
    assert!(folder.path().join("out/web/rules.v4").exists());
    assert!(folder.path().join("alone/rules.v4").exists());
}

#[test]
fn files_and_folders_together() {
    let folder = folder(&[
        ("hosts/web.toml", WEB),
        ("more/gate.toml", SSH),
        ("db.toml", SSH),
    ]);
    let run = run(folder.path(), &["check", "hosts", "db.toml", "more"]);
    assert_eq!(run.status, 0, "{}", run.err);
    let mut good = run.err.lines().filter(|line| line.contains(": ok; "));
    for name in ["hosts/web.toml", "db.toml", "more/gate.toml"] {
        assert!(
            good.next().expect("a line").starts_with(name),
            "{}",
            run.err
        );
    }
    assert!(
        run.err.ends_with("\n3 of 3 policies are ok\n"),
        "{}",
        run.err
    );
}

#[test]
fn only_what_changed_is_written() {
    let folder = folder(&[("hosts/a.toml", SSH), ("hosts/b.toml", SSH)]);
    build(folder.path(), &[]);
    let path = |name: &str| folder.path().join("out").join(name);
    let before = (inode(&path("a/rules.v4")), inode(&path("b/rules.v4")));
    std::fs::write(folder.path().join("hosts/b.toml"), WEB).expect("a file");
    let run = build(folder.path(), &[]);
    let both = told(folder.path(), "a", "is up to date") + &told(folder.path(), "b", "written");
    assert_eq!((run.status, run.err), (0, both));
    assert_eq!(inode(&path("a/rules.v4")), before.0);
    assert_ne!(inode(&path("b/rules.v4")), before.1);
}

/// One host's error hides no other's, and the good ones are built.
#[test]
fn one_bad_host() {
    let folder = folder(&[
        ("hosts/a.toml", SSH),
        ("hosts/b.toml", WRONG),
        ("hosts/c.toml", "version = 2\n"),
        ("hosts/d.toml", WEB),
        ("hosts/e.toml/x", ""),
    ]);
    let check = run(folder.path(), &["check", "hosts"]);
    assert_eq!((check.status, check.out.as_str()), (1, ""));
    for word in [
        "hosts/a.toml: ok; ",
        "error[unknown-service]",
        "hosts/b.toml: 1 error\n",
        "error[version-unknown]",
        "hosts/c.toml: 1 error\n",
        "hosts/d.toml: ok; ",
        "cannot use the policy `hosts/e.toml`: not a regular file",
        "2 of 5 policies are ok\n",
    ] {
        assert!(check.err.contains(word), "no `{word}` in\n{}", check.err);
    }
    let build = build(folder.path(), &[]);
    assert_eq!(build.status, 1, "{}", build.err);
    let out = folder.path().join("out");
    let names = ["a/rules.v4", "a/rules.v6", "d/rules.v4", "d/rules.v6"];
    assert_eq!(files_below(&out), names);
}

/// The files of a host whose policy broke stay as they were.
#[test]
fn a_bad_host_keeps_its_files() {
    let folder = folder(&[("hosts/a.toml", SSH), ("hosts/b.toml", SSH)]);
    build(folder.path(), &[]);
    let file = folder.path().join("out/b/rules.v4");
    let before = inode(&file);
    std::fs::write(folder.path().join("hosts/b.toml"), WRONG).expect("a file");
    assert_eq!(build(folder.path(), &[]).status, 1);
    assert_eq!(inode(&file), before);
}

#[test]
fn json_of_several() {
    let folder = folder(&[
        ("hosts/a.toml", WRONG),
        ("hosts/b.toml", SSH),
        ("hosts/c.toml", WRONG),
    ]);
    let run = run(folder.path(), &["check", "hosts", "--format", "json"]);
    let found: Value = serde_json::from_str(&run.out).expect("JSON");
    assert_eq!((run.status, &found["ok"]), (1, &false.into()));
    let findings = found["findings"].as_array().expect("a list");
    let files: Vec<_> = findings.iter().map(|it| &it["place"]["file"]).collect();
    assert_eq!(files, ["hosts/a.toml", "hosts/c.toml"]);
}

/// A failure beats a difference, a difference beats none.
#[test]
fn check_of_a_folder() {
    let folder = folder(&[("hosts/a.toml", SSH), ("hosts/b.toml", SSH)]);
    build(folder.path(), &[]);
    let check = || build(folder.path(), &["--check"]);
    let same = check();
    let proof = |host: &str| {
        let lines = rules_in(&folder.path().join("out").join(host));
        format!("{host}: {}", proven(lines))
    };
    assert_eq!((same.status, same.err), (0, proof("a") + &proof("b")));

    let before = files_below(folder.path());
    std::fs::write(folder.path().join("hosts/b.toml"), WEB).expect("a file");
    let different = check();
    assert_eq!(different.status, 2, "{}", different.err);
    let line = "out/b/rules.v4 differs from what the policy gives: build it again\n";
    assert!(different.err.contains(line), "{}", different.err);
    assert!(!different.err.contains("out/a/"), "{}", different.err);

    std::fs::write(folder.path().join("hosts/a.toml"), WRONG).expect("a file");
    let failed = check();
    assert_eq!(failed.status, 1, "{}", failed.err);
    assert!(failed.err.contains(line), "{}", failed.err);
    assert_eq!(files_below(folder.path()), before, "nothing is written");

    std::fs::write(folder.path().join("hosts/a.toml"), SSH).expect("a file");
    std::fs::write(folder.path().join("hosts/c.toml"), SSH).expect("a file");
    let new = check();
    assert_eq!(new.status, 2);
    assert!(
        new.err.contains("out/c/rules.v6 is missing\n"),
        "{}",
        new.err
    );
}

/// Both would be built to one folder.
#[test]
fn two_hosts_of_one_name() {
    let folder = folder(&[("here/web.toml", WEB), ("there/web.toml", SSH)]);
    let run = run(folder.path(), &["build", "here", "there", "-o", "out"]);
    assert_eq!((run.status, run.out.as_str()), (1, ""));
    assert_eq!(
        run.err,
        "error: `here/web.toml` and `there/web.toml` have the same file name, which names the host: rename one of them\n"
    );
    assert!(!folder.path().join("out").exists(), "nothing is written");
}

/// Nothing is written then; they are told apart by their paths.
#[test]
fn two_hosts_of_one_name_are_checked() {
    let folder = folder(&[("here/fwc.toml", WEB), ("there/fwc.toml", SSH)]);
    let run = run(folder.path(), &["check", "here", "there/fwc.toml"]);
    assert_eq!(run.status, 0, "{}", run.err);
    for path in ["here/fwc.toml", "there/fwc.toml"] {
        assert!(run.err.contains(&format!("{path}: ok; ")), "{}", run.err);
    }
}

#[test]
fn a_folder_without_a_policy() {
    let folder = folder(&[("hosts/README", ""), ("hosts/.old.toml", WRONG)]);
    let run = build(folder.path(), &[]);
    assert_eq!(run.status, 1);
    assert_eq!(
        run.err,
        "error: `hosts` has no policy: fwc expects a file `NAME.toml` for each host\n"
    );
}

/// As with `include`: what editors leave behind is no host.
#[test]
fn hidden_files_are_no_hosts() {
    let folder = folder(&[("hosts/a.toml", SSH), ("hosts/.a.toml", WRONG)]);
    std::os::unix::fs::symlink("nobody@nowhere", folder.path().join("hosts/.#a.toml"))
        .expect("a link");
    let run = build(folder.path(), &[]);
    assert_eq!(
        (run.status, run.err),
        (0, told(folder.path(), "a", "written"))
    );
}

#[test]
fn a_host_that_is_not_there() {
    let folder = folder(&[("hosts/a.toml", SSH)]);
    let run = run(folder.path(), &["check", "hosts", "nowhere.toml"]);
    assert_eq!(run.status, 1);
    for word in ["there is no policy `nowhere.toml`", "hosts/a.toml: ok; "] {
        assert!(run.err.contains(word), "{}", run.err);
    }
}

/// What is wrong in a file that hosts share is said once, with how many hosts have it, in each form; its path is the short one.
#[test]
fn what_hosts_share_is_said_once() {
    let host = |more: &str| format!("version = 1\ninclude = \"../roles/web.toml\"\n{more}");
    let role = "[[rules]]\nservice = \"htps\"\n\n[[rules]]\nstate = \"established\"\n";
    let folder = folder(&[
        ("hosts/a.toml", &host("")),
        ("hosts/b.toml", &host("[[rules]]\nservice = \"sssh\"\n")),
        ("hosts/c.toml", &host("")),
        ("hosts/d.toml", SSH),
        ("roles/web.toml", role),
    ]);
    let check = |more: &[&str]| run(folder.path(), &[&["check", "hosts"], more].concat());
    let text = check(&[]);
    assert_eq!(text.status, 1);
    assert_eq!(text.err.matches("`htps`").count(), 1, "{}", text.err);
    for words in [
        "roles/web.toml:2:11",
        "on 3 hosts: `a`, `b`, `c`",
        "hosts/a.toml: 1 error\n",
        "hosts/b.toml: 2 errors\n",
        "hosts/c.toml: 1 error\n",
    ] {
        assert!(text.err.contains(words), "no `{words}` in\n{}", text.err);
    }
    assert!(!text.err.contains("hosts/.."), "{}", text.err);
    let json: Value = serde_json::from_str(&check(&["--format", "json"]).out).expect("JSON");
    let findings = json["findings"].as_array().expect("a list");
    let files: Vec<_> = findings.iter().map(|it| &it["place"]["file"]).collect();
    assert_eq!(files, ["roles/web.toml", "hosts/b.toml"]);
    let sarif: Value = serde_json::from_str(&check(&["--format", "sarif"]).out).expect("JSON");
    let results = sarif["runs"][0]["results"].as_array().expect("a list");
    assert_eq!(results.len(), 2);
    let message = results[0]["message"]["text"].as_str().expect("a text");
    assert!(message.contains("on 3 hosts"), "{message}");
    let github = check(&["--format", "github"]);
    assert_eq!(github.out.matches("htps").count(), 1, "{}", github.out);
    assert!(
        github.out.contains("::error file=roles/web.toml,line=2"),
        "{}",
        github.out
    );
    let build = build(folder.path(), &[]);
    assert_eq!(build.err.matches("`htps`").count(), 1, "{}", build.err);
}

/// Where a folder is a link, `..` is not the folder that it stands in.
#[test]
fn a_path_through_a_link_stays_as_it_is() {
    let folder = folder(&[
        (
            "real/inner/a.toml",
            "version = 1\ninclude = \"../role.toml\"\n",
        ),
        ("real/role.toml", "[[rules]]\nservice = \"htps\"\n"),
        ("role.toml", "[[rules]]\nservice = \"ssh\"\n"),
    ]);
    std::os::unix::fs::symlink("real/inner", folder.path().join("hosts")).expect("a link");
    let through = run(folder.path(), &["check", "hosts/a.toml"]);
    assert!(
        through.err.contains("hosts/../role.toml:2:11"),
        "{}",
        through.err
    );
    let straight = run(folder.path(), &["check", "real/inner/a.toml"]);
    assert!(
        straight.err.contains("real/role.toml:2:11"),
        "{}",
        straight.err
    );
    let missing = run(folder.path(), &["check", "real/inner/b.toml"]);
    assert!(
        missing.err.contains("`real/inner/b.toml`"),
        "{}",
        missing.err
    );
}
