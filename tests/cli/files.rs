//! Files that are no policies, and files that somebody else could have written.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::fwc::{Run, files_below, folder, run};

const SSH: &str = "\n[[rules]]\nservice = \"ssh\"\n";

fn including(what: &str) -> String {
    format!("version = 1\ninclude = {what}\n{SSH}")
}

fn fifo(path: &Path) {
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, path, FileType::Fifo, mode, 0).expect("a FIFO");
}

/// Builds, and sees that nothing was written.
fn build_wrong(folder: &Path) -> Run {
    let before = files_below(folder);
    let run = run(folder, &["build", "-o", "out"]);
    assert_eq!((run.status, run.out.as_str()), (1, ""), "{}", run.err);
    assert_eq!(files_below(folder), before);
    run
}

#[test]
fn not_utf_8() {
    let folder = folder(&[("root/fwc.toml", &including("\"latin1.toml\""))]);
    let folder = folder.path().join("root");
    let latin1 = b"# b\xfcro\n[[rules]]\nservice = \"ssh\"\n";
    std::fs::write(folder.join("latin1.toml"), latin1).expect("a file");
    insta::assert_snapshot!("not_utf_8_included", build_wrong(&folder).err);
    std::fs::write(folder.join("fwc.toml"), latin1).expect("a file");
    insta::assert_snapshot!("not_utf_8", build_wrong(&folder).err);
}

/// Opening a FIFO for reading waits for a writer; fwc does not.
#[test]
fn fifos_are_not_waited_for() {
    let folder = folder(&[("fwc.toml", &including("\"pipe.toml\""))]);
    fifo(&folder.path().join("pipe.toml"));
    insta::assert_snapshot!("fifo_included", build_wrong(folder.path()).err);
    let run = run(folder.path(), &["check", "pipe.toml"]);
    assert_eq!(run.status, 1);
    insta::assert_snapshot!("fifo", run.err);
}

#[test]
fn too_large() {
    let folder = folder(&[("fwc.toml", &including("\"large.toml\""))]);
    let large = File::create(folder.path().join("large.toml")).expect("a file");
    large.set_len(65 << 20).expect("a sparse file");
    insta::assert_snapshot!("too_large", build_wrong(folder.path()).err);
}

#[test]
fn empty() {
    let folder = folder(&[("fwc.toml", "")]);
    insta::assert_snapshot!("empty", build_wrong(folder.path()).err);
}

#[test]
fn a_folder_is_no_policy() {
    let folder = folder(&[("fwc.toml/x", "")]);
    insta::assert_snapshot!("folder", build_wrong(folder.path()).err);
}

/// A file that two others include, by several names, is read once.
#[test]
fn included_twice_is_read_once() {
    let base = "[[rules]]\nname = \"web\"\nservice = \"http\"\n";
    let folder = folder(&[
        (
            "fwc.toml",
            &including("[\"base.toml\", \"roles/a.toml\", \"./roles/../base.toml\", \"ba*.toml\"]"),
        ),
        ("roles/a.toml", "include = \"../base.toml\"\n"),
        ("base.toml", base),
    ]);
    std::os::unix::fs::symlink("../base.toml", folder.path().join("roles/link.toml"))
        .expect("a link");
    let run = run(
        folder.path(),
        &["build", "-q", "-o", "-", "--family", "ipv4"],
    );
    assert_eq!((run.status, run.err.as_str()), (0, ""));
    assert_eq!(run.out.matches("fwc:web").count(), 1);
    let web = run.out.find("--dport 80").expect("the included rule");
    let ssh = run.out.find("--dport 22").expect("the root's rule");
    assert!(web < ssh, "included files come first");
}

/// Every file's errors at once, those of a file in its order, the root file first.
#[test]
fn errors_of_several_files() {
    let folder = folder(&[
        (
            "fwc.toml",
            "version = 1\ninclude = [\"roles/*.toml\"]\n\n[[rules]]\nservice = \"sssh\"\n",
        ),
        ("roles/b.toml", "[[rules]]\nservcie = \"ssh\"\n"),
        (
            "roles/a.toml",
            "[addresses]\noffice = \"10.0.0.1/8\"\n\n[[rules]]\nname = [\"x\"]\n",
        ),
        ("roles/.hidden.toml", "not TOML at all"),
    ]);
    insta::assert_snapshot!("several_files", build_wrong(folder.path()).err);
}

