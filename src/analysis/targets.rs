//! Translates the targets of iptables rules to steps of a flow (`iptables-extensions(8)`, and `xt_*.c` of the kernel).

use super::flow::RuleStep;
use super::mark::Marks;
use super::space::{Set, Space};
use super::translation::Translation;
use super::verdicts::Verdict;
use super::writes::Write;
use super::{GaveUp, matches};
use crate::iptables::{MarkMask, Module, Reject, Target};

/// Returns the key of the opaque condition that decides whether a target ends the table, for targets that may do
/// either.
pub fn ends_key(target: &Target) -> String {
    format!("{} ends the table", target_text(target))
}

/// Returns the target as `iptables-save` prints it, without `-j`.
fn target_text(target: &Target) -> Box<str> {
    let text = target.to_text();
    text.strip_prefix("-j ").unwrap_or(&text).into()
}

/// Appends the steps of a target other than a jump, for the packets of a set.
pub(super) fn add_steps(
    space: &Space,
    target: &Target,
    when: Set,
    steps: &mut Vec<RuleStep>,
) -> Result<(), GaveUp> {
    let text = || target_text(target);
    steps.push(match target {
        Target::None | Target::Jump(_) | Target::Goto(_) => return Ok(()),
        Target::Accept => RuleStep::verdict(when, Verdict::Accept),
        Target::Drop => RuleStep::verdict(when, Verdict::Drop),
        Target::Reject(Reject::TcpReset) => {
            RuleStep::verdict(when, Verdict::Reject("tcp-reset".into()))
        }
        Target::Reject(reject) => RuleStep::verdict(when, Verdict::Reject(reject.as_str().into())),
        Target::Return => RuleStep::returns(when),
        // What a program does with a queued packet the rules do not tell, so the table ends here.
        Target::Queue => RuleStep::verdict(when, Verdict::Target(text())),
        Target::Nat(nat) => RuleStep::verdict(when, Verdict::Nat(Translation::of(nat))),
        Target::Log(_) => RuleStep::effect(when, text()),
        Target::Mark(MarkMask { value, mask }) => RuleStep::set_mark(when, *value, *mask),
        Target::Other(module) => match does(module) {
            Does::Ends => RuleStep::verdict(when, Verdict::Target(text())),
            Does::Changes(marks) => {
                // A packet without a connection has no connection mark to read or write.
                RuleStep::change(space.and(when, matches::tracked(space)?)?, (*marks).into())
            }
            Does::Writes(write) => {
                steps.extend(RuleStep::write(space, when, text(), write)?);
                return Ok(());
            }
            Does::GoesOn => RuleStep::effect(when, text()),
            Does::Either => return either(space, target, when, steps),
        },
        Target::Unknown(unknown) if unknown.is_old_log() => RuleStep::effect(when, text()),
        Target::Unknown(_) => return either(space, target, when, steps),
    });
    Ok(())
}

/// Appends the steps of a target that may end the table or not: both happen, and an opaque condition decides which.
fn either(
    space: &Space,
    target: &Target,
    when: Set,
    steps: &mut Vec<RuleStep>,
) -> Result<(), GaveUp> {
    let text = target_text(target);
    let ends = space.and(when, space.opaque(&ends_key(target))?)?;
    steps.push(RuleStep::verdict(ends, Verdict::Target(text.clone())));
    steps.push(RuleStep::effect(when, text));
    Ok(())
}

/// What a target of a module does with a packet.
enum Does {
    /// It ends the table.
    Ends,
    /// It changes the marks, of tracked packets only.
    Changes(Box<Marks>),
    /// It writes a value that later rules match.
    Writes(Write),
    /// It does something to the packet, which goes to the next rule.
    GoesOn,
    /// It may end the table or not.
    Either,
}

fn does(module: &Module) -> Does {
    match module.name {
        "NFQUEUE" | "TPROXY" => Does::Ends,
        // SYNPROXY consumes the packets of a handshake and lets others pass (xt_SYNPROXY.c).
        "SYNPROXY" => Does::Either,
        "CONNMARK" => match connection_mark(module) {
            Some(marks) => Does::Changes(Box::new(marks)),
            None => Does::GoesOn,
        },
        _ => written(module).map_or(Does::GoesOn, Does::Writes),
    }
}

fn written(module: &Module) -> Option<Write> {
    let hops = module.hop_change().map(Write::HopLimit);
    let tos = module.written_tos().map(Write::TypeOfService);
    let tracking = module.untracks().map(|untracks| match untracks {
        true => Write::Untracked,
        false => Write::Template,
    });
    hops.or(tos).or(tracking)
}

fn connection_mark(module: &Module) -> Option<Marks> {
    let number = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let by = |name: &str| module.setting(name)?.value.parse::<i8>().ok();
    let up = by("left-shift-mark");
    let shift = up.or_else(|| by("right-shift-mark").map(|places| -places));
    let shift = shift.unwrap_or(0);
    if let Some(set) = module.setting("set-xmark") {
        let (value, mask) = set.value.split_once('/')?;
        return Some(Marks::set_connection(number(value)?, number(mask)?, shift));
    }
    let packet = number(&module.setting("nfmask")?.value)?;
    let connection = number(&module.setting("ctmask")?.value)?;
    match module.setting("save-mark") {
        Some(_) => Some(Marks::save(packet, connection, shift)),
        None => Some(Marks::restore(connection, packet, shift)),
    }
}
