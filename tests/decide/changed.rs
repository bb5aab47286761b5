//! What is done to a packet in a table besides its verdict: the policy's own words, and the rules walked one by one.

use fwc::analysis::BaseChain;
use fwc::iptables::{Ruleset, TableName};
use fwc::net::{Hook, Packet};
use fwc::policy::{self, Circumstance, Moment};
use fwc::verify::Act;

use crate::views::Compiled;

/// The base chains of the mangle table that a packet meets, each with the moment in the policy's words.
const CHAINS: [(BaseChain, Moment); 2] = [
    (BaseChain::Prerouting, Moment::Arrival),
    (BaseChain::Input, Moment::Hook),
];

/// What the mangle table does to a packet, at arrival and in its hook.
pub fn mangled(compiled: &Compiled, ruleset: &Ruleset, packet: &Packet) -> [Vec<Act>; 2] {
    CHAINS.map(|(chain, _)| match chain {
        BaseChain::Prerouting if packet.hook == Hook::Output => Vec::new(),
        BaseChain::Prerouting => acts(compiled, &arriving(ruleset, packet.hook), packet),
        _ => acts(compiled, ruleset, packet),
    })
}

/// The same by the policy.
pub fn asked(compiled: &Compiled, packet: &Packet) -> [Vec<Act>; 2] {
    let usual = |one: Circumstance<'_>| one.usual();
    CHAINS.map(|(_, moment)| {
        let mangled = policy::mangle(&compiled.policy, packet, 0, moment, &usual);
        let entries = mangled.entries.iter();
        let changes = entries.map(|entry| compiled.policy.mangle[*entry].change.as_ref().unwrap());
        Act::once(changes.map(|change| Act::Change(change.value)))
    })
}

fn acts(compiled: &Compiled, ruleset: &Ruleset, packet: &Packet) -> Vec<Act> {
    let walk = compiled.walk_table(ruleset, TableName::Mangle, packet);
    let chains = &ruleset.table(TableName::Mangle).unwrap().chains;
    let counted = walk.counted.iter();
    Act::once(counted.filter_map(|id| Act::of_target(&chains[id.chain].rules[id.rule].target)))
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
