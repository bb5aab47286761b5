//! `fwc build`

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;

use super::compile::{PolicyArgs, compile, policy_path};
use super::{Exit, Output};
use crate::diff::IPSETS_FILE;
use crate::expand::{IPSETS_HEADING, Rendered};
use crate::files::{Access, create_folder, read_if_there, write_atomically};
use crate::net::Family;

/// Compile a policy to rules.v4 and rules.v6, and ipsets where it has sets
///
/// The rules are in iptables-restore's format, a file for each family, the sets in ipset-restore's. Nothing is written when there is an error.
/// The same policy always gives the same bytes.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    policy: PolicyArgs,
    /// The folder to write to, or `-` for standard output
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Write nothing; exit 2 when the files in DIR are not what would be written
    #[arg(long)]
    check: bool,
    /// Only this family
    #[arg(long, value_enum)]
    family: Option<FamilyArg>,
}

/// A family by name.
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
    if to_stdout && args.check {
        output.fatal("`--check` compares files: name their folder with `-o DIR`");
        return Exit::Usage;
    }
    if to_stdout && args.family.is_none() {
        output.fatal(
            "a policy has two rules files: say which with `--family ipv4` or `--family ipv6`",
        );
        return Exit::Usage;
    }
    let path = policy_path(args.policy.policy.as_deref());
    let Some(compiled) = compile(&path, &args.policy.templates, Access::Read, output) else {
        return Exit::Failed;
    };
    let families: Vec<Family> = match args.family {
        Some(family) => vec![family.into()],
        None => Family::ALL.to_vec(),
    };
    if to_stdout {
        for family in families {
            output.result(compiled.rendered.rules[family].text());
        }
        Exit::Fine
    } else if args.check {
        check(&files(&args.output, &families, &compiled.rendered), output)
    } else {
        let files = files(&args.output, &families, &compiled.rendered);
        write(&args.output, &files, output)
    }
}

/// Every file that a build gives or takes away, with what belongs into it. Others' sets are not fwc's to take away.
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

fn check(files: &[(PathBuf, Option<&str>)], output: &Output) -> Exit {
    let mut exit = Exit::Fine;
    for (path, wanted) in files {
        let found = match read_if_there(path) {
            Ok(found) => found,
            Err(error) => {
                output.fatal(&format!("cannot read `{}`: {error}", path.display()));
                return Exit::Failed;
            }
        };
        let state = match (found.as_deref(), wanted) {
            (found, wanted) if found == *wanted => continue,
            (None, _) => "is missing",
            (Some(_), Some(_)) => "is not what the policy gives: build it again",
            (Some(_), None) => "is not needed any more: build again",
        };
        output.message(&format!("{} {state}", path.display()));
        exit = Exit::Different;
    }
    exit
}

fn write(folder: &Path, files: &[(PathBuf, Option<&str>)], output: &Output) -> Exit {
    if let Err(error) = create_folder(folder, 0o755) {
        output.fatal(&format!(
            "cannot make the folder `{}`: {error}",
            folder.display()
        ));
        return Exit::Failed;
    }
    for (path, wanted) in files {
        let shown = path.display();
        let done = match wanted {
            Some(text) => write_atomically(path, text).map(|new| {
                let state = if new { "written" } else { "is up to date" };
                output.message(&format!("{shown} {state}"));
            }),
            None => match std::fs::remove_file(path) {
                Ok(()) => {
                    output.message(&format!("{shown} removed: the policy has no sets"));
                    Ok(())
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            },
        };
        if let Err(error) = done {
            output.fatal(&format!("cannot write `{shown}`: {error}"));
            return Exit::Failed;
        }
    }
    Exit::Fine
}
