//! From a policy file to rules, and what stands in the way.

use std::collections::BTreeSet;
use std::path::Path;

use fwc::diag::{Code, Severity, Sink};
use fwc::expand::{Templates, expand};
use fwc::files::Access;
use fwc::net::PerFamily;
use fwc::policy;
use fwc::resolve::resolve;
use fwc::source::SourceMap;

/// What became of a policy.
pub enum Compiled {
    /// `iptables-restore` text.
    Rules(PerFamily<String>),
    /// It uses these keys, which this version does not have, and is not otherwise wrong.
    Waiting(BTreeSet<String>),
    /// It is wrong: the codes and the messages.
    Wrong(BTreeSet<&'static str>, String),
}

/// Compiles a policy.
pub fn compile(path: &Path) -> Compiled {
    let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
    let policy = policy::load(path, Access::Read, &mut sources, &mut sink);
    if let Some(plan) = policy.and_then(|policy| resolve(&policy, &mut sink)) {
        let templates = Templates::built_in().expect("built-in templates");
        let rendered = expand(&plan, &templates).expect("a plan that expands");
        return Compiled::Rules(PerFamily::from_fn(|family| {
            rendered.0[family].text().to_owned()
        }));
    }
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
