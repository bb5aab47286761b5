//! The types of the table of options: modules (matches and targets), their options, and how each value is read and printed.

use std::fmt::Write;
use std::ops::Range;

use super::argument::{self, Parsed};
use super::lex::{Word, write_quoted};
use super::model::{Match, Module, ModuleOption, TableName, Target};
use super::value::Negatable;
use crate::net::Family;

/// A match or a target with its options. `T` is the type of the value that is made of them.
pub(super) struct ModuleSpec<T: 'static> {
    /// The name after `-m` or `-j`.
    pub name: &'static str,
    /// The only family that has it; `None` if both have.
    pub family: Option<Family>,
    /// The options, in the order in which `iptables-save` prints them.
    pub options: &'static [Opt],
    /// Makes the value once all options are read.
    pub make: fn(&Arguments<'_, '_>) -> Made<T>,
    /// The tables and hooks in which the kernel accepts it.
    pub place: AllowedIn,
}

pub(super) type Made<T> = Result<T, Problem>;

/// The tables and hooks in which the kernel accepts a module. No table means every table.
#[derive(Clone, Copy)]
pub(super) struct AllowedIn {
    pub tables: &'static [TableName],
    pub hooks: u8,
}

/// Netfilter hooks as bits of a set.
pub(super) mod hook {
    pub const PREROUTING: u8 = 1;
    pub const INPUT: u8 = 2;
    pub const FORWARD: u8 = 4;
    pub const OUTPUT: u8 = 8;
    pub const POSTROUTING: u8 = 16;
    pub const ALL: u8 = 31;
    /// The hooks in which the incoming device is known.
    pub const BEFORE: u8 = PREROUTING | INPUT | FORWARD;
    /// The hooks in which the outgoing device is known.
    pub const AFTER: u8 = FORWARD | OUTPUT | POSTROUTING;

    /// Returns the hook of a base chain; 0 for a user-defined chain.
    pub fn of(chain: &str) -> u8 {
        match chain {
            "PREROUTING" => PREROUTING,
            "INPUT" => INPUT,
            "FORWARD" => FORWARD,
            "OUTPUT" => OUTPUT,
            "POSTROUTING" => POSTROUTING,
            _ => 0,
        }
    }
}

pub(super) const ANYWHERE: AllowedIn = AllowedIn {
    tables: &[],
    hooks: hook::ALL,
};

pub(super) const U8: u64 = u8::MAX as u64;
pub(super) const U16: u64 = u16::MAX as u64;
pub(super) const U32: u64 = u32::MAX as u64;
pub(super) const V4: Option<Family> = Some(Family::V4);
pub(super) const V6: Option<Family> = Some(Family::V6);

/// Describes a match or target that the kernel accepts in every table and hook.
pub(super) const fn spec<T>(
    name: &'static str,
    family: Option<Family>,
    options: &'static [Opt],
    make: fn(&Arguments<'_, '_>) -> Made<T>,
) -> ModuleSpec<T> {
    ModuleSpec {
        name,
        family,
        options,
        make,
        place: ANYWHERE,
    }
}

/// Limits a match or target to some tables and hooks.
pub(super) const fn at<T>(
    mut spec: ModuleSpec<T>,
    tables: &'static [TableName],
    hooks: u8,
) -> ModuleSpec<T> {
    spec.place = AllowedIn { tables, hooks };
    spec
}

/// An option of a match or target.
pub(super) struct Opt {
    /// The name that `iptables-save` prints, without dashes.
    pub name: &'static str,
    /// Other names that are accepted.
    pub also: &'static [&'static str],
    /// How the value is read and printed.
    pub form: Form,
    /// `true` if the option takes a `!`.
    pub negatable: bool,
    /// `true` if the option must be given.
    pub required: bool,
    /// `true` if the option may be given more than once.
    pub repeats: bool,
    /// The names of options that cannot be given together with this one.
    pub excludes: &'static [&'static str],
    /// The name of another option that must be given too; empty for none.
    pub needs: &'static str,
}

