//! Reads a whole rules file, line by line, as `iptables-restore` reads it.

use std::collections::BTreeMap;
use std::ops::Range;

use super::extensions::Extensions;
use super::lex::{self, Word};
use super::model::*;
use super::rule::{self, Context, Scratch};
use super::spec::Problem;
use super::table::{Building, check_reach, problem, valid_chain_name};
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::Family;
use crate::source::{FileId, SourceMap, Span};

/// The number of errors after which reading stops, and of warnings after which the rest is not reported.
const MOST_FINDINGS: usize = 100;
/// The longest line in bytes that `iptables-restore` reads as one, newline included (`fgets` into a buffer of 10,240
/// bytes).
const LONGEST_LINE: usize = 10_239;

/// Reads a rules file as `iptables-restore` does. Reports what it would refuse, and what the backends treat differently, to
/// `sink`. Returns `None` if there was an error.
pub fn parse(
    file: FileId,
    sources: &SourceMap,
    family: Family,
    extensions: Extensions<'_>,
    sink: &mut Sink,
) -> Option<Ruleset> {
    let text = sources.file(file).text();
    let mut reader = Reader {
        file,
        family,
        extensions,
        sink,
        errors: 0,
        warnings: 0,
        unknown: BTreeMap::new(),
        finished: Vec::new(),
        table: None,
        scratch: Scratch::default(),
        skips: Skips::Nothing,
    };
    let mut offset = 0;
    let mut number = 0;
    let mut words = Vec::new();
    for line in text.split_inclusive('\n') {
        number += 1;
        if let Err(problem) = reader.line(line, offset, number, &mut words) {
            reader.error(problem);
        }
        if reader.errors >= MOST_FINDINGS || reader.skips == Skips::File {
            break;
        }
        offset += line.len();
    }
    reader.end(text)
}

/// The first error of a rules file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ParseError {
    /// The line number, from 1.
    pub line: usize,
    /// The error message.
    pub message: String,
}

impl Ruleset {
    /// Reads what `iptables-save` printed on some machine. Matches and targets that are not known are kept.
    pub fn from_text(text: &str, family: Family) -> Result<Self, ParseError> {
        let mut sources = SourceMap::new();
        let file = sources.add("iptables-save", text);
        let mut sink = Sink::new();
        let ruleset = parse(file, &sources, family, Extensions::KeepUnknown, &mut sink);
        ruleset.ok_or_else(|| {
            let sorted = sink.sorted();
            let error = sorted
                .into_iter()
                .find(|one| one.severity == crate::diag::Severity::Error);
            let label = error.and_then(|error| error.primary.as_ref());
            let line = label.map_or(0, |label| sources.file(file).line_of(label.span.start) + 1);
            let message = error.map(|error| error.message.clone()).unwrap_or_default();
            ParseError { line, message }
        })
    }
}

struct Reader<'s> {
    file: FileId,
    family: Family,
    extensions: Extensions<'s>,
    sink: &'s mut Sink,
    errors: usize,
    warnings: usize,
    /// The messages about unknown matches and targets, with the first place and the number of further ones: one warning for
    /// each.
    unknown: BTreeMap<String, (Range<usize>, usize)>,
    finished: Vec<Table>,
    table: Option<Building>,
    scratch: Scratch,
    skips: Skips,
}

/// What is skipped after an error, so that one mistake gives one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skips {
    Nothing,
    /// The lines of a table that does not exist, up to its COMMIT.
    Table,
    /// The rest of the file, since all its lines have the same mistake (CR LF, a byte order mark).
    File,
}

