//! The keys of the language's tables: their names, the values that they take, and what they mean. The reader accepts
//! the keys that stand here and no others, and the JSON Schema is made of them.

use std::fmt::Debug;

/// The keys that a table may have.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    /// What the table is called in messages: "a rule", "`[defaults]`".
    pub of: &'static str,
    /// Keys that are read.
    pub known: &'static [Key],
}

impl Keys {
    /// The names of the keys that are read.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.known.iter().map(|key| key.name)
    }
}

/// A key of a table.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// The values that it takes.
    pub shape: Shape,
    /// What it means, in a sentence or two of Markdown.
    pub about: &'static str,
    /// Whether the table needs it.
    pub is_required: bool,
    /// The value that is meant when the key is left out, in TOML.
    pub default: Option<&'static str>,
    /// A good value, in TOML.
    pub example: Option<&'static str>,
}

impl Key {
    /// A key that may be left out.
    pub const fn new(name: &'static str, shape: Shape, about: &'static str) -> Self {
        Self {
            name,
            shape,
            about,
            is_required: false,
            default: None,
            example: None,
        }
    }

    /// The same key, in a table that needs it.
    pub const fn required(self) -> Self {
        Self {
            is_required: true,
            ..self
        }
    }

    /// The same key with the value that is meant without it.
    pub const fn default(self, value: &'static str) -> Self {
        Self {
            default: Some(value),
            ..self
        }
    }

    /// The same key with a good value.
    pub const fn example(self, value: &'static str) -> Self {
        Self {
            example: Some(value),
            ..self
        }
    }
}

/// Which values a key takes, as far as one sees it without the rest of the policy.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Free text of at most so many characters.
    Text(u32),
    /// A text that this regular expression matches.
    Form(&'static str),
    /// One of some words.
    Word(&'static dyn Words),
    /// This text alone.
    Literally(&'static str),
    /// One of the words that a table elsewhere has.
    Known(fn() -> Vec<&'static str>),
    /// `true` or `false`.
    Boolean,
    /// A whole number from the first to the second.
    Number(i64, i64),
    /// A date.
    Date,
    /// A list that is not empty, or one value by itself.
    List(&'static Shape),
    /// One of several shapes.
    OneOf(&'static [Shape]),
    /// A table.
    Table(&'static Keys),
    /// A list of tables, each written `[[NAME]]`.
    Tables(&'static Keys),
    /// A table of definitions under names of the user's own; some names may be reserved.
    Definitions {
        /// Names that are not the user's to give.
        reserved: &'static [&'static str],
        /// What is defined.
        each: &'static Shape,
    },
    /// A table with keys of its own and names from elsewhere.
    Names {
        /// The names, each with what it means.
        names: fn() -> Vec<(&'static str, String)>,
        /// What each of them takes.
        each: &'static Shape,
        /// The other keys.
        keys: &'static Keys,
    },
}

/// The words that a key takes: the tables that the reader looks them up in.
pub trait Words: Debug + Sync {
    /// The words, in the order of the documentation.
    fn words(&self) -> Vec<&'static str>;
}

impl<T: Debug + Sync> Words for &'static [(&'static str, T)] {
    fn words(&self) -> Vec<&'static str> {
        self.iter().map(|(word, _)| *word).collect()
    }
}
