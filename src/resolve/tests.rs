//! Resolves `[[tests]]`: their packets like those of rules.

use super::plan::{Defaults, PlannedTest};
use super::well_formed::Sound;
use super::{Resolver, addresses};
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::State;
use crate::policy::{Assume, CustomTable, Expect, GroupKind, Policy};
use crate::source::Located;

/// Resolves every test. Also returns for each whether it can be checked.
pub fn resolve(
    resolver: &mut Resolver<'_>,
    defaults: &Defaults,
    definitions: &Sound<'_>,
    sink: &mut Sink,
) -> (Vec<PlannedTest>, Vec<bool>) {
    let policy = resolver.policy;
    let tests = policy.tests.iter().map(|written| {
        let errors = sink.errors();
        let mut packets = resolver.rule(CustomTable::Filter, &written.packets, defaults, sink);
        packets.state.get_or_insert_with(|| [State::New].into());
        let empty = written
            .assume
            .iter()
            .filter(|(name, assume)| is_dynamic(policy, name, sink) && *assume == Assume::Empty);
        let expect = written.expect.as_ref();
        let test = PlannedTest {
            span: written.span,
            name: written
                .packets
                .name
                .as_ref()
                .map_or_else(String::new, |name| name.value.clone()),
            packets,
            for_this_host: written.for_this_host,
            // The reader reported a missing key, so that no plan comes of this policy.
            expect: expect.map_or(Expect::Accept, |expect| expect.value),
            expect_span: expect.map_or(written.span, |expect| expect.span),
            empty_sets: empty.map(|(name, _)| name.value.clone()).collect(),
        };
        let complete = written.packets.complete && sink.errors() == errors;
        (test, complete && definitions.has(policy, &written.packets))
    });
    tests.unzip()
}

fn is_dynamic(policy: &Policy, name: &Located<String>, sink: &mut Sink) -> bool {
    let Some(group) = policy.addresses.get(&name.value) else {
        if !policy.addresses.was_refused(&name.value) {
            let name = Located::new(name.value.as_str(), name.span);
            sink.report(addresses::unknown(policy, &name));
        }
        return false;
    };
    let is_dynamic = matches!(group.value.kind, GroupKind::Dynamic { .. });
    if !is_dynamic {
        let message = format!("`{}` is not a dynamic set", name.value);
        sink.report(
            Diagnostic::error(Code::BadValue, name.span, message)
                .also(group.name.span, "the policy lists its members")
                .with_note(
                    "`assume` is for sets that other programs fill: `{ set = \"dynamic\" }`",
                ),
        );
    }
    is_dynamic
}
