//! Each case of the probes whose keys exist: every packet's verdict by `policy::decide`.

use std::path::{Path, PathBuf};

use fwc::diag::{Code, Severity, Sink};
use fwc::files::Access;
use fwc::policy::{self, Policy};
use fwc::resolve::resolve;
use fwc::source::SourceMap;
use libtest_mimic::{Completion, Failed, Trial};

use crate::counters::Verdict;
use crate::probe::Case;

/// One test for each case.
pub fn all() -> Vec<Trial> {
    let folder = std::env::var_os("FWC_PROBES").filter(|name| !name.is_empty());
    let Some(folder) = folder.map(PathBuf::from) else {
        return vec![ignored(
            "probes",
            "FWC_PROBES does not name a folder".into(),
        )];
    };
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut cases: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("probes.toml").exists())
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "{} holds no probes", folder.display());
    cases.iter().map(|path| case(path)).collect()
}

fn case(path: &Path) -> Trial {
    let name = format!("probes::{}", path.file_name().unwrap().to_string_lossy());
    let case = Case::read(&path.join("probes.toml")).unwrap_or_else(|e| panic!("{e}"));
    let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
    let read = policy::load(
        &path.join("fwc.toml"),
        Access::Read,
        &mut sources,
        &mut sink,
    );
    if let Some(policy) = &read {
        resolve(policy, &mut sink);
    }
    let errors = || {
        let all = sink.sorted().into_iter();
        all.filter(|diagnostic| diagnostic.severity == Severity::Error)
    };
    let later: Vec<_> = errors()
        .filter(|error| error.code == Code::NotSupportedYet)
        .filter_map(|error| Some(sources.text(error.primary.as_ref()?.span).to_owned()))
        .collect();
    if !later.is_empty() {
        return ignored(&name, format!("waits for {}", later.join(", ")));
    }
    let messages: Vec<_> = errors().map(|error| error.message.clone()).collect();
    Trial::test(name, move || match &read {
        Some(policy) if messages.is_empty() => judge(policy, &case),
        _ => Err(format!("the policy was refused: {}", messages.join("; ")).into()),
    })
}

fn judge(policy: &Policy, case: &Case) -> Result<(), Failed> {
    let mut wrong = String::new();
    for (number, probe) in (1..).zip(&case.probes) {
        let decision = policy::decide(policy, &probe.packet()?);
        let said = match decision.verdict {
            // Alone on the host, with base chains that accept.
            policy::Verdict::Accept | policy::Verdict::Continue => Verdict::Accept,
            policy::Verdict::Drop => Verdict::Drop,
            policy::Verdict::Reject(_) => Verdict::Reject,
        };
        if said != probe.expect {
            let (expected, why) = (probe.expect, &probe.why);
            wrong += &format!("probe {number} ({why}): expected {expected:?}, {decision:?}\n");
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!("{}\n{}\n{wrong}", case.about, case.sentence).into())
}

fn ignored(name: &str, reason: String) -> Trial {
    Trial::ignorable_test(name, move || Ok(Completion::ignored_with(reason)))
}
