//! The rules that a packet goes through, and where each of them is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::analysis::Space;
use crate::expand::{Rendered, RenderedFile};
use crate::iptables::{Ruleset, TableName};
use crate::net::{Family, IntervalSet, PerFamily};
use crate::policy::{Policy, PolicyDefaults};
use crate::resolve::Plan;
use crate::source::{Located, SourceMap, Span};
use crate::verify::{self, RenderedRules};

/// What is explained: a policy's rules, or any others.
#[derive(Debug)]
pub struct Subject {
    /// The policy whose names are used; an empty one where there is none.
    pub policy: Policy,
    /// What it means.
    pub plan: Plan,
    /// Its files.
    pub sources: SourceMap,
    /// The rules of each family that there is.
    pub rules: PerFamily<Option<FamilyRules>>,
}

/// The rules of a family.
#[derive(Debug)]
pub struct FamilyRules {
    /// As they are written.
    pub written: Ruleset,
    /// The same rules, conditions that packets do not answer in the policy's words where there is one.
    pub asked: Ruleset,
    /// The members of the sets whose members are known.
    pub members: BTreeMap<String, IntervalSet>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Policy(RenderedFile),
    File(PathBuf),
    Live,
}

/// Where something is written that decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DecisionSource {
    /// What it is called there: `rule "ssh"`, or a key of `[defaults]`.
    pub name: Option<String>,
    /// Its file and line, as people read them; `None` where nothing was written.
    pub place: Option<(String, usize)>,
}

impl Subject {
    /// A space for the packets of a family.
    pub fn space(&self, family: Family) -> Space {
        Space::for_rules(family, self.rules[family].iter().map(|rules| &rules.asked))
    }

    /// What a policy gives: `rendered` by its plan, and read back.
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

    /// The file that a family's rules are read from, where no policy is known of.
    pub fn file(&self, family: Family) -> Option<&Path> {
        match &self.rules[family].as_ref()?.source {
            Source::File(path) => Some(path),
            Source::Policy(_) | Source::Live => None,
        }
    }

    /// Rules that no policy is known of. `plan` is that of the empty policy.
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

    /// Where a line of a family's rules comes from.
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
                    None => self.heading(file, line, chain),
                }
            }
        }
    }

    /// Where the policy of a base chain comes from.
    pub fn chain_policy(&self, family: Family, table: TableName, chain: &str) -> DecisionSource {
        let of_policy = self.rules[family]
            .as_ref()
            .is_some_and(|rules| matches!(rules.source, Source::Policy(_)));
        match of_policy && table == TableName::Filter {
            true if self.plan.is_shared() => self.mode(),
            true => self.default_of("default", chain),
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

    /// A line that no rule of the policy gave: what stands above it says why it is there.
    fn heading(&self, file: &RenderedFile, line: usize, chain: &str) -> DecisionSource {
        // The first line is about the whole file.
        let before = file.text().lines().take(line.saturating_sub(1)).skip(1);
        let heading = before.filter_map(|line| line.strip_prefix("# ")).last();
        match heading {
            Some(heading) => self.default_of(heading, chain),
            // The jumps to fwc's chains stand in front of all headings.
            None if self.plan.is_shared() => self.mode(),
            None => DecisionSource::default(),
        }
    }

    fn default_of(&self, heading: &str, chain: &str) -> DecisionSource {
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

/// The key of `[defaults]` that a heading of the rules files stands for, and where it is written.
fn default_key(
    defaults: &PolicyDefaults,
    key: &str,
    heading: &str,
    chain: &str,
) -> (String, Option<Span>) {
    fn at<T>(written: &Option<Located<T>>) -> Option<Span> {
        written.as_ref().map(|written| written.span)
    }
    let (name, span) = match (key, heading) {
        ("loopback", _) => ("loopback", at(&defaults.loopback)),
        ("established", _) => ("established", at(&defaults.established)),
        ("invalid", _) => ("invalid", at(&defaults.invalid)),
        ("ICMP" | "ICMP essentials" | "ICMPv6 essentials", _) => ("icmp", at(&defaults.icmp)),
        ("DHCP client", _) => ("dhcp-client", at(&defaults.dhcp_client)),
        ("antispoof", _) => ("antispoof", at(&defaults.antispoof)),
        ("default", "default: log") => ("log", at(&defaults.log)),
        ("default", _) => match chain {
            "INPUT" => ("input", at(&defaults.input)),
            "FORWARD" => ("forward", at(&defaults.forward)),
            "OUTPUT" => ("output", at(&defaults.output)),
            _ => return (heading.to_owned(), None),
        },
        _ => return (heading.to_owned(), None),
    };
    let unsaid = if span.is_none() {
        ", as nothing else is said"
    } else {
        ""
    };
    (format!("`{name}` of [defaults]{unsaid}"), span)
}