impl Reader<'_> {
    fn error(&mut self, problem: Problem) {
        self.errors += 1;
        let span = Span::new(self.file, problem.range);
        // A comment may hold any text; a line feed or carriage return in the message would break the report.
        let mut message = problem.message;
        if message.contains(['\n', '\r']) {
            message = message.replace('\n', "\\n").replace('\r', "\\r");
        }
        self.sink
            .report(Diagnostic::error(Code::BadRules, span, message));
    }

    fn warning(&mut self, code: Code, range: Range<usize>, message: impl Into<String>) {
        self.warnings += 1;
        if self.warnings <= MOST_FINDINGS {
            self.sink.report(Diagnostic::warning(
                code,
                Span::new(self.file, range),
                message,
            ));
        }
    }

    fn line<'t>(
        &mut self,
        line: &'t str,
        offset: usize,
        number: u32,
        words: &mut Vec<Word<'t>>,
    ) -> Result<(), Problem> {
        let whole = offset..offset + line.trim_end_matches('\n').len();
        if line.starts_with(['\n', '#']) {
            return Ok(());
        }
        // The tool reads a longer line as several, each with a meaning of its own: refuse it.
        if line.len() > LONGEST_LINE {
            return problem(
                whole,
                "the line is longer than 10238 bytes, which the tool reads as several",
            );
        }
        match (&mut self.table, line.as_bytes()[0]) {
            _ if self.skips == Skips::Table => {
                if matches!(line, "COMMIT" | "COMMIT\n") {
                    self.skips = Skips::Nothing;
                }
                Ok(())
            }
            (Some(_), b'C') if matches!(line, "COMMIT" | "COMMIT\n") => self.commit(),
            (None, b'*') => self.table(line, whole),
            (Some(_), b':') => self.chain(line, offset),
            (Some(_), _) => self.command(line, offset, number, words),
            (None, _) => {
                if line.starts_with('\u{feff}') {
                    self.skips = Skips::File;
                }
                problem(whole, outside(line))
            }
        }
    }

    /// Reads `*TABLE`.
    fn table(&mut self, line: &str, whole: Range<usize>) -> Result<(), Problem> {
        let name = line[1..]
            .split([' ', '\t', '\n'])
            .find(|word| !word.is_empty());
        let Some(name) = name else {
            self.skips = Skips::Table;
            return problem(whole, "no table's name after `*`");
        };
        match TableName::from_word(name) {
            Some(table) => {
                self.table = Some(Building::new(table, whole));
                Ok(())
            }
            None => {
                self.skips = match name.ends_with('\r') {
                    true => Skips::File,
                    false => Skips::Table,
                };
                problem(whole, unknown_table(name))
            }
        }
    }

    /// Reads `:CHAIN POLICY [packets:bytes]`.
    fn chain(&mut self, line: &str, offset: usize) -> Result<(), Problem> {
        let Some(table) = &mut self.table else {
            return Ok(());
        };
        let end = offset + line.trim_end_matches('\n').len();
        let mut words = line[1..]
            .split([' ', '\t', '\n'])
            .filter(|word| !word.is_empty());
        let range = |word: &str| {
            let start = offset + (word.as_ptr() as usize - line.as_ptr() as usize);
            start..start + word.len()
        };
        let Some(name) = words.next() else {
            return problem(offset..end, "no chain's name after `:`");
        };
        let Some(policy) = words.next() else {
            return problem(offset..end, "a chain needs a policy, or `-`");
        };
        let counters = words.next().and_then(counters_of).unwrap_or_default();
        if let Some(index) = table.find(name).filter(|&index| table.is_base(index)) {
            table.chains[index].counters = counters;
            table.chains[index].policy = match policy {
                "ACCEPT" => Some(ChainPolicy::Accept),
                "DROP" => Some(ChainPolicy::Drop),
                "-" => table.chains[index].policy,
                _ => {
                    return problem(
                        range(policy),
                        format!("bad policy name `{policy}`: ACCEPT, DROP or `-`"),
                    );
                }
            };
            return Ok(());
        }
        let differ = valid_chain_name(name).map_err(|message| Problem {
            range: range(name),
            message,
        })?;
        match table.index.get(name) {
            // As with iptables-nft, a second declaration empties the chain.
            Some(&index) => {
                table.chains[index].rules.clear();
                let message =
                    format!("chain `{name}` is declared twice: iptables-legacy refuses it");
                self.warning(Code::BackendsDiffer, range(name), message);
            }
            None => {
                let index = table.add_chain(name);
                table.chains[index].counters = counters;
            }
        }
        if policy != "-" {
            let message = format!(
                "a policy on the user-defined chain `{name}`: iptables-legacy refuses it, iptables-nft ignores it"
            );
            self.warning(Code::BackendsDiffer, range(policy), message);
        }
        if let Some(message) = differ {
            self.warning(Code::BackendsDiffer, range(name), message);
        }
        Ok(())
    }

    /// Reads a command, such as `-A`, with the counters before it.
    fn command<'t>(
        &mut self,
        line: &'t str,
        offset: usize,
        number: u32,
        words: &mut Vec<Word<'t>>,
    ) -> Result<(), Problem> {
        let (counters, start) = leading_counters(line, offset)?;
        words.clear();
        let unclosed = lex::split(&line[start..], offset + start, words);
        let table_option = |word: &&Word<'_>| !word.quoted && is_table_option(&word.text);
        if let Some(word) = words.iter().find(table_option) {
            return problem(
                word.range.clone(),
                "the -t option cannot be used in a rules file",
            );
        }
        if unclosed && let Some(last) = words.last() {
            let range = last.range.start..last.range.start + 1;
            let message = "a quote that is not closed takes the rest of the line";
            self.warning(Code::UnclosedQuote, range, message);
        }
        let Some(table) = &mut self.table else {
            return Ok(());
        };
        let context = Context {
            family: self.family,
            table: table.name,
            has_chain: &|name| table.has_user_chain(name),
            extensions: self.extensions,
        };
        let Some(mut read) = rule::read(words, &context, &mut self.scratch)? else {
            return Ok(());
        };
        for rule in read.rule.iter_mut().chain(&mut read.more) {
            rule.line = number;
            rule.counters = counters.or(rule.counters);
        }
        let remarks = std::mem::take(&mut read.remarks);
        let whole = offset + start..offset + line.trim_end().len();
        table.execute(read, whole, self.family)?;
        for remark in remarks {
            match remark.code {
                Code::UnknownExtension => {
                    let known = self.unknown.entry(remark.message);
                    known
                        .and_modify(|(_, again)| *again += 1)
                        .or_insert((remark.range, 0));
                }
                code => self.warning(code, remark.range, remark.message),
            }
        }
        Ok(())
    }

    /// Ends a table: checks its jumps, sorts its chains as `iptables-save` does, and replaces an earlier table of the same
    /// name, as `iptables-restore` without `--noflush` does.
    fn commit(&mut self) -> Result<(), Problem> {
        let Some(mut table) = self.table.take() else {
            return Ok(());
        };
        let checked = check_reach(&table);
        let base = table.name.base_chains().len();
        let users = &mut table.chains[base..];
        users.sort_by(|one, other| one.name.as_bytes().cmp(other.name.as_bytes()));
        self.finished.retain(|finished| finished.name != table.name);
        self.finished.push(Table {
            name: table.name,
            chains: table.chains,
        });
        if let Some(differs) = checked? {
            self.warning(Code::BackendsDiffer, differs.range, differs.message);
        }
        Ok(())
    }

    /// Reports what is known only at the end of the file, and returns the ruleset.
    fn end(mut self, text: &str) -> Option<Ruleset> {
        if let Some(table) = self.table.take()
            && self.errors < MOST_FINDINGS
        {
            let message = format!(
                "COMMIT expected at the end of the table {}",
                table.name.as_str()
            );
            self.error(Problem {
                range: table.start,
                message,
            });
        } else if text.ends_with("COMMIT") {
            let message = "no newline at the end of the file: iptables-legacy refuses it";
            self.warning(Code::BackendsDiffer, text.len() - 6..text.len(), message);
        }
        for (message, (range, again)) in std::mem::take(&mut self.unknown) {
            let span = Span::new(self.file, range);
            let finding = Diagnostic::warning(Code::UnknownExtension, span, message);
            self.sink.report(match again {
                0 => finding,
                1 => finding.with_note("one more rule has it"),
                more => finding.with_note(format!("{more} more rules have it")),
            });
        }
        if self.errors > 0 {
            return None;
        }
        self.finished.sort_by_key(|table| table.name);
        Some(Ruleset {
            family: self.family,
            tables: self.finished,
        })
    }
}

