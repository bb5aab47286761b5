//! What becomes of one packet, read from the policy as it is written.
//!
//! Slow and obvious on purpose: the yardstick for everything clever. Nothing here resolves the policy, computes with
//! sets of packets or knows a rule of iptables.

mod addresses;
mod places;
mod preamble;
mod rule;
mod services;

use super::{Action, DefaultAction, LogChoice, Policy, RejectWith, Stage};
use crate::net::{Hook, Packet, Protocol};

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It passes.
    Accept,
    /// It is dropped without a word.
    Drop,
    /// It is dropped, and its sender gets this answer.
    Reject(Answer),
}

/// The answer to a rejected packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// A TCP RST.
    TcpReset,
    /// ICMP port unreachable.
    PortUnreachable,
    /// ICMP host unreachable; in IPv6 address unreachable.
    HostUnreachable,
    /// ICMP network unreachable; in IPv6 no route to the destination.
    NetUnreachable,
    /// ICMP communication administratively prohibited.
    AdminProhibited,
}

/// What decides a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecidedBy {
    /// `loopback` of the defaults.
    Loopback,
    /// `established`
    Established,
    /// `icmp`
    Icmp,
    /// `invalid`
    Invalid,
    /// `dhcp-client`
    DhcpClient,
    /// The rule of this index in [`Policy::rules`].
    Rule(usize),
    /// `input`, `forward` or `output`
    Default,
}

/// The verdict on a packet and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of it.
    pub verdict: Verdict,
    /// What decided.
    pub by: DecidedBy,
    /// The log classes that it met on the way, in their order. Their rate limits may keep any of them silent.
    pub logs: Vec<String>,
}

/// Decides one packet in the filter hook in which it is. The policy must be one that [`crate::resolve`] takes: a name
/// without a definition stands for nothing.
///
/// ```
/// use fwc::{diag::Sink, files::Access, net::*, policy::{self, DecidedBy, Verdict}, source::SourceMap};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("fwc.toml");
/// std::fs::write(&path, "version = 1\n[[rules]]\nservice = [\"ssh\", \"http\"]\n")?;
/// let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
/// let Some(policy) = policy::load(&path, Access::Read, &mut sources, &mut sink) else {
///     panic!("{sink:?}");
/// };
/// let packet = Packet {
///     family: Family::V4,
///     hook: Hook::Input,
///     in_device: Some("eth0".into()),
///     out_device: None,
///     source: "198.51.100.7".parse()?,
///     destination: "192.0.2.1".parse()?,
///     protocol: Protocol::TCP.0,
///     source_port: Some(40000),
///     destination_port: Some(22),
///     icmp: None,
///     tcp_flags: Some(TcpFlags::SYN),
///     state: State::New,
///     hop_limit: 64,
///     mark: 0,
///     mac: None,
/// };
/// let decision = policy::decide(&policy, &packet);
/// assert_eq!((decision.verdict, decision.by), (Verdict::Accept, DecidedBy::Rule(0)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn decide(policy: &Policy, packet: &Packet) -> Decision {
    let mut logs = Vec::new();
    let (verdict, by) = filter(policy, packet, &mut logs);
    Decision { verdict, by, logs }
}

/// The chain of the packet's hook, from its first line to its default.
fn filter(policy: &Policy, packet: &Packet, logs: &mut Vec<String>) -> (Verdict, DecidedBy) {
    let default = default_of(policy, packet.hook);
    if default == DefaultAction::Accept && !rule::any_in(policy, packet.hook) {
        return (Verdict::Accept, DecidedBy::Default);
    }
    let preamble = preamble::Preamble { policy, packet };
    if preamble.loopback() {
        return (Verdict::Accept, DecidedBy::Loopback);
    }
    if let Some(decided) = rules(policy, Stage::Early, packet, logs) {
        return decided;
    }
    if preamble.established() {
        return (Verdict::Accept, DecidedBy::Established);
    }
    if preamble.icmp_before_invalid() {
        return (Verdict::Accept, DecidedBy::Icmp);
    }
    if let Some(verdict) = preamble.invalid() {
        return (verdict, DecidedBy::Invalid);
    }
    if preamble.icmp_after_invalid() {
        return (Verdict::Accept, DecidedBy::Icmp);
    }
    if preamble.dhcp_client() {
        return (Verdict::Accept, DecidedBy::DhcpClient);
    }
    if let Some(decided) = rules(policy, Stage::Main, packet, logs) {
        return decided;
    }
    if default != DefaultAction::Accept {
        match policy.defaults.log.as_ref().map(|log| &log.value) {
            Some(Some(class)) => logs.push(class.clone()),
            Some(None) => {}
            None => logs.push("denied".to_owned()),
        }
    }
    let verdict = match default {
        DefaultAction::Accept => Verdict::Accept,
        DefaultAction::Drop => Verdict::Drop,
        DefaultAction::Reject => Verdict::Reject(answer(policy, None, packet)),
    };
    (verdict, DecidedBy::Default)
}

/// The first rule of a stage that has the packet and does not only log it.
fn rules(
    policy: &Policy,
    stage: Stage,
    packet: &Packet,
    logs: &mut Vec<String>,
) -> Option<(Verdict, DecidedBy)> {
    for (index, rule) in rule::in_order(policy, stage) {
        if !rule::has(policy, rule, packet) {
            continue;
        }
        let action = rule.action.as_ref().map_or(Action::Accept, |a| a.value);
        match rule.log.as_ref().map(|log| &log.value) {
            Some(LogChoice::Class(class)) => logs.push(class.clone()),
            Some(LogChoice::Default) => logs.push("default".to_owned()),
            None if action == Action::Log => logs.push("default".to_owned()),
            Some(LogChoice::Off) | None => {}
        }
        let verdict = match action {
            Action::Log => continue,
            Action::Accept => Verdict::Accept,
            Action::Drop => Verdict::Drop,
            Action::Reject => {
                let own = rule.reject_with.as_ref().map(|with| with.value);
                Verdict::Reject(answer(policy, own, packet))
            }
        };
        return Some((verdict, DecidedBy::Rule(index)));
    }
    None
}

/// What happens in a hook to a packet that no rule decides.
fn default_of(policy: &Policy, hook: Hook) -> DefaultAction {
    let defaults = &policy.defaults;
    let (written, otherwise) = match hook {
        Hook::Input => (&defaults.input, DefaultAction::Drop),
        Hook::Forward => (&defaults.forward, DefaultAction::Drop),
        Hook::Output => (&defaults.output, DefaultAction::Accept),
    };
    written.as_ref().map_or(otherwise, |written| written.value)
}

/// The answer of a reject: the rule's own, else that of the defaults.
fn answer(policy: &Policy, own: Option<RejectWith>, packet: &Packet) -> Answer {
    let of_defaults = policy.defaults.reject_with.as_ref().map(|with| with.value);
    match own.or(of_defaults).unwrap_or(RejectWith::Default) {
        RejectWith::Default if packet.protocol == Protocol::TCP.0 => Answer::TcpReset,
        RejectWith::Default | RejectWith::PortUnreachable => Answer::PortUnreachable,
        RejectWith::TcpReset => Answer::TcpReset,
        RejectWith::HostUnreachable => Answer::HostUnreachable,
        RejectWith::NetUnreachable => Answer::NetUnreachable,
        RejectWith::AdminProhibited => Answer::AdminProhibited,
    }
}

#[cfg(test)]
mod tests;
