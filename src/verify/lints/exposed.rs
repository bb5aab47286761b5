//! Entries of `[[nat]]` that open a guarded port to the world, by whichever address and port packets arrive.

use std::collections::BTreeMap;

use super::world::{GUARDED, is_most, sources};
use crate::analysis::{BaseChain, GaveUp, Path, Set, Space, Verdict};
use crate::diag::Diagnostic;
use crate::iptables::TableName;
use crate::lints::world_open;
use crate::net::{Hook, State};
use crate::policy::NatChain;
use crate::resolve::{Endpoint, Plan, PlannedNat, PlannedTranslation};
use crate::verify::spec::Spec;

/// Returns a finding for each entry that leads packets from more than half of all addresses to a guarded port.
pub(super) fn exposed(
    plan: &Plan,
    space: &Space,
    spec: &Spec,
) -> Result<BTreeMap<usize, Diagnostic>, GaveUp> {
    let mut found = BTreeMap::new();
    let behaviour = spec.behaviour.silent();
    for (chain, index, packets) in &spec.translated {
        let Some(nat) = plan.nat.get(*index) else {
            continue;
        };
        let anywhere = [None, Some(vec![Endpoint::Any])].contains(&nat.packets.from);
        let Some(hook) = hook_of(nat).filter(|_| *chain == NatChain::Prerouting && anywhere) else {
            continue;
        };
        if found.contains_key(index) {
            continue;
        }
        let new = space.as_state(State::New)?;
        let arriving = space.every([*packets, new, space.valid(hook.into())?])?;
        let path = Path::of(space, &behaviour, hook, arriving)?;
        if let Some((name, port)) = shown(space, &path)? {
            let finding = world_open::translation(nat.packets.span, name, &port);
            found.insert(*index, finding);
        }
    }
    Ok(found)
}

/// Returns the hook in which packets of an entry end; `None` for entries that open no port.
fn hook_of(nat: &PlannedNat) -> Option<Hook> {
    match &nat.translation {
        PlannedTranslation::Dnat { .. } => Some(Hook::Forward),
        PlannedTranslation::Redirect { .. } => Some(Hook::Input),
        PlannedTranslation::Masquerade { .. }
        | PlannedTranslation::Snat(_)
        | PlannedTranslation::Untranslated(_)
        | PlannedTranslation::Netmap { .. } => None,
    }
}

/// Returns the first guarded port that packets from most addresses pass to, by its number after translation.
fn shown(space: &Space, path: &Path) -> Result<Option<(&'static str, String)>, GaveUp> {
    let passes = path.may(space, |end| end.verdict == Verdict::Accept)?;
    let filter = (TableName::Filter, BaseChain::from(path.hook));
    for (protocol, first, last, name) in GUARDED {
        let port = space.destination_port(first, last)?;
        let there = space.and(space.protocol(protocol)?, port)?;
        let there = path.before(space, filter, there)?;
        let shown: Set = space.and(space.whatever_is_chosen(there)?, passes)?;
        if shown != space.none() && is_most(space.family(), &sources(space, shown)?) {
            return Ok(Some((name, format!("{protocol} {first}"))));
        }
    }
    Ok(None)
}
