//! Shared mode: the contents of each base chain move to a chain of fwc's own, and the base chain jumps there.

use super::context::{
    ChainContext, FileContext, GroupContext, JumpContext, LineContext, NegatableContext,
};
use super::hooks::denies;
use crate::net::{Family, Hook};
use crate::resolve::Plan;

/// Limits the default of FORWARD to packets from one device of the policy to another: other programs, such as Docker,
/// forward between devices of their own.
///
/// iptables cannot match several devices in one line, so that each pair would be one: FORWARD matches the incoming
/// device, a second chain the outgoing one, and a third denies.
pub fn forward_default(
    plan: &Plan,
    family: Family,
    hook: Hook,
    mut chain: ChainContext,
    own: &mut Vec<ChainContext>,
) -> ChainContext {
    if hook != Hook::Forward || !denies(plan, family, hook) {
        return chain;
    }
    let out = format!("FWC-{hook}-OUT");
    let deny = format!("FWC-{hook}-DENY");
    let devices = || {
        let interfaces = plan.interfaces.iter();
        interfaces.flat_map(|interface| &interface.devices)
    };
    let leaving = devices().map(|device| LineContext {
        out_device: Some(NegatableContext::plain(device.to_string())),
        ..LineContext::to(&deny)
    });
    own.push(ChainContext::own(
        out.clone(),
        vec![GroupContext {
            label: "and goes out by a device of the policy".to_owned(),
            lines: leaving.collect(),
            ..GroupContext::default()
        }],
    ));
    own.push(ChainContext {
        name: deny,
        policy: "-",
        default_log: chain.default_log.take(),
        default_action: chain.default_action,
        default_lines: std::mem::take(&mut chain.default_lines),
        ..ChainContext::default()
    });
    if devices().next().is_none() {
        own.truncate(own.len() - 2);
    }
    chain.default_lines = devices()
        .map(|device| LineContext {
            in_device: Some(NegatableContext::plain(device.to_string())),
            ..LineContext::to(&out)
        })
        .collect();
    chain
}

/// Moves the contents of base chains to chains of fwc's own, in every table. An empty chain is left out, with its jump.
pub fn move_out(context: &mut FileContext) {
    context.shared = true;
    context.jumps = table(&mut context.chains);
    context.nat_jumps = table(&mut context.nat);
    context.mangle_jumps = table(&mut context.mangle);
    context.raw_jumps = table(&mut context.raw);
}

fn table(chains: &mut Vec<ChainContext>) -> Vec<JumpContext> {
    let mut jumps = Vec::new();
    chains.retain_mut(|chain| {
        if chain.policy == "-" {
            return true;
        }
        let is_idle = chain.preamble.is_none()
            && chain.early.is_empty()
            && chain.groups.is_empty()
            && chain.default_log.is_none()
            && chain.default_lines.is_empty();
        let base = std::mem::take(&mut chain.name);
        chain.name = format!("FWC-{base}");
        chain.policy = "-";
        if !is_idle {
            let to = chain.name.clone();
            jumps.push(JumpContext { from: base, to });
        }
        !is_idle
    });
    chains.sort_by(|one, other| one.name.cmp(&other.name));
    jumps
}
