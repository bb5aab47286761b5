//! The sections of the policy language, one file each: their keys, and how they are read.

mod addresses;
mod concerns;
mod custom;
mod defaults;
mod dynamic_set;
mod extensions;
mod foreign_set;
mod helpers;
mod hooks;
mod interfaces;
mod limits;
mod lints;
mod log;
mod mangle;
mod matches;
mod names;
mod nat;
mod original;
mod ownership;
mod question;
mod raw;
mod rules;
mod selection;
mod services;
mod tests;
mod times;
mod users;
mod windows;
mod zones;

pub(super) use addresses::read_list;
pub use addresses::{AddressExpression, AddressGroup, AddressItem, GroupKind};
pub use concerns::{ConcernLevel, PolicyConcerns};
pub use custom::{CustomPlace, CustomPosition, CustomTable, PolicyCustom};
pub use defaults::{
    DefaultAction, Enforce, HookValues, Icmp, InvalidAction, PolicyDefaults, PolicyFamilyDefaults,
    RejectWith,
};
pub use dynamic_set::DynamicSet;
pub use extensions::PolicyExtensions;
pub use foreign_set::PolicyForeignSet;
pub use helpers::Helper;
pub use hooks::{CommandLine, Hooks, NoCommand};
pub use interfaces::{PolicyInterface, Scope};
pub use limits::{
    HostPrefix, LimitPer, LimitRate, Over, Per, PolicyConnections, PolicyLimit, RuleLimit,
};
pub use lints::Lints;
pub use log::{DEFAULT_LOG_BURST, LogDestination, LogOption, PolicyLogClass};
pub use mangle::{HopLimitChange, MangleChange, PolicyMangle, Proxy};
pub use nat::{NatEnd, PolicyNat, PolicyNatAddress, PolicyNatEnd, PolicyTranslation};
pub use original::PolicyOriginal;
pub use ownership::{Mode, PolicyOwnership, Preserve, is_matched};
pub use question::question;
pub use raw::{PolicyRaw, Treatment};
pub use rules::{Action, Finally, LogChoice, Order, PolicyBlock, PolicyRule, RuleStage};
pub use selection::Selection;
pub use services::{Service, ServiceItem, ServiceParts};
pub use tests::{Assume, Expect, PolicyTest};
pub use times::PolicySchedule;
pub use users::Account;
pub use windows::LimitWindow;
pub use zones::PolicyZone;

use names::harmless_text;
pub(super) use names::{NAME, is_name};
pub(super) use rules::check_names;
pub(super) use services::read_catalog_service;

use super::Policy;
use super::keys::{Key, Shape, TableKeys};
use super::reader::CheckedTable;
use crate::diag::{Code, Diagnostic, Sink};

/// Returns `true` if the rules, or the entries of a table, have a key.
pub fn has_key(table: CustomTable, key: &str) -> bool {
    let keys = match table {
        CustomTable::Filter => rules::KEYS,
        CustomTable::Nat => nat::KEYS,
        CustomTable::Mangle => mangle::KEYS,
        CustomTable::Raw => raw::KEYS,
    };
    keys.names().any(|name| name == key)
}

