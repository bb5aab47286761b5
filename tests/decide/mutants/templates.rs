//! Every template that is built in, with every mistake of one token.
//!
//! A failure names template, line and mistake. `FWC_PRINT=1` prints each mistake that nothing is wrong with, `FWC_ONLY` takes
//! a part of a template's name.

use std::path::Path;

use fwc::diag::Sink;
use fwc::files::Access;
use fwc::internals::expand::{Templates, expand};
use fwc::source::SourceMap;
use libtest_mimic::{Failed, Trial};

use super::many::{Mistake, try_all};
use super::tokens;

/// The tests.
pub fn all() -> Vec<Trial> {
    vec![Trial::test("mutants::templates", templates)]
}

fn templates() -> Result<(), Failed> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
    let only = std::env::var("FWC_ONLY").unwrap_or_default();
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.contains(&only) {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for mistake in tokens::mistakes(&text) {
            let tokens::Mistake {
                way,
                line,
                before,
                after,
                text,
            } = mistake;
            all.push(Mistake {
                group: name.clone(),
                way: way.to_owned(),
                blame: format!("{name}:{line}: {way}: {before:?} -> {after:?}"),
                what: (name.clone(), text),
            });
        }
    }
    try_all(
        all,
        |(name, text)| {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(name), text).unwrap();
            let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
            Templates::with_folder(folder.path(), Access::Read, &mut sources, &mut sink)
        },
        |templates, right| expand(&right.compiled.plan, templates).ok(),
    )
}
