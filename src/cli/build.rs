//! `fwc build`

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;

use super::batch::{CompileManyArgs, HostLine, HostReport, proof_line};
use super::{Exit, Output};
use crate::diff::IPSETS_FILE;
use crate::expand::{IPSETS_HEADING, Rendered};
use crate::files::{create_folder, read_if_there, write_atomically};
use crate::net::Family;

/// Compile a policy to rules.v4 and rules.v6, and to ipsets if it has sets
///
/// The rules files are in the format of iptables-restore, the sets in that of `ipset restore`. On an error, nothing is
/// written. The same policy always gives the same bytes.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    policies: CompileManyArgs,
    /// The folder to write to (with several hosts, one folder below it for each), or `-` for standard output
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Write nothing; exit status 2 if the files in DIR differ from what would be written
    #[arg(long)]
    check: bool,
    /// Build only this family: ipv4 (rules.v4) or ipv6 (rules.v6)
    #[arg(long, value_enum, hide_possible_values = true)]
    family: Option<FamilyArg>,
}

/// A value of `--family`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FamilyArg {
    /// IPv4, rules.v4
    Ipv4,
    /// IPv6, rules.v6
    Ipv6,
}

impl From<FamilyArg> for Family {
    fn from(family: FamilyArg) -> Self {
        match family {
            FamilyArg::Ipv4 => Self::V4,
            FamilyArg::Ipv6 => Self::V6,
        }
    }
}

/// Runs the command.
pub fn run(args: &Args, output: &mut Output) -> Exit {
    let to_stdout = args.output == Path::new("-");
    if let Some(refusal) = args.refusal(to_stdout) {
        output.fatal(refusal);
        return Exit::Usage;
    }
    let families: Vec<Family> = match args.family {
        Some(family) => vec![family.into()],
        None => Family::ALL.to_vec(),
    };
    let apart = args.policies.are_apart();
    let outcomes = apart.and_then(|()| {
        args.policies.each(|host, compiled| {
            let folder = match host.folder() {
                Some(own) => args.output.join(own),
                None => args.output.clone(),
            };
            let files = files(&folder, &families, &compiled.rendered);
            let mut report = if to_stdout {
                HostReport {
                    exit: Exit::Fine,
                    lines: Vec::new(),
                }
            } else if args.check {
                check(&files)
            } else {
                write(&folder, &files)
            };
            report.lines.insert(0, proof_line(host, compiled));
            report
        })
    });
    let outcomes = match outcomes {
        Ok(outcomes) => outcomes,
        Err(error) => {
            output.fatal(&error);
            return Exit::Failed;
        }
    };
    let mut exit = Exit::Fine;
    for outcome in &outcomes {
        outcome.print(output);
        exit = exit.and(outcome.exit());
        if let (true, Ok(compiled)) = (to_stdout, &outcome.compilation.result) {
            for family in &families {
                output.result(compiled.rendered.rules[*family].text());
            }
        }
    }
    exit
}

impl Args {
    /// Returns the message if these options cannot be combined.
    fn refusal(&self, to_stdout: bool) -> Option<&'static str> {
        if !to_stdout {
            None
        } else if self.check {
            Some("`--check` compares files in a folder: name it with `-o DIR`")
        } else if self.policies.are_several() {
            Some("standard output takes one policy only: name a folder with `-o DIR`")
        } else if self.family.is_none() {
            Some(
                "standard output takes one rules file only: add `--family ipv4` or `--family ipv6`",
            )
        } else {
            None
        }
    }
}

/// Returns the files of a build with their content; `None` for a file to delete.
///
/// A left-over `ipsets` file is deleted only if its heading shows that fwc wrote it: it may belong to another program.
fn files<'r>(
    folder: &Path,
    families: &[Family],
    rendered: &'r Rendered,
) -> Vec<(PathBuf, Option<&'r str>)> {
    let mut files: Vec<_> = families
        .iter()
        .map(|family| {
            let text = rendered.rules[*family].text();
            (folder.join(family.rules_file()), Some(text))
        })
        .collect();
    let path = folder.join(IPSETS_FILE);
    let is_ours = |text: String| text.lines().next() == Some(IPSETS_HEADING);
    if rendered.ipsets.is_some() || read_if_there(&path).ok().flatten().is_some_and(is_ours) {
        files.push((path, rendered.ipsets.as_deref()));
    }
    files
}

fn check(files: &[(PathBuf, Option<&str>)]) -> HostReport {
    let mut report = HostReport {
        exit: Exit::Fine,
        lines: Vec::new(),
    };
    for (path, wanted) in files {
        let shown = path.display();
        let found = match read_if_there(path) {
            Ok(found) => found,
            Err(error) => return HostReport::fatal(format!("cannot read `{shown}`: {error}")),
        };
        let state = match (found.as_deref(), wanted) {
            (found, wanted) if found == *wanted => continue,
            (None, _) => "is missing",
            (Some(_), Some(_)) => "differs from what the policy gives: build it again",
            (Some(_), None) => "is not needed any more: build again",
        };
        report
            .lines
            .push(HostLine::Message(format!("{shown} {state}")));
        report.exit = Exit::Different;
    }
    report
}

fn write(folder: &Path, files: &[(PathBuf, Option<&str>)]) -> HostReport {
    if let Err(error) = create_folder(folder, 0o755) {
        let shown = folder.display();
        return HostReport::fatal(format!("cannot create the folder `{shown}`: {error}"));
    }
    let mut report = HostReport {
        exit: Exit::Fine,
        lines: Vec::new(),
    };
    for (path, wanted) in files {
        let shown = path.display();
        let done = match wanted {
            Some(text) => write_atomically(path, text)
                .map(|new| Some(if new { "written" } else { "is up to date" })),
            None => match std::fs::remove_file(path) {
                Ok(()) => Ok(Some("removed: the policy has no sets")),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            },
        };
        match done {
            Ok(Some(state)) => report
                .lines
                .push(HostLine::Message(format!("{shown} {state}"))),
            Ok(None) => {}
            Err(error) => {
                report
                    .lines
                    .push(HostLine::Fatal(format!("cannot write `{shown}`: {error}")));
                report.exit = Exit::Failed;
                break;
            }
        }
    }
    report
}
