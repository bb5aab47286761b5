//! The policies that mistakes are looked for with.

use std::path::{Path, PathBuf};

use fwc::internals::verify::RenderedRules;
use fwc::iptables::Ruleset;
use fwc::net::PerFamily;
use tempfile::TempDir;

use crate::folders::folders;
use crate::generate::{Random, sample};
use crate::views::{Compiled, compile_file};

/// What nothing else has.
const MORE: [&str; 3] = [
    // The raw table: both kinds of entries behind antispoof.
    r#"
version = 1
defaults.antispoof = true
[interfaces]
lan = { device = "eth1", networks = ["10.0.0.0/24", "fd00::/64"] }
[[raw]]
type = "helper"
helper = "ftp"
service = "ftp"
[[raw]]
type = "notrack"
from = "lan"
service = "123/udp"
[[rules]]
service = ["ftp", "123/udp"]
"#,
    // The same beside others.
    r#"
version = 1
ownership.mode = "shared"
[[raw]]
type = "helper"
helper = "sip"
service = "5060/udp"
[[raw]]
type = "notrack"
from = ["any", "host"]
service = "123/udp"
[[rules]]
service = ["5060/udp", "123/udp"]
"#,
    // Rules that packets come to by several lines and go on from.
    r#"
version = 1
[interfaces]
lan = { device = "eth1", networks = ["10.0.0.0/24", "fd00::/64"] }
[zones]
near = { networks = ["10.0.0.0/8", "fd00::/8"] }
[[rules]]
name = "seen"
action = "log"
from = ["lan", "near"]
service = ["ssh", "1-1024/tcp", "53/udp"]
[[rules]]
from = ["lan", "near"]
service = ["ssh", "53/udp"]
limit = { rate = "10/minute", over = "continue" }
"#,
];

/// Random ones, besides those that people wrote.
const RANDOM: u64 = 60;

/// A policy and its rules as they should be.
pub struct Right {
    pub name: String,
    /// The file that it was compiled from.
    pub path: PathBuf,
    /// Where that file is, if it is only there for this.
    _folder: Option<TempDir>,
    pub compiled: Compiled,
    pub rules: RenderedRules,
}

impl Right {
    fn of_file(name: String, path: PathBuf) -> Option<Self> {
        let compiled = compile_file(&path).ok()?;
        let rules = compiled.read();
        Some(Self {
            name,
            path,
            _folder: None,
            compiled,
            rules,
        })
    }

    fn of_text(name: String, text: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fwc.toml");
        std::fs::write(&path, text).unwrap();
        let right = Self::of_file(name, path)?;
        Some(Self {
            _folder: Some(folder),
            ..right
        })
    }

    /// Both rulesets.
    pub fn rulesets(&self) -> PerFamily<&Ruleset> {
        PerFamily::from_fn(|family| self.rules.ruleset(family))
    }
}

/// Examples, cases, probes and random policies, the small ones first.
pub fn all() -> Vec<Right> {
    let written = written().into_iter().filter_map(|path| {
        let name = path.parent()?.file_name()?.to_string_lossy().into_owned();
        Right::of_file(name, path)
    });
    let more = (0..).zip(MORE).map(|(number, text)| {
        let right = Right::of_text(format!("more {number}"), text);
        right.unwrap_or_else(|| panic!("refused: {text}"))
    });
    let random = (0..RANDOM).filter_map(|seed| {
        let sample = sample(&mut Random(2_000_000 + seed));
        Right::of_text(format!("seed {seed}"), &sample.text)
    });
    let mut all: Vec<_> = written.chain(more).chain(random).collect();
    let length = |right: &Right| {
        right
            .compiled
            .text
            .iter()
            .map(|(_, text)| text.len())
            .sum::<usize>()
    };
    all.sort_by_key(length);
    all
}

fn written() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut roots = vec![here.join("examples"), here.join("tests/cases")];
    roots.extend(folders());
    let mut paths = Vec::new();
    for root in roots {
        let entries =
            std::fs::read_dir(&root).unwrap_or_else(|e| panic!("{}: {e}", root.display()));
        let policies = entries.flatten().map(|entry| entry.path().join("fwc.toml"));
        paths.extend(policies.filter(|path| path.exists()));
    }
    paths.sort();
    paths
}
