//! `fwc build`

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;

use super::compile::{PolicyArgs, compile, policy_path};
use super::{Exit, Output};
use crate::expand::Rendered;
use crate::files::{Access, write_atomically};
use crate::net::Family;

/// Compile a policy to rules.v4 and rules.v6
///
/// The files are in iptables-restore's format, one for each family. Nothing is written when there is an error.
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
    /// Only this family: ipv4 (rules.v4) or ipv6 (rules.v6)
    #[arg(long, value_enum, hide_possible_values = true)]
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
            output.result(compiled.rendered.0[family].text());
        }
        Exit::Fine
    } else if args.check {
        check(&args.output, &families, &compiled.rendered, output)
    } else {
        write(&args.output, &families, &compiled.rendered, output)
    }
}

fn check(folder: &Path, families: &[Family], rendered: &Rendered, output: &Output) -> Exit {
    let mut exit = Exit::Fine;
    for family in families {
        let path = folder.join(family.rules_file());
        let state = match std::fs::read(&path) {
            Ok(bytes) if bytes == rendered.0[*family].text().as_bytes() => continue,
            Ok(_) => "is not what the policy gives: build it again",
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => "is missing",
            Err(error) => {
                output.fatal(&format!("cannot read `{}`: {error}", path.display()));
                return Exit::Failed;
            }
        };
        output.message(&format!("{} {state}", path.display()));
        exit = Exit::Different;
    }
    exit
}

fn write(folder: &Path, families: &[Family], rendered: &Rendered, output: &Output) -> Exit {
    if let Err(error) = std::fs::create_dir_all(folder) {
        output.fatal(&format!(
            "cannot make the folder `{}`: {error}",
            folder.display()
        ));
        return Exit::Failed;
    }
    for family in families {
        let path = folder.join(family.rules_file());
        match write_atomically(&path, rendered.0[*family].text()) {
            Ok(true) => output.message(&format!("{} written", path.display())),
            Ok(false) => output.message(&format!("{} is up to date", path.display())),
            Err(error) => {
                output.fatal(&format!("cannot write `{}`: {error}", path.display()));
                return Exit::Failed;
            }
        }
    }
    Exit::Fine
}
