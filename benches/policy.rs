//! `cargo bench --bench policy`: what a user waits for. The program itself on a large policy and on a large fleet: wall
//! time and the most memory that it held, beside what we aim at. Figures are reported, not asserted.

#![allow(clippy::print_stdout, clippy::expect_used)]

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

const RULES: usize = 10_000;
const ADDRESSES: usize = 100_000;
const HOSTS: usize = 1_000;

fn main() {
    large_policy();
    fleet();
}

/// Runs `fwc build`, which proves what it writes, and returns how long it took.
fn build(folder: &Path, policy: &str) -> Duration {
    let begun = Instant::now();
    let run = Command::new(env!("CARGO_BIN_EXE_fwc"))
        .args(["build", policy, "-o", "out"])
        .current_dir(folder)
        .output()
        .expect("fwc can be started");
    let took = begun.elapsed();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}");
    assert!(said.contains("proven: "), "{said}");
    took
}

/// The most memory that any child held, in MiB.
fn most_memory() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the usage of children");
    usage.max_rss() / 1024
}

/// Ten thousand rules that differ in source, port and action, and two sets that some of them name.
fn large_policy() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut list = String::new();
    for number in 0..ADDRESSES {
        // No two are neighbours: nothing melts into a larger prefix.
        let [_, a, b, c] = (u32::try_from(number).expect("a number") * 2).to_be_bytes();
        let _ = match number % 10 {
            0 => writeln!(list, "2001:db8:{a:x}:{b:x}{c:02x}::/64"),
            _ => writeln!(list, "11.{a}.{b}.{c}"),
        };
    }
    std::fs::write(folder.path().join("list.txt"), list).expect("a file");
    let mut policy = String::from(
        "version = 1\n[addresses]\nblocked = { file = \"list.txt\", set = true }\n\
         [[rules]]\naction = \"drop\"\nsource = \"blocked\"\n",
    );
    for number in 1..RULES {
        let (a, b) = (number / 256, number % 256);
        let port = 1024 + number * 7 % 60_000;
        let action = ["accept", "accept", "drop"][number % 3];
        let _ = write!(
            policy,
            "[[rules]]\nname = \"rule {number}\"\naction = \"{action}\"\n\
             source = [\"10.{a}.{b}.0/25\", \"2001:db8:{number:x}::/48\"]\nservice = \"{port}/tcp\"\n"
        );
    }
    std::fs::write(folder.path().join("fwc.toml"), policy).expect("a file");
    let took = build(folder.path(), "fwc.toml");
    println!(
        "{RULES} rules, {ADDRESSES} addresses in sets: built and proven in {:.2} s, {} MiB (aim: 2 s, 500 MiB)",
        took.as_secs_f64(),
        most_memory()
    );
}

/// A thousand hosts, each with a base, one of four roles, and a rule of its own.
fn fleet() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    };
    write(
        "roles/base.toml",
        "[addresses]\nadmins = [\"203.0.113.0/24\", \"2001:db8:1::/48\"]\n\
         [[rules]]\nname = \"ssh\"\nsource = \"admins\"\nservice = \"ssh\"\n\
         [[rules]]\nname = \"metrics\"\nsource = \"admins\"\nservice = \"node-exporter\"\n",
    );
    for (role, service) in [
        ("web", "https"),
        ("mail", "smtp"),
        ("db", "postgresql"),
        ("dns", "dns"),
    ] {
        write(
            &format!("roles/{role}.toml"),
            &format!("[[rules]]\nname = \"{role}\"\nservice = \"{service}\"\n"),
        );
    }
    for number in 0..HOSTS {
        let role = ["web", "mail", "db", "dns"][number % 4];
        let port = 8000 + number;
        write(
            &format!("hosts/host{number}.toml"),
            &format!(
                "version = 1\ninclude = [\"../roles/base.toml\", \"../roles/{role}.toml\"]\n\
                 [[rules]]\nname = \"own\"\nsource = \"admins\"\nservice = \"{port}/tcp\"\n"
            ),
        );
    }
    let took = build(folder.path(), "hosts");
    println!(
        "{HOSTS} hosts with shared roles: built and proven in {:.2} s, {:.0} hosts/s",
        took.as_secs_f64(),
        HOSTS as f64 / took.as_secs_f64()
    );
}
