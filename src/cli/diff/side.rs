//! One side of a comparison: its rules, its sets, and where they come from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::apply::Owned;
use crate::cli::Output;
use crate::cli::change::print_concerns;
use crate::cli::compile::{CompileArgs, compile_from, policy_path};
use crate::cli::rules::{Stop, live_members};
use crate::compile::Compiled;
use crate::diag::Sink;
use crate::diff::{self, ComparedRules, IPSETS_FILE, Operand, Responsible};
use crate::expand::Rendered;
use crate::files::{Access, Disk, Files, GitEntryKind, GitError, Revision};
use crate::iptables::{self, ChainPolicy, Extensions, Ruleset, TableName};
use crate::live::preflight;
use crate::live::{Error, Host, Ipsets, ListedIpset, LiveRuleset, Real};
use crate::net::{Family, IntervalSet, PerFamily};
use crate::resolve::{Ownership, Plan};
use crate::source::SourceMap;

/// One side of a comparison.
pub struct DiffSide {
    pub operand: Operand,
    /// Its name in the output.
    pub name: String,
    /// The rules of each family that it has.
    pub rules: PerFamily<Option<Ruleset>>,
    /// The rules files, as named in the output; a policy has none.
    files: PerFamily<Option<PathBuf>>,
    /// The members of sets, as far as they are known.
    members: BTreeMap<String, IntervalSet>,
    sets: SetsOf,
    /// The live rules as iptables-save printed them.
    dumps: PerFamily<Option<LiveRuleset>>,
    /// The findings about rules that cannot be parsed. They are printed only if the family is compared.
    unread: PerFamily<Option<(SourceMap, Sink)>>,
    /// The policy that the rules were compiled from.
    pub policy: Option<FromPolicy>,
    /// `true` if the rules include those of other programs; see [`DiffSide::put_into`].
    has_others: bool,
}

/// The policy that rules were compiled from, to name its rules in the output.
pub struct FromPolicy {
    pub plan: Plan,
    rendered: Rendered,
    sources: SourceMap,
}

/// The sets of a side.
enum SetsOf {
    /// It does not define sets: a single rules file.
    Nothing,
    /// Those in the kernel.
    Live,
    /// Those of a policy or folder.
    Written(Ipsets),
}

/// A rule or chain policy that decides packets, for the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The rule as `iptables-save` prints it, or the policy of a base chain.
    pub text: String,
    /// The file that has it, or the name of the side.
    pub file: String,
    /// The line in that file, from 1.
    pub line: Option<usize>,
    /// The name or text of the policy's rule that it comes from.
    pub name: Option<String>,
}

/// Reads the operands of the command line.
pub struct OperandReader<'a> {
    pub host: Result<&'a Real, &'a Error>,
    pub compile: &'a CompileArgs,
    pub family: Option<Family>,
    pub output: &'a Output,
}

