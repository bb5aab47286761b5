//! The variables of the templates, as `docs/guides/templates.md` lists them. Every value is a string without control characters,
//! or a number.

use serde::Serialize;

use crate::net::Rate;
use crate::policy::{LogDestination, LogOption, Order};
use crate::resolve::{LogClass, PlannedRule};

/// One rules file.
#[derive(Debug, Default)]
pub struct FileContext {
    /// `ipv4` or `ipv6`
    pub family: &'static str,
    /// Other programs have rules in the same tables: base chains are not declared, and their policies are not set.
    pub shared: bool,
    /// The chain of the raw table that drops forged sources.
    pub antispoof: Option<ChainContext>,
    /// The chains of the nat table: the base chains, then fwc's own, sorted by name; in shared mode all sorted by name.
    pub nat: Vec<ChainContext>,
    /// The chains of the raw table.
    pub raw: Vec<ChainContext>,
    /// The chains of the mangle table, in the same order.
    pub mangle: Vec<ChainContext>,
    /// The chains of the filter table, in the same order.
    pub chains: Vec<ChainContext>,
    /// In shared mode the jumps from the base chains of the filter table.
    pub jumps: Vec<JumpContext>,
    /// The jumps of the nat table.
    pub nat_jumps: Vec<JumpContext>,
    /// The jumps of the mangle table.
    pub mangle_jumps: Vec<JumpContext>,
    /// The jumps of the raw table.
    pub raw_jumps: Vec<JumpContext>,
}

/// A jump from a base chain to a chain of fwc.
#[derive(Debug, Serialize)]
pub struct JumpContext {
    pub from: String,
    pub to: String,
}

/// A chain.
#[derive(Debug, Default)]
pub struct ChainContext {
    pub name: String,
    /// `ACCEPT`, `DROP`, or `-` for a user-defined chain
    pub policy: &'static str,
    pub preamble: Option<PreambleContext>,
    /// groups before ESTABLISHED is accepted
    pub early: Vec<GroupContext>,
    pub groups: Vec<GroupContext>,
    pub default_log: Option<LineContext>,
    /// `drop`, `reject` or `accept`; empty for a chain without a default, such as fwc's own
    pub default_action: &'static str,
    pub default_lines: Vec<LineContext>,
}

/// The lines before the policy's rules in a base chain.
#[derive(Debug, Default, Serialize)]
pub struct PreambleContext {
    /// `-i` or `-o`
    pub loopback: Option<&'static str>,
    pub established: bool,
    /// the protocols to accept, if every ICMP type is accepted
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
    /// accepted only if it is RELATED
    pub related: bool,
}

/// DHCP requests or answers.
#[derive(Debug, Serialize)]
pub struct DhcpContext {
    /// for answers: the addresses of the client
    pub destination: Option<&'static str>,
    pub source_port: u16,
    pub destination_port: u16,
}

/// The lines of one rule of the policy in one chain.
#[derive(Clone, Debug, Default)]
pub struct GroupContext {
    pub label: String,
    /// the policy's `comment`
    pub remark: Option<String>,
    pub lines: Vec<LineContext>,
    /// The order and the index of the rule or entry of these lines, by which custom rules find their place; not a
    /// variable of templates.
    pub written: Option<(Order, usize)>,
}

/// One line: its matches and its target.
#[derive(Clone, Debug, Default)]
pub struct LineContext {
    pub source: Option<NegatableContext>,
    pub destination: Option<NegatableContext>,
    pub in_device: Option<NegatableContext>,
    pub out_device: Option<NegatableContext>,
    pub protocol: Option<String>,
    /// every protocol except this one; then `protocol` is not set
    pub not_protocol: Option<&'static str>,
    pub source_range: Option<NegatableContext>,
    pub destination_range: Option<NegatableContext>,
    pub sets: Vec<SetContext>,
    pub mac: Option<String>,
    /// every address of a device of Ethernet except these
    pub not_macs: Vec<String>,
    /// one port or range, for the protocol's own match
    pub source_port: Option<String>,
    pub destination_port: Option<String>,
    /// the mask of flags and the flags that are set
    pub tcp_flags: Option<String>,
    /// a mask of flags and flags that the packet must not have in this combination
    pub not_tcp_flags: Option<String>,
    /// several ports, for multiport
    pub source_ports: Option<String>,
    pub destination_ports: Option<String>,
    pub icmp: Option<String>,
    pub icmpv6: Option<String>,
    /// the packet has an authentication header (`-m ah`, IPv6)
    pub auth_header: bool,
    pub mark: Option<String>,
    /// every mark except this one
    pub not_mark: Option<String>,
    /// `ipsec` for what came out of IPsec, `none` for what did not
    pub ipsec_in: Option<&'static str>,
    /// the same for what will go into IPsec
    pub ipsec_out: Option<&'static str>,
    /// the type of the destination in the routing table: `LOCAL`
    pub destination_type: Option<NegatableContext>,
    pub states: Option<String>,
    /// the first packet of the connection
    pub originals: Vec<OriginalContext>,
    /// matches of iptables as the policy writes them
    pub matches: Option<String>,
    /// a number as a string, since a template would take the user 0 for false
    pub uid: Option<String>,
    pub gid: Option<String>,
    /// not sent by these users; what no process sends matches
    pub not_uids: Vec<String>,
    pub not_gids: Vec<String>,
    pub times: Vec<TimeContext>,
    pub connections: Option<ConnectionContext>,
    pub limit: Option<LimitContext>,
    /// one of several backends in turn
    pub turn: Option<TurnContext>,
    pub comment: Option<String>,
    /// the line logs, and has no `target`
    pub log: Option<LogContext>,
    /// a custom rule: the whole text after the chain's name
    pub custom: Option<String>,
    /// the line changes its packets, and has no `target`
    pub change: Option<ChangeContext>,
    /// empty for a line that only counts
    pub target: String,
    /// the target is a chain to enter by `-g`, which returns to the caller of this chain
    pub goto: bool,
    pub reject_with: Option<&'static str>,
    /// the new address of the target
    pub nat: Option<NatTargetContext>,
    /// a mark that names the rule of the policy; the renderer removes it from the output
    pub origin: String,
}

