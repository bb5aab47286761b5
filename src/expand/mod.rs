//! `Plan` → text, through templates.
//!
//! This side decides which rule stands in which chain of which family and what its lines say; the templates put
//! them in the words of iptables-restore. The text is in the form in which `iptables-save` prints it, so that what is
//! loaded reads back unchanged. It is read and proven by others, who share the plan's types and nothing else.

mod addresses;
mod antispoof;
mod context;
mod hooks;
mod mangle;
mod preamble;
mod raw;
mod render;
mod rules;
mod services;
mod sets;
mod templates;

pub use render::{Rendered, RenderedFile};
pub use sets::HEADING as IPSETS_HEADING;
pub use templates::{TemplateError, Templates};

use context::{Chain, FileContext, Line};
use hooks::default_of;

use crate::net::{Family, Hook, PerFamily};
use crate::policy::{DefaultAction, Enforce, RejectWith};
use crate::resolve::Plan;

/// The rules files of a plan. The same plan gives the same bytes.
pub fn expand(plan: &Plan, templates: &Templates) -> Result<Rendered, TemplateError> {
    let mut groups = PerFamily::from_fn(|family| rules::expand(plan, family));
    let has_rules = Hook::ALL.map(|hook| {
        let mut families = groups.iter();
        families.any(|(_, expanded)| !expanded.base[hook as usize].is_empty())
    });
    let mut render = |family: Family| {
        let expanded = std::mem::take(&mut groups[family]);
        let mut chains = Vec::new();
        let mut own = Vec::new();
        for (hook, mut groups) in Hook::ALL.into_iter().zip(expanded.base) {
            // Where everything passes replies do.
            let denies = default_of(plan, hook) != DefaultAction::Accept;
            if (denies || has_rules[hook as usize])
                && let Some((group, chain)) = raw::replies(plan, family, hook)
            {
                groups.main.push(group);
                own.push(chain);
            }
            chains.push(base_chain(
                plan,
                family,
                hook,
                has_rules[hook as usize],
                groups,
            ));
        }
        chains.extend(expanded.own);
        chains.extend(own);
        let antispoof = antispoof::chain(plan, family);
        let mangle = mangle::chains(plan, family);
        let context = FileContext {
            raw: raw::chains(plan, family),
            antispoof,
            mangle,
            chains,
        };
        render::render(context, templates)
    };
    Ok(Rendered {
        rules: PerFamily {
            v4: render(Family::V4)?,
            v6: render(Family::V6)?,
        },
        ipsets: sets::text(plan),
    })
}

fn base_chain(
    plan: &Plan,
    family: Family,
    hook: Hook,
    has_rules: bool,
    groups: rules::BaseChain,
) -> Chain {
    let action = default_of(plan, hook);
    let denies = action != DefaultAction::Accept;
    let by_rule = plan.defaults.enforce == Enforce::Rule;
    let mut chain = Chain {
        name: hook.chain().to_owned(),
        policy: if denies && !by_rule { "DROP" } else { "ACCEPT" },
        preamble: (has_rules || denies).then(|| preamble::of(plan, family, hook)),
        early: groups.early,
        groups: groups.main,
        ..Chain::default()
    };
    match action {
        DefaultAction::Accept => {}
        DefaultAction::Drop => {
            chain.default_action = "drop";
            if by_rule {
                chain.default_lines.push(Line::to("DROP"));
            }
        }
        DefaultAction::Reject => {
            chain.default_action = "reject";
            let verdicts = rules::reject(plan.defaults.reject_with, family, &Line::default());
            chain.default_lines.extend(verdicts);
        }
    }
    if denies {
        let class = plan.defaults.log.map(|class| &plan.log_classes[class]);
        chain.default_log = class.map(Line::logging);
    }
    chain
}

/// The answer's name in iptables.
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
    }
}
