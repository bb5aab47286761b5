//! The policy as written: every value typed and with its place, names not resolved yet.

mod allow;
mod catalog;
mod decide;
mod habits;
mod json_schema;
mod keys;
mod load;
mod reader;
mod schema;

pub use allow::Allow;
pub use catalog::{CatalogEntry, catalog, catalog_names};
pub use decide::{
    Answer, Chance, Circumstance, DecidedBy, Decision, Journey, Logged, Mangled, Moment, NatChain,
    NewAddress, NewEnd, RawTreatment, Turn, Verdict, decide, decide_when, follow, mangle, raw,
    translate_when,
};
pub use json_schema::json_schema;
pub use load::{load, load_from};
pub use schema::{
    Account, Action, AddressExpression, AddressGroup, AddressItem, Assume, Change, CommandLine,
    Connections, Custom, CustomPlace, CustomPosition, CustomTable, DEFAULT_LOG_BURST,
    DefaultAction, Defaults, Enforce, Expect, GroupKind, Helper, Hooks, HopLimit, Icmp, Interface,
    Invalid, Limit, Lints, LogChoice, LogClass, LogTarget, Mangle, Mode, Nat, NatEnd, NoCommand,
    Order, Over, Ownership, Per, Preserve, Proxy, Raw, RejectWith, Rule, Schedule, Scope, Service,
    ServiceItem, ServiceParts, Stage, Test, Translation, Treatment, Zone, is_matched, question,
};

use std::collections::HashSet;

use indexmap::IndexMap;

use crate::source::{FileId, Located, Span};

/// A whole policy: the root file and everything that it includes, in include order.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// `[defaults]`, merged key by key.
    pub defaults: Defaults,
    /// `[interfaces]`.
    pub interfaces: Definitions<Interface>,
    /// `[zones]`.
    pub zones: Definitions<Zone>,
    /// `[addresses]`.
    pub addresses: Definitions<AddressGroup>,
    /// `[services]`, without the built-in catalog.
    pub services: Definitions<Service>,
    /// `[log.*]`, without the built-in values.
    pub log_classes: Definitions<LogClass>,
    /// Lints that are silent in one place.
    pub allows: Vec<Allow>,
    /// `[ownership]`, merged key by key.
    pub ownership: Ownership,
    /// `[hooks]`, merged key by key.
    pub hooks: Hooks,
    /// `[lints]`.
    pub lints: Lints,
    /// `[users]`.
    pub users: Definitions<u32>,
    /// `[groups]`.
    pub groups: Definitions<u32>,
    /// The file that was asked for; the others were included.
    pub root: Option<FileId>,
    /// `[[rules]]`, in include order and as written; the disabled ones too.
    pub rules: Vec<Rule>,
    /// `[[nat]]`, in include order and as written; the disabled ones too.
    pub nat: Vec<Nat>,
    /// `[[mangle]]`, in include order and as written; the disabled ones too.
    pub mangle: Vec<Mangle>,
    /// `[[raw]]`, in include order and as written; the disabled ones too.
    pub raw: Vec<Raw>,
    /// `[[custom]]`, in include order and as written; the disabled ones too.
    pub custom: Vec<Custom>,
    /// `[[tests]]`, in include order.
    pub tests: Vec<Test>,
}

/// Something with a name of the user's own.
#[derive(Clone, Debug)]
pub struct Definition<T> {
    /// Its name, where it is defined.
    pub name: Located<String>,
    /// What it is.
    pub value: T,
    /// Whether it may replace an earlier one.
    pub overrides: bool,
}

/// Definitions in the order of their reading; the names are unique.
#[derive(Clone, Debug)]
pub struct Definitions<T> {
    good: IndexMap<String, Definition<T>>,
    /// Names whose definition could not be read: using them is no second mistake.
    refused: HashSet<String>,
}

impl<T> Default for Definitions<T> {
    fn default() -> Self {
        Self {
            good: IndexMap::new(),
            refused: HashSet::new(),
        }
    }
}

impl<T> Definitions<T> {
    /// Looks a name up.
    pub fn get(&self, name: &str) -> Option<&Definition<T>> {
        self.good.get(name)
    }

    /// The place of a name in the order of reading.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.good.get_index_of(name)
    }

    /// All definitions, in the order of reading.
    pub fn iter(&self) -> impl Iterator<Item = &Definition<T>> {
        self.good.values()
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.good.keys().map(String::as_str)
    }

    /// Whether the name was defined, but could not be read; that was reported.
    pub fn was_refused(&self, name: &str) -> bool {
        self.refused.contains(name)
    }

    fn refuse(&mut self, name: String) {
        self.refused.insert(name);
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Definition<T>> {
        self.good.values_mut()
    }

    /// Adds a definition, or says where the name was defined before.
    fn insert(&mut self, definition: Definition<T>) -> Result<(), Span> {
        match self.good.get(&definition.name.value) {
            Some(earlier) if !definition.overrides => Err(earlier.name.span),
            _ => {
                self.good.insert(definition.name.value.clone(), definition);
                Ok(())
            }
        }
    }
}
