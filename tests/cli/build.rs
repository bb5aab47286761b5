//! `fwc build`

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::fwc::{Run, files_below, folder, proven, rules_in, run};

const POLICY: &str = "version = 1\n\n[[rules]]\nname = \"ssh\"\nservice = \"ssh\"\n";

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).expect("a file")
}

fn build(folder: &Path) -> Run {
    let run = run(folder, &["build", "-o", "out"]);
    assert_eq!(run.status, 0, "{}", run.err);
    assert_eq!(run.out, "");
    run
}

/// What is said of the files in `out`: the proof, and these lines.
fn told(folder: &Path, lines: &str) -> String {
    proven(rules_in(&folder.join("out"))) + lines
}

#[test]
fn writes_both_files() {
    let folder = folder(&[("fwc.toml", POLICY)]);
    let run = build(folder.path());
    assert_eq!(
        run.err,
        told(
            folder.path(),
            "out/rules.v4 written\nout/rules.v6 written\n"
        )
    );
    let files = files_below(folder.path());
    assert_eq!(
        files,
        ["fwc.toml", "out/rules.v4", "out/rules.v6"],
        "nothing else is left"
    );
    for name in ["rules.v4", "rules.v6"] {
        let path = folder.path().join("out").join(name);
        let metadata = std::fs::metadata(&path).expect("a file");
        assert_eq!(metadata.mode() & 0o7777, 0o640, "{name}");
        assert!(read(folder.path(), &format!("out/{name}")).contains("--dport 22"));
    }
}

#[test]
fn a_second_time_nothing_is_written() {
    let folder = folder(&[("fwc.toml", POLICY)]);
    build(folder.path());
    let path = folder.path().join("out/rules.v4");
    let inode = || {
        let metadata = std::fs::metadata(&path).expect("a file");
        (metadata.ino(), metadata.mtime_nsec())
    };
    let before = inode();
    let run = build(folder.path());
    let lines = "out/rules.v4 is up to date\nout/rules.v6 is up to date\n";
    assert_eq!(run.err, told(folder.path(), lines));
    assert_eq!(inode(), before);
}

/// A new file takes the place of the old one: whoever has the old one open goes on reading the old one.
#[test]
fn files_are_replaced_never_overwritten() {
    let folder = folder(&[("fwc.toml", POLICY)]);
    build(folder.path());
    let path = folder.path().join("out/rules.v4");
    let old = std::fs::metadata(&path).expect("a file").ino();
    std::fs::hard_link(&path, folder.path().join("old")).expect("a link");
    let policy = POLICY.replace("service = \"ssh\"", "service = \"http\"");
    std::fs::write(folder.path().join("fwc.toml"), policy).expect("a file");
    build(folder.path());
    assert_ne!(std::fs::metadata(&path).expect("a file").ino(), old);
    assert!(read(folder.path(), "old").contains("--dport 22"));
    assert!(read(folder.path(), "out/rules.v4").contains("--dport 80"));
}

/// A link in the place of a rules file is replaced; what it points to is not touched.
#[test]
fn links_are_not_followed() {
    let folder = folder(&[("fwc.toml", POLICY), ("precious", "mine\n"), ("out/x", "")]);
    let link = folder.path().join("out/rules.v4");
    std::os::unix::fs::symlink("../precious", &link).expect("a link");
    build(folder.path());
    assert_eq!(read(folder.path(), "precious"), "mine\n");
    assert!(std::fs::symlink_metadata(&link).expect("a file").is_file());
}

#[test]
fn a_wrong_mode_is_set_right() {
    let folder = folder(&[("fwc.toml", POLICY)]);
    build(folder.path());
    let path = folder.path().join("out/rules.v6");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("a mode");
    let run = build(folder.path());
    let lines = "out/rules.v4 is up to date\nout/rules.v6 written\n";
    assert_eq!(run.err, told(folder.path(), lines));
    let metadata = std::fs::metadata(&path).expect("a file");
    assert_eq!(metadata.mode() & 0o7777, 0o640);
}

