//! `fwc diff`

use clap::Args as ClapArgs;
use rustix::process::geteuid;
use serde_json::json;

use super::build::FamilyArg;
use super::compile::{CompileArgs, compile, policy_path};
use super::host::HostArgs;
use super::{Exit, Format, Output};
use crate::diag::Style;
use crate::diff::{self, Operand, Side};
use crate::files::Access;
use crate::live::{Dump, Error, Host, Listed, Payload, Real, Rule, Sets, Table};
use crate::net::{Family, PerFamily};

/// Show the difference between two rulesets; exit status 2 when there is one
///
/// A ruleset is `live`, a policy (`*.toml`), a folder with rules.v4, rules.v6 and ipsets, or a file in the format of
/// iptables-save, which says nothing of sets. Without any: from live to the policy; with one: from live to it. Both sides are loaded in a scratch network
/// namespace, so that only what the kernel would do differently is shown; where that is not allowed, they are compared as text.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The old ruleset; when it is the only one, the new one
    #[arg(value_name = "FROM")]
    first: Option<String>,
    /// The new ruleset
    #[arg(value_name = "TO")]
    second: Option<String>,
    /// Show a unified diff of the rules (the only form so far)
    #[arg(long)]
    unified: bool,
    /// The family of a rules file that does not show it
    #[arg(long, value_name = "FAMILY")]
    family: Option<FamilyArg>,
    #[command(flatten)]
    compile: CompileArgs,
    #[command(flatten)]
    host: HostArgs,
    /// The form of the result
    #[arg(long, value_enum, default_value = "text", help_heading = "Output")]
    format: Format,
}

/// A side with what is known of it.
struct Ruleset {
    name: String,
    /// Of each family that it has: as text, or as the kernel holds it.
    content: PerFamily<Option<Content>>,
    sets: SetsOf,
    is_policy: bool,
}

/// The sets of a side.
enum SetsOf {
    /// It has no say in them.
    Nothing,
    /// Those in the kernel.
    Live,
    /// Those of a policy, in the form of `ipset restore`, and read.
    Written(String, Sets),
}

enum Content {
    Text(String),
    Kernel(Dump),
}

/// Why there is no comparison.
enum Stop {
    /// Said already.
    Reported,
    Because(String),
    WrongUsage(String),
}

impl<E: std::error::Error> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Because(error.to_string())
    }
}

/// Runs the command.
pub fn run(args: &Args, output: &mut Output) -> Exit {
    match args.compare(output) {
        Ok(exit) => exit,
        Err(Stop::Reported) => Exit::Failed,
        Err(Stop::Because(text)) => {
            output.fatal(&text);
            Exit::Failed
        }
        Err(Stop::WrongUsage(text)) => {
            output.fatal(&text);
            Exit::Usage
        }
    }
}

impl Args {
    fn compare(&self, output: &Output) -> Result<Exit, Stop> {
        let [from, to] = self.operands()?;
        let host = Real::open(self.host.backend());
        let mut from = self.read(&from, host.as_ref(), output)?;
        let mut to = self.read(&to, host.as_ref(), output)?;
        from.drop_what_only_it_has(&to, output);
        to.drop_what_only_it_has(&from, output);
        if from.is_empty() {
            return Err(Stop::Because(format!(
                "`{}` and `{}` have no family in common",
                from.name, to.name
            )));
        }
        let sets = compare_sets(&from, &to, host.as_ref())?;
        load([&mut from, &mut to], host, output)?;
        let mut tables = Table::ALL.to_vec();
        if from.is_policy || to.is_policy {
            tables.retain(|&table| table != Table::Security);
        }
        self.show(
            &from.normal(&tables)?,
            &to.normal(&tables)?,
            sets.as_ref(),
            [&from.name, &to.name],
            output,
        )
    }

    fn operands(&self) -> Result<[Operand; 2], Stop> {
        let parse = |word: &String| {
            Operand::parse(word).map_err(|error| Stop::WrongUsage(error.to_string()))
        };
        Ok(match (&self.first, &self.second) {
            (Some(from), Some(to)) => [parse(from)?, parse(to)?],
            (Some(to), None) | (None, Some(to)) => [Operand::Live, parse(to)?],
            (None, None) => [Operand::Live, Operand::Policy(None)],
        })
    }

