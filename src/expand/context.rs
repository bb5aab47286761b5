//! What the templates see, as `docs/guides/templates.md` lists it. Every value is a text without control characters, or a number.

use serde::Serialize;

use crate::net::Rate;
use crate::policy::{LogDestination, Order};
use crate::resolve::{LogClass, PlannedRule};

/// One rules file.
#[derive(Debug, Default)]
pub struct FileContext {
    /// `ipv4` or `ipv6`
    pub family: &'static str,
    /// Others have rules in the same tables: base chains are not declared, and their policies are not set.
    pub shared: bool,
    /// The chain of the raw table that drops forged sources.
    pub antispoof: Option<ChainContext>,
    /// The chains of the nat table: the base chains, then those of fwc by name.
    pub nat: Vec<ChainContext>,
    /// The base chains of the raw table.
    pub raw: Vec<ChainContext>,
    /// The base chains of the mangle table.
    pub mangle: Vec<ChainContext>,
    /// The chains of the filter table: the base chains, then those of fwc by name.
    pub chains: Vec<ChainContext>,
    /// In shared mode the jumps from the base chains of the filter table.
    pub jumps: Vec<JumpContext>,
    /// The same of the nat table.
    pub nat_jumps: Vec<JumpContext>,
    /// The same of the mangle table.
    pub mangle_jumps: Vec<JumpContext>,
    /// The same of the raw table.
    pub raw_jumps: Vec<JumpContext>,
}

/// From a base chain to one of fwc's own.
#[derive(Debug, Serialize)]
pub struct JumpContext {
    pub from: String,
    pub to: String,
}

/// A chain of the filter table.
#[derive(Debug, Default)]
pub struct ChainContext {
    pub name: String,
    /// `ACCEPT`, `DROP`, or `-` for a chain that is no base chain
    pub policy: &'static str,
    pub preamble: Option<PreambleContext>,
    /// groups that stand before ESTABLISHED is accepted
    pub early: Vec<GroupContext>,
    pub groups: Vec<GroupContext>,
    pub default_log: Option<LineContext>,
    /// `drop` or `reject`, where `default_lines` are not empty
    pub default_action: &'static str,
    pub default_lines: Vec<LineContext>,
}

/// What stands before the policy's rules in a base chain.
#[derive(Debug, Default, Serialize)]
pub struct PreambleContext {
    /// `-i` or `-o`
    pub loopback: Option<&'static str>,
    pub established: bool,
    /// protocols, where every ICMP type passes
    pub all_icmp: Vec<&'static str>,
    pub icmpv6: Vec<IcmpContext>,
    pub icmp: Vec<IcmpContext>,
    pub igmp: bool,
    /// `DROP` or `ACCEPT`
    pub invalid: Option<&'static str>,
    pub dhcp: Option<DhcpContext>,
}

/// An ICMP type of the preamble.
#[derive(Debug, Serialize)]
pub struct IcmpContext {
    pub kind: u8,
    pub hop_limit: Option<u8>,
    /// only when conntrack calls it RELATED
    pub related: bool,
}

/// DHCP questions or answers.
#[derive(Debug, Serialize)]
pub struct DhcpContext {
    /// of the answers: the client's addresses
    pub destination: Option<&'static str>,
    pub source_port: u16,
    pub destination_port: u16,
}

/// The lines of one rule of the policy in one chain.
#[derive(Clone, Debug, Default)]
pub struct GroupContext {
    pub label: String,
    /// what the policy's `comment` says
    pub remark: Option<String>,
    pub lines: Vec<LineContext>,
    /// The order and the index of the rule or entry that the lines are of; templates do not see it.
    pub written: Option<(Order, usize)>,
}

/// One line: what it matches and where it goes.
#[derive(Clone, Debug, Default)]
pub struct LineContext {
    pub source: Option<NegatableContext>,
    pub destination: Option<NegatableContext>,
    pub in_device: Option<NegatableContext>,
    pub out_device: Option<NegatableContext>,
    pub protocol: Option<String>,
    /// every protocol but this one; then `protocol` is not set
    pub not_protocol: Option<&'static str>,
    pub source_range: Option<NegatableContext>,
    pub destination_range: Option<NegatableContext>,
    pub sets: Vec<SetContext>,
    pub mac: Option<String>,
    /// one port or range, for the protocol's own match
    pub source_port: Option<String>,
    pub destination_port: Option<String>,
    /// flags looked at and flags set
    pub tcp_flags: Option<String>,
    /// several, for multiport
    pub source_ports: Option<String>,
    pub destination_ports: Option<String>,
    pub icmp: Option<String>,
    pub icmpv6: Option<String>,
    /// an authentication header, in IPv6
    pub auth_header: bool,
    pub mark: Option<String>,
    /// what the routing table says of the destination: `LOCAL`
    pub destination_type: Option<NegatableContext>,
    pub states: Option<String>,
    /// numbers as texts: 0 is a user too
    pub uid: Option<String>,
    pub gid: Option<String>,
    pub times: Vec<TimeContext>,
    pub connections: Option<ConnectionContext>,
    pub limit: Option<LimitContext>,
    /// one of several in turn
    pub turn: Option<TurnContext>,
    pub comment: Option<String>,
    /// the line logs; then it has no target
    pub log: Option<LogContext>,
    /// the whole line is written in the policy: what stands behind the chain's name
    pub custom: Option<String>,
    /// the line changes its packets; then it has no target
    pub change: Option<ChangeContext>,
    pub target: String,
    /// to the target by `-g`: from there back to who jumped here
    pub goto: bool,
    pub reject_with: Option<&'static str>,
    /// what the target translates to
    pub nat: Option<NatTargetContext>,
    /// a mark for the renderer: the rule of the policy that the line comes from
    pub origin: String,
}

