//! Resolves `[ownership]`, and checks keys that only one of its modes supports.

use super::plan::Ownership;
use crate::diag::{Code, Diagnostic, Sink};
use crate::lints::forward_no_devices;
use crate::policy::{DefaultAction, Mode, Policy};

/// Returns the mode; exclusive is the default.
pub fn mode(policy: &Policy) -> Mode {
    let mode = policy.ownership.mode.as_ref();
    mode.map_or(Mode::Exclusive, |mode| mode.value)
}

/// Returns the ownership that the policy declares.
pub fn resolve(policy: &Policy) -> Ownership {
    match mode(policy) {
        Mode::Shared => Ownership::Shared,
        Mode::Exclusive => Ownership::Exclusive {
            preserve: policy
                .ownership
                .preserve
                .iter()
                .map(|one| one.value.clone())
                .collect(),
        },
    }
}

/// Reports keys and values that the mode does not support.
pub fn check(policy: &Policy, sink: &mut Sink) {
    match mode(policy) {
        Mode::Exclusive => exclusive(policy, sink),
        Mode::Shared => shared(policy, sink),
    }
}

fn exclusive(policy: &Policy, sink: &mut Sink) {
    let defaults = &policy.defaults;
    let tables = [&defaults.both, &defaults.own.v4, &defaults.own.v6];
    let written = tables.into_iter().flat_map(|table| {
        let actions = &table.actions;
        [("forward", &actions.forward), ("output", &actions.output)]
    });
    for (key, written) in written {
        let Some(written) = written.as_ref() else {
            continue;
        };
        if written.value == DefaultAction::Continue {
            let message = format!("`{key} = \"continue\"` is for shared mode");
            sink.report(
                Diagnostic::error(Code::BadValue, written.span, message).help(
                    "in exclusive mode no other rules follow: use `drop`, `reject` or `accept`",
                ),
            );
        }
    }
}

fn shared(policy: &Policy, sink: &mut Sink) {
    let mode = policy.ownership.mode.as_ref().map(|mode| mode.span);
    let mut wrong = |span, message: &str, help: &str| {
        let diagnostic = Diagnostic::error(Code::OwnershipMode, span, message).help(help);
        sink.report(match mode {
            Some(mode) => diagnostic.also(mode, "shared here"),
            None => diagnostic,
        });
    };
    if let Some(enforce) = &policy.defaults.enforce {
        wrong(
            enforce.span,
            "`enforce` has no meaning in shared mode",
            "fwc never sets the policy of a base chain there, FWC-INPUT ends in a rule; leave the key out",
        );
    }
    for preserve in &policy.ownership.preserve {
        wrong(
            preserve.span,
            "`preserve` has no meaning in shared mode",
            "rules of other programs always stay there; leave the key out",
        );
    }
    let defaults = &policy.defaults;
    let tables = [&defaults.both, &defaults.own.v4, &defaults.own.v6];
    let mut forward = tables
        .into_iter()
        .filter_map(|table| table.actions.forward.as_ref());
    let denies = forward
        .find(|forward| matches!(forward.value, DefaultAction::Drop | DefaultAction::Reject));
    if let Some(forward) = denies
        && policy.interfaces.iter().next().is_none()
    {
        sink.report(forward_no_devices::finding(forward.span));
    }
}
