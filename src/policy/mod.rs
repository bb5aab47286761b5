//! The policy as written in TOML: reads the files, checks keys and values, and keeps every value with its place for
//! messages. Names (of zones, addresses, services) are not resolved here.

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
    BackendTurn, Chance, Circumstance, DecidedBy, Decision, Logged, Mangled, Moment, NatChain,
    NewAddress, NewEnd, PolicyTrace, PolicyVerdict, RawTreatment, RejectAnswer, decide,
    decide_when, entry_log, follow, mangle, nat_entry_when, raw, translate_when,
};
pub use json_schema::json_schema;
pub use load::{load, load_from};
pub use schema::{
    Account, Action, AddressExpression, AddressGroup, AddressItem, Assume, CommandLine,
    ConcernLevel, CustomPlace, CustomPosition, CustomTable, DEFAULT_LOG_BURST, DefaultAction,
    DynamicSet, Enforce, Expect, Finally, GroupKind, Helper, HookValues, Hooks, HopLimitChange,
    HostPrefix, Icmp, InvalidAction, LimitPer, LimitRate, LimitWindow, Lints, LogChoice,
    LogDestination, LogOption, MangleChange, Mode, NatEnd, NoCommand, Order, Over, Per,
    PolicyBlock, PolicyConcerns, PolicyConnections, PolicyCustom, PolicyDefaults, PolicyExtensions,
    PolicyFamilyDefaults, PolicyForeignSet, PolicyInterface, PolicyLimit, PolicyLogClass,
    PolicyMangle, PolicyNat, PolicyNatAddress, PolicyNatEnd, PolicyOriginal, PolicyOwnership,
    PolicyRaw, PolicyRule, PolicySchedule, PolicyTest, PolicyTranslation, PolicyZone, Preserve,
    Proxy, RejectWith, RuleLimit, RuleStage, Scope, Selection, Service, ServiceItem, ServiceParts,
    Treatment, has_key, is_matched, question,
};

use std::collections::HashSet;

use indexmap::IndexMap;

use crate::source::{FileId, Located, Span};

/// A whole policy: the root file and all files that it includes, in include order.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// `[defaults]`, merged key by key.
    pub defaults: PolicyDefaults,
    /// `[interfaces]`.
    pub interfaces: Definitions<PolicyInterface>,
    /// `[zones]`.
    pub zones: Definitions<PolicyZone>,
    /// `[addresses]`.
    pub addresses: Definitions<AddressGroup>,
    /// `[services]`, without the built-in catalog.
    pub services: Definitions<Service>,
    /// `[log.*]`, without the built-in values.
    pub log_classes: Definitions<PolicyLogClass>,
    /// `[limits]`.
    pub limits: Definitions<PolicyLimit>,
    /// Lints that a comment allows in one place (`# fwc: allow(CODE)`).
    pub allows: Vec<Allow>,
    /// `[ownership]`, merged key by key.
    pub ownership: PolicyOwnership,
    /// `[hooks]`, merged key by key.
    pub hooks: Hooks,
    /// `[lints]`.
    pub lints: Lints,
    /// `[concerns]`.
    pub concerns: PolicyConcerns,
    /// `[extensions]`, of all files together.
    pub extensions: PolicyExtensions,
    /// `[users]`.
    pub users: Definitions<u32>,
    /// `[groups]`.
    pub groups: Definitions<u32>,
    /// The file that the user named; it includes the others.
    pub root: Option<FileId>,
    /// `[[rules]]`, in include order, with the disabled ones.
    pub rules: Vec<PolicyRule>,
    /// `[[nat]]`, in include order, with the disabled ones.
    pub nat: Vec<PolicyNat>,
    /// `[[mangle]]`, in include order, with the disabled ones.
    pub mangle: Vec<PolicyMangle>,
    /// `[[raw]]`, in include order, with the disabled ones.
    pub raw: Vec<PolicyRaw>,
    /// `[[custom]]`, in include order, with the disabled ones.
    pub custom: Vec<PolicyCustom>,
    /// `[[tests]]`, in include order.
    pub tests: Vec<PolicyTest>,
}

impl Policy {
    /// Returns the blocks around what stands in a block (by its index in [`Policy::rules`]), from the inside out.
    pub fn blocks_around(&self, block: Option<usize>) -> impl Iterator<Item = &PolicyRule> {
        let rule = |index: Option<usize>| self.rules.get(index?);
        std::iter::successors(rule(block), move |block| rule(block.in_block))
    }
}

/// A definition under a name that the user chose.
#[derive(Clone, Debug)]
pub struct Definition<T> {
    /// The name, with the place of its definition.
    pub name: Located<String>,
    /// The defined value.
    pub value: T,
    /// `true` if it may replace an earlier definition of the name (`override`).
    pub overrides: bool,
}

/// Definitions in reading order, with unique names.
#[derive(Clone, Debug)]
pub struct Definitions<T> {
    good: IndexMap<String, Definition<T>>,
    /// Names whose definition could not be read. It was reported, so using such a name is not reported as a second
    /// error.
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
    /// Returns the definition of a name.
    pub fn get(&self, name: &str) -> Option<&Definition<T>> {
        self.good.get(name)
    }

    /// Returns the index of a name in reading order.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.good.get_index_of(name)
    }

    /// Returns all definitions in reading order.
    pub fn iter(&self) -> impl Iterator<Item = &Definition<T>> {
        self.good.values()
    }

    /// Returns all names in reading order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.good.keys().map(String::as_str)
    }

    /// Returns `true` if the name was defined but its definition could not be read, which was reported.
    pub fn was_refused(&self, name: &str) -> bool {
        self.refused.contains(name)
    }

    fn refuse(&mut self, name: String) {
        self.refused.insert(name);
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Definition<T>> {
        self.good.values_mut()
    }

    /// Adds a definition. If the name is taken and this definition does not override it, returns the place of the
    /// earlier one.
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