    fn read(
        &self,
        operand: &Operand,
        host: Result<&Real, &Error>,
        output: &Output,
    ) -> Result<Ruleset, Stop> {
        let (texts, sets) = match operand {
            Operand::Live => {
                return Ok(Ruleset {
                    name: operand.to_string(),
                    content: live(host)?,
                    sets: SetsOf::Live,
                    is_policy: false,
                });
            }
            Operand::Policy(path) => {
                let path = policy_path(path.as_deref());
                let rendered = compile(&path, &self.compile, Access::Read, output)
                    .ok_or(Stop::Reported)?
                    .rendered;
                (
                    PerFamily::from_fn(|family| Some(rendered.rules[family].text().to_owned())),
                    written(rendered.ipsets, operand)?,
                )
            }
            Operand::Folder(folder) => {
                let folder = diff::read_folder(folder)?;
                (folder.rules, written(folder.sets, operand)?)
            }
            Operand::Rules(path) => {
                let texts = diff::read_rules(path, self.family.map(Family::from))?;
                (texts, SetsOf::Nothing)
            }
        };
        Ok(Ruleset {
            name: operand.to_string(),
            content: PerFamily::from_fn(|family| texts[family].clone().map(Content::Text)),
            sets,
            is_policy: matches!(operand, Operand::Policy(_)),
        })
    }

    fn show(
        &self,
        from: &PerFamily<Option<String>>,
        to: &PerFamily<Option<String>>,
        sets: Option<&[String; 2]>,
        [from_name, to_name]: [&str; 2],
        output: &Output,
    ) -> Result<Exit, Stop> {
        let style = match self.format {
            Format::Text => output.style(),
            Format::Json => Style::Plain,
        };
        let diffs = PerFamily::from_fn(|family| {
            diff::unified(
                Side {
                    name: &format!("{from_name} ({family})"),
                    text: from[family].as_ref()?,
                },
                Side {
                    name: &format!("{to_name} ({family})"),
                    text: to[family].as_ref()?,
                },
                style,
            )
        });
        let of_sets = sets.and_then(|[from, to]| {
            diff::unified(
                Side {
                    name: &format!("{from_name} (sets)"),
                    text: from,
                },
                Side {
                    name: &format!("{to_name} (sets)"),
                    text: to,
                },
                style,
            )
        });
        let different = of_sets.is_some() || diffs.iter().any(|(_, diff)| diff.is_some());
        match self.format {
            Format::Text => {
                for diff in [&of_sets, &diffs.v4, &diffs.v6].into_iter().flatten() {
                    output.result(diff);
                }
            }
            Format::Json => {
                let compared = |family: Family| from[family].is_some() && to[family].is_some();
                let families = Family::ALL.into_iter().filter(|&family| compared(family));
                output.json(&json!({
                    "schema": "fwc.diff/1",
                    "different": different,
                    "compared": families.map(Family::keyword).collect::<Vec<_>>(),
                    "unified": { "sets": of_sets, "ipv4": diffs.v4, "ipv6": diffs.v6 },
                }));
            }
        }
        Ok(if different {
            Exit::Different
        } else {
            Exit::Fine
        })
    }
}