impl OperandReader<'_> {
    /// Reads an operand. A revision without a path means the path of the other operand.
    pub fn read(&self, operand: &Operand, other: &Operand) -> Result<DiffSide, Stop> {
        let mut side = match operand {
            Operand::Live => self.live()?,
            Operand::Policy(path) => self.policy(&Disk, path, self.compile)?,
            Operand::Folder(folder) => {
                let read = diff::read_folder(folder)?;
                self.folder(read, |name| folder.join(name))?
            }
            Operand::Rules(path) => {
                let texts = diff::read_rules(path, self.family)?;
                self.texts(&texts, |_| path.clone())?
            }
            Operand::Revision { revision, path } => {
                self.revision(revision, path.as_deref(), other)?
            }
        };
        side.operand = operand.clone();
        if side.name.is_empty() {
            side.name = operand.to_string();
        }
        if let Some(family) = self.family {
            side.keep_only(family)?;
        }
        Ok(side)
    }

    fn revision(&self, name: &str, path: Option<&Path>, other: &Operand) -> Result<DiffSide, Stop> {
        let here = Path::new(".");
        let of_other = match other {
            Operand::Policy(path) | Operand::Rules(path) | Operand::Folder(path) => {
                Some(path.clone())
            }
            Operand::Revision {
                path: Some(path), ..
            } => Some(path.clone()),
            Operand::Live | Operand::Revision { path: None, .. } => None,
        };
        let is_named = path.is_some() || matches!(other, Operand::Revision { .. });
        let path = path
            .map(Path::to_owned)
            .or(of_other)
            .unwrap_or_else(|| policy_path(None));
        // A path in `git:REVISION:PATH` is relative to the repository here, as git has it. A path of the other operand may be in
        // another repository: that of its folder.
        let folder = match is_named && !path.is_absolute() {
            true => Some(here),
            false => path.ancestors().skip(1).find(|folder| folder.is_dir()),
        };
        let folder = folder.unwrap_or(here);
        let wrong = |error: GitError| match error {
            GitError::NoName(_) => Stop::WrongUsage(error.to_string()),
            error => Stop::Because(error.to_string()),
        };
        let files = Revision::open(folder, name).map_err(wrong)?;
        let path = match is_named {
            true => files.named(&path),
            false => files.path_of(&path),
        };
        let path = path.map_err(wrong)?;
        let shown = files.shown(&path);
        let missing = || Stop::Because(format!("there is no `{}` at `{name}`", path.display()));
        let kind = files.kind(&path).ok_or_else(missing)?;
        let read = |path: &Path| {
            files.read(path).map_err(|error| {
                Stop::Because(format!(
                    "cannot read `{}`: {error}",
                    files.shown(path).display()
                ))
            })
        };
        let is_policy = path.extension().is_some_and(|end| end == "toml");
        let mut side = match kind {
            GitEntryKind::Folder => {
                let mut folder = diff::RulesFolder::default();
                for family in Family::ALL {
                    folder.rules[family] = read(&path.join(family.rules_file()))?;
                }
                folder.sets = read(&path.join(IPSETS_FILE))?;
                if folder.rules.iter().all(|(_, text)| text.is_none()) {
                    let error = diff::OperandError::EmptyFolder(shown);
                    return Err(Stop::WrongUsage(error.to_string()));
                }
                self.folder(folder, |name| shown.join(name))?
            }
            // An old policy cannot be corrected any more, so it is not verified, and no lint can stop the comparison.
            GitEntryKind::File if is_policy => {
                let lenient = CompileArgs {
                    no_verify: true,
                    deny: Vec::new(),
                    ..self.compile.clone()
                };
                self.policy(&files, &path, &lenient)?
            }
            GitEntryKind::File => {
                let text = read(&path)?.ok_or_else(missing)?;
                let texts = diff::rules_text(&shown, text, self.family)?;
                self.texts(&texts, |_| shown.clone())?
            }
        };
        side.name = files.shown(&path).display().to_string();
        Ok(side)
    }

    fn policy(&self, files: &dyn Files, path: &Path, args: &CompileArgs) -> Result<DiffSide, Stop> {
        let compiled = compile_from(files, path, args, Access::Read, self.output);
        let (compiled, sources) = compiled.ok_or(Stop::Reported)?;
        let Compiled { plan, rendered, .. } = compiled;
        let texts = PerFamily::from_fn(|family| Some(rendered.rules[family].text().to_owned()));
        let shown = files.shown(path);
        let mut side = self.texts(&texts, |_| shown.clone())?;
        side.files = PerFamily::default();
        side.written(rendered.ipsets.as_deref(), &shown)?;
        side.policy = Some(FromPolicy {
            plan,
            rendered,
            sources,
        });
        Ok(side)
    }

    fn folder(
        &self,
        folder: diff::RulesFolder,
        path: impl Fn(&str) -> PathBuf,
    ) -> Result<DiffSide, Stop> {
        let mut side = self.texts(&folder.rules, |family| path(family.rules_file()))?;
        side.written(folder.sets.as_deref(), &path(IPSETS_FILE))?;
        Ok(side)
    }

    /// Parses rules. Errors are kept, and reported by [`DiffSide::check_parsed`].
    fn texts(
        &self,
        texts: &PerFamily<Option<String>>,
        path: impl Fn(Family) -> PathBuf,
    ) -> Result<DiffSide, Stop> {
        let mut side = DiffSide::new();
        for (family, text) in texts.iter() {
            let Some(text) = text else { continue };
            let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
            let file = sources.add(path(family), text.as_str());
            let read = iptables::parse(file, &sources, family, Extensions::KeepUnknown, &mut sink);
            let Some(ruleset) = read else {
                side.unread[family] = Some((sources, sink));
                continue;
            };
            side.rules[family] = Some(ruleset);
            side.files[family] = Some(path(family));
        }
        Ok(side)
    }

    /// Reads the live rules and the sets that they name.
    fn live(&self) -> Result<DiffSide, Stop> {
        if !geteuid().is_root() {
            let text = "reading the live rules needs root\nrun it with sudo: `sudo fwc diff ...`, or compare with another ruleset: `fwc diff FROM TO`";
            return Err(Stop::Because(text.to_owned()));
        }
        let host = self
            .host
            .map_err(|error| Stop::Because(error.to_string()))?;
        host.only_backend()?;
        print_concerns(&preflight::unseen(), self.output);
        let mut side = DiffSide::new();
        side.sets = SetsOf::Live;
        let is_asked = |family: &Family| self.family.is_none_or(|asked| asked == *family);
        for family in Family::ALL.into_iter().filter(is_asked) {
            let dump = host.save(family)?;
            let text = dump.restore_text(&TableName::ALL);
            let ruleset = Ruleset::from_text(&text, family)
                .map_err(|error| Stop::Because(format!("the live {family} rules, {error}")))?;
            side.rules[family] = Some(ruleset);
            side.dumps[family] = Some(dump);
        }
        let rulesets = side.rules.iter().filter_map(|(_, rules)| rules.as_ref());
        side.members = live_members(host, rulesets)?;
        Ok(side)
    }
}

