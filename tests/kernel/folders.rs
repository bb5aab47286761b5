//! Where probes are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// `tests/probes`, and the folders that `FWC_PROBES` names, separated by colons.
pub fn folders() -> Vec<PathBuf> {
    let more = std::env::var_os("FWC_PROBES").unwrap_or_default();
    let more = std::env::split_paths(&more).filter(|path| !path.as_os_str().is_empty());
    std::iter::once(own()).chain(more).collect()
}

fn own() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/probes")
}

/// The cases in a folder: what holds a `probes.toml`.
pub fn cases(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let paths = entries.flatten().map(|entry| entry.path());
    let mut cases: Vec<_> = paths
        .filter(|path| path.join("probes.toml").exists())
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "{} holds no probes", folder.display());
    cases
}

/// The codes with which a key or value is refused that the language does not have.
const UNKNOWN: [&str; 14] = [
    "bad-address",
    "bad-icmp-type",
    "bad-mac",
    "bad-mark",
    "bad-name",
    "bad-prefix",
    "bad-service",
    "bad-tcp-flags",
    "bad-type",
    "bad-value",
    "missing-key",
    "unknown-key",
    "unknown-name",
    "unknown-service",
];

/// Returns `true` if a policy from elsewhere was refused only because it uses keys or values that the language does not have
/// yet. Such a case is reported as ignored, with the messages; fwc's own probes always have to be taken.
pub fn is_not_yet_said<'c>(path: &Path, codes: impl IntoIterator<Item = &'c str>) -> bool {
    let codes: BTreeSet<&str> = codes.into_iter().collect();
    let known = codes.iter().all(|code| UNKNOWN.contains(code));
    known && !codes.is_empty() && !path.starts_with(own())
}