impl Ruleset {
    fn drop_what_only_it_has(&mut self, other: &Self, output: &Output) {
        for family in Family::ALL {
            if other.content[family].is_none() && self.content[family].take().is_some() {
                output.message(&format!("{family}: only in {}, not compared", self.name));
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.content.iter().all(|(_, content)| content.is_none())
    }

    fn texts(&self) -> PerFamily<Option<String>> {
        PerFamily::from_fn(|family| match &self.content[family] {
            Some(Content::Text(text)) => Some(text.clone()),
            Some(Content::Kernel(_)) | None => None,
        })
    }

    /// Commands that make the sets that its rules name: its own, and empty copies of live ones, as far as they can be seen.
    fn needed_sets(&self, texts: &PerFamily<Option<String>>, host: &Real) -> String {
        let (mut commands, own) = match &self.sets {
            SetsOf::Written(text, sets) => (text.clone(), sets.clone()),
            SetsOf::Nothing | SetsOf::Live => Default::default(),
        };
        let dumps = texts
            .iter()
            .filter_map(|(_, text)| Dump::parse(text.as_ref()?).ok());
        let dumps: Vec<_> = dumps.collect();
        let mut names: Vec<_> = names(&dumps).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| !own.0.contains_key(*name));
        if names.is_empty() {
            return commands;
        }
        // What is missing is said by who loads the rules.
        let listed = host.list_sets().unwrap_or_default();
        for name in names {
            if let Some(set) = listed.get(name) {
                commands.push_str(&format!("create {name} {}\n", set.header));
            }
        }
        commands
    }

    fn normal(&self, tables: &[Table]) -> Result<PerFamily<Option<String>>, Stop> {
        let mut normal = PerFamily::default();
        for (family, content) in self.content.iter() {
            normal[family] = match content {
                None => None,
                Some(Content::Kernel(dump)) => Some(dump.only(tables).normal()),
                Some(Content::Text(text)) => {
                    let dump = Dump::parse(text)
                        .map_err(|error| Stop::Because(format!("`{}`: {error}", self.name)))?;
                    Some(dump.only(tables).normal())
                }
            };
        }
        Ok(normal)
    }
}

/// The names of sets in rules, each as often as it is there.
fn names(dumps: &[Dump]) -> impl Iterator<Item = &str> {
    let chains = dumps.iter().flat_map(Dump::all_chains);
    chains.flat_map(|(_, _, chain)| chain.rules.iter().flat_map(Rule::sets))
}

fn written(text: Option<String>, operand: &Operand) -> Result<SetsOf, Stop> {
    let text = text.unwrap_or_default();
    let sets = Sets::parse(&text)
        .map_err(|error| Stop::Because(format!("the sets of `{operand}`: {error}")))?;
    Ok(SetsOf::Written(text, sets))
}

/// The texts of both sides' sets; `None` where one has no say in them.
fn compare_sets(
    from: &Ruleset,
    to: &Ruleset,
    host: Result<&Real, &Error>,
) -> Result<Option<[String; 2]>, Stop> {
    let side = |side: &Ruleset, other: &Sets| -> Result<Option<String>, Stop> {
        Ok(match &side.sets {
            SetsOf::Nothing => None,
            SetsOf::Written(_, sets) => Some(sets.text()),
            SetsOf::Live => {
                let host = host.map_err(|error| Stop::Because(error.to_string()))?;
                Some(live_sets(side, other, host)?.text())
            }
        })
    };
    let sets_of = |ruleset: &Ruleset| match &ruleset.sets {
        SetsOf::Written(_, sets) => Some(sets.clone()),
        SetsOf::Nothing | SetsOf::Live => None,
    };
    // Two live sides are one.
    Ok(match (sets_of(from), sets_of(to)) {
        (None, None) => None,
        (of_from, of_to) => {
            let from = side(from, &of_to.unwrap_or_default())?;
            from.zip(side(to, &of_from.unwrap_or_default())?)
                .map(|(from, to)| [from, to])
        }
    })
}

/// The live sets that `apply` would look at, if it were to make `wanted`.
fn live_sets(live: &Ruleset, wanted: &Sets, host: &Real) -> Result<Sets, Stop> {
    let listed = match host.list_sets() {
        Err(_) if wanted.0.is_empty() => return Ok(Sets::default()),
        listed => listed?,
    };
    let rules: Vec<Dump> = live
        .content
        .iter()
        .filter_map(|(_, content)| match content {
            Some(Content::Kernel(dump)) => Some(dump.clone()),
            _ => None,
        })
        .collect();
    // What is used by others than the rules stays.
    let obsolete = |name: &str, set: &Listed| {
        set.references <= names(&rules).filter(|named| *named == name).count()
    };
    Ok(Sets::live(host, &listed, wanted, obsolete)?)
}

/// What the kernel holds.
fn live(host: Result<&Real, &Error>) -> Result<PerFamily<Option<Content>>, Stop> {
    if !geteuid().is_root() {
        let text = "reading the live rules needs root\nrun it with sudo: `sudo fwc diff ...`";
        return Err(Stop::Because(text.to_owned()));
    }
    let host = host.map_err(|error| Stop::Because(error.to_string()))?;
    host.only_backend()?;
    let mut content = PerFamily::default();
    for family in Family::ALL {
        content[family] = Some(Content::Kernel(host.save(family)?));
    }
    Ok(content)
}

/// Lets the kernel say what the texts mean; where it may not, they stay texts, and that is said.
fn load(sides: [&mut Ruleset; 2], host: Result<Real, Error>, output: &Output) -> Result<(), Stop> {
    let mut loaded = Vec::new();
    for side in &sides {
        let texts = side.texts();
        let dumps = match &host {
            _ if texts.iter().all(|(_, text)| text.is_none()) => Ok(PerFamily::default()),
            Ok(host) => {
                let sets = side.needed_sets(&texts, host);
                let payload = Payload {
                    sets,
                    rules: texts,
                    ..Payload::default()
                };
                host.rehearse(&payload).map(|rehearsed| rehearsed.rules)
            }
            Err(Error::Missing { tool }) => {
                Err(Error::NoScratch(format!("`{tool}` is not installed")))
            }
            Err(error) => return Err(Stop::Because(error.to_string())),
        };
        match dumps {
            Ok(dumps) => loaded.push(dumps),
            Err(error) if is_no_fault(&error) => {
                output.message(&format!("compared as text, without the kernel: {error}"));
                return Ok(());
            }
            Err(error) => {
                let text = format!("`{}` does not load: {error}", side.name);
                return Err(Stop::Because(text));
            }
        }
    }
    for (side, dumps) in sides.into_iter().zip(loaded) {
        for family in Family::ALL {
            if let Some(dump) = &dumps[family] {
                side.content[family] = Some(Content::Kernel(dump.clone()));
            }
        }
    }
    Ok(())
}

/// Whether it is the scratch namespace that lacks something, not the text that is wrong.
fn is_no_fault(error: &Error) -> bool {
    match error {
        Error::NoScratch(_) => true,
        Error::Refused { refusal, .. } => refusal.is_missing_set(),
        _ => false,
    }
}