/// How the value of an option is read and printed.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// No value.
    Flag,
    /// One value that the module's `make` function reads.
    Own,
    /// Two values that the module's `make` function reads.
    Own2,
    /// A number between two bounds, printed in decimal.
    Number(u64, u64),
    /// A range of numbers up to a bound, printed in decimal.
    Numbers(u64),
    /// A number, printed in hexadecimal: the digits that are printed at least, and the upper bound.
    Hex(usize, u64),
    /// A text, cut to a number of bytes as the tools cut it, and quoted where `iptables-save` quotes.
    Text(usize),
    /// A word, printed as it was written.
    Word,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A value that a function reads, and returns as it is printed.
    By(fn(&str, Family) -> Parsed<String>),
}

const fn opt(name: &'static str, form: Form) -> Opt {
    Opt {
        name,
        also: &[],
        form,
        negatable: false,
        required: false,
        repeats: false,
        excludes: &[],
        needs: "",
    }
}

pub(super) const fn flag(name: &'static str) -> Opt {
    opt(name, Form::Flag)
}

pub(super) const fn own(name: &'static str) -> Opt {
    opt(name, Form::Own)
}

pub(super) const fn own2(name: &'static str) -> Opt {
    opt(name, Form::Own2)
}

pub(super) const fn value(name: &'static str, form: Form) -> Opt {
    opt(name, form)
}

impl Opt {
    pub const fn not(mut self) -> Self {
        self.negatable = true;
        self
    }

    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    pub const fn repeats(mut self) -> Self {
        self.repeats = true;
        self
    }

    pub const fn also(mut self, names: &'static [&'static str]) -> Self {
        self.also = names;
        self
    }

    pub const fn excludes(mut self, names: &'static [&'static str]) -> Self {
        self.excludes = names;
        self
    }

    pub const fn needs(mut self, name: &'static str) -> Self {
        self.needs = name;
        self
    }

    /// Returns the number of values that follow the option.
    pub const fn values(&self) -> usize {
        match self.form {
            Form::Flag => 0,
            Form::Own2 => 2,
            _ => 1,
        }
    }

    /// Returns the printed name and all other names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.also.iter().copied())
    }
}

/// An error in a rules file, with its place.
#[derive(Debug)]
pub(super) struct Problem {
    pub range: Range<usize>,
    pub message: String,
}

/// An option of a module that a line gives.
#[derive(Clone, Copy)]
pub(super) struct Given {
    /// The index of the module among those that the line has loaded.
    pub module: usize,
    pub option: &'static Opt,
    pub negated: bool,
    /// The index of the word with the first value, or with the option itself if it has no value.
    pub first: usize,
    /// The byte at which the value begins in that word; more than 0 only for `--option=value`.
    pub inline: usize,
    /// The protocol that `-p` had given before this option. Order matters: the tools read a port or a NAT range with the
    /// protocol that they know so far.
    pub protocol: Option<Negatable<u8>>,
}

/// The options that a line gives to one module.
pub(super) struct Arguments<'a, 'w> {
    pub words: &'a [Word<'w>],
    pub given: &'a [Given],
    pub family: Family,
    /// The place of the module's name, for errors about missing options.
    pub range: Range<usize>,
    pub name: &'static str,
}

