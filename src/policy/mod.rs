//! The policy as written: every value typed and with its place, names not resolved yet.

mod catalog;
mod load;
mod reader;
mod schema;

pub use catalog::{CatalogEntry, catalog, catalog_names};
pub use load::{Access, load};
pub use schema::{
    Action, AddressExpression, AddressGroup, AddressItem, DefaultAction, Defaults, Enforce, Icmp,
    Interface, Invalid, LogChoice, LogClass, LogTarget, RejectWith, Rule, Scope, Service,
    ServiceItem, ServiceParts,
};

use crate::source::{Located, Span};

/// A whole policy: the root file and everything that it includes, in include order.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// `[defaults]`, merged key by key.
    pub defaults: Defaults,
    /// `[interfaces]`.
    pub interfaces: Definitions<Interface>,
    /// `[addresses]`.
    pub addresses: Definitions<AddressGroup>,
    /// `[services]`, without the built-in catalog.
    pub services: Definitions<Service>,
    /// `[log.*]`, without the built-in values.
    pub log_classes: Definitions<LogClass>,
    /// `[[rules]]`, in include order and as written; the disabled ones too.
    pub rules: Vec<Rule>,
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
pub struct Definitions<T>(indexmap::IndexMap<String, Definition<T>>);

impl<T> Default for Definitions<T> {
    fn default() -> Self {
        Self(indexmap::IndexMap::new())
    }
}

impl<T> Definitions<T> {
    /// Looks a name up.
    pub fn get(&self, name: &str) -> Option<&Definition<T>> {
        self.0.get(name)
    }

    /// The place of a name in the order of reading.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.0.get_index_of(name)
    }

    /// All definitions, in the order of reading.
    pub fn iter(&self) -> impl Iterator<Item = &Definition<T>> {
        self.0.values()
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Adds a definition, or says where the name was defined before.
    fn insert(&mut self, definition: Definition<T>) -> Result<(), Span> {
        match self.0.get(&definition.name.value) {
            Some(earlier) if !definition.overrides => Err(earlier.name.span),
            _ => {
                self.0.insert(definition.name.value.clone(), definition);
                Ok(())
            }
        }
    }
}
