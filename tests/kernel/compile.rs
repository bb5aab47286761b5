//! From a policy file to rules, and what stands in the way.

use std::collections::BTreeSet;
use std::path::Path;

use fwc::compile::{Deny, Options};
use fwc::diag::Severity;
use fwc::files::Access;
use fwc::net::{Date, PerFamily};

/// Rules that end are judged as on this day, whenever the tests run; what is rendered does not depend on it.
const TODAY: Date = Date::constant(2026, 1, 1);

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
        max_lines: None,
        today: TODAY,
    };
    let compilation = fwc::compile::compile(path, options);
    if let Ok(compiled) = compilation.result {
        return Compiled::Rules(Rules {
            texts: compiled.rendered.texts(),
            sets: compiled.rendered.ipsets.unwrap_or_default(),
        });
    }
    let errors: Vec<_> = compilation
        .findings
        .sorted()
        .into_iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error)
        .collect();
    let messages: Vec<_> = errors
        .iter()
        .map(|error| format!("{}: {}", error.code.as_str(), error.message))
        .collect();
    Compiled::Wrong(
        errors.iter().map(|error| error.code.as_str()).collect(),
        messages.join("\n"),
    )
}
