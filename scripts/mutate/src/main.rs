//! Makes a copy of fwc in which `src/expand` and `src/net` have every mistake of one token, each behind a number, and runs its
//! test of them.
//!
//! One build holds all mistakes: an expression becomes `match crate::mistake::at() { 17 => wrong, _ => right }`. What the
//! compiler refuses is a mistake that nobody can make: it is counted, taken out, and the copy built again.
//!
//! `mutate REPOSITORY COPY`: the copy is overwritten.

mod mistakes;
mod refused;
mod variants;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mistakes::{Mistake, Mutator};

/// The folders of `src` that are mutated: what makes the rules, and the types that it shares with those who judge them.
const ROOMS: [&str; 2] = ["expand", "net"];
/// What a copy needs.
const COPIED: [&str; 6] = [
    "Cargo.lock",
    "src",
    "templates",
    "tests",
    "examples",
    "docs",
];
/// The build is tried so many times at most: each finds out what else the compiler refuses.
const MOST_BUILDS: usize = 60;

const SWITCH: &str = r#"
/// Which mistake is made, for whoever tests that it is found.
#[allow(missing_docs)]
pub mod mistake {
    use std::cell::Cell;

    thread_local! {
        static NUMBER: Cell<u32> = const { Cell::new(0) };
        static ASKED: Cell<u64> = const { Cell::new(0) };
        static BEGAN: Cell<usize> = const { Cell::new(0) };
    }

    /// Where the stack is.
    #[inline(never)]
    fn depth() -> usize {
        let here = 0_u8;
        std::ptr::from_ref(&here).addr()
    }

    pub fn make(number: u32) {
        NUMBER.set(number);
        ASKED.set(0);
        BEGAN.set(depth());
    }

    /// A loop without an end asks very often, and what calls itself without an end goes deep.
    pub fn at() -> u32 {
        ASKED.set(ASKED.get() + 1);
        let ends = ASKED.get() < 200_000_000 && BEGAN.get().abs_diff(depth()) < 8 << 20;
        assert!(ends || NUMBER.get() == 0, "it does not end");
        NUMBER.get()
    }

    pub fn is(number: u32) -> bool {
        at() == number
    }
}
"#;

const MAKES: &str = r#"//! Which mistake is made.

pub const MISTAKES: &str = include_str!("../../../mistakes.tsv");

pub fn make(number: u32) {
    fwc::mistake::make(number);
}
"#;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let (Some(repository), Some(copy)) = (arguments.next(), arguments.next()) else {
        return Err("mutate REPOSITORY COPY".into());
    };
    prepare(&repository, &copy)?;
    let files = mutated(&repository)?;
    // What was refused before is known as long as the files are the same.
    let mut hasher = DefaultHasher::new();
    files.hash(&mut hasher);
    let known = copy.join(format!("refused-{:016x}", hasher.finish()));
    let text = fs::read_to_string(&known).unwrap_or_default();
    let mut refused: BTreeSet<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    for _ in 0..MOST_BUILDS {
        let all = write(&files, &copy, &refused)?;
        let found = build(&copy)?;
        let before = refused.len();
        refused.extend(found);
        let lines = refused.iter().map(|number| format!("{number}\n"));
        fs::write(&known, lines.collect::<String>())?;
        println!(
            "{} mistakes, {} refused by the compiler",
            all.len(),
            refused.len()
        );
        if refused.len() == before {
            return run(&copy);
        }
    }
    Err("the copy does not build".into())
}

