//! Files that are no policies, and texts of a size that nobody writes: an error at once, and nothing else.

use std::ffi::CString;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use crate::fwc::{folder, run};

/// Long enough for a loaded machine, short enough for a read that would never end.
const PATIENCE: Duration = Duration::from_secs(180);

const POLICIES: [(&str, &str); 2] = [
    ("include", "version = 1\ninclude = PATH\n"),
    (
        "file",
        "version = 1\n[addresses]\nlist = { file = PATH }\n[[rules]]\nsource = \"list\"\n",
    ),
];

#[test]
fn paths_that_are_no_files() {
    let folder = folder(&[
        ("real.toml", ""),
        ("secret", "root:$6$salt$hash:19000::::::\n"),
    ]);
    let path = |name: &str| folder.path().join(name);
    symlink("loop", path("loop")).expect("a link");
    symlink("nowhere", path("dangling")).expect("a link");
    symlink("/dev/zero", path("zero")).expect("a link");
    std::fs::create_dir(path("folder")).expect("a folder");
    let fifo = CString::new(path("fifo").display().to_string()).expect("a path");
    nix::unistd::mkfifo(fifo.as_c_str(), nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    for bad in [
        "loop",
        "dangling",
        "zero",
        "folder",
        "fifo",
        "secret",
        "/dev/zero",
        "/dev/stdin",
        "/dev/tty",
        "/proc/self/mem",
        "/proc/kmsg",
        "/",
        "",
        ".",
        "..",
        "../../../../../../../../etc/shadow",
        "/etc/shadow",
        "real.toml/",
        "real.toml\u{0}.txt",
        "http://192.0.2.1/policy.toml",
        "|id",
        "-",
        "~/policy.toml",
        "$HOME/policy.toml",
    ] {
        for (key, policy) in POLICIES {
            let quoted = serde_json::to_string(bad).expect("a text");
            std::fs::write(path("fwc.toml"), policy.replace("PATH", &quoted)).expect("a file");
            let begun = Instant::now();
            let run = run(folder.path(), &["build", "-o", "out"]);
            assert_eq!(
                (run.status, run.out.as_str()),
                (1, ""),
                "{key} = {quoted}: {}",
                run.err
            );
            assert!(run.err.contains("error["), "{key} = {quoted}: {}", run.err);
            assert!(!path("out").exists(), "{key} = {quoted}");
            assert!(begun.elapsed() < PATIENCE, "{key} = {quoted}");
        }
    }
}

/// Seven million characters in one text, less than a policy may have in all, in places where texts may be long, short, names, numbers or paths.
#[test]
fn seven_megabytes() {
    let long = "x".repeat(7 << 20);
    for (place, is_right) in [
        ("[[rules]]\nservice = 'ssh'\ncomment = 'TEXT'", true),
        ("[[rules]]\nname = 'TEXT'", false),
        ("[[rules]]\nservice = 'TEXT'", false),
        ("[[rules]]\nsource = 'TEXT'", false),
        ("[[rules]]\nfrom = 'TEXT'", false),
        ("[[rules]]\nlimit = 'TEXT'", false),
        ("[[rules]]\n'TEXT' = 1", false),
        ("[interfaces]\nlan = 'TEXT'", false),
        ("[addresses]\n'TEXT' = '10.0.0.1'", true),
        ("[addresses]\na = { file = 'TEXT' }", false),
        ("[addresses]\n'TEXT' = { set = 'dynamic' }", false),
        ("[log.denied]\nprefix = 'TEXT'", false),
        ("[defaults]\nlog = 'TEXT'", false),
    ] {
        let policy = format!("version = 1\n{}\n", place.replace("TEXT", &long));
        let folder = folder(&[("fwc.toml", &policy)]);
        let begun = Instant::now();
        let run = run(folder.path(), &["check"]);
        assert_eq!(run.status == 0, is_right, "{place}: {:.300}", run.err);
        // What is shown is a window of it.
        assert!(run.err.len() < 6000, "{place}: {} bytes", run.err.len());
        assert!(begun.elapsed() < PATIENCE, "{place}: {:?}", begun.elapsed());
    }
    let folder = folder(&[("fwc.toml", &format!("version = 1\ninclude = '{long}'\n"))]);
    let run = run(folder.path(), &["check"]);
    assert_eq!(run.status, 1);
    assert!(run.err.len() < 6000, "{} bytes", run.err.len());
}

/// Many of everything end in an error, or in time.
#[test]
fn deep_and_many() {
    let nested = format!(
        "version = 1\nrules = {}{}\n",
        "[".repeat(200_000),
        "]".repeat(200_000)
    );
    let tables = format!("version = 1\n[{}]\n", vec!["a"; 100_000].join("."));
    let keys: String = (0..20_000)
        .map(|number| format!("key{number} = 1\n"))
        .collect();
    let keys = format!("version = 1\n{keys}");
    for policy in [nested, tables, keys] {
        let folder = folder(&[("fwc.toml", &policy)]);
        let begun = Instant::now();
        let run = run(folder.path(), &["check"]);
        assert_eq!(run.status, 1, "{:.300}", run.err);
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    }
}

/// Runs fwc with 3 GiB of memory at most, its threads' stacks among them: what asks for more dies, and fails the test.
fn run_bounded(folder: &std::path::Path, arguments: &[&str]) -> crate::fwc::Run {
    let fwc = crate::fwc::command(folder, arguments);
    let mut bounded = std::process::Command::new("sh");
    bounded
        .args(["-c", "ulimit -v 3145728; exec \"$0\" \"$@\""])
        .arg(fwc.get_program())
        .args(fwc.get_args())
        .current_dir(folder);
    bounded.output().expect("fwc can be started").into()
}

/// A small policy that would become 20 million lines and more, and entries of nat, mangle and raw like it.
#[test]
fn rules_of_too_many_lines() {
    let list = |network: u32| -> String {
        let members: Vec<_> = (0..1000)
            .map(|number| format!("\"10.{network}.{}.{}\"", number / 100, number % 100 * 2 + 1))
            .collect();
        members.join(", ")
    };
    let ports: Vec<_> = (0..300)
        .map(|port| format!("\"{}/udp\"", port * 2 + 1))
        .collect();
    let names = format!("[addresses]\na = [{}]\nb = [{}]\n", list(1), list(2));
    let keys = format!(
        "source = \"a\"\ndestination = \"b\"\nservice = [{}]\n",
        ports.join(", ")
    );
    for entry in [
        "[[rules]]\n",
        "[[raw]]\ntype = \"notrack\"\nfrom = \"any\"\n",
        "[[mangle]]\ntype = \"mark\"\nset = 1\nfrom = \"any\"\nto = \"any\"\n",
    ] {
        let policy = format!("version = 1\n{names}{entry}{keys}");
        let folder = folder(&[("fwc.toml", &policy)]);
        let run = run_bounded(folder.path(), &["check"]);
        assert_eq!(run.status, 1, "{entry}: {:.600}", run.err);
        assert!(
            run.err.contains("error[too-large]"),
            "{entry}: {:.600}",
            run.err
        );
        assert!(run.err.contains("--max-lines"), "{:.600}", run.err);
    }
}

#[test]
fn most_lines_can_be_chosen() {
    let ports: Vec<_> = (1..=40)
        .map(|port| format!("\"{}/tcp\"", port * 2))
        .collect();
    let policy = format!(
        "version = 1\n[addresses]\na = [\"10.0.0.1\", \"10.0.0.3\", \"10.0.0.5\"]\n[[rules]]\nservice = \"ssh\"\n[[rules]]\nscope = \"ipv4\"\nsource = \"a\"\nservice = [{}]\n",
        ports.join(", ")
    );
    let folder = folder(&[("fwc.toml", &policy)]);
    // Three addresses, forty ports in three lists, and ssh.
    let run = |most: &str| crate::fwc::run(folder.path(), &["check", "--max-lines", most]);
    assert_eq!(run("10").status, 0);
    let refused = run("9");
    assert_eq!(refused.status, 1);
    let words = "the policy becomes 10 lines of rules, more than 9; 9 of them come from here";
    assert!(refused.err.contains(words), "{}", refused.err);
    assert!(refused.err.contains("fwc.toml:6"), "{}", refused.err);
}

/// Text that would take many times its size in memory is refused before it is looked into, in one file or in many.
#[test]
fn policies_of_too_much_text() {
    let text = "# nobody reads this\n".repeat(250_000);
    let whole = format!("version = 1\n{text}{text}");
    let parts = "version = 1\ninclude = \"part-*.toml\"\n";
    let files: [&[(&str, &str)]; 2] = [
        &[("fwc.toml", &whole)],
        &[
            ("fwc.toml", parts),
            ("part-1.toml", &text),
            ("part-2.toml", &text),
        ],
    ];
    for files in files {
        let folder = folder(files);
        let run = run(folder.path(), &["check"]);
        assert_eq!(run.status, 1, "{}", run.err);
        assert!(
            run.err
                .contains("error[too-large]: the policy has more than 8 MiB of text"),
            "{}",
            run.err
        );
    }
}

/// A pattern over more files than anybody includes.
#[test]
fn patterns_that_lead_everywhere() {
    for pattern in [
        "/**/*a*a*a*a*b.toml",
        "/**/**/**/**/*a*b.toml",
        "/proc/**/x.toml",
    ] {
        let policy = format!("version = 1\ninclude = \"{pattern}\"\n");
        let folder = folder(&[("fwc.toml", &policy)]);
        let begun = Instant::now();
        let run = run(folder.path(), &["check"]);
        assert_eq!(run.status, 1, "{pattern}: {}", run.err);
        let is_told = run.err.contains("error[too-large]") || run.err.contains("no file fits");
        assert!(is_told, "{pattern}: {}", run.err);
        assert!(begun.elapsed() < PATIENCE, "{pattern}");
    }
}
