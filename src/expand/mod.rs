//! `Plan` → rules files, through templates.
//!
//! This module decides the chain, family and lines of each rule; the templates write them in the syntax of
//! iptables-restore. The text has the form in which `iptables-save` prints it, so that loaded rules read back unchanged.
//!
//! `verify` reads the text back and compares it with the policy. It shares the types of the plan with this module, and no
//! decision: a mistake made once here shows there.

mod addresses;
mod antispoof;
mod context;
mod custom;
mod entries;
mod hooks;
mod mangle;
mod nat;
mod origin;
mod original;
mod own_chains;
mod preamble;
mod raw;
mod render;
mod rules;
mod services;
mod sets;
mod shared;
mod size;
mod templates;
#[cfg(test)]
mod tests;
mod values;

pub use origin::LineOrigin;
pub use render::{RULES_HEADING, Rendered, RenderedFile};
pub use sets::HEADING as IPSETS_HEADING;
pub use size::{MOST_LINES, TooLarge, bound};
pub use templates::{BuiltIn, TemplateError, Templates};
pub use values::VERSION as CONTEXT_VERSION;

use context::{ChainContext, FileContext, LineContext};
use hooks::denies;

use crate::net::{Family, Hook, PerFamily};
use crate::policy::{CustomTable, DefaultAction, Enforce, RejectWith};
use crate::resolve::Plan;

/// Returns the rules files of a plan. The same plan gives the same bytes.
///
/// # Errors
///
/// Fails if a template does.
pub fn expand(plan: &Plan, templates: &Templates) -> Result<Rendered, TemplateError> {
    let PerFamily { v4, v6 } = contexts(plan);
    Ok(Rendered {
        rules: PerFamily {
            v4: render::render(v4, templates)?,
            v6: render::render(v6, templates)?,
        },
        ipsets: sets::text(plan),
    })
}

/// Returns the variables of the templates for each family.
fn contexts(plan: &Plan) -> PerFamily<FileContext> {
    let mut groups = PerFamily::from_fn(|family| rules::expand(plan, family));
    let contents = Hook::ALL.map(|hook| {
        let any = |asked: fn(&rules::ExpandedChain) -> bool| {
            let mut families = groups.iter();
            families.any(|(_, expanded)| asked(&expanded.base[hook as usize]))
        };
        HookContents {
            rules: any(|chain| !chain.is_empty()) || custom::any_in(plan, hook.chain()),
            accepts: any(|chain| chain.accepts),
        }
    });
    PerFamily::from_fn(|family| {
        let expanded = std::mem::take(&mut groups[family]);
        let mut chains = Vec::new();
        let mut own = expanded.own;
        for (hook, mut groups) in Hook::ALL.into_iter().zip(expanded.base) {
            // A chain that accepts everything needs no lines for replies.
            if (contents[hook as usize].rules || denies(plan, family, hook))
                && let Some((group, chains)) = raw::replies(plan, family, hook)
            {
                groups.main.push(group);
                own.extend(chains);
            }
            let chain = base_chain(plan, family, hook, contents[hook as usize], groups);
            chains.push(match plan.is_shared() {
                true => shared::forward_default(plan, family, hook, chain, &mut own),
                false => chain,
            });
        }
        own.sort_by(|one, other| one.name.cmp(&other.name));
        chains.extend(own);
        custom::place(plan, family, CustomTable::Filter, &mut chains);
        let mut mangle = mangle::chains(plan, family);
        custom::place(plan, family, CustomTable::Mangle, &mut mangle);
        let mut nat = nat::chains(plan, family);
        custom::place(plan, family, CustomTable::Nat, &mut nat);
        let mut raw = raw::chains(plan, family);
        custom::place(plan, family, CustomTable::Raw, &mut raw);
        let mut context = FileContext {
            family: family.keyword(),
            antispoof: antispoof::chain(plan, family),
            nat,
            raw,
            mangle,
            chains,
            ..FileContext::default()
        };
        if plan.is_shared() {
            shared::move_out(&mut context);
        }
        context
    })
}