/// What only root refuses: nobody else's mistakes can be made by changing the file.
fn assert_safe_only_without_root(name: &str, folder: &Path) {
    let run = run(folder, &["check"]);
    if rustix::process::geteuid().is_root() {
        assert_eq!(run.status, 1, "{}", run.err);
        insta::assert_snapshot!(name, run.err);
    } else {
        assert_eq!(run.status, 0, "{}", run.err);
    }
}

#[test]
fn a_file_that_others_can_write() {
    let folder = folder(&[("fwc.toml", &format!("version = 1\n{SSH}"))]);
    let path = folder.path().join("fwc.toml");
    std::fs::set_permissions(path, Permissions::from_mode(0o666)).expect("a mode");
    assert_safe_only_without_root("unsafe_file", folder.path());
}

#[test]
fn an_included_file_that_others_can_write() {
    let folder = folder(&[
        ("fwc.toml", &including("\"base.toml\"")),
        ("base.toml", SSH),
    ]);
    let path = folder.path().join("base.toml");
    std::fs::set_permissions(path, Permissions::from_mode(0o646)).expect("a mode");
    assert_safe_only_without_root("unsafe_file_included", folder.path());
}

#[test]
fn a_folder_that_others_can_write() {
    let folder = folder(&[("fwc.toml", &format!("version = 1\n{SSH}"))]);
    let mode = |mode| {
        std::fs::set_permissions(folder.path(), Permissions::from_mode(mode)).expect("a mode");
    };
    mode(0o777);
    assert_safe_only_without_root("unsafe_folder", folder.path());
    // In a sticky folder such as /tmp nobody replaces the files of others.
    mode(0o1777);
    assert_eq!(run(folder.path(), &["check"]).status, 0);
}

/// `#` and `;` begin a comment in a list of addresses.
#[test]
fn comments_in_a_list() {
    let policy = "version = 1\n[addresses]\nbad = { file = \"bad.txt\" }\n\
                  [[rules]]\naction = \"drop\"\nsource = \"bad\"\n[[rules]]\nservice = \"ssh\"\n";
    let list = "; a list of somebody\n192.0.2.0/25 ; SBL1\n# ours\n198.51.100.7;x\n2001:db8:9::/48 # ; both\n;\n";
    let folder = folder(&[("fwc.toml", policy), ("bad.txt", list)]);
    let run = run(folder.path(), &["build", "-o", "out"]);
    assert_eq!(run.status, 0, "{}", run.err);
    let rules = std::fs::read_to_string(folder.path().join("out/rules.v4")).expect("rules");
    assert!(
        rules.contains("-s 192.0.2.0/25 ") && rules.contains("-s 198.51.100.7/32 "),
        "{rules}"
    );
}

/// A file of another kind is one mistake, not a thousand.
#[test]
fn many_errors_of_a_kind_are_counted() {
    let policy = "version = 1\n[addresses]\nbad = { file = \"bad.txt\" }\n\
                  [[rules]]\naction = \"drop\"\nsource = \"bad\"\n";
    let list: String = (0..500)
        .map(|line| format!("host{line}.example\n"))
        .collect();
    let folder = folder(&[("fwc.toml", policy), ("bad.txt", &list)]);
    let text = run(folder.path(), &["check"]);
    assert_eq!(text.status, 1);
    assert_eq!(
        text.err.matches("error[bad-address]").count(),
        10,
        "{}",
        text.err
    );
    for words in [
        "490 more of this kind in the file are not shown",
        "fwc.toml: 500 errors",
    ] {
        assert!(text.err.contains(words), "no `{words}` in\n{}", text.err);
    }
    let json = run(folder.path(), &["check", "--format", "json"]);
    assert_eq!(
        json.out.matches("\"bad-address\"").count(),
        500,
        "programs get all"
    );
}