impl GroupContext {
    /// The lines of what the policy says in one place.
    pub fn of(rule: &PlannedRule, lines: Vec<LineContext>) -> Self {
        Self {
            label: rule.label.clone(),
            remark: rule.remark.clone(),
            lines,
            written: None,
        }
    }

    /// The lines of the rule or entry of this index.
    pub fn of_written(rule: &PlannedRule, index: usize, lines: Vec<LineContext>) -> Self {
        Self {
            written: Some((rule.order, index)),
            ..Self::of(rule, lines)
        }
    }
}

impl LineContext {
    /// A line that logs everything, as often as the class says.
    pub fn logging(class: &LogClass) -> Self {
        Self {
            limit: Some(LimitContext::global(class.rate, class.burst)),
            log: Some(LogContext::new(class)),
            ..Self::default()
        }
    }

    /// Returns a text of everything that the line says, without its origin: names of chains are hashes of it.
    ///
    /// A hash must stay the same over versions of fwc, or an upgrade would rename the chains of every host. So the text
    /// keeps the names that the types had at first, and a field that lines did not have at first counts only if it is
    /// set.
    pub fn identity(&self) -> String {
        let line = Self {
            origin: String::new(),
            ..self.clone()
        };
        let text = format!("{line:?}").replacen("not_protocol: None, ", "", 1);
        let text = text.replacen("auth_header: false, ", "", 1);
        let text = ["Set", "Connection", "Limit", "Time"]
            .iter()
            .fold(text, |text, name| {
                text.replace(&format!("{name}Context {{"), &format!("{name}Match {{"))
            });
        text.replace("Context {", " {")
    }

    /// A line that matches everything.
    pub fn to(target: &str) -> Self {
        Self {
            target: target.to_owned(),
            ..Self::default()
        }
    }
}

/// An address or device match, `not` is `"! "` or empty.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NegatableContext {
    pub not: &'static str,
    pub value: String,
}

/// A set that an address is in, or not.
#[derive(Clone, Debug, Serialize)]
pub struct SetContext {
    pub not: &'static str,
    pub name: String,
    /// `src` or `dst`
    pub side: &'static str,
}

impl NegatableContext {
    /// Not negated.
    pub fn plain(value: String) -> Self {
        Self { not: "", value }
    }
}

/// A log target; what is the kernel's default is left out, as `iptables-save` does.
#[derive(Clone, Debug, Serialize)]
pub struct LogContext {
    pub target: &'static str,
    pub prefix: String,
    pub level: Option<u8>,
    pub group: Option<u16>,
}

impl LogContext {
    pub fn new(class: &LogClass) -> Self {
        const WARNING: u8 = 4;
        let is_log = class.target == LogDestination::Log;
        Self {
            target: if is_log { "LOG" } else { "NFLOG" },
            prefix: class.prefix.clone(),
            level: Some(class.level).filter(|level| is_log && *level != WARNING),
            group: Some(class.group).filter(|group| !is_log && *group != 0),
        }
    }
}

/// One in so many connections.
#[derive(Clone, Debug, Serialize)]
pub struct TurnContext {
    pub every: usize,
}

/// What a target of the nat table translates to: one of these, or nothing for MASQUERADE.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NatTargetContext {
    /// an address or a range, with ports or without
    pub source: Option<String>,
    /// the same
    pub destination: Option<String>,
    pub ports: Option<String>,
    pub network: Option<String>,
}

/// What a line changes in its packets: the target, and one of the others.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ChangeContext {
    /// `TCPMSS`, `MARK`, `CONNMARK`, `DSCP`, `TTL`, `HL`, `CLASSIFY`, `TPROXY` or `CT`
    pub target: &'static str,
    /// of TCPMSS; none: what fits the path
    pub mss: Option<u16>,
    /// `VALUE/MASK` in hex
    pub mark: Option<String>,
    /// `save` or `restore`, of CONNMARK
    pub copy: Option<&'static str>,
    /// a mask in hex, of CONNMARK
    pub mask: Option<String>,
    /// in hex
    pub dscp: Option<String>,
    /// `set`, `inc` or `dec`
    pub hops: Option<&'static str>,
    /// how many hops
    pub count: Option<u8>,
    /// `MAJOR:MINOR`, four hex digits each
    pub class: Option<String>,
    pub port: Option<u16>,
    pub address: Option<String>,
    /// of CT; none: not tracked
    pub helper: Option<String>,
}

/// A limit of everything together, or of each source.
#[derive(Clone, Debug, Serialize)]
pub struct LimitContext {
    pub rate: String,
    /// left out where it is the kernel's default
    pub burst: Option<u32>,
    /// the name of the table that counts each source
    pub table: Option<String>,
    /// milliseconds after which the table forgets a silent source, where iptables' own value is shorter than the time that the burst takes to refill
    pub expire: Option<u64>,
    /// how many bits of a source count, where not all do
    pub mask: Option<u8>,
}

impl LimitContext {
    /// Everything together.
    pub fn global(rate: Rate, burst: u32) -> Self {
        const DEFAULT_BURST: u32 = 5;
        Self {
            rate: rate.of_limit(),
            burst: Some(burst).filter(|burst| *burst != DEFAULT_BURST),
            table: None,
            expire: None,
            mask: None,
        }
    }
}

/// More connections than so many.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionContext {
    pub above: u32,
    /// how many bits of a source count; 0 counts all together
    pub mask: u8,
}

/// Days, hours, and the last day.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TimeContext {
    pub from: Option<String>,
    pub until: Option<String>,
    pub days: Option<String>,
    pub last: String,
    /// across midnight
    pub contiguous: bool,
    pub local: bool,
}
