//! How the table of options is written: modules, their options, and the forms of values.

use std::fmt::Write;
use std::ops::Range;

use super::argument::{self, Parsed};
use super::lex::{Word, write_quoted};
use super::model::{Match, Module, Setting, TableName, Target};
use super::value::Negatable;
use crate::net::Family;

/// A match or a target: `T` is what it becomes.
pub(super) struct Spec<T: 'static> {
    /// The name after `-m` or `-j`.
    pub name: &'static str,
    /// The family that has it; `None`: both.
    pub family: Option<Family>,
    /// Its options; their order is the order of printing.
    pub options: &'static [Opt],
    /// Makes the value when all options are read.
    pub make: fn(&Arguments<'_, '_>) -> Made<T>,
    /// Where the kernel takes it.
    pub place: Place,
}

pub(super) type Made<T> = Result<T, Problem>;

/// The tables and hooks in which the kernel takes a module; empty: all.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub tables: &'static [TableName],
    pub hooks: u8,
}

/// Hooks as bits.
pub(super) mod hook {
    pub const PREROUTING: u8 = 1;
    pub const INPUT: u8 = 2;
    pub const FORWARD: u8 = 4;
    pub const OUTPUT: u8 = 8;
    pub const POSTROUTING: u8 = 16;
    pub const ALL: u8 = 31;
    /// Where the incoming device is known.
    pub const BEFORE: u8 = PREROUTING | INPUT | FORWARD;
    /// Where the outgoing device is known.
    pub const AFTER: u8 = FORWARD | OUTPUT | POSTROUTING;

    /// The hook of a base chain.
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

pub(super) const ANYWHERE: Place = Place {
    tables: &[],
    hooks: hook::ALL,
};

pub(super) const U8: u64 = u8::MAX as u64;
pub(super) const U16: u64 = u16::MAX as u64;
pub(super) const U32: u64 = u32::MAX as u64;
pub(super) const V4: Option<Family> = Some(Family::V4);
pub(super) const V6: Option<Family> = Some(Family::V6);

/// A match or target that may stand anywhere.
pub(super) const fn spec<T>(
    name: &'static str,
    family: Option<Family>,
    options: &'static [Opt],
    make: fn(&Arguments<'_, '_>) -> Made<T>,
) -> Spec<T> {
    Spec {
        name,
        family,
        options,
        make,
        place: ANYWHERE,
    }
}

/// The same for some tables and hooks only.
pub(super) const fn at<T>(mut spec: Spec<T>, tables: &'static [TableName], hooks: u8) -> Spec<T> {
    spec.place = Place { tables, hooks };
    spec
}

/// One option.
pub(super) struct Opt {
    /// The name that is printed.
    pub name: &'static str,
    /// Other names.
    pub also: &'static [&'static str],
    /// How its value is read.
    pub form: Form,
    /// Takes a `!`.
    pub negatable: bool,
    /// Must be there.
    pub required: bool,
    /// May be there more than once.
    pub repeats: bool,
    /// The options, by name, that it cannot stand beside.
    pub excludes: &'static [&'static str],
    /// The option, by name, that it needs.
    pub needs: &'static str,
}

/// How a value is read and printed.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// No value.
    Flag,
    /// One value that the module reads itself.
    Own,
    /// Two values that the module reads itself.
    Own2,
    /// A number, printed in decimal.
    Number(u64, u64),
    /// A range of numbers up to this, printed in decimal.
    Numbers(u64),
    /// A number up to the second, printed in hexadecimal with so many digits.
    Hex(usize, u64),
    /// A text, cut to so many bytes, quoted where needed.
    Text(usize),
    /// A word that is printed as it is.
    Word,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Read and printed by a function.
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

    /// How many values follow.
    pub const fn values(&self) -> usize {
        match self.form {
            Form::Flag => 0,
            Form::Own2 => 2,
            _ => 1,
        }
    }

    /// All its names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.also.iter().copied())
    }
}

