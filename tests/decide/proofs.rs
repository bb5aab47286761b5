//! The proof on every example, every golden case and every probe.

use std::path::{Path, PathBuf};

use fwc::internals::verify::Verifier;
use libtest_mimic::{Completion, Trial};

use crate::folders::{folders as probe_folders, is_not_yet_said};
use crate::views::compile_file;

/// One test for each policy.
pub fn all() -> Vec<Trial> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![here.join("examples"), here.join("tests/cases")];
    folders.extend(probe_folders());
    let mut tests = Vec::new();
    for folder in folders {
        let entries =
            std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let policies = entries.flatten().map(|entry| entry.path().join("fwc.toml"));
        let mut policies: Vec<_> = policies.filter(|path| path.exists()).collect();
        assert!(
            !policies.is_empty(),
            "{} holds no policies",
            folder.display()
        );
        policies.sort();
        tests.extend(policies.into_iter().map(proof));
    }
    tests
}

fn proof(path: PathBuf) -> Trial {
    let name = path.parent().and_then(Path::file_name).unwrap_or_default();
    let name = format!("proofs::{}", name.to_string_lossy());
    match compile_file(&path) {
        Ok(compiled) => Trial::test(name, move || {
            let proof = Verifier::new(&compiled.policy, &compiled.plan).prove(&compiled.read());
            if proof.holds() {
                return Ok(());
            }
            Err(format!("{:#?}\n{:?}", proof.disagreements, proof.gave_up).into())
        }),
        Err(code) => {
            let is_from_elsewhere = !path.starts_with(env!("CARGO_MANIFEST_DIR"));
            let folder = path.parent().unwrap_or(&path).to_owned();
            Trial::ignorable_test(name, move || {
                match is_from_elsewhere && is_not_yet_said(&folder, [code]) {
                    true => Ok(Completion::ignored_with(format!(
                        "not yet in the language: {code}"
                    ))),
                    false => Err(format!("the policy was refused: {code}").into()),
                }
            })
        }
    }
}
