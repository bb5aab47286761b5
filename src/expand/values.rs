//! Turns the context into values of the template language, and tracks which line a template reads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use minijinja::value::{Enumerator, Object, Serde, Value};
use serde::Serialize;

use super::context::{ChainContext, FileContext, GroupContext, LineContext};
use super::origin::LineOrigin;

/// The version of the context. It grows by one when templates for the old version may no longer work.
pub const VERSION: usize = 1;

/// The line that a template read last, so that an error of the template can name the rule of the policy that it happened
/// at.
#[derive(Debug, Default)]
pub struct Trail {
    /// The origin of each line; lines are numbered from 1.
    origins: Vec<Option<LineOrigin>>,
    /// The number of the current line, 0 outside of lines. Atomic because objects of minijinja must be `Send` and `Sync`.
    at: Arc<AtomicUsize>,
}

impl Trail {
    /// Returns the origin of the line that was read last; `None` if it has none.
    pub fn last(&self) -> Option<LineOrigin> {
        let line = self.at.load(Ordering::Relaxed).checked_sub(1)?;
        self.origins.get(line).copied().flatten()
    }

    fn chains(&mut self, chains: Vec<ChainContext>) -> Value {
        chains.into_iter().map(|chain| self.chain(chain)).collect()
    }

    fn chain(&mut self, chain: ChainContext) -> Value {
        let groups = |trail: &mut Self, groups: Vec<GroupContext>| -> Value {
            groups.into_iter().map(|group| trail.group(group)).collect()
        };
        let early = groups(self, chain.early);
        Value::from_object(ChainValue {
            name: chain.name,
            policy: chain.policy,
            preamble: serde(&chain.preamble),
            early,
            groups: groups(self, chain.groups),
            default_log: chain.default_log.map_or(nothing(), |line| self.line(line)),
            default_action: chain.default_action,
            default_lines: self.lines(chain.default_lines),
            at: Arc::clone(&self.at),
        })
    }

    fn group(&mut self, group: GroupContext) -> Value {
        let first = self.origins.len() + 1;
        Value::from_object(GroupValue {
            label: group.label,
            remark: text(&group.remark),
            lines: self.lines(group.lines),
            first,
            at: Arc::clone(&self.at),
        })
    }

    fn lines(&mut self, lines: Vec<LineContext>) -> Value {
        lines.into_iter().map(|line| self.line(line)).collect()
    }

    fn line(&mut self, line: LineContext) -> Value {
        self.origins.push(LineOrigin::of_mark(&line.origin));
        Value::from_object(LineValue {
            line,
            number: self.origins.len(),
            at: Arc::clone(&self.at),
        })
    }
}

impl FileContext {
    /// Returns the context as a value, and its trail.
    pub fn into_value(self) -> (Value, Trail) {
        let mut trail = Trail::default();
        let value = Value::from(BTreeMap::from([
            ("version", Value::from(VERSION)),
            ("family", Value::from(self.family)),
            ("shared", Value::from(self.shared)),
            ("jumps", Value::from(Serde(&self.jumps))),
            ("nat_jumps", Value::from(Serde(&self.nat_jumps))),
            ("raw_jumps", Value::from(Serde(&self.raw_jumps))),
            ("mangle_jumps", Value::from(Serde(&self.mangle_jumps))),
            (
                "antispoof",
                self.antispoof.map_or(nothing(), |chain| trail.chain(chain)),
            ),
            ("nat", trail.chains(self.nat)),
            ("raw", trail.chains(self.raw)),
            ("mangle", trail.chains(self.mangle)),
            ("chains", trail.chains(self.chains)),
        ]));
        (value, trail)
    }
}

#[derive(Debug)]
struct ChainValue {
    name: String,
    policy: &'static str,
    preamble: Value,
    early: Value,
    groups: Value,
    default_log: Value,
    default_action: &'static str,
    default_lines: Value,
    at: Arc<AtomicUsize>,
}

impl Object for ChainValue {
    fn is_true(self: &Arc<Self>) -> bool {
        true
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&[
            "name",
            "policy",
            "preamble",
            "early",
            "groups",
            "default_log",
            "default_action",
            "default_lines",
        ])
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        // Each line reads the name of its chain while it is rendered; reading anything else of the chain ends the line.
        if key == "name" {
            return Some(Value::from(self.name.as_str()));
        }
        let value = match key {
            "policy" => Value::from(self.policy),
            "preamble" => self.preamble.clone(),
            "early" => self.early.clone(),
            "groups" => self.groups.clone(),
            "default_log" => self.default_log.clone(),
            "default_action" => Value::from(self.default_action),
            "default_lines" => self.default_lines.clone(),
            _ => return None,
        };
        self.at.store(0, Ordering::Relaxed);
        Some(value)
    }
}