#[test]
fn one_family() {
    let folder = folder(&[("fwc.toml", POLICY)]);
    let run = run(folder.path(), &["build", "-o", "out", "--family", "ipv6"]);
    assert_eq!(run.status, 0, "{}", run.err);
    assert_eq!(files_below(folder.path()), ["fwc.toml", "out/rules.v6"]);
}

#[test]
fn check_compares() {
    let folder = folder(&[("fwc.toml", POLICY)]);
    let check = || run(folder.path(), &["build", "--check", "-o", "out"]);

    let missing = check();
    assert_eq!(missing.status, 2);
    let missing = missing
        .err
        .lines()
        .skip_while(|line| line.starts_with("verified: "));
    assert_eq!(
        missing.collect::<Vec<_>>(),
        ["out/rules.v4 is missing", "out/rules.v6 is missing"]
    );
    assert_eq!(
        files_below(folder.path()),
        ["fwc.toml"],
        "it writes nothing"
    );

    build(folder.path());
    let same = check();
    assert_eq!((same.status, same.err), (0, told(folder.path(), "")));

    let path = folder.path().join("out/rules.v6");
    let stale = read(folder.path(), "out/rules.v6") + "# by hand\n";
    std::fs::write(&path, &stale).expect("a file");
    let different = check();
    assert_eq!(different.status, 2);
    let line = "out/rules.v6 differs from what the policy gives: build it again\n";
    assert_eq!(different.err, told(folder.path(), line));
    assert_eq!(
        read(folder.path(), "out/rules.v6"),
        stale,
        "it writes nothing"
    );

    let one = run(
        folder.path(),
        &["build", "--check", "-o", "out", "--family", "ipv4"],
    );
    assert_eq!(one.status, 0, "{}", one.err);
}

#[test]
fn check_of_a_wrong_policy_fails() {
    let folder = folder(&[("fwc.toml", "version = 1\nrulez = 1\n")]);
    let run = run(folder.path(), &["build", "--check", "-o", "out"]);
    assert_eq!(run.status, 1);
}

#[test]
fn standard_output_has_the_same_bytes() {
    let folder = folder(&[("fwc.toml", POLICY)]);
    build(folder.path());
    for (family, file) in [("ipv4", "out/rules.v4"), ("ipv6", "out/rules.v6")] {
        let run = run(folder.path(), &["build", "-o", "-", "--family", family]);
        assert_eq!((run.status, run.err), (0, told(folder.path(), "")));
        assert_eq!(run.out, read(folder.path(), file));
    }
}

/// The same policy gives the same bytes, wherever it lies and in whatever environment.
#[test]
fn output_is_deterministic() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mail-server");
    let policy = example.join("fwc.toml").display().to_string();
    let texts: Vec<_> = ["UTC", "Pacific/Kiritimati", "America/Lima"]
        .iter()
        .map(|zone| {
            let folder = tempfile::tempdir().expect("a folder");
            let mut command = crate::fwc::command(folder.path(), &["build", "-o", "out", &policy]);
            let run: Run = command
                .env("TZ", zone)
                .env("LC_ALL", "C")
                .output()
                .expect("fwc")
                .into();
            assert_eq!(run.status, 0, "{}", run.err);
            (
                read(folder.path(), "out/rules.v4"),
                read(folder.path(), "out/rules.v6"),
            )
        })
        .collect();
    // With a chain of its own, whose name is made.
    assert!(texts[0].0.contains(":FWC-INPUT-"), "{}", texts[0].0);
    assert!(texts.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_folder_that_cannot_be_made() {
    let folder = folder(&[("fwc.toml", POLICY), ("out", "a file\n")]);
    let run = run(folder.path(), &["build", "-o", "out"]);
    assert_eq!(run.status, 1);
    let last = run.err.lines().last().unwrap_or_default();
    let start = "error: cannot create the folder `out`: ";
    assert!(last.starts_with(start), "{}", run.err);
    assert_eq!(read(folder.path(), "out"), "a file\n");
}

#[test]
fn quiet() {
    let folder = folder(&[("fwc.toml", POLICY)]);
    let run = run(folder.path(), &["build", "-q", "-o", "out"]);
    assert_eq!(
        (run.status, run.out.as_str(), run.err.as_str()),
        (0, "", "")
    );
    assert_eq!(files_below(folder.path()).len(), 3);
}
