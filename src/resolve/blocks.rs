//! Blocks and what stands in them: a rule of a block has packets only where the block has some.

use std::collections::BTreeSet;
use std::path::Path;

use super::check;
use super::extensions::Declared;
use super::plan::{Plan, PlannedCustom};
use crate::diag::{Code, Diagnostic, Severity, Sink};
use crate::iptables;
use crate::net::{Family, Hook};
use crate::policy::{CustomPosition, CustomTable, Policy, Scope};
use crate::source::SourceMap;

/// Narrows the rules of blocks to the families in which their block has packets, and checks the custom rules of blocks in the
/// hooks of their block. Reports what is left without a family or a hook. `sound` tells which rules can be checked.
pub fn narrow(plan: &mut Plan, policy: &Policy, sound: &[bool], sink: &mut Sink) {
    for index in 0..plan.rules.len() {
        let rule = &plan.rules[index];
        let Some(block) = rule.within else {
            continue;
        };
        let is_sound = sound.get(index).copied() == Some(true) && sound.get(block) == Some(&true);
        let [family] = check::families(plan, &plan.rules[block])[..] else {
            continue;
        };
        match rule.scope {
            Some(Scope::Only(other)) if other != family => {
                let written = policy.rules.get(index).and_then(|rule| rule.scope.as_ref());
                let span = written.map_or(rule.span, |scope| scope.span);
                if is_sound {
                    sink.report(empty(span, family).also(plan.rules[block].span, "the block"));
                }
            }
            _ => plan.rules[index].scope = Some(Scope::Only(family)),
        }
    }
    let declared = Declared::new(policy);
    for index in 0..plan.custom.len() {
        let Some(CustomPosition::InBlock { block, .. }) = plan.custom[index].place else {
            continue;
        };
        if sound.get(block) != Some(&true) {
            continue;
        }
        let families = check::families(plan, &plan.rules[block]);
        let custom = &mut plan.custom[index];
        for family in Family::ALL {
            if !families.contains(&family) {
                custom.rules[family] = None;
            }
        }
        let custom = &plan.custom[index];
        if let ([family], [None, None]) = (
            &families[..],
            Family::ALL.map(|it| custom.rules[it].as_ref()),
        ) {
            sink.report(empty(custom.span, *family).also(plan.rules[block].span, "the block"));
        }
        if let Some((hook, family, reason)) = refused(plan, custom, block, &declared) {
            let written = policy.custom.iter().find(|one| one.span == custom.span);
            let span = written.and_then(|one| Some(one.rule.as_ref()?.span));
            let message = format!("iptables would refuse this in {hook}, for {family}: {reason}");
            sink.report(
                Diagnostic::error(Code::CustomRule, span.unwrap_or(custom.span), message)
                    .with_note("a custom rule of a block stands in each hook of the block")
                    .help("write a block for each hook"),
            );
        }
    }
}

fn empty(span: crate::source::Span, family: Family) -> Diagnostic {
    let message = format!("no packet can match this rule: its block has packets of {family} only");
    Diagnostic::error(Code::MatchesNothing, span, message)
        .help("write the rule outside of the block, or remove it")
}

/// Returns the first hook of a block in which iptables does not take a custom rule, and why.
fn refused(
    plan: &Plan,
    custom: &PlannedCustom,
    block: usize,
    declared: &Declared<'_>,
) -> Option<(Hook, Family, String)> {
    let own = plan
        .custom
        .iter()
        .filter(|one| one.table == CustomTable::Filter && one.place.is_none());
    let own: BTreeSet<&str> = own.map(|one| one.chain.as_str()).collect();
    for hook in check::hooks(&plan.rules[block]) {
        for family in Family::ALL {
            let Some(rule) = &custom.rules[family] else {
                continue;
            };
            let chain = hook.chain();
            let mut text = format!("*filter\n:{chain} ACCEPT [0:0]\n");
            for name in &own {
                text += &format!(":{name} - [0:0]\n");
            }
            text += &format!("-A {chain} {rule}\nCOMMIT\n");
            let (mut sources, mut findings) = (SourceMap::new(), Sink::new());
            let file = sources.add(Path::new("rule"), text);
            let parsed =
                iptables::parse(file, &sources, family, declared.extensions(), &mut findings);
            if parsed.is_none() {
                let all = findings.sorted();
                let first = all.iter().find(|one| one.severity == Severity::Error);
                let reason = first.map_or_else(String::new, |one| one.message.clone());
                return Some((hook, family, reason));
            }
        }
    }
    None
}
