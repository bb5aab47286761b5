//! Reads rules that have no policy: those of a file or folder, and the live ones.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::change::print_concerns;
use super::{Exit, Output};
use crate::diag::Sink;
use crate::diff::{self, IPSETS_FILE};
use crate::iptables::{self, Extensions, Ruleset, TableName};
use crate::live::preflight;
use crate::live::{Backend, Host, Ipsets, Real};
use crate::net::{Family, IntervalSet, PerFamily};
use crate::source::SourceMap;

/// Why a command stops.
#[derive(Debug)]
pub enum Stop {
    /// The reason was printed already.
    Reported,
    /// This error.
    Because(String),
    /// Wrong usage.
    WrongUsage(String),
}

impl<E: std::error::Error> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Because(error.to_string())
    }
}

impl Stop {
    /// Prints the reason, unless it was printed already, and returns the exit status.
    pub fn report(&self, output: &Output) -> Exit {
        match self {
            Self::Reported => Exit::Failed,
            Self::Because(text) => {
                output.fatal(text);
                Exit::Failed
            }
            Self::WrongUsage(text) => {
                output.fatal(text);
                Exit::Usage
            }
        }
    }
}

/// Parsed rules of one or both families, and the known members of their sets.
#[derive(Debug, Default)]
pub struct Found {
    /// The rules, and their file if they have one.
    pub rules: PerFamily<Option<(Ruleset, Option<PathBuf>)>>,
    /// The members of their sets, as far as they are known.
    pub members: BTreeMap<String, IntervalSet>,
}

/// The text of the rules of one or both families, and the known members of their sets.
#[derive(Debug, Default)]
pub struct Written {
    /// The texts, each with its file.
    pub texts: PerFamily<Option<(PathBuf, String)>>,
    /// The members of their sets, as far as they are known.
    pub members: BTreeMap<String, IntervalSet>,
    /// The sets whose members expire.
    pub timed: BTreeSet<String>,
}

/// Reads the text of a rules file, or of a folder with `rules.v4`, `rules.v6` and `ipsets`. `family` is used for a file whose
/// rules do not show their family.
pub fn written(path: &Path, family: Option<Family>) -> Result<Written, Stop> {
    let mut found = Written::default();
    let texts = if path.is_dir() {
        let folder = diff::read_folder(path)?;
        if folder.rules.iter().all(|(_, text)| text.is_none()) {
            return Err(diff::OperandError::EmptyFolder(path.to_owned()).into());
        }
        let sets = Ipsets::parse(&folder.sets.unwrap_or_default()).map_err(|error| {
            let file = path.join(IPSETS_FILE);
            Stop::Because(format!("`{}`: {error}", file.display()))
        })?;
        let timed = sets
            .0
            .iter()
            .filter(|(_, set)| set.header.timeout().is_some());
        found.timed = timed.map(|(name, _)| name.clone()).collect();
        // Other programs add members to dynamic sets, so their members are unknown.
        let known = sets.0.into_iter().filter(|(_, set)| !set.is_dynamic());
        found.members = known
            .filter_map(|(name, set)| Some((name, set.addresses()?)))
            .collect();
        folder.rules
    } else {
        // The file's own family wins: `--family` may only ask about a part of the packets.
        match diff::read_rules(path, None) {
            Err(diff::OperandError::FamilyUnknown(_)) => diff::read_rules(path, family)?,
            texts => texts?,
        }
    };
    for (family, text) in texts {
        let file = match path.is_dir() {
            true => path.join(family.rules_file()),
            false => path.to_owned(),
        };
        found.texts[family] = text.map(|text| (file, text));
    }
    Ok(found)
}

/// Reads and parses a rules file or folder, and prints the findings.
pub fn of_path(path: &Path, family: Option<Family>, output: &Output) -> Result<Found, Stop> {
    let Written { texts, members, .. } = written(path, family)?;
    let mut found = Found {
        members,
        ..Found::default()
    };
    for (family, text) in texts {
        let Some((path, text)) = text else { continue };
        let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
        let file = sources.add(&path, text);
        let parsed = iptables::parse(file, &sources, family, Extensions::KeepUnknown, &mut sink);
        output.diagnostics(&sink, &sources);
        let ruleset = parsed.ok_or(Stop::Reported)?;
        found.rules[family] = Some((ruleset, Some(path)));
    }
    Ok(found)
}

/// Reads the live rules of this network namespace as text, and prints warnings about rules that iptables-save does not show.
pub fn live_texts(
    backend: Option<Backend>,
    command: &str,
    output: &Output,
) -> Result<(Real, PerFamily<String>), Stop> {
    if !geteuid().is_root() {
        let text = format!(
            "reading the live rules needs root\nrun it with sudo: `sudo fwc {command} ...`"
        );
        return Err(Stop::Because(text));
    }
    let host = Real::open(backend)?;
    host.only_backend()?;
    print_concerns(&preflight::unseen(), output);
    let mut texts = PerFamily::default();
    for family in Family::ALL {
        texts[family] = host.save(family)?.restore_text(&TableName::ALL);
    }
    Ok((host, texts))
}

/// Reads the live rules of this network namespace, and the present members of the sets that they name.
pub fn live(backend: Option<Backend>, command: &str, output: &Output) -> Result<Found, Stop> {
    let (host, texts) = live_texts(backend, command, output)?;
    let mut found = Found::default();
    for (family, text) in texts {
        let ruleset = Ruleset::from_text(&text, family)
            .map_err(|error| Stop::Because(format!("the live {family} rules, {error}")))?;
        found.rules[family] = Some((ruleset, None));
    }
    let rulesets = found.rules.iter().filter_map(|(_, rules)| rules.as_ref());
    found.members = live_members(&host, rulesets.map(|(ruleset, _)| ruleset))?;
    Ok(found)
}

/// Reads the present members of the sets that live rules name.
pub fn live_members<'r>(
    host: &Real,
    rulesets: impl Iterator<Item = &'r Ruleset>,
) -> Result<BTreeMap<String, IntervalSet>, Stop> {
    let mut members = BTreeMap::new();
    let names: BTreeSet<&str> = rulesets.flat_map(diff::named_sets).collect();
    // Listing needs the tool `ipset`, which a host without sets may not have.
    if names.is_empty() {
        return Ok(members);
    }
    let listed = host.list_sets()?;
    for name in names {
        // Only these types hold plain addresses, which is all that the analysis understands; other sets are not read.
        let is_plain = |kind: &str| matches!(kind, "hash:net" | "hash:ip");
        if listed
            .get(name)
            .is_some_and(|set| is_plain(&set.header.kind))
            && let Some(addresses) = host.save_set(name)?.addresses()
        {
            members.insert(name.to_owned(), addresses);
        }
    }
    Ok(members)
}