impl DiffSide {
    fn new() -> Self {
        Self {
            operand: Operand::Live,
            name: String::new(),
            rules: PerFamily::default(),
            files: PerFamily::default(),
            members: BTreeMap::new(),
            sets: SetsOf::Nothing,
            dumps: PerFamily::default(),
            unread: PerFamily::default(),
            policy: None,
            has_others: false,
        }
    }

    /// Merges a policy's rules into the live ones as `apply` would: rules of other programs that `[ownership]` preserves keep
    /// their position. They get line 0, which [`describe`](Self::describe) shows as `live`.
    pub fn put_into(&mut self, live: &Self) -> Result<(), Stop> {
        let Some(policy) = &self.policy else {
            return Ok(());
        };
        let files = &policy.rendered.rules;
        let read = |family: Family| {
            LiveRuleset::parse(files[family].text())
                .map_err(|error| Stop::Because(error.to_string()))
        };
        let ours = PerFamily {
            v4: read(Family::V4)?,
            v6: read(Family::V6)?,
        };
        let owned = Owned::of_files(&ours, &policy.plan.ownership);
        for (family, now) in live.dumps.iter() {
            let (Some(now), Some(alone)) = (now, &self.rules[family]) else {
                continue;
            };
            let all = owned.with(family, now, &ours[family]);
            let mut all = Ruleset::from_text(&all.restore_text(&TableName::ALL), family)?;
            keep_lines(&mut all, alone);
            self.rules[family] = Some(all);
        }
        let SetsOf::Written(own) = &self.sets else {
            return Ok(());
        };
        let others = live.members.iter();
        for (name, members) in others.filter(|(name, _)| !own.0.contains_key(*name)) {
            self.members.insert(name.clone(), members.clone());
        }
        self.has_others = owned.is_beside_others();
        Ok(())
    }

