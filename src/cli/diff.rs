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
use crate::live::{Dump, Error, Host, Real, Table};
use crate::net::{Family, PerFamily};

/// Show the difference between two rulesets; exit status 2 when there is one
///
/// A ruleset is `live`, a policy (`*.toml`), a folder with rules.v4 and rules.v6, or a file in the format of iptables-save.
/// Without any: from live to the policy; with one: from live to it. Both sides are loaded in a scratch network
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
    is_policy: bool,
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
        load([&mut from, &mut to], host, output)?;
        let mut tables = Table::ALL.to_vec();
        if from.is_policy || to.is_policy {
            tables.retain(|&table| table != Table::Security);
        }
        self.show(
            &from.normal(&tables)?,
            &to.normal(&tables)?,
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
        let texts = match operand {
            Operand::Live => {
                return Ok(Ruleset {
                    name: operand.to_string(),
                    content: live(host)?,
                    is_policy: false,
                });
            }
            Operand::Policy(path) => {
                let path = policy_path(path.as_deref());
                let compiled =
                    compile(&path, &self.compile, Access::Read, output).ok_or(Stop::Reported)?;
                PerFamily::from_fn(|family| Some(compiled.rendered.rules[family].text().to_owned()))
            }
            Operand::Folder(folder) => diff::read_folder(folder)?,
            Operand::Rules(path) => diff::read_rules(path, self.family.map(Family::from))?,
        };
        Ok(Ruleset {
            name: operand.to_string(),
            content: PerFamily::from_fn(|family| texts[family].clone().map(Content::Text)),
            is_policy: matches!(operand, Operand::Policy(_)),
        })
    }

    fn show(
        &self,
        from: &PerFamily<Option<String>>,
        to: &PerFamily<Option<String>>,
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
        let different = diffs.iter().any(|(_, diff)| diff.is_some());
        match self.format {
            Format::Text => {
                for diff in [&diffs.v4, &diffs.v6].into_iter().flatten() {
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
                    "unified": { "ipv4": diffs.v4, "ipv6": diffs.v6 },
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
            Ok(host) => host.rehearse(&texts),
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
