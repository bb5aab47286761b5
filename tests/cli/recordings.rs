//! The recordings of a terminal in the README: what the commands print, as pictures in docs/images.
//!
//! They are made by `scripts/record`; this test fails where a picture is not what its command prints.

use std::path::Path;
use std::process::Command;

use anstyle_svg::Term;

use crate::fwc::{command, folder, root};

/// Runs commands one after the other in a folder, and holds the picture of it against the one that is there.
fn assert_recorded(name: &str, at: &Path, commands: &[&[&str]]) {
    let mut screen = String::new();
    for arguments in commands {
        let line = arguments.join(" ");
        screen.push_str(&format!(
            "\u{1b}[2m$\u{1b}[0m \u{1b}[1mfwc {line}\u{1b}[0m\n"
        ));
        let arguments = [*arguments, &["--color", "always"]].concat();
        let ended = command(at, &arguments).output().unwrap();
        screen.push_str(&String::from_utf8(ended.stdout).unwrap());
    }
    let picture = Term::new().render_svg(screen.trim_end());
    let path = root().join("docs/images").join(name);
    if std::env::var_os("FWC_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &picture).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let path = path.display();
    assert!(
        there == picture,
        "{path} is not what the command prints: run scripts/record"
    );
}

/// A folder with the example of a router in a git repository.
fn router() -> tempfile::TempDir {
    let example = root().join("examples/router/fwc.toml");
    let policy = std::fs::read_to_string(example).unwrap();
    // The tests at its end would stop what is shown here.
    let (policy, _) = policy.split_once("# What must hold").unwrap();
    let folder = folder(&[("fwc.toml", policy)]);
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=x", "-c", "user.email=x@example.net"]);
        let ended = git.args(arguments).current_dir(folder.path()).output();
        assert!(ended.unwrap().status.success(), "{arguments:?}");
    };
    git(&["init", "-q"]);
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "x"]);
    folder
}

#[test]
fn explain() {
    assert_recorded(
        "explain.svg",
        &root().join("examples/bastion"),
        &[&["explain", "--source", "198.51.100.7", "--service", "ssh"]],
    );
}

#[test]
fn diff() {
    let folder = router();
    let path = folder.path().join("fwc.toml");
    let policy = std::fs::read_to_string(&path).unwrap();
    let changed = policy
        .replace(
            "[[rules]]\nname = \"dns and",
            "[addresses]\noffice = [\"203.0.113.0/24\", \"2001:db8:77::/48\"]\n\n[[rules]]\nname = \"dns and",
        )
        .replace(
            "name = \"ssh from the lan\"\nfrom = \"lan\"\n",
            "name = \"ssh from the lan and the office\"\nfrom = [\"lan\", \"wan\"]\nsource = [\"office\", \"10.0.0.0/8\"]\n",
        )
        .replace("service = [\"http\", \"https\"]", "service = \"https\"");
    assert_ne!(changed, policy);
    std::fs::write(&path, changed).unwrap();
    assert_recorded(
        "diff.svg",
        folder.path(),
        &[&["diff", "--packets", "git:HEAD", "fwc.toml"]],
    );
}
