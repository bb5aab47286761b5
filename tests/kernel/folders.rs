//! Where probes are.

use std::path::{Path, PathBuf};

/// `tests/probes`, and the folder that `FWC_PROBES` names.
pub fn folders() -> Vec<PathBuf> {
    let more = std::env::var_os("FWC_PROBES").filter(|name| !name.is_empty());
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/probes");
    [Some(own), more.map(PathBuf::from)]
        .into_iter()
        .flatten()
        .collect()
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