    /// Parses the sets of a policy or folder.
    fn written(&mut self, text: Option<&str>, file: &Path) -> Result<(), Stop> {
        let sets = Ipsets::parse(text.unwrap_or_default())
            .map_err(|error| Stop::Because(format!("the sets of `{}`: {error}", file.display())))?;
        // Other programs add members to dynamic sets, so their members are unknown.
        let known = sets.0.iter().filter(|(_, set)| !set.is_dynamic());
        let members = known.filter_map(|(name, set)| Some((name.clone(), set.addresses()?)));
        self.members = members.collect();
        self.sets = SetsOf::Written(sets);
        Ok(())
    }

    /// Returns the rules of a family, to compare packets.
    pub fn rules(&self, family: Family) -> Option<ComparedRules<'_>> {
        Some(ComparedRules {
            ruleset: self.rules[family].as_ref()?,
            members: &self.members,
            origin: None,
        })
    }

    fn has(&self, family: Family) -> bool {
        self.rules[family].is_some() || self.unread[family].is_some()
    }

    /// Drops the rules of the other family.
    fn keep_only(&mut self, family: Family) -> Result<(), Stop> {
        if !self.has(family) {
            return Err(Stop::Because(format!(
                "`{}` has no rules for {family}",
                self.name
            )));
        }
        for other in Family::ALL.into_iter().filter(|other| *other != family) {
            (self.rules[other], self.unread[other]) = (None, None);
        }
        Ok(())
    }

    /// Drops families that the other side does not have, and prints which.
    pub fn drop_unmatched_families(&mut self, other: &Self, output: &Output) {
        for family in Family::ALL {
            if self.has(family) && !other.has(family) {
                output.message(&format!("{family}: only in {}, not compared", self.name));
                (self.rules[family], self.unread[family]) = (None, None);
            }
        }
    }

    /// Prints the findings about rules that cannot be parsed, and returns an error if there are any.
    pub fn check_parsed(&self, output: &Output) -> Result<(), Stop> {
        let unread: Vec<_> = self
            .unread
            .iter()
            .filter_map(|(_, unread)| unread.as_ref())
            .collect();
        for (sources, sink) in &unread {
            output.diagnostics(sink, sources);
        }
        match unread.is_empty() {
            true => Ok(()),
            false => Err(Stop::Reported),
        }
    }

    /// Drops the table `security`, which no policy can write.
    pub fn drop_security(&mut self) {
        for family in Family::ALL {
            if let Some(rules) = &mut self.rules[family] {
                rules
                    .tables
                    .retain(|table| table.name != TableName::Security);
            }
        }
    }

    /// Describes the rule or chain policy that decides or translates packets.
    pub fn describe(&self, family: Family, responsible: Responsible) -> Described {
        let (name, base) = responsible.place;
        let file = match &self.files[family] {
            Some(file) => file.display().to_string(),
            None => self.name.clone(),
        };
        let live = || Operand::Live.to_string();
        let plain = |text| Described {
            text,
            file: file.clone(),
            line: None,
            name: None,
        };
        let rules = self.rules[family].as_ref();
        let table = rules.and_then(|rules| rules.table(name));
        let Some(id) = responsible.rule else {
            let base = base.as_str();
            let policy = table.and_then(|table| table.chain(base)?.policy);
            let word = policy.map_or("ACCEPT", ChainPolicy::as_str);
            let owns = |policy: &FromPolicy| policy.plan.ownership != Ownership::Shared;
            let is_default = self.policy.as_ref().is_some_and(owns);
            let what = if is_default { "default" } else { "policy" };
            let of = match name {
                TableName::Filter => base.to_owned(),
                name => format!("{} {base}", name.as_str()),
            };
            let mut described = plain(format!("the {what} of {of}: {word}"));
            if self.has_others && !is_default {
                described.file = live();
            }
            return described;
        };
        let chain = table.and_then(|table| table.chains.get(id.chain));
        let found = chain.and_then(|chain| Some((&chain.name, chain.rules.get(id.rule)?)));
        let Some((chain, rule)) = found else {
            return plain(String::new()); // cannot happen: the rule comes from this ruleset
        };
        let described = plain(format!("-A {chain} {}", rule.to_text(family)));
        match (usize::try_from(rule.line), &self.policy) {
            (Ok(0), Some(_)) if self.has_others => Described {
                file: live(),
                ..described
            },
            (Ok(line), Some(policy)) => policy.describe(family, line, described),
            (Ok(line), None) if line > 0 && self.files[family].is_some() => Described {
                line: Some(line),
                ..described
            },
            _ => described,
        }
    }
}

