//! Running the binary.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::schemas::assert_documented;

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    /// The exit status.
    pub status: i32,
    /// Standard output.
    pub out: String,
    /// Standard error, without how long the proofs took.
    pub err: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("fwc prints UTF-8");
        Self {
            status: output.status.code().expect("fwc is not killed"),
            out: text(output.stdout),
            err: timeless(&text(output.stderr)),
        }
    }
}

/// The text without the milliseconds of `verified: ... (12.3 ms)`: no two runs take the same time.
fn timeless(text: &str) -> String {
    let timeless = |line: &str| {
        let (before, rest) = line.split_once(" (")?;
        let (milliseconds, after) = rest.split_once(" ms)")?;
        let is_time = before.contains("verified: ") && milliseconds.parse::<f64>().is_ok();
        is_time.then(|| format!("{before}{after}"))
    };
    let lines = text.split_inclusive('\n');
    lines
        .map(|line| timeless(line).unwrap_or_else(|| line.to_owned()))
        .collect()
}

/// What is said of a proof that holds for so many lines.
pub fn proven(lines: usize) -> String {
    format!("verified: all {lines} rules match the policy, for every packet\n")
}

/// How many rules there are in both rules files of a folder.
pub fn rules_in(folder: &Path) -> usize {
    let lines = |name: &str| {
        let text = std::fs::read_to_string(folder.join(name)).expect("a rules file");
        text.lines().filter(|line| line.starts_with("-A ")).count()
    };
    lines("rules.v4") + lines("rules.v6")
}

/// `fwc` in a folder, without colours from the environment.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fwc"));
    command
        .args(arguments)
        .current_dir(folder)
        .env_remove("NO_COLOR")
        .env_remove("CLICOLOR_FORCE")
        .env_remove("FWC_IPTABLES")
        .env_remove("FWC_STATE_DIR")
        .env_remove("SOURCE_DATE_EPOCH")
        .env("COLUMNS", "100")
        .stdin(Stdio::null());
    command
}

/// Runs `fwc` in a folder to its end. What it prints for programs has to be as its schema says.
pub fn run(folder: &Path, arguments: &[&str]) -> Run {
    let output = command(folder, arguments).output();
    let run = Run::from(output.expect("fwc can be started"));
    assert_documented(&run.out);
    run
}

/// The folder of the crate.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder with these files.
pub fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        let parent = path.parent().expect("a path in the folder");
        std::fs::create_dir_all(parent).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
    folder
}

/// The names of all files below a folder, sorted.
pub fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("a path in the folder");
                found.push(name.display().to_string());
            }
        }
    }
    found.sort();
    found
}