#[derive(Debug)]
struct GroupValue {
    label: String,
    remark: Value,
    lines: Value,
    /// The number of its first line.
    first: usize,
    at: Arc<AtomicUsize>,
}

impl Object for GroupValue {
    fn is_true(self: &Arc<Self>) -> bool {
        true
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&["label", "remark", "lines"])
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.at.store(self.first, Ordering::Relaxed);
        Some(match key {
            "label" => Value::from(self.label.as_str()),
            "remark" => self.remark.clone(),
            "lines" => self.lines.clone(),
            _ => return None,
        })
    }
}

#[derive(Debug)]
struct LineValue {
    line: LineContext,
    number: usize,
    at: Arc<AtomicUsize>,
}

/// Templates read few of the many fields of a line, so a line returns them one by one instead of being copied to a map.
impl Object for LineValue {
    /// Always `true`: `{% if line %}` asks whether there is a line, not whether it has fields.
    fn is_true(self: &Arc<Self>) -> bool {
        true
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&[
            "source",
            "destination",
            "in_device",
            "out_device",
            "protocol",
            "not_protocol",
            "source_range",
            "destination_range",
            "sets",
            "mac",
            "not_macs",
            "source_port",
            "destination_port",
            "tcp_flags",
            "not_tcp_flags",
            "source_ports",
            "destination_ports",
            "icmp",
            "icmpv6",
            "auth_header",
            "mark",
            "not_mark",
            "ipsec_in",
            "ipsec_out",
            "destination_type",
            "states",
            "originals",
            "matches",
            "uid",
            "gid",
            "not_uids",
            "not_gids",
            "times",
            "connections",
            "limit",
            "turn",
            "comment",
            "log",
            "custom",
            "change",
            "target",
            "goto",
            "reject_with",
            "nat",
            "origin",
        ])
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.at.store(self.number, Ordering::Relaxed);
        let line = &self.line;
        Some(match key {
            "source" => serde(&line.source),
            "destination" => serde(&line.destination),
            "in_device" => serde(&line.in_device),
            "out_device" => serde(&line.out_device),
            "protocol" => text(&line.protocol),
            "not_protocol" => line.not_protocol.map_or(nothing(), Value::from),
            "source_range" => serde(&line.source_range),
            "destination_range" => serde(&line.destination_range),
            "sets" => Value::from(Serde(&line.sets)),
            "mac" => text(&line.mac),
            "not_macs" => Value::from(Serde(&line.not_macs)),
            "source_port" => text(&line.source_port),
            "destination_port" => text(&line.destination_port),
            "tcp_flags" => text(&line.tcp_flags),
            "not_tcp_flags" => text(&line.not_tcp_flags),
            "source_ports" => text(&line.source_ports),
            "destination_ports" => text(&line.destination_ports),
            "icmp" => text(&line.icmp),
            "icmpv6" => text(&line.icmpv6),
            "auth_header" => Value::from(line.auth_header),
            "mark" => text(&line.mark),
            "not_mark" => text(&line.not_mark),
            "ipsec_in" => line.ipsec_in.map_or(nothing(), Value::from),
            "ipsec_out" => line.ipsec_out.map_or(nothing(), Value::from),
            "destination_type" => serde(&line.destination_type),
            "states" => text(&line.states),
            "originals" => Value::from(Serde(&line.originals)),
            "matches" => text(&line.matches),
            "uid" => text(&line.uid),
            "gid" => text(&line.gid),
            "not_uids" => Value::from(Serde(&line.not_uids)),
            "not_gids" => Value::from(Serde(&line.not_gids)),
            "times" => Value::from(Serde(&line.times)),
            "connections" => serde(&line.connections),
            "limit" => serde(&line.limit),
            "turn" => serde(&line.turn),
            "comment" => text(&line.comment),
            "log" => serde(&line.log),
            "custom" => text(&line.custom),
            "change" => serde(&line.change),
            "target" => Value::from(line.target.as_str()),
            "goto" => Value::from(line.goto),
            "reject_with" => line.reject_with.map_or(nothing(), Value::from),
            "nat" => serde(&line.nat),
            "origin" => Value::from(line.origin.as_str()),
            _ => return None,
        })
    }
}

fn nothing() -> Value {
    Value::from(())
}

fn text(value: &Option<String>) -> Value {
    value.as_deref().map_or(nothing(), Value::from)
}

fn serde<T: Serialize>(value: &Option<T>) -> Value {
    match value {
        Some(value) => Value::from(Serde(value)),
        None => nothing(),
    }
}
