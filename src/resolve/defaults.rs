//! Resolves `[defaults]`: the value of each key in each family and hook.

use super::Resolver;
use super::ownership;
use super::plan::{Defaults, FamilyDefaults};
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::{Family, Hook, PerFamily, PerHook};
use crate::policy::{
    DefaultAction, Enforce, HookValues, Icmp, InvalidAction, Mode, Policy, PolicyDefaults,
    RejectWith, Scope,
};
use crate::source::Located;

/// Returns the families of the host that the policy is for.
pub(super) fn families(defaults: &PolicyDefaults) -> Scope {
    let families = defaults.families.as_ref();
    families.map_or(Scope::Dual, |families| families.value)
}

/// Reports defaults of a family that the host does not have.
pub(super) fn check(defaults: &PolicyDefaults, sink: &mut Sink) {
    let Some(families) = &defaults.families else {
        return;
    };
    for (family, table) in defaults.tables.iter() {
        if let Some(span) = table
            && !families.value.has(family)
        {
            let message = format!(
                "[defaults.{}] has no effect: `families` closes {family}",
                family.keyword()
            );
            sink.report(
                Diagnostic::error(Code::Conflict, *span, message)
                    .also(families.span, "`families` is set here")
                    .help("leave the table out, or `families`"),
            );
        }
    }
}

/// Reports each `scope` other than the only family of the host. Tests may have one: they may prove that the other family
/// is closed.
pub(super) fn check_scopes(policy: &Policy, sink: &mut Sink) {
    let Some(Located {
        value: Scope::Only(family),
        span: said,
    }) = &policy.defaults.families
    else {
        return;
    };
    let scopes = (policy.rules.iter().map(|rule| &rule.scope))
        .chain(policy.nat.iter().map(|entry| &entry.packets.scope))
        .chain(policy.mangle.iter().map(|entry| &entry.packets.scope))
        .chain(policy.raw.iter().map(|entry| &entry.packets.scope))
        .chain(policy.custom.iter().map(|rule| &rule.scope));
    let of_interfaces = policy.interfaces.iter().filter_map(|interface| {
        let interface = &interface.value;
        Some(Located::new(interface.scope, interface.scope_span?))
    });
    for scope in scopes.flatten().cloned().chain(of_interfaces) {
        if scope.value != Scope::Only(*family) {
            let message =
                format!("this `scope` contradicts `families`: the host has {family} only");
            sink.report(
                Diagnostic::error(Code::BadValue, scope.span, message)
                    .also(*said, "`families` is set here")
                    .help(format!(
                        "leave `scope` out: every rule is for {family}; or leave `families` out of [defaults]"
                    )),
            );
        }
    }
}

/// Returns the families of a rule or entry: those of its scope, else the only family of the host; `None` if neither narrows
/// it.
pub(super) fn scope(defaults: &PolicyDefaults, scope: Option<&Located<Scope>>) -> Option<Scope> {
    let of_host = families(defaults);
    let only = (of_host != Scope::Dual).then_some(of_host);
    scope.map(|scope| scope.value).or(only)
}

impl Resolver<'_> {
    pub(super) fn defaults(&self, sink: &mut Sink) -> Defaults {
        let written = &self.policy.defaults;
        check(written, sink);
        let families = families(written);
        let enforce = written.enforce.as_ref();
        Defaults {
            enforce: enforce.map_or(Enforce::Policy, |enforce| enforce.value),
            families,
            of: PerFamily::from_fn(|family| match families.has(family) {
                true => self.family_defaults(family, sink),
                false => self.closed_family(),
            }),
        }
    }

    fn family_defaults(&self, family: Family, sink: &mut Sink) -> FamilyDefaults {
        let PolicyDefaults {
            both,
            own,
            no_preamble,
            families: _,
            enforce: _,
            comments: _,
            tables: _,
        } = &self.policy.defaults;
        let own = &own[family];
        let has_preamble = no_preamble.is_none();
        // In shared mode other programs have rules in the same chains: by default fwc leaves their packets to them.
        let is_shared = ownership::mode(self.policy) == Mode::Shared;
        let action = |hook| match hook {
            Hook::Input => DefaultAction::Drop,
            Hook::Forward | Hook::Output if is_shared => DefaultAction::Continue,
            Hook::Forward => DefaultAction::Drop,
            Hook::Output => DefaultAction::Accept,
        };
        let class = |hook| match own.log[hook].as_ref().or(both.log[hook].as_ref()) {
            None if has_preamble => self.log_class("denied"),
            None | Some(Located { value: None, .. }) => None,
            Some(Located {
                value: Some(class),
                span,
            }) => self.known_log_class(class, *span, sink),
        };
        let antispoof = own.antispoof.as_ref().or(both.antispoof.as_ref());
        let reject_with = own.reject_with.as_ref().or(both.reject_with.as_ref());
        let invalid = match has_preamble {
            true => InvalidAction::Drop,
            false => InvalidAction::Off,
        };
        let icmp = match has_preamble {
            true => Icmp::Essential,
            false => Icmp::None,
        };
        FamilyDefaults {
            log: PerHook::from_fn(class),
            actions: PerHook::from_fn(|hook| {
                let written = own.actions[hook].as_ref().or(both.actions[hook].as_ref());
                written.map_or_else(|| action(hook), |written| written.value)
            }),
            loopback: in_hooks(&own.loopback, &both.loopback, has_preamble),
            established: in_hooks(&own.established, &both.established, has_preamble),
            invalid: in_hooks(&own.invalid, &both.invalid, invalid),
            icmp: in_hooks(&own.icmp, &both.icmp, icmp),
            dhcp_client: in_hooks(&own.dhcp_client, &both.dhcp_client, has_preamble),
            antispoof: antispoof.is_some_and(|antispoof| antispoof.value),
            reject_with: reject_with.map_or(RejectWith::Default, |with| with.value),
        }
    }

    /// Returns the defaults of a family that the host does not have: only packets on `lo` pass. In shared mode packets
    /// that this host forwards or sends are left to other programs, as without `families`.
    fn closed_family(&self) -> FamilyDefaults {
        let elsewhere = match ownership::mode(self.policy) {
            Mode::Exclusive => DefaultAction::Drop,
            Mode::Shared => DefaultAction::Continue,
        };
        FamilyDefaults {
            actions: PerHook {
                input: DefaultAction::Drop,
                forward: elsewhere,
                output: elsewhere,
            },
            loopback: PerHook {
                input: true,
                forward: false,
                output: elsewhere == DefaultAction::Drop,
            },
            established: PerHook::from_fn(|_| false),
            invalid: PerHook::from_fn(|_| InvalidAction::Off),
            icmp: PerHook::from_fn(|_| Icmp::None),
            dhcp_client: PerHook::from_fn(|_| false),
            antispoof: false,
            log: PerHook::from_fn(|_| None),
            reject_with: RejectWith::Default,
        }
    }
}

/// Returns the value of a key in each hook: the family's own, else that of both families, else the default.
fn in_hooks<T: Copy>(own: &HookValues<T>, both: &HookValues<T>, otherwise: T) -> PerHook<T> {
    PerHook::from_fn(|hook| {
        let written = own[hook].as_ref().or(both[hook].as_ref());
        written.map_or(otherwise, |written| written.value)
    })
}