/// What is wrong, and where in the file.
#[derive(Debug)]
pub(super) struct Problem {
    pub range: Range<usize>,
    pub message: String,
}

/// An option that was given.
#[derive(Clone, Copy)]
pub(super) struct Given {
    /// The index of the module's use in the line.
    pub module: usize,
    pub option: &'static Opt,
    pub negated: bool,
    /// The index of the first value, or of the option where it has none.
    pub first: usize,
    /// `--option=value`: where the value begins in the word.
    pub inline: usize,
    /// The protocol that `-p` had given before this option.
    pub protocol: Option<Negatable<u8>>,
}

/// The options that were given to one module.
pub(super) struct Arguments<'a, 'w> {
    pub words: &'a [Word<'w>],
    pub given: &'a [Given],
    pub family: Family,
    /// The whole module's place, for what is missing.
    pub range: Range<usize>,
    pub name: &'static str,
}

impl<'a> Arguments<'a, '_> {
    /// The option of a printed name, if it was given.
    pub fn find(&self, name: &str) -> Option<&'a Given> {
        self.given.iter().find(|given| given.option.name == name)
    }

    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The first value's text.
    pub fn text(&self, given: &Given) -> &'a str {
        &self.words[given.first].text[given.inline..]
    }

    /// The second value's text.
    pub fn second(&self, given: &Given) -> &'a str {
        &self.words[given.first + 1].text
    }

    pub fn text_of(&self, name: &str) -> Option<&'a str> {
        self.find(name).map(|given| self.text(given))
    }

    /// Reads the value of an option, if it was given.
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

    /// Reads the value of an option that the table says is required.
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

    /// The options whose form says how they are printed, in the order of printing.
    pub fn settings(&self, options: &'static [Opt]) -> Made<Vec<Setting>> {
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

    /// One option in its canonical form.
    pub fn setting(&self, given: &Given) -> Made<Setting> {
        let value = match given.option.form {
            Form::Flag => Ok(String::new()),
            form => canonical(form, self.text(given), self.family),
        };
        let value = value.map_err(|message| self.problem(given, message))?;
        Ok(Setting {
            name: given.option.name,
            negated: given.negated,
            value: value.into(),
        })
    }
}

/// A value as `iptables-save` prints it.
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

/// `a` or `a:b`.
pub(super) fn range_text((first, last): (u64, u64)) -> String {
    match first == last {
        true => first.to_string(),
        false => format!("{first}:{last}"),
    }
}

/// The text with quotes where `iptables-save` sets them.
pub(super) fn quoted(text: &str) -> Parsed<String> {
    let mut out = String::with_capacity(text.len() + 2);
    let _ = write_quoted(&mut out, text);
    Ok(out)
}

/// The text as it is, which is what `iptables-save` prints; quoted where that could not be read back.
pub(super) fn word(text: &str) -> Parsed<String> {
    match text.is_empty() || text.contains([' ', '\t', '\n', '"']) {
        true => quoted(text),
        false => Ok(text.to_owned()),
    }
}

/// At most so many bytes; a character that does not fit whole is left out.
pub(super) fn cut(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A list with commas.
pub(super) fn list(words: impl Iterator<Item = impl std::fmt::Display>) -> String {
    let mut out = String::new();
    for word in words {
        let comma = if out.is_empty() { "" } else { "," };
        let _ = write!(out, "{comma}{word}");
    }
    out
}

/// A setting of one's own making.
pub(super) fn setting(name: &'static str, value: impl Into<Box<str>>) -> Setting {
    Setting {
        name,
        negated: false,
        value: value.into(),
    }
}

/// A match whose options are printed by their forms.
pub(super) fn other_match(name: &'static str, settings: Vec<Setting>) -> Match {
    Match::Other(Box::new(Module { name, settings }))
}

/// A target whose options are printed by their forms.
pub(super) fn other_target(name: &'static str, settings: Vec<Setting>) -> Target {
    Target::Other(Box::new(Module { name, settings }))
}