/// Reads `[packets:bytes]` before a command. Returns the counters, and the byte at which the command begins.
fn leading_counters(line: &str, offset: usize) -> Result<(Option<Counters>, usize), Problem> {
    if !line.starts_with('[') {
        return Ok((None, 0));
    }
    let counters = line[1..]
        .split_once(']')
        .map(|(inside, _)| inside)
        .filter(|inside| inside.contains(':'));
    let Some(inside) = counters else {
        return problem(
            offset..offset + line.trim_end().len(),
            "counters are [packets:bytes]",
        );
    };
    let end = inside.len() + 2;
    Ok((counters_of(&line[..end]), end))
}

/// Reads `[packets:bytes]`.
fn counters_of(text: &str) -> Option<Counters> {
    let (packets, bytes) = text.strip_prefix('[')?.strip_suffix(']')?.split_once(':')?;
    Some(Counters {
        packets: packets.parse().ok()?,
        bytes: bytes.parse().ok()?,
    })
}

/// Returns `true` for `-t`, and for `--table` or the beginning of it, which `iptables-restore` refuses in any line.
fn is_table_option(text: &str) -> bool {
    match text.strip_prefix("--") {
        Some(long) => {
            !long.is_empty() && "table".starts_with(long.split('=').next().unwrap_or(long))
        }
        None => text == "-t",
    }
}

fn unknown_table(name: &str) -> String {
    match name.strip_suffix('\r') {
        Some(name) => format!(
            "table name `{name}` has a carriage return: iptables-restore does not read CR LF"
        ),
        None => format!("table name `{name}` invalid: filter, nat, mangle, raw or security"),
    }
}

fn outside(line: &str) -> String {
    match line.starts_with('\u{feff}') {
        true => {
            "the file begins with a byte order mark, which iptables-restore does not read".into()
        }
        false => "this line stands outside of a table: `*table` is expected".into(),
    }
}
