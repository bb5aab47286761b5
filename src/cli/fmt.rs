//! `fwc fmt`: a rules file in the form that `iptables-save` prints.

use std::path::{Path, PathBuf};

use super::{Exit, Output};
use crate::diag::Sink;
use crate::iptables::{self, Extensions, Print};
use crate::net::Family;
use crate::source::SourceMap;

/// Prints a rules file in the form that `iptables-save` prints after loading it
///
/// Reads the file as `iptables-restore` does and refuses what it refuses, with line and column. Needs no
/// kernel, no iptables and no root.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The rules file; `-` is standard input
    file: PathBuf,
    /// Print nothing; exit with status 2 when the file has another form
    #[arg(long)]
    check: bool,
    /// The family; needed where neither the file's name (.v4, .v6) nor its addresses tell
    #[arg(long, value_enum)]
    family: Option<FamilyWord>,
    /// Keep the counters of rules and policies
    #[arg(long)]
    counters: bool,
}

/// A family on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FamilyWord {
    /// IPv4
    Ipv4,
    /// IPv6
    Ipv6,
}

/// Runs the command.
pub fn run(args: &Args, output: &mut Output) -> Exit {
    let text = match read(&args.file) {
        Ok(text) => text,
        Err(error) => {
            output.fatal(&format!("{}: {error}", args.file.display()));
            return Exit::Failed;
        }
    };
    let chosen = args.family.map(|word| match word {
        FamilyWord::Ipv4 => Family::V4,
        FamilyWord::Ipv6 => Family::V6,
    });
    let named = family_of_name(&args.file);
    let Some(family) = chosen.or(named).or_else(|| family_of_text(&text)) else {
        output.fatal(&format!(
            "{}: IPv4 or IPv6? Neither the name nor the rules tell; say --family ipv4 or --family ipv6",
            args.file.display()
        ));
        return Exit::Usage;
    };

    let mut sources = SourceMap::new();
    let file = sources.add(args.file.clone(), text);
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
    // The comments of iptables-save are the date and no part of the form.
    let given = sources.file(file).text().split_inclusive('\n');
    match given.filter(|line| !line.starts_with('#')).eq(printed.split_inclusive('\n')) {
        true => Exit::Fine,
        false => {
            output.message(&format!("{} would be changed", args.file.display()));
            Exit::Different
        }
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    match path.as_os_str() == "-" {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(path),
    }
}

fn family_of_name(path: &Path) -> Option<Family> {
    let extension = path.extension()?;
    let mut families = Family::ALL.into_iter();
    families.find(|family| Path::new(family.rules_file()).extension() == Some(extension))
}

/// The one family in which the text can be read, when it cannot be read in the other.
fn family_of_text(text: &str) -> Option<Family> {
    let mut sources = SourceMap::new();
    let file = sources.add("", text);
    let mut readable = Family::ALL.into_iter().filter(|&family| {
        iptables::parse(file, &sources, family, Extensions::KnownOnly, &mut Sink::new()).is_some()
    });
    match (readable.next(), readable.next()) {
        (Some(family), None) => Some(family),
        _ => None,
    }
}
