//! `fwc fmt`

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::build::FamilyArg;
use super::{Exit, Output};
use crate::diag::Sink;
use crate::diff;
use crate::iptables::{self, Extensions, Print};
use crate::net::Family;
use crate::source::SourceMap;

/// Print a rules file as iptables-save would print it
///
/// The file is read as iptables-restore reads it. What iptables-restore refuses is an error, with line and column. Needs no
/// root, no iptables and no kernel support. Comment lines are dropped: iptables-save prints none of them.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// A rules file in the format of iptables-save
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print no rules; exit status 2 if the file is not formatted
    #[arg(long)]
    check: bool,
    /// The family, if the file does not show it
    #[arg(long, value_name = "FAMILY")]
    family: Option<FamilyArg>,
    /// Keep the counters, as iptables-save -c does
    #[arg(long)]
    counters: bool,
}

/// Runs the command.
pub fn run(args: &Args, output: &mut Output) -> Exit {
    let texts = match diff::read_rules(&args.file, args.family.map(Family::from)) {
        Ok(texts) => texts,
        Err(error) => {
            output.fatal(&error.to_string());
            return Exit::Failed;
        }
    };
    let mut exit = Exit::Fine;
    for family in Family::ALL {
        if let Some(text) = &texts[family] {
            exit = format(args, text, family, output);
        }
    }
    exit
}

fn format(args: &Args, text: &str, family: Family, output: &Output) -> Exit {
    let mut sources = SourceMap::new();
    let file = sources.add(&args.file, text);
    let mut sink = Sink::new();
    let ruleset = iptables::parse(file, &sources, family, Extensions::KnownOnly, &mut sink);
    output.diagnostics(&sink, &sources);
    let Some(ruleset) = ruleset else {
        return Exit::Failed;
    };
    let printed = ruleset.to_text(Print {
        counters: args.counters,
    });
    if !args.check {
        output.result(&printed);
        return Exit::Fine;
    }
    // iptables-save writes the date into comment lines, so these never count as a difference.
    let given = text
        .split_inclusive('\n')
        .filter(|line| !line.starts_with('#'));
    if given.eq(printed.split_inclusive('\n')) {
        return Exit::Fine;
    }
    output.message(&format!(
        "{} is not formatted as iptables-save would print it",
        args.file.display()
    ));
    Exit::Different
}
