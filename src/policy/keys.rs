//! Describes the keys of the language's tables: names, values and documentation. The reader accepts exactly these keys,
//! and the JSON Schema is generated from them, so that the two cannot disagree.

use std::fmt::Debug;

/// The keys that a table may have.
#[derive(Clone, Copy, Debug)]
pub struct TableKeys {
    /// The name of the table in messages: "a rule", "`[defaults]`".
    pub of: &'static str,
    /// The keys.
    pub known: &'static [Key],
}

impl TableKeys {
    /// Returns the names of the keys.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.known.iter().map(|key| key.name)
    }
}

/// A key of a table.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The name of the key.
    pub name: &'static str,
    /// The values that it accepts.
    pub shape: Shape,
    /// Its meaning, in a sentence or two of Markdown. Users see it in the schema.
    pub about: &'static str,
    /// `true` if the table must have it.
    pub is_required: bool,
    /// The default value, in TOML.
    pub default: Option<&'static str>,
    /// An example value, in TOML.
    pub example: Option<&'static str>,
}

impl Key {
    /// Creates an optional key.
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

    /// Makes the key required.
    pub const fn required(self) -> Self {
        Self {
            is_required: true,
            ..self
        }
    }

    /// Sets the default value.
    pub const fn default(self, value: &'static str) -> Self {
        Self {
            default: Some(value),
            ..self
        }
    }

    /// Sets an example value.
    pub const fn example(self, value: &'static str) -> Self {
        Self {
            example: Some(value),
            ..self
        }
    }
}

/// The values that a key accepts, as far as they can be checked without the rest of the policy.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Any string of at most this many characters.
    Text(u32),
    /// A string that matches this regular expression.
    Form(&'static str),
    /// One of some words.
    Word(&'static dyn WordTable),
    /// This string only.
    Literally(&'static str),
    /// One of the words that a table outside the policy defines, such as the built-in services, and the name of the table in
    /// the schema.
    Known(&'static str, fn() -> Vec<&'static str>),
    /// `true` or `false`.
    Boolean,
    /// A whole number between these two, both included.
    Number(i64, i64),
    /// A date without a time.
    Date,
    /// A list that is not empty, or a single value.
    List(&'static Shape),
    /// One of several shapes.
    OneOf(&'static [Shape]),
    /// A table.
    Table(&'static TableKeys),
    /// A list of tables, each written `[[NAME]]`.
    Tables(&'static TableKeys),
    /// A table of definitions under names that the user chooses.
    Definitions {
        /// Names that the user may not choose.
        reserved: &'static [&'static str],
        /// The shape of a definition.
        each: &'static Shape,
    },
    /// A table with keys of its own and with names that are defined elsewhere.
    Names {
        /// The names, each with its meaning.
        names: fn() -> Vec<(&'static str, String)>,
        /// The shape of their values.
        each: &'static Shape,
        /// The table's own keys.
        keys: &'static TableKeys,
    },
}

/// The words that a key accepts. It is implemented by the tables in which the reader looks them up.
pub trait WordTable: Debug + Sync {
    /// Returns the words in the order of the documentation.
    fn words(&self) -> Vec<&'static str>;
}

impl<T: Debug + Sync> WordTable for &'static [(&'static str, T)] {
    fn words(&self) -> Vec<&'static str> {
        self.iter().map(|(word, _)| *word).collect()
    }
}