/// The contents of a hook. Both families count, so that a chain has the same preamble in both.
#[derive(Clone, Copy, Debug)]
struct HookContents {
    /// It has rules of the policy.
    rules: bool,
    /// It has rules that accept.
    accepts: bool,
}

/// Returns a base chain of the filter table: preamble, rules, and default.
fn base_chain(
    plan: &Plan,
    family: Family,
    hook: Hook,
    contents: HookContents,
    groups: rules::ExpandedChain,
) -> ChainContext {
    let defaults = &plan.defaults[family];
    let action = defaults.actions[hook];
    let denies = denies(plan, family, hook);
    let by_rule = plan.defaults.enforce == Enforce::Rule || plan.is_shared();
    let mut chain = ChainContext {
        name: hook.chain().to_owned(),
        policy: if denies && !by_rule { "DROP" } else { "ACCEPT" },
        preamble: (denies || contents.rules && plan.defaults.families.has(family))
            .then(|| preamble::of(plan, family, hook, contents.accepts)),
        early: groups.early,
        groups: [groups.main, groups.translated].concat(),
        ..ChainContext::default()
    };
    match action {
        DefaultAction::Continue => {}
        DefaultAction::Accept => {
            // Without a last ACCEPT the packets would return to the base chain, where rules of other programs decide.
            if plan.is_shared() {
                chain.default_action = "accept";
                chain.default_lines.push(LineContext::to("ACCEPT"));
            }
        }
        DefaultAction::Drop => {
            chain.default_action = "drop";
            if by_rule {
                chain.default_lines.push(LineContext::to("DROP"));
            }
        }
        DefaultAction::Reject => {
            chain.default_action = "reject";
            let verdicts = rules::reject(defaults.reject_with, family, &LineContext::default());
            chain.default_lines.extend(verdicts);
        }
    }
    if denies {
        let class = defaults.log[hook].map(|class| &plan.log_classes[class]);
        chain.default_log = class.map(LineContext::logging);
    }
    chain
}

/// Returns the argument of `--reject-with`.
fn reject_name(with: RejectWith, family: Family) -> &'static str {
    match (with, family) {
        (RejectWith::TcpReset, _) => "tcp-reset",
        (RejectWith::Default | RejectWith::PortUnreachable, Family::V4) => "icmp-port-unreachable",
        (RejectWith::Default | RejectWith::PortUnreachable, Family::V6) => "icmp6-port-unreachable",
        (RejectWith::HostUnreachable, Family::V4) => "icmp-host-unreachable",
        (RejectWith::HostUnreachable, Family::V6) => "icmp6-addr-unreachable",
        (RejectWith::NetUnreachable, Family::V4) => "icmp-net-unreachable",
        (RejectWith::NetUnreachable, Family::V6) => "icmp6-no-route",
        (RejectWith::AdminProhibited, Family::V4) => "icmp-admin-prohibited",
        (RejectWith::AdminProhibited, Family::V6) => "icmp6-adm-prohibited",
        (RejectWith::HostProhibited, Family::V4) => "icmp-host-prohibited",
        (RejectWith::HostProhibited, Family::V6) => "icmp6-adm-prohibited",
        (RejectWith::NetProhibited, Family::V4) => "icmp-net-prohibited",
        (RejectWith::NetProhibited, Family::V6) => "icmp6-adm-prohibited",
        (RejectWith::ProtoUnreachable, Family::V4) => "icmp-proto-unreachable",
        (RejectWith::ProtoUnreachable, Family::V6) => "icmp6-port-unreachable",
        (RejectWith::PolicyFail, Family::V4) => "icmp-admin-prohibited",
        (RejectWith::PolicyFail, Family::V6) => "icmp6-policy-fail",
        (RejectWith::RejectRoute, Family::V4) => "icmp-net-unreachable",
        (RejectWith::RejectRoute, Family::V6) => "icmp6-reject-route",
    }
}
