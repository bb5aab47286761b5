//! The rules to explain, and the policy, file and line that each of them comes from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::analysis::Space;
use crate::expand::{Rendered, RenderedFile};
use crate::iptables::{Ruleset, TableName};
use crate::net::{Family, Hook, IntervalSet, PerFamily};
use crate::policy::{Policy, PolicyDefaults};
use crate::resolve::Plan;
use crate::source::{SourceMap, Span};
use crate::verify::{self, RenderedRules};

/// The rules to explain: those of a policy, of rules files, or of the running firewall.
#[derive(Debug)]
pub struct Subject {
    /// The policy whose names are used in answers; empty if the rules do not come from a policy.
    pub policy: Policy,
    /// The resolved policy.
    pub plan: Plan,
    /// The source files of the policy.
    pub sources: SourceMap,
    /// The rules of each family; `None` if only the other family was read.
    pub rules: PerFamily<Option<FamilyRules>>,
}

/// The rules of a family.
#[derive(Debug)]
pub struct FamilyRules {
    /// The rules as they are in the file or the kernel.
    pub written: Ruleset,
    /// The rules to analyse. For a policy, conditions that a packet alone does not answer (rates, times, sets) are replaced
    /// by matches that name the condition in the words of the policy; otherwise equal to `written`.
    pub asked: Ruleset,
    /// The members of ipsets, by the name of the set; sets that other programs fill are missing.
    pub members: BTreeMap<String, IntervalSet>,
    source: Source,
}

/// Origin of the rules of a family.
#[derive(Debug)]
enum Source {
    Policy(RenderedFile),
    File(PathBuf),
    Live,
}

/// The place in a policy or rules file where a decision was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DecisionSource {
    /// Its name in the policy, such as `rule "ssh"` or a key of `[defaults]`; `None` without a policy.
    pub name: Option<String>,
    /// Its file and its line, from 1; `None` for live rules and for defaults that the policy does not set.
    pub place: Option<(String, usize)>,
}

impl Subject {
    /// Creates a space for the packets of a family.
    pub fn space(&self, family: Family) -> Space {
        Space::for_rules(family, self.rules[family].iter().map(|rules| &rules.asked))
    }

    /// Creates the subject for a policy. `rendered` must be the files made from `plan`, and `read` the same files parsed.
    pub fn of_policy(
        policy: Policy,
        plan: Plan,
        sources: SourceMap,
        rendered: Rendered,
        read: &RenderedRules,
    ) -> Self {
        let mut files = rendered.rules;
        let rules = PerFamily::from_fn(|family| {
            let members = verify::known_members(&plan, read, family);
            let written = read.ruleset(family).clone();
            let asked = verify::in_words_of_policy(&written, &members);
            Some(FamilyRules {
                asked: match plan.is_shared() {
                    true => verify::beside_others(&asked),
                    false => asked,
                },
                written,
                members,
                source: Source::Policy(std::mem::take(&mut files[family])),
            })
        });
        Self {
            policy,
            plan,
            sources,
            rules,
        }
    }

    /// Returns the rules file of a family; `None` if the rules come from a policy or from the kernel.
    pub fn file(&self, family: Family) -> Option<&Path> {
        match &self.rules[family].as_ref()?.source {
            Source::File(path) => Some(path),
            Source::Policy(_) | Source::Live => None,
        }
    }

    /// Creates the subject for rules without a policy. `plan` must be that of the empty policy; the path of each ruleset is
    /// its file, or `None` for live rules.
    pub fn of_rules(
        plan: Plan,
        rules: PerFamily<Option<(Ruleset, Option<PathBuf>)>>,
        members: &BTreeMap<String, IntervalSet>,
    ) -> Self {
        let mut rules = rules;
        let rules = PerFamily::from_fn(|family| {
            let (written, path) = rules[family].take()?;
            Some(FamilyRules {
                asked: written.clone(),
                written,
                members: members.clone(),
                source: path.map_or(Source::Live, Source::File),
            })
        });
        Self {
            policy: Policy::default(),
            plan,
            sources: SourceMap::new(),
            rules,
        }
    }

    /// Returns the place that a line (from 1) of a family's rules comes from.
    pub fn origin(&self, family: Family, line: u32, chain: &str) -> DecisionSource {
        let Some(rules) = &self.rules[family] else {
            return DecisionSource::default();
        };
        let line = line as usize;
        match &rules.source {
            Source::Live => DecisionSource::default(),
            Source::File(path) => DecisionSource {
                name: None,
                place: Some((path.display().to_string(), line)),
            },
            Source::Policy(file) => {
                let origin = file.origin(line);
                match origin.and_then(|origin| origin.written(&self.plan)) {
                    Some((label, span)) => DecisionSource {
                        name: Some(label.to_owned()),
                        place: Some(self.place(span)),
                    },
                    None => self.heading(file, line, (family, chain)),
                }
            }
        }
    }

