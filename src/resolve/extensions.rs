//! Checks `[extensions]`, and passes it to the reader of iptables' words.

use crate::diag::{Code, Diagnostic, Sink};
use crate::iptables::{self, Extensions};
use crate::net::Family;
use crate::policy::Policy;

/// The names that a policy declares under `[extensions]`.
pub struct Declared<'p> {
    matches: Vec<&'p str>,
    targets: Vec<&'p str>,
}

impl<'p> Declared<'p> {
    /// Collects the names of a policy.
    pub fn new(policy: &'p Policy) -> Self {
        let extensions = &policy.extensions;
        Self {
            matches: extensions.matches.iter().map(|one| &*one.value).collect(),
            targets: extensions.targets.iter().map(|one| &*one.value).collect(),
        }
    }

    /// Returns how matches and targets are read that fwc does not know.
    pub fn extensions(&self) -> Extensions<'_> {
        Extensions::Declared {
            matches: &self.matches,
            targets: &self.targets,
        }
    }

    /// Returns `true` if a match is neither known nor declared.
    pub fn lacks_match(&self, name: &str) -> bool {
        !self.matches.contains(&name) && !in_any_family(name, iptables::has_match)
    }

    /// Returns `true` if a target is neither known nor declared.
    pub fn lacks_target(&self, name: &str) -> bool {
        !self.targets.contains(&name) && !in_any_family(name, iptables::has_target)
    }
}

fn in_any_family(name: &str, has: fn(&str, Family) -> bool) -> bool {
    Family::ALL.into_iter().any(|family| has(name, family))
}

/// Reports extensions that fwc knows: it reads their options, and proves what they do.
pub fn check(policy: &Policy, sink: &mut Sink) {
    let extensions = &policy.extensions;
    let matches = extensions.matches.iter().map(|name| ("match", name));
    let targets = extensions.targets.iter().map(|name| ("target", name));
    for (what, name) in matches.chain(targets) {
        let has: fn(&str, Family) -> bool = match what {
            "match" => iptables::has_match,
            _ => iptables::has_target,
        };
        if in_any_family(&name.value, has) {
            let message = format!("fwc knows the {what} `{}`", name.value);
            sink.report(
                Diagnostic::error(Code::BadValue, name.span, message)
                    .help("leave it out: `[extensions]` is for what iptables 1.8.9 does not have"),
            );
        }
    }
}