/// Makes the copy: what did not change stays, and need not be built again.
fn prepare(repository: &Path, copy: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(copy)?;
    for name in COPIED {
        copy_tree(&repository.join(name), &copy.join(name))?;
    }
    let manifest = fs::read_to_string(repository.join("Cargo.toml"))?;
    // No lints, no benches, no program: another package beside the right one.
    let mut kept = String::new();
    let mut keep = true;
    for line in manifest.lines() {
        if line.starts_with('[') {
            keep = !line.starts_with("[lints") && line != "[[bench]]";
        }
        if keep {
            kept += &format!("{line}\n");
        }
    }
    let manifest = kept.replace(
        "name = \"fwc\"\n",
        "name = \"fwc-mistaken\"\nautobenches = false\n",
    );
    put(
        &copy.join("Cargo.toml"),
        &format!("{manifest}\n[lib]\nname = \"fwc\"\n\n[workspace]\n"),
    )?;
    let main = copy.join("src/main.rs");
    if main.exists() {
        fs::remove_file(main)?;
    }
    let lib = fs::read_to_string(repository.join("src/lib.rs"))?;
    put(&copy.join("src/lib.rs"), &(lib + SWITCH))?;
    put(&copy.join("tests/decide/mutants/makes.rs"), MAKES)
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    if !from.is_dir() {
        if fs::read(to).ok() != Some(fs::read(from)?) {
            fs::copy(from, to)?;
        }
        return Ok(());
    }
    // The mutated files are written later.
    if ROOMS.iter().any(|room| from.ends_with(Path::new("src").join(room))) {
        return Ok(());
    }
    fs::create_dir_all(to)?;
    // What is gone from the one is gone from the other.
    for entry in fs::read_dir(to)? {
        let old = entry?.path();
        let name = old.file_name().unwrap_or_default();
        if !from.join(name).exists() {
            match old.is_dir() {
                true => fs::remove_dir_all(&old)?,
                false => fs::remove_file(&old)?,
            }
        }
    }
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        copy_tree(&from.join(&name), &to.join(&name))?;
    }
    Ok(())
}

/// Writes a file unless it is the same.
fn put(path: &Path, text: &str) -> Result<(), Box<dyn Error>> {
    if fs::read_to_string(path).ok().as_deref() != Some(text) {
        fs::write(path, text)?;
    }
    Ok(())
}

/// The files that are mutated, with their paths below `src`: read once, so that numbers stay what they are.
fn mutated(repository: &Path) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    let mut files = BTreeMap::new();
    let mut open: Vec<String> = ROOMS.map(str::to_owned).to_vec();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(repository.join("src").join(&folder))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{folder}/{name}");
            if entry.path().is_dir() {
                open.push(path);
            // Their own tests give no rules.
            } else if name != "tests.rs" {
                files.insert(path, fs::read_to_string(entry.path())?);
            }
        }
    }
    Ok(files)
}

/// Writes the files with all mistakes but the refused ones.
fn write(
    files: &BTreeMap<String, String>,
    copy: &Path,
    refused: &BTreeSet<u32>,
) -> Result<Vec<Mistake>, Box<dyn Error>> {
    let to = copy.join("src");
    for folder in files.keys().filter_map(|name| Path::new(name).parent()) {
        fs::create_dir_all(to.join(folder))?;
    }
    let mut all = Vec::new();
    for (name, text) in files {
        let mut file = syn::parse_file(text)?;
        let mut mutator = Mutator::new(name, all, refused);
        mutator.file(&mut file);
        all = mutator.found;
        put(&to.join(name), &prettyplease::unparse(&file))?;
    }
    let left = all
        .iter()
        .filter(|mistake| !refused.contains(&mistake.number));
    let lines = left.map(|mistake| {
        format!(
            "{}\t{}\t{}:{}\t{}\n",
            mistake.number, mistake.way, mistake.file, mistake.line, mistake.what
        )
    });
    put(&copy.join("mistakes.tsv"), &lines.collect::<String>())?;
    Ok(all)
}

/// Builds the copy; the mistakes that the compiler refuses.
fn build(copy: &Path) -> Result<BTreeSet<u32>, Box<dyn Error>> {
    let output = Command::new("cargo")
        .args(["check", "--offline", "--lib", "--message-format=json"])
        .current_dir(copy)
        .stderr(Stdio::null())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let found = refused::refused(copy, &text)?;
    if !output.status.success() && found.is_empty() {
        return Err("the compiler refuses something else than a mistake".into());
    }
    Ok(found)
}

fn run(copy: &Path) -> Result<(), Box<dyn Error>> {
    let status = Command::new("cargo")
        .args([
            "test",
            "--offline",
            "--test",
            "decide",
            "--",
            "mutants::made",
            "--include-ignored",
        ])
        .current_dir(copy)
        .status()?;
    match status.success() {
        true => Ok(()),
        false => Err("a mistake survived".into()),
    }
}
