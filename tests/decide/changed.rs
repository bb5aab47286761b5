//! What is done to a packet in a table besides its verdict: the policy's own words, and the rules walked one by one.

use fwc::analysis::BaseChain;
use fwc::internals::verify::SideEffect;
use fwc::iptables::{Ruleset, TableName};
use fwc::net::{Hook, Packet};
use fwc::policy::{self, Circumstance, MangleChange, Moment, PolicyRule, RawTreatment, Treatment};

use crate::views::Compiled;

/// The base chains of the mangle table that a packet meets, each with the moment in the policy's words.
const CHAINS: [(BaseChain, Moment); 2] = [
    (BaseChain::Prerouting, Moment::Arrival),
    (BaseChain::Input, Moment::Hook),
];

/// What the mangle table does to a packet, at arrival and in its hook.
pub fn mangled(compiled: &Compiled, ruleset: &Ruleset, packet: &Packet) -> [Vec<SideEffect>; 2] {
    CHAINS.map(|(chain, _)| match chain {
        BaseChain::Prerouting if packet.hook == Hook::Output => Vec::new(),
        BaseChain::Prerouting => acts(
            compiled,
            &arriving(ruleset, packet.hook),
            TableName::Mangle,
            packet,
        ),
        _ => acts(compiled, ruleset, TableName::Mangle, packet),
    })
}

/// The same by the policy.
pub fn asked(compiled: &Compiled, packet: &Packet) -> [Vec<SideEffect>; 2] {
    let usual = |one: Circumstance<'_>| one.usual();
    CHAINS.map(|(_, moment)| {
        let mangled = policy::mangle(&compiled.policy, packet, 0, moment, &usual);
        let entries = mangled.entries.iter();
        let entries = entries.map(|entry| &compiled.policy.mangle[*entry]);
        SideEffect::once(entries.flat_map(|entry| {
            let change = match entry.change.as_ref().unwrap().value {
                MangleChange::Drop => SideEffect::Drop,
                change => SideEffect::Change(change),
            };
            log_of(&entry.packets).into_iter().chain([change])
        }))
    })
}

/// What the raw table does to a packet as it comes in, or in OUTPUT.
pub fn early(compiled: &Compiled, ruleset: &Ruleset, packet: &Packet) -> Vec<SideEffect> {
    match packet.hook {
        Hook::Output => acts(compiled, ruleset, TableName::Raw, packet),
        hook => acts(compiled, &arriving(ruleset, hook), TableName::Raw, packet),
    }
}

/// The same by the policy.
pub fn asked_early(compiled: &Compiled, packet: &Packet) -> Vec<SideEffect> {
    let usual = |one: Circumstance<'_>| one.usual();
    let helper = |helper: &policy::Helper| SideEffect::Helper(helper.name().to_owned());
    let treatments = policy::raw(&compiled.policy, packet, &usual).into_iter();
    SideEffect::once(treatments.flat_map(|treatment| match treatment {
        RawTreatment::Antispoof => vec![SideEffect::Drop],
        RawTreatment::Service(_, of_service) => vec![helper(of_service)],
        RawTreatment::Entry(entry) => {
            let entry = &compiled.policy.raw[entry];
            let does = match &entry.treatment.as_ref().unwrap().value {
                Treatment::NoTrack { .. } => SideEffect::NoTrack,
                Treatment::Helper(of_entry) => helper(of_entry),
                Treatment::Drop => SideEffect::Drop,
            };
            let all = log_of(&entry.packets).into_iter().chain([does]);
            all.collect()
        }
    }))
}

/// A log of an entry; which class it has is for the proof.
fn log_of(packets: &PolicyRule) -> Option<SideEffect> {
    policy::entry_log(packets).map(|_| SideEffect::Strange("log".to_owned()))
}

fn acts(
    compiled: &Compiled,
    ruleset: &Ruleset,
    table: TableName,
    packet: &Packet,
) -> Vec<SideEffect> {
    let walk = compiled.walk_table(ruleset, table, packet);
    let chains = &ruleset.table(table).unwrap().chains;
    let counted = walk.counted.iter();
    SideEffect::once(counted.filter_map(|id| {
        let rule = &chains[id.chain].rules[id.rule];
        match SideEffect::of_rule(rule, ruleset.family)? {
            SideEffect::Log(_) => Some(SideEffect::Strange("log".to_owned())),
            other => Some(other),
        }
    }))
}

/// The rules with PREROUTING in the place of the hook's chain: a packet is known by one hook only.
fn arriving(ruleset: &Ruleset, hook: Hook) -> Ruleset {
    let mut arriving = ruleset.clone();
    for chain in arriving
        .tables
        .iter_mut()
        .flat_map(|table| &mut table.chains)
    {
        if &*chain.name == hook.chain() {
            chain.name = "-".into();
        } else if &*chain.name == "PREROUTING" {
            chain.name = hook.chain().into();
        }
    }
    arriving
}
