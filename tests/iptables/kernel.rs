//! The real tools, each in a network namespace of its own: what they save after loading a file.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use libtest_mimic::{Failed, Trial};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, TestRunner};

use fwc::iptables::{Print, Ruleset};
use fwc::net::Family;

use crate::generate::{self, file};

pub fn trials() -> Vec<Trial> {
    let trials = [Family::V4, Family::V6].into_iter().flat_map(|family| {
        ["nft", "legacy"].map(|backend| {
            let name = format!("random_rules_print_as_saved_{}_{backend}", family.keyword());
            Trial::test(name, move || random_rules_print_as_saved(family, backend))
        })
    });
    let golden = ["nft", "legacy"].map(|backend| {
        Trial::test(
            format!("generated_files_print_as_saved_{backend}"),
            move || generated_files(backend),
        )
    });
    let trials: Vec<_> = trials.chain(golden).collect();
    match Namespace::new() {
        Ok(_) => trials,
        Err(reason) => crate::ignored(trials, &reason),
    }
}

/// A network namespace that goes away with its value.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// A new one, or why there cannot be one.
    pub fn new() -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fwc-iptables-{}-{number}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).output();
        match made {
            Ok(output) if output.status.success() => {
                let namespace = Self { name };
                for tool in ["iptables-nft-save", "iptables-legacy-save"] {
                    namespace
                        .run(tool, "")
                        .map_err(|error| format!("{tool}: {error}"))?;
                }
                Ok(namespace)
            }
            _ => Err("no network namespace can be made here".into()),
        }
    }

    /// Runs a tool inside, with its own lock file.
    fn run(&self, tool: &str, input: &str) -> Result<String, String> {
        self.command(&[tool], input)
    }

    /// The same with arguments.
    fn command(&self, words: &[&str], input: &str) -> Result<String, String> {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.name])
            .args(words)
            .env(
                "XTABLES_LOCKFILE",
                std::env::temp_dir().join(format!("{}.lock", self.name)),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut stdin = child.stdin.take().expect("piped");
        stdin
            .write_all(input.as_bytes())
            .map_err(|error| error.to_string())?;
        drop(stdin);
        let output = child
            .wait_with_output()
            .map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// What a backend saves after it loaded the text, without comments.
    pub fn saved(&self, family: Family, backend: &str, text: &str) -> Result<String, String> {
        let tools = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        self.run(&format!("{tools}-{backend}-restore"), text)?;
        let saved = self.run(&format!("{tools}-{backend}-save"), "")?;
        Ok(saved
            .split_inclusive('\n')
            .filter(|line| !line.starts_with('#'))
            .collect())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
        let _ = std::fs::remove_file(std::env::temp_dir().join(format!("{}.lock", self.name)));
    }
}

/// Loads 400 random rules at once and compares every line of the save.
fn random_rules_print_as_saved(family: Family, backend: &str) -> Result<(), Failed> {
    let namespace = Namespace::new()?;
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    let strategy = generate::rule(family);
    let rules: Vec<_> = (0..400)
        .map(|_| {
            strategy
                .new_tree(&mut runner)
                .expect("no filter gives up")
                .current()
                .text()
        })
        // nft writes `! 0:N` as the ports above; legacy keeps it. A rate of one a day is too little for legacy.
        .filter(|rule| {
            backend == "nft"
                || !(rule.contains("port :")
                    || rule.contains("--limit 1/day")
                    || rule.contains("! -p"))
        })
        .collect();
    let text = file(&rules);
    let ruleset = Ruleset::from_text(&text, family)?;
    let saved = namespace
        .saved(family, backend, &text)
        .map_err(|error| format!("{error}\n{text}"))?;
    let printed = ruleset.to_text(Print::default());
    let differing: Vec<_> = saved
        .lines()
        .zip(printed.lines())
        .filter(|(saved, printed)| saved != printed)
        .collect();
    if !differing.is_empty() || saved.lines().count() != printed.lines().count() {
        return Err(format!("saved and printed differ: {differing:#?}").into());
    }
    println!(
        "{} rules, {backend}, {family}: printed as saved",
        rules.len()
    );
    Ok(())
}

/// The rules files that fwc makes of its examples and of the cases that go through every template: loaded, saved, read
/// and printed, nothing is different; and what is printed without loading is what is saved.
fn generated_files(backend: &str) -> Result<(), Failed> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut files, mut wrong) = (0, Vec::new());
    for family in Family::ALL {
        for path in rules_files(root, family) {
            let text = std::fs::read_to_string(&path)?;
            let namespace = Namespace::new()?;
            if let Ok(sets) = std::fs::read_to_string(path.with_file_name("ipsets")) {
                namespace.command(&["ipset", "restore"], &sets)?;
            }
            // Those that a policy only names.
            let kind = match family {
                Family::V4 => "inet",
                Family::V6 => "inet6",
            };
            let named = text.split("--match-set ").skip(1);
            for name in named.filter_map(|part| part.split(' ').next()) {
                let create = [
                    "ipset", "create", name, "hash:net", "family", kind, "-exist",
                ];
                if !name.starts_with("fwc") {
                    namespace.command(&create, "")?;
                }
            }
            let saved = namespace.saved(family, backend, &text);
            let saved = saved.map_err(|error| format!("{}: {error}", path.display()))?;
            files += 1;
            let read = |text: &str| {
                Ruleset::from_text(text, family).map(|ruleset| ruleset.to_text(Print::default()))
            };
            // Rules of shared mode say nothing of base chains: a table that they leave alone may be there or not.
            let is_shared = !text.contains("\n:INPUT ");
            let tables = |text: &str| -> Vec<String> {
                let tables = by_table(text).into_iter();
                let kept = tables.filter(|table| !is_shared || table.contains("\n-A "));
                kept.map(str::to_owned).collect()
            };
            let saved = tables(&saved);
            if tables(&read(&saved.concat())?) != saved || tables(&read(&text)?) != saved {
                wrong.push(path.display().to_string());
            }
        }
    }
    println!("{files} generated files, {backend}: {} differ", wrong.len());
    match files > 0 && wrong.is_empty() {
        true => Ok(()),
        false => Err(format!("differ: {}", wrong.join(", ")).into()),
    }
}

/// The tables' texts in one order: iptables-legacy has one of its own.
fn by_table(text: &str) -> Vec<&str> {
    let mut tables: Vec<_> = text.split_inclusive("COMMIT\n").collect();
    tables.sort_unstable();
    tables
}

/// `expected/rules.v4` or `.v6` of every example and every case.
fn rules_files(root: &Path, family: Family) -> Vec<PathBuf> {
    let folders = ["examples", "tests/cases"]
        .into_iter()
        .filter_map(|folder| std::fs::read_dir(root.join(folder)).ok());
    let mut files: Vec<_> = folders
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("expected").join(family.rules_file()))
        // `[extensions]` is for what iptables here does not have.
        .filter(|path| path.exists() && !path.to_string_lossy().contains("/extensions/"))
        .collect();
    files.sort();
    files
}
