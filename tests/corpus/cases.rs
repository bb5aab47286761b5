//! Small inputs of every kind on which firewall tools fall short: each rules file and each policy has an answer.
//!
//! The environment variable `FWC_CASES` names the folder; it is walked whole, so that new inputs are tried without a word
//! here. A rules file (`*.v4`, `*.v6`) is formatted, explained, shown as a matrix, checked, and compared with itself; a policy
//! (`*.toml` with a `version`) is checked and built. An answer is a result or a clear error; a panic, an internal error, an
//! analysis that gives up, or a run that does not end is none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};

/// A run that has not ended by then hangs: nothing here takes a machine, however slow, so long.
const PATIENCE: Duration = Duration::from_secs(300);

/// The questions about a rules file; `FILE` stands for it, `HOST` for a source of its family.
const OF_RULES: [&str; 7] = [
    "fmt FILE",
    "explain --rules FILE --hook input",
    "explain --rules FILE --hook forward --service https",
    "explain --rules FILE --hook output --source HOST --state any",
    "matrix --rules FILE",
    "check --rules FILE",
    "diff FILE FILE",
];

/// The questions about a policy; `FOLDER` stands for a new folder.
const OF_POLICIES: [&str; 2] = ["check FILE", "build FILE --output FOLDER"];

/// A trial for each file; one that fails where the folder has none.
pub fn trials() -> Vec<Trial> {
    let Some(cases) = std::env::var_os("FWC_CASES").map(PathBuf::from) else {
        let ignored = Trial::test("cases", || Ok(())).with_kind("ignored: FWC_CASES is not set");
        return vec![ignored.with_ignored_flag(true)];
    };
    let mut files = Vec::new();
    files_below(&cases, &mut files);
    files.sort();
    let kinds = files
        .iter()
        .filter_map(|path| Some((path, questions(path)?)));
    let mut trials: Vec<Trial> = kinds
        .map(|(path, questions)| {
            let name = path.strip_prefix(&cases).unwrap_or(path).display();
            let path = path.clone();
            Trial::test(format!("cases::{name}"), move || answers(&path, questions))
        })
        .collect();
    if trials.is_empty() {
        let message = format!("no rules file and no policy below {}", cases.display());
        trials.push(Trial::test("cases", move || Err(message.into())));
    }
    trials
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    for entry in entries {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => files_below(&path, files),
            false => files.push(path),
        }
    }
}

/// What a file is asked; `None`: it is neither rules nor a policy.
fn questions(path: &Path) -> Option<&'static [&'static str]> {
    match path.extension()?.to_str()? {
        "v4" | "v6" => Some(&OF_RULES),
        "toml" => {
            let bytes = fs::read(path).expect("a file that can be read");
            let text = String::from_utf8_lossy(&bytes);
            let is_version = |line: &str| line.trim_start().starts_with("version");
            text.lines().any(is_version).then_some(&OF_POLICIES)
        }
        _ => None,
    }
}

fn answers(path: &Path, questions: &[&str]) -> Result<(), Failed> {
    let folder = path.parent().expect("a folder");
    let file = path.file_name().and_then(|name| name.to_str());
    let file = file.expect("a name in UTF-8");
    let host = match file.ends_with(".v6") {
        true => "2001:db8::7",
        false => "192.0.2.7",
    };
    let scratch = tempfile::tempdir().expect("a folder");
    let made = scratch.path().join("rules");
    let mut wrong = Vec::new();
    for question in questions {
        let words: Vec<&str> = question
            .split(' ')
            .map(|word| match word {
                "FILE" => file,
                "HOST" => host,
                "FOLDER" => made.to_str().expect("a path in UTF-8"),
                word => word,
            })
            .collect();
        if let Err(what) = answer(folder, &words) {
            wrong.push(format!("fwc {}: {what}", words.join(" ")));
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n").into()),
    }
}

/// An error where the run's end is no answer.
fn answer(folder: &Path, words: &[&str]) -> Result<(), String> {
    let (status, out, err) = run(folder, words)?;
    let text = format!("{out}{err}");
    let excuses = [
        "panicked at",
        "internal error",
        "internal-error",
        "fwc is wrong",
        "or fwc is",
        "gave up",
    ];
    if let Some(excuse) = excuses.iter().find(|excuse| text.contains(**excuse)) {
        return Err(format!("`{excuse}`\n{text}"));
    }
    let refused = err.contains("error[") || err.contains("error: ");
    match (status, words[0]) {
        (0, _) => Ok(()),
        // Rules are their own equals, unless they are none.
        (_, "diff") if !refused => Err(format!("differs from itself: {status}\n{text}")),
        (1, "check") => Ok(()),
        (1 | 2, _) if refused => Ok(()),
        _ => Err(format!("status {status} without a reason\n{text}")),
    }
}

fn run(folder: &Path, words: &[&str]) -> Result<(i32, String, String), String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fwc"));
    command.args(words).current_dir(folder);
    command.env_remove("CLICOLOR_FORCE").env("COLUMNS", "100");
    // Files, not pipes: a pipe that nobody reads is full some time.
    let [out, err] = [(); 2].map(|()| tempfile::tempfile().expect("a file"));
    let both = [&out, &err].map(|file| Stdio::from(file.try_clone().expect("a file")));
    let [to_out, to_err] = both;
    command.stdin(Stdio::null()).stdout(to_out).stderr(to_err);
    let mut child = command.spawn().expect("fwc can be started");
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().expect("a child") {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it has not ended after {PATIENCE:?}"));
            }
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    let status = status.code().ok_or(format!("killed: {status}"))?;
    Ok((status, text_of(out), text_of(err)))
}

fn text_of(mut file: fs::File) -> String {
    use std::io::{Read, Seek, SeekFrom};

    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).expect("a file");
    file.read_to_end(&mut bytes).expect("a file");
    String::from_utf8_lossy(&bytes).into_owned()
}