/// The keys of a policy file.
pub(in crate::policy) const ROOT: TableKeys = TableKeys {
    of: "a policy",
    known: &[
        Key::new(
            "version",
            Shape::Number(1, 1),
            "The version of the policy language. The first file needs it, included ones may leave it out.",
        )
        .example("1"),
        Key::new(
            "include",
            Shape::List(&Shape::Text(4096)),
            "Policy files that come before this one, relative to it; a pattern gives its files in sorted order.",
        )
        .example("['roles/base.toml', 'sites/*.toml']"),
        Key::new(
            "defaults",
            Shape::Table(&defaults::KEYS),
            "What becomes of packets that no rule decides, and what every chain begins with.",
        ),
        interfaces::SECTION,
        zones::SECTION,
        addresses::SECTION,
        services::SECTION,
        log::SECTION,
        limits::SECTION,
        users::USERS,
        users::GROUPS,
        lints::SECTION,
        concerns::SECTION,
        Key::new(
            "extensions",
            Shape::Table(&extensions::KEYS),
            "Matches and targets that the host's iptables has, and fwc does not know.",
        ),
        Key::new(
            "ownership",
            Shape::Table(&ownership::KEYS),
            "What of the firewall is the policy's, and what is not.",
        ),
        Key::new(
            "hooks",
            Shape::Table(&hooks::KEYS),
            "What is run when a change of the firewall stays.",
        ),
        Key::new(
            "rules",
            Shape::Tables(&rules::KEYS),
            "The rules: the first that fits a packet decides.",
        ),
        Key::new(
            "nat",
            Shape::Tables(&nat::KEYS),
            "Address translation: the first entry that has the first packet of a connection translates it.",
        ),
        Key::new(
            "mangle",
            Shape::Tables(&mangle::KEYS),
            "What is changed in packets; whether they pass is for the rules.",
        ),
        Key::new(
            "raw",
            Shape::Tables(&raw::KEYS),
            "What is done to packets before their connections are known.",
        ),
        Key::new(
            "custom",
            Shape::Tables(&custom::KEYS),
            "Rules of iptables for what the language cannot say.",
        ),
        Key::new(
            "tests",
            Shape::Tables(&tests::KEYS),
            "What must hold, whatever the rules are: proven for every packet that fits.",
        ),
    ],
};

/// Reads all sections of one file and adds them to the policy.
pub(super) fn read(
    root: CheckedTable<'_>,
    is_root_file: bool,
    policy: &mut Policy,
    sink: &mut Sink,
) {
    root.check(ROOT, sink);
    version(root, is_root_file, sink);
    if let Some(value) = root.get("defaults")
        && let Some(table) = value.table("defaults", sink)
    {
        defaults::read(table, &mut policy.defaults, sink);
    }
    interfaces::read(root, &mut policy.interfaces, sink);
    zones::read(root, &mut policy.zones, sink);
    addresses::read(root, &mut policy.addresses, sink);
    services::read(root, &mut policy.services, sink);
    log::read(root, &mut policy.log_classes, sink);
    limits::read_limits(root, &mut policy.limits, sink);
    users::read(root, "users", &mut policy.users, sink);
    users::read(root, "groups", &mut policy.groups, sink);
    lints::read(root, &mut policy.lints, sink);
    concerns::read(root, &mut policy.concerns, sink);
    extensions::read(root, &mut policy.extensions, sink);
    ownership::read(root, &mut policy.ownership, sink);
    hooks::read(root, &mut policy.hooks, sink);
    let customs_before = policy.custom.len();
    rules::read(root, policy, sink);
    nat::read(root, &mut policy.nat, sink);
    mangle::read(root, &mut policy.mangle, sink);
    raw::read(root, &mut policy.raw, sink);
    custom::read(root, policy, sink);
    // Those among the rules were read first.
    policy.custom[customs_before..].sort_by_key(|custom| custom.span.start);
    tests::read(root, &mut policy.tests, sink);
}

fn version(root: CheckedTable<'_>, is_root_file: bool, sink: &mut Sink) {
    match root.get("version") {
        Some(version) => match version.as_integer() {
            Some(1) => {}
            Some(other) => sink.report(
                Diagnostic::error(
                    Code::VersionUnknown,
                    version.span,
                    format!("version {other} of the policy language is not known"),
                )
                .with_note("this fwc knows version 1"),
            ),
            None => version.wrong_type("version", "the number 1", sink),
        },
        None if is_root_file => {
            let start = crate::source::Span {
                end: root.span.start,
                ..root.span
            };
            sink.report(
                Diagnostic::error(
                    Code::VersionMissing,
                    start,
                    "the policy does not say its version",
                )
                .help("begin the file with `version = 1`"),
            );
        }
        None => {}
    }
}