impl ChainContext {
    /// A chain of fwc's own.
    pub fn own(name: String, groups: Vec<GroupContext>) -> Self {
        Self {
            name,
            policy: "-",
            groups,
            ..Self::default()
        }
    }
}

impl GroupContext {
    /// The lines of a rule or entry.
    pub fn of(rule: &PlannedRule, lines: Vec<LineContext>) -> Self {
        Self {
            label: rule.label.clone(),
            remark: rule.remark.clone(),
            lines,
            written: None,
        }
    }

    /// The lines of the rule or entry with this index.
    pub fn of_written(rule: &PlannedRule, index: usize, lines: Vec<LineContext>) -> Self {
        Self {
            written: Some((rule.order, index)),
            ..Self::of(rule, lines)
        }
    }
}

impl LineContext {
    /// A line that logs every packet, within the rate of the class.
    pub fn logging(class: &LogClass) -> Self {
        Self {
            limit: LimitContext::of_log(class),
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
        let later = [
            "auth_header: false, ",
            "not_macs: [], ",
            "not_tcp_flags: None, ",
            "not_mark: None, ",
            "ipsec_in: None, ",
            "ipsec_out: None, ",
            "not_uids: [], ",
            "not_gids: [], ",
            "originals: [], ",
            "matches: None, ",
            ", random: None, persistent: false",
        ];
        let text = later
            .iter()
            .fold(text, |text, field| text.replacen(field, "", 1));
        let text = ["Set", "Connection", "Limit", "Time"]
            .iter()
            .fold(text, |text, name| {
                text.replace(&format!("{name}Context {{"), &format!("{name}Match {{"))
            });
        text.replace("Context {", " {")
    }

    /// A line that matches every packet.
    pub fn to(target: &str) -> Self {
        Self {
            target: target.to_owned(),
            ..Self::default()
        }
    }
}

/// A match of an address or device; `not` is `"! "` or empty.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NegatableContext {
    pub not: &'static str,
    pub value: String,
}

/// A match of the first packet of a connection; what is absent is not asked.
#[derive(Clone, Debug, Default, Serialize)]
pub struct OriginalContext {
    /// `"! "` or empty, for the destination
    pub not: &'static str,
    /// an address with a prefix length
    pub destination: Option<String>,
    /// the number of the protocol
    pub protocol: Option<u8>,
    /// a port, or the first and the last with a colon
    pub ports: Option<String>,
    /// `ORIGINAL`: only packets in the direction of the connection's first packet
    pub direction: Option<&'static str>,
}

/// A match of an ipset.
#[derive(Clone, Debug, Serialize)]
pub struct SetContext {
    pub not: &'static str,
    pub name: String,
    /// `src` or `dst`; of a set whose members have several parts one for each, with commas
    pub side: String,
}

impl NegatableContext {
    /// Not negated.
    pub fn plain(value: String) -> Self {
        Self { not: "", value }
    }
}

/// A log target. Values that are the kernel's default are left out, as `iptables-save` does.
#[derive(Clone, Debug, Serialize)]
pub struct LogContext {
    pub target: &'static str,
    pub prefix: String,
    pub level: Option<u8>,
    /// of LOG: the flags without their `--log-`, in the order of `iptables-save`
    pub options: Vec<&'static str>,
    pub group: Option<u16>,
    /// of NFLOG: how many bytes of each packet are copied
    pub size: Option<u16>,
    /// of NFLOG: how many packets the kernel collects
    pub threshold: Option<u16>,
}