    /// Returns the place that the policy of a base chain comes from.
    pub fn chain_policy(&self, family: Family, table: TableName, chain: &str) -> DecisionSource {
        let of_policy = self.rules[family]
            .as_ref()
            .is_some_and(|rules| matches!(rules.source, Source::Policy(_)));
        match of_policy && table == TableName::Filter {
            true if self.plan.is_shared() => self.mode(),
            true => self.default_of("default", (family, chain)),
            false => DecisionSource::default(),
        }
    }

    /// Returns `true` if rules of other programs decide packets that the rules of the policy leave undecided in a table.
    pub fn is_left_to_others(&self, table: TableName) -> bool {
        self.plan.is_shared() && table == TableName::Filter
    }

    /// Returns the place of `mode`, which lets other programs have rules beside those of the policy.
    fn mode(&self) -> DecisionSource {
        let mode = self.policy.ownership.mode.as_ref();
        DecisionSource {
            name: Some("`mode` of [ownership]".to_owned()),
            place: mode.map(|mode| self.place(mode.span)),
        }
    }

    /// Returns the place of a line that does not come from a rule of the policy. The comment above the line, which templates
    /// write, names the key of `[defaults]` that it comes from.
    fn heading(&self, file: &RenderedFile, line: usize, chain: (Family, &str)) -> DecisionSource {
        // The first line is the header of the file, not the heading of a group.
        let before = file.text().lines().take(line.saturating_sub(1)).skip(1);
        let heading = before.filter_map(|line| line.strip_prefix("# ")).last();
        match heading {
            Some(heading) => self.default_of(heading, chain),
            // In shared mode the jumps to fwc's chains come before the first heading.
            None if self.plan.is_shared() => self.mode(),
            None => DecisionSource::default(),
        }
    }

    fn default_of(&self, heading: &str, chain: (Family, &str)) -> DecisionSource {
        let key = heading.split(':').next().unwrap_or(heading);
        let (name, span) = default_key(&self.policy.defaults, key, heading, chain);
        DecisionSource {
            name: Some(name),
            place: span.map(|span| self.place(span)),
        }
    }

    fn place(&self, span: Span) -> (String, usize) {
        let file = self.sources.file(span.file);
        let (line, _) = file.position(span.start);
        (file.path().display().to_string(), line)
    }
}

/// Returns the key of `[defaults]` that a heading of the rules files belongs to, and its place in the policy.
fn default_key(
    defaults: &PolicyDefaults,
    key: &str,
    heading: &str,
    (family, chain): (Family, &str),
) -> (String, Option<Span>) {
    // The chain of shared mode has the name of the base chain behind `FWC-`.
    let hook =
        |hook: &Hook| chain == hook.chain() || chain.strip_prefix("FWC-") == Some(hook.chain());
    let hook = Hook::ALL.into_iter().find(hook);
    let only = defaults.families.as_ref();
    if let Some(only) = only.filter(|only| !only.value.has(family)) {
        return ("`families` of [defaults]".to_owned(), Some(only.span));
    }
    let Some(hook) = hook else {
        // The chain of antispoof is in the table raw.
        return match key {
            "antispoof" => named("antispoof", defaults.place(family, |keys| &keys.antispoof)),
            _ => (heading.to_owned(), None),
        };
    };
    let (name, span) = match (key, heading) {
        ("loopback", _) => (
            "loopback",
            defaults.place(family, |keys| &keys.loopback[hook]),
        ),
        ("established", _) => {
            let place = defaults.place(family, |keys| &keys.established[hook]);
            ("established", place)
        }
        ("invalid", _) => (
            "invalid",
            defaults.place(family, |keys| &keys.invalid[hook]),
        ),
        ("ICMP" | "ICMP essentials" | "ICMPv6 essentials", _) => {
            ("icmp", defaults.place(family, |keys| &keys.icmp[hook]))
        }
        ("DHCP client", _) => {
            let place = defaults.place(family, |keys| &keys.dhcp_client[hook]);
            ("dhcp-client", place)
        }
        ("default", "default: log") => ("log", defaults.place(family, |keys| &keys.log[hook])),
        ("default", _) => {
            let key = match hook {
                Hook::Input => "input",
                Hook::Forward => "forward",
                Hook::Output => "output",
            };
            (key, defaults.place(family, |keys| &keys.actions[hook]))
        }
        _ => return (heading.to_owned(), None),
    };
    named(name, span)
}

fn named(key: &str, span: Option<Span>) -> (String, Option<Span>) {
    let unset = if span.is_none() { " (default)" } else { "" };
    (format!("`{key}` of [defaults]{unset}"), span)
}
