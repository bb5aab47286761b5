//! From a policy file to rules, and what stands in the way.

use std::collections::BTreeSet;
use std::path::Path;

use fwc::compile::{Deny, Options};
use fwc::diag::{Code, Severity};
use fwc::files::Access;
use fwc::net::{Date, PerFamily};

/// Rules that end are judged as on this day, whenever the tests run; what is rendered does not depend on it.
const TODAY: Date = Date {
    year: 2026,
    month: 1,
    day: 1,
};

/// The files of a policy.
#[derive(Clone)]
pub struct Rules {
    /// `iptables-restore` text.
    pub texts: PerFamily<String>,
    /// `ipset restore` text; empty for a policy without sets.
    pub sets: String,
}

/// What became of a policy.
pub enum Compiled {
    /// `iptables-restore` text, and what `ipset restore` reads before it.
    Rules(Rules),
    /// It uses these keys, which this version does not have, and is not otherwise wrong.
    Waiting(BTreeSet<String>),
    /// It is wrong: the codes and the messages.
    Wrong(BTreeSet<&'static str>, String),
}

/// The rules of a policy that is given as text.
pub fn rules_of(policy: &str) -> Result<PerFamily<String>, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = folder.path().join("fwc.toml");
    std::fs::write(&path, policy).map_err(|error| error.to_string())?;
    match compile(&path) {
        Compiled::Rules(rules) => Ok(rules.texts),
        Compiled::Waiting(keys) => Err(format!("keys that are not supported yet: {keys:?}")),
        Compiled::Wrong(_, messages) => Err(messages),
    }
}

/// Compiles a policy.
pub fn compile(path: &Path) -> Compiled {
    let own = path.with_file_name("templates");
    let options = Options {
        access: Access::Read,
        templates: Some(own.as_path()).filter(|own| own.is_dir()),
        deny: &Deny::default(),
        verify: true,
        today: TODAY,
    };
    let compilation = fwc::compile::compile(path, options);
    if let Ok(compiled) = compilation.result {
        return Compiled::Rules(Rules {
            texts: compiled.rendered.texts(),
            sets: compiled.rendered.ipsets.unwrap_or_default(),
        });
    }
    let (sources, sink) = (compilation.sources, compilation.findings);
    let errors: Vec<_> = sink
        .sorted()
        .into_iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error)
        .collect();
    if !errors.is_empty()
        && errors
            .iter()
            .all(|error| error.code == Code::NotSupportedYet)
    {
        let keys = errors.iter().filter_map(|error| error.primary.as_ref());
        return Compiled::Waiting(
            keys.map(|label| sources.text(label.span).to_owned())
                .collect(),
        );
    }
    let messages: Vec<_> = errors
        .iter()
        .map(|error| format!("{}: {}", error.code.as_str(), error.message))
        .collect();
    Compiled::Wrong(
        errors.iter().map(|error| error.code.as_str()).collect(),
        messages.join("\n"),
    )
}