impl LogContext {
    pub fn new(class: &LogClass) -> Self {
        const WARNING: u8 = 4;
        let is_log = class.target == LogDestination::Log;
        Self {
            target: if is_log { "LOG" } else { "NFLOG" },
            prefix: class.prefix.clone(),
            level: Some(class.level).filter(|level| is_log && *level != WARNING),
            options: class.options.iter().copied().map(log_flag).collect(),
            group: Some(class.group).filter(|group| !is_log && *group != 0),
            size: class.size,
            threshold: class.threshold,
        }
    }
}

fn log_flag(option: LogOption) -> &'static str {
    match option {
        LogOption::TcpSequence => "tcp-sequence",
        LogOption::TcpOptions => "tcp-options",
        LogOption::IpOptions => "ip-options",
        LogOption::Uid => "uid",
        LogOption::MacDecode => "macdecode",
    }
}

/// One of every so many connections.
#[derive(Clone, Debug, Serialize)]
pub struct TurnContext {
    pub every: usize,
}

/// The new address of a target of the nat table: one of these, or nothing for MASQUERADE.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NatTargetContext {
    /// an address or a range, with or without ports
    pub source: Option<String>,
    /// an address or a range, with or without ports
    pub destination: Option<String>,
    /// a port or a range of ports, for REDIRECT and MASQUERADE
    pub ports: Option<String>,
    pub network: Option<String>,
    /// the flag without its `--`: `random`, or `random-fully` where the source changes
    pub random: Option<&'static str>,
    /// a client gets the same address for all its connections
    pub persistent: bool,
}

/// The change of a line to its packets: the target, and the fields that it uses.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ChangeContext {
    /// `TCPMSS`, `MARK`, `CONNMARK`, `DSCP`, `TTL`, `HL`, `CLASSIFY`, `TPROXY`, `CHECKSUM` or `CT`
    pub target: &'static str,
    /// of TCPMSS; none: clamp to the path MTU
    pub mss: Option<u16>,
    /// `VALUE/MASK` in hex
    pub mark: Option<String>,
    /// `save` or `restore`, of CONNMARK
    pub copy: Option<&'static str>,
    /// a mask in hex, of CONNMARK
    pub mask: Option<String>,
    /// of DSCP, in hex
    pub dscp: Option<String>,
    /// `set`, `inc` or `dec`
    pub hops: Option<&'static str>,
    /// the number of hops
    pub count: Option<u8>,
    /// `MAJOR:MINOR`, four hex digits each
    pub class: Option<String>,
    pub port: Option<u16>,
    pub address: Option<String>,
    /// of CT; none: `--notrack`
    pub helper: Option<String>,
}

/// A rate limit for all packets together, or for each source, destination, destination port, or combination of them.
#[derive(Clone, Debug, Serialize)]
pub struct LimitContext {
    /// the rate; none for a sliding window
    pub rate: Option<String>,
    /// left out if it is the kernel's default, and for bytes
    pub burst: Option<u32>,
    /// the name of the hashlimit table; none: `limit`, without a table
    pub table: Option<String>,
    /// the parts of a packet that have a bucket, as `--hashlimit-mode` lists them; none: one bucket
    pub mode: Option<String>,
    /// milliseconds after which the table forgets a silent source, if iptables' default is shorter than the burst takes
    /// to refill: a forgotten source has its whole burst again
    pub expire: Option<u64>,
    /// the prefix length by which sources are grouped, if it is not the whole address
    pub mask: Option<u8>,
    /// the same for destinations
    pub destination_mask: Option<u8>,
    /// a sliding window instead of a rate
    pub window: Option<WindowContext>,
}

/// A sliding window of `recent`: the packet is recorded, and matches unless it is the last of so many hits.
#[derive(Clone, Debug, Serialize)]
pub struct WindowContext {
    pub hits: u8,
    pub seconds: u32,
    /// the list of `recent`
    pub table: String,
    /// the leading bits by which addresses are grouped, as an address
    pub mask: String,
    /// `rsource` or `rdest`
    pub side: &'static str,
}

impl LimitContext {
    /// The limit of a log class; `None` if it logs every packet.
    pub fn of_log(class: &LogClass) -> Option<Self> {
        let limit = class.limit?;
        Some(Self::global(limit.rate, limit.burst))
    }

    /// A limit for all packets together.
    pub fn global(rate: Rate, burst: u32) -> Self {
        const DEFAULT_BURST: u32 = 5;
        Self {
            rate: Some(rate.of_limit()),
            burst: Some(burst).filter(|burst| *burst != DEFAULT_BURST),
            table: None,
            mode: None,
            expire: None,
            mask: None,
            destination_mask: None,
            window: None,
        }
    }
}

/// A match of sources with more than so many connections.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionContext {
    pub above: u32,
    /// the prefix length by which sources are grouped; 0 counts all together
    pub mask: u8,
}

/// A match of days, hours, and the last day.
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