impl<'a> Arguments<'a, '_> {
    /// Returns the option with this printed name, if it was given.
    pub fn find(&self, name: &str) -> Option<&'a Given> {
        self.given.iter().find(|given| given.option.name == name)
    }

    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Returns the text of the first value.
    pub fn text(&self, given: &Given) -> &'a str {
        &self.words[given.first].text[given.inline..]
    }

    /// Returns the text of the second value.
    pub fn second(&self, given: &Given) -> &'a str {
        &self.words[given.first + 1].text
    }

    pub fn text_of(&self, name: &str) -> Option<&'a str> {
        self.find(name).map(|given| self.text(given))
    }

    /// Reads the value of an option; `None` if it was not given.
    pub fn read<T>(
        &self,
        name: &str,
        read: impl FnOnce(&str) -> Parsed<T>,
    ) -> Made<Option<Negatable<T>>> {
        let Some(given) = self.find(name) else {
            return Ok(None);
        };
        match read(self.text(given)) {
            Ok(value) => Ok(Some(Negatable {
                negated: given.negated,
                value,
            })),
            Err(message) => Err(self.problem(given, message)),
        }
    }

    /// Reads the value of an option that must be given.
    pub fn need<T>(&self, name: &str, read: impl FnOnce(&str) -> Parsed<T>) -> Made<Negatable<T>> {
        self.read(name, read)?
            .ok_or_else(|| self.missing(format!("option \"--{name}\" must be specified")))
    }

    pub fn problem(&self, given: &Given, message: String) -> Problem {
        let range = self.words[given.first].range.clone();
        Problem {
            range,
            message: format!("{}: {message}", self.name),
        }
    }

    pub fn missing(&self, message: String) -> Problem {
        Problem {
            range: self.range.clone(),
            message: format!("{}: {message}", self.name),
        }
    }

    /// Returns the given options that print by their form, in the order of printing.
    pub fn settings(&self, options: &'static [Opt]) -> Made<Vec<ModuleOption>> {
        let mut settings = Vec::new();
        for option in options {
            let same = |given: &&Given| std::ptr::eq(given.option, option);
            for given in self.given.iter().filter(same) {
                if !matches!(option.form, Form::Own | Form::Own2) {
                    settings.push(self.setting(given)?);
                }
            }
        }
        Ok(settings)
    }

    /// Returns an option in the form in which it is printed.
    pub fn setting(&self, given: &Given) -> Made<ModuleOption> {
        let value = match given.option.form {
            Form::Flag => Ok(String::new()),
            form => canonical(form, self.text(given), self.family),
        };
        let value = value.map_err(|message| self.problem(given, message))?;
        Ok(ModuleOption {
            name: given.option.name,
            negated: given.negated,
            value: value.into(),
        })
    }
}

/// Returns a value as `iptables-save` prints it.
fn canonical(form: Form, text: &str, family: Family) -> Parsed<String> {
    match form {
        Form::Flag | Form::Own | Form::Own2 => Ok(text.to_owned()),
        Form::Number(min, max) => argument::number(text, min, max).map(|number| number.to_string()),
        Form::Numbers(max) => argument::number_range(text, max).map(range_text),
        Form::Hex(digits, max) => {
            let number = argument::number(text, 0, max)?;
            Ok(format!("0x{number:0digits$x}"))
        }
        Form::Text(most) => quoted(cut(text, most)),
        Form::Word => word(text),
        Form::OneOf(words) => match words.contains(&text) {
            true => Ok(text.to_owned()),
            false => Err(format!("`{text}` is none of {}", words.join(", "))),
        },
        Form::By(read) => read(text, family),
    }
}

/// Returns `a` or `a:b`.
pub(super) fn range_text((first, last): (u64, u64)) -> String {
    match first == last {
        true => first.to_string(),
        false => format!("{first}:{last}"),
    }
}

/// Returns the text with quotes where `iptables-save` sets them.
pub(super) fn quoted(text: &str) -> Parsed<String> {
    let mut out = String::with_capacity(text.len() + 2);
    let _ = write_quoted(&mut out, text);
    Ok(out)
}

/// Returns the text without quotes, as `iptables-save` prints these values; quoted where the tools could not read that
/// back.
pub(super) fn word(text: &str) -> Parsed<String> {
    match text.is_empty() || text.contains([' ', '\t', '\n', '"']) {
        true => quoted(text),
        false => Ok(text.to_owned()),
    }
}

/// Returns at most `most` bytes of the text. The tools cut within a character; here it is left out, since a text must be
/// UTF-8.
pub(super) fn cut(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Returns the words with commas between them.
pub(super) fn list(words: impl Iterator<Item = impl std::fmt::Display>) -> String {
    let mut out = String::new();
    for word in words {
        let comma = if out.is_empty() { "" } else { "," };
        let _ = write!(out, "{comma}{word}");
    }
    out
}

/// Returns a setting without `!`.
pub(super) fn setting(name: &'static str, value: impl Into<Box<str>>) -> ModuleOption {
    ModuleOption {
        name,
        negated: false,
        value: value.into(),
    }
}

/// Returns a match that is kept as settings, without a type of its own.
pub(super) fn other_match(name: &'static str, settings: Vec<ModuleOption>) -> Match {
    Match::Other(Box::new(Module { name, settings }))
}

/// Returns a target that is kept as settings, without a type of its own.
pub(super) fn other_target(name: &'static str, settings: Vec<ModuleOption>) -> Target {
    Target::Other(Box::new(Module { name, settings }))
}