impl FromPolicy {
    /// Adds the name and position of the policy's rule that a line comes from, if there is one.
    fn describe(&self, family: Family, line: usize, described: Described) -> Described {
        let origin = self.rendered.rules[family].origin(line);
        let Some((label, span)) = origin.and_then(|origin| origin.written(&self.plan)) else {
            return described;
        };
        let file = self.sources.file(span.file);
        Described {
            file: file.path().display().to_string(),
            line: Some(file.position(span.start).0),
            name: Some(label.to_owned()),
            ..described
        }
    }
}

/// Sets the lines of rules that a policy's file has to those in the file, and of all other rules to 0.
fn keep_lines(all: &mut Ruleset, file: &Ruleset) {
    for table in &mut all.tables {
        for chain in &mut table.chains {
            let written = file.table(table.name);
            let written = written.and_then(|table| table.chain(&chain.name));
            // Rules of other programs in a base chain are mostly at the front, so the search begins at the end.
            let mut written = written.map_or(&[][..], |chain| &chain.rules).iter().rev();
            let mut next = written.next();
            for rule in chain.rules.iter_mut().rev() {
                rule.line = match next.filter(|own| own.normalised() == rule.normalised()) {
                    Some(own) => {
                        next = written.next();
                        own.line
                    }
                    None => 0,
                };
            }
        }
    }
}

/// Returns the sets of both sides as text, only those of `asked` if a family is given; `None` if a side does not define sets.
pub fn compare_sets(
    from: &DiffSide,
    to: &DiffSide,
    asked: Option<Family>,
    host: Result<&Real, &Error>,
) -> Result<Option<[String; 2]>, Stop> {
    let side = |side: &DiffSide, other: &Ipsets| -> Result<Option<String>, Stop> {
        let mut sets = match &side.sets {
            SetsOf::Nothing => return Ok(None),
            SetsOf::Written(sets) => sets.clone(),
            SetsOf::Live => {
                let host = host.map_err(|error| Stop::Because(error.to_string()))?;
                live_sets(side, other, host)?
            }
        };
        if let Some(family) = asked {
            sets.keep_only(family);
        }
        Ok(Some(sets.text()))
    };
    let sets_of = |side: &DiffSide| match &side.sets {
        SetsOf::Written(sets) => Some(sets.clone()),
        SetsOf::Nothing | SetsOf::Live => None,
    };
    // If neither side is written, both are live, and there is one live state only.
    Ok(match (sets_of(from), sets_of(to)) {
        (None, None) => None,
        (of_from, of_to) => {
            let from = side(from, &of_to.unwrap_or_default())?;
            from.zip(side(to, &of_from.unwrap_or_default())?)
                .map(|(from, to)| [from, to])
        }
    })
}

/// Returns the live sets that `apply` would compare with `wanted`.
fn live_sets(live: &DiffSide, wanted: &Ipsets, host: &Real) -> Result<Ipsets, Stop> {
    let listed = match host.list_sets() {
        Err(_) if wanted.0.is_empty() => return Ok(Ipsets::default()),
        listed => listed?,
    };
    // `apply` keeps a set with more references than these rules account for: something else uses it.
    let names = || {
        let dumps = live.dumps.iter().filter_map(|(_, dump)| dump.as_ref());
        let chains = dumps.flat_map(LiveRuleset::all_chains);
        chains.flat_map(|(_, _, chain)| chain.rules.iter().flat_map(crate::live::LiveRule::sets))
    };
    let obsolete = |name: &str, set: &ListedIpset| {
        set.references <= names().filter(|named| *named == name).count()
    };
    Ok(Ipsets::live(host, &listed, wanted, obsolete)?)
}
