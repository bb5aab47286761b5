//! Prints rulesets as `iptables-save` 1.8.9 does.

use std::fmt::{self, Display, Write};

use super::lex::write_quoted;
use super::model::*;
use super::names;
use super::value::{Negatable, PortMatch, address_bits, write_address};
use crate::net::{Family, TcpFlags};

/// What to print besides the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Print {
    /// `true`: the counters that were read, like `iptables-save -c`; `false`: zeros in the lines of chains and none in
    /// rules.
    pub counters: bool,
}

impl Ruleset {
    /// Returns the text that `iptables-save` prints after this ruleset was loaded, without the `#` lines.
    pub fn to_text(&self, print: Print) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = write_ruleset(&mut out, self, print);
        out
    }
}

impl Display for Ruleset {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_ruleset(out, self, Print::default())
    }
}

fn write_ruleset(out: &mut impl Write, ruleset: &Ruleset, print: Print) -> fmt::Result {
    for table in &ruleset.tables {
        writeln!(out, "*{}", table.name.as_str())?;
        for chain in &table.chains {
            let counters = match print.counters {
                true => chain.counters,
                false => Counters::default(),
            };
            let policy = chain.policy.map_or("-", ChainPolicy::as_str);
            let Counters { packets, bytes } = counters;
            writeln!(out, ":{} {policy} [{packets}:{bytes}]", chain.name)?;
        }
        for chain in &table.chains {
            for rule in &chain.rules {
                if print.counters {
                    let Counters { packets, bytes } = rule.counters.unwrap_or_default();
                    write!(out, "[{packets}:{bytes}] ")?;
                }
                write!(out, "-A {}", chain.name)?;
                write_rule(out, ruleset.family, rule)?;
                out.write_char('\n')?;
            }
        }
        out.write_str("COMMIT\n")?;
    }
    Ok(())
}

impl Rule {
    /// Returns the rule as `iptables-save` prints it, without `-A CHAIN`.
    pub fn to_text(&self, family: Family) -> String {
        let mut out = String::new();
        let _ = write_rule(&mut out, family, self);
        // Every part is written with a blank before it; here the first one goes.
        out.split_off(out.len().min(1))
    }
}

impl Match {
    /// Returns the condition as `iptables-save` prints it, with `-m NAME`.
    pub fn to_text(&self, family: Family) -> String {
        let mut out = String::new();
        let _ = write_match(&mut out, family, self);
        out.split_off(out.len().min(1))
    }
}

impl Target {
    /// Returns the target as `iptables-save` prints it, with `-j`; empty for a rule without a target.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let _ = write_target(&mut out, self);
        out.split_off(out.len().min(1))
    }
}

fn write_rule(out: &mut impl Write, family: Family, rule: &Rule) -> fmt::Result {
    for condition in &rule.matches {
        write_match(out, family, condition)?;
    }
    write_target(out, &rule.target)
}

/// Writes an option with its operand.
fn option<T: Display>(out: &mut impl Write, name: &str, operand: &Negatable<T>) -> fmt::Result {
    write!(out, "{} {name} {}", not(operand.negated), operand.value)
}

const fn not(negated: bool) -> &'static str {
    if negated { " !" } else { "" }
}

fn write_match(out: &mut impl Write, family: Family, condition: &Match) -> fmt::Result {
    match condition {
        Match::Source(network) => option(out, "-s", network),
        Match::Destination(network) => option(out, "-d", network),
        Match::InInterface(name) => {
            write!(out, "{} -i {}", not(name.negated), name.value.as_str())
        }
        Match::OutInterface(name) => {
            write!(out, "{} -o {}", not(name.negated), name.value.as_str())
        }
        Match::Protocol(protocol) => {
            write!(out, "{} -p ", not(protocol.negated))?;
            match names::protocol_name(protocol.value) {
                Some(name) => out.write_str(name),
                None => write!(out, "{}", protocol.value),
            }
        }
        Match::Fragment { negated } => write!(out, "{} -f", not(*negated)),
        Match::Tcp(tcp) => {
            out.write_str(" -m tcp")?;
            write_ports(out, &tcp.ports)?;
            if let Some(number) = &tcp.option {
                option(out, "--tcp-option", number)?;
            }
            let Some(test) = &tcp.flags else {
                return Ok(());
            };
            write!(out, "{} --tcp-flags ", not(test.negated))?;
            write_flags(out, test.value.mask)?;
            out.write_char(' ')?;
            write_flags(out, test.value.set)
        }
        Match::Udp(ports) => write_with_ports(out, "udp", ports, &[]),
        Match::Sctp(ports, settings) => write_with_ports(out, "sctp", ports, settings),
        Match::Dccp(ports, settings) => write_with_ports(out, "dccp", ports, settings),
        Match::Multiport(Negatable { negated, value }) => {
            let name = match value.side {
                PortSide::Source => "--sports",
                PortSide::Destination => "--dports",
                PortSide::Either => "--ports",
            };
            write!(out, " -m multiport{} {name} ", not(*negated))?;
            write_list(out, &value.ports, ',')
        }
        Match::Icmp(kind) => write_icmp(out, family, kind),
        Match::Conntrack(conntrack) => {
            out.write_str(" -m conntrack")?;
            if let Some(states) = &conntrack.states {
                write!(out, "{} --ctstate ", not(states.negated))?;
                write_states(out, states.value)?;
            }
            write_settings(out, &conntrack.settings)
        }
        Match::State(states) => {
            write!(out, " -m state{} --state ", not(states.negated))?;
            write_states(out, states.value)
        }
        Match::Comment(text) => {
            out.write_str(" -m comment --comment ")?;
            write_quoted(out, text)
        }
        Match::AddressType(types) => {
            out.write_str(" -m addrtype")?;
            for (name, operand) in [("src", &types.source), ("dst", &types.destination)] {
                if let Some(operand) = operand {
                    write!(out, "{} --{name}-type ", not(operand.negated))?;
                    write_words(out, operand.value.names())?;
                }
            }
            out.write_str(match types.limit {
                None => "",
                Some(Direction::In) => " --limit-iface-in",
                Some(Direction::Out) => " --limit-iface-out",
            })
        }
        Match::Mark(mark) => {
            out.write_str(" -m mark")?;
            option(out, "--mark", mark)
        }
        Match::ConnectionMark(mark) => {
            out.write_str(" -m connmark")?;
            option(out, "--mark", mark)
        }
        Match::Mac(mac) => {
            let [a, b, c, d, e, f] = mac.value;
            let not = not(mac.negated);
            write!(
                out,
                " -m mac{not} --mac-source {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"
            )
        }
        Match::AddressRange(range) => {
            out.write_str(" -m iprange")?;
            for (name, operand) in [("src", &range.source), ("dst", &range.destination)] {
                if let Some(operand) = operand {
                    write!(out, "{} --{name}-range ", not(operand.negated))?;
                    write_address(out, operand.value.0)?;
                    out.write_char('-')?;
                    write_address(out, operand.value.1)?;
                }
            }
            Ok(())
        }
        Match::Set(set) => {
            write!(out, " -m set{} --match-set {} ", not(set.negated), set.name)?;
            let directions = set.from_source.iter();
            write_words(
                out,
                directions.map(|&source| if source { "src" } else { "dst" }),
            )?;
            write_settings(out, &set.settings)
        }
        Match::HopLimit(limit) => {
            let name = match family {
                Family::V4 => "ttl",
                Family::V6 => "hl",
            };
            write!(out, " -m {name}")?;
            match limit {
                HopLimitMatch::Equal(Negatable { negated, value }) => {
                    write!(out, "{} --{name}-eq {value}", not(*negated))
                }
                HopLimitMatch::Less(value) => write!(out, " --{name}-lt {value}"),
                HopLimitMatch::Greater(value) => write!(out, " --{name}-gt {value}"),
            }
        }
        Match::PacketType(kind) => {
            let word = match kind.value {
                PacketType::Unicast => "unicast",
                PacketType::Broadcast => "broadcast",
                PacketType::Multicast => "multicast",
            };
            write!(out, " -m pkttype{} --pkt-type {word}", not(kind.negated))
        }
        Match::Other(module) => {
            write!(out, " -m {}", module.name)?;
            write_settings(out, &module.settings)
        }
        Match::Unknown(unknown) => write_unknown(out, "-m", unknown),
    }
}

fn write_with_ports(
    out: &mut impl Write,
    module: &str,
    ports: &Ports,
    settings: &[ModuleOption],
) -> fmt::Result {
    write!(out, " -m {module}")?;
    write_ports(out, ports)?;
    write_settings(out, settings)
}

fn write_ports(out: &mut impl Write, ports: &Ports) -> fmt::Result {
    for (name, operand) in [("--sport", &ports.source), ("--dport", &ports.destination)] {
        if let Some(operand) = operand {
            option(out, name, operand)?;
        }
    }
    Ok(())
}

fn write_flags(out: &mut impl Write, flags: TcpFlags) -> fmt::Result {
    match flags.0 {
        0 => out.write_str("NONE"),
        bits => {
            let set = (0..)
                .zip(names::TCP_FLAGS)
                .filter(|(bit, _)| bits & (1 << bit) != 0);
            write_words(out, set.map(|(_, name)| name))
        }
    }
}

fn write_icmp(out: &mut impl Write, family: Family, kind: &Negatable<IcmpMatch>) -> fmt::Result {
    let not = not(kind.negated);
    match family {
        Family::V4 => write!(out, " -m icmp{not} --icmp-type ")?,
        Family::V6 => write!(out, " -m icmp6{not} --icmpv6-type ")?,
    }
    // Names of ICMP types are not printed: the kernel keeps the numbers only.
    match kind.value {
        IcmpMatch::Any => out.write_str("any"),
        IcmpMatch::Type {
            kind,
            first_code,
            last_code,
        } => {
            write!(out, "{kind}")?;
            match (first_code, last_code) {
                (0, 255) => Ok(()),
                (first, last) if first == last => write!(out, "/{first}"),
                (first, last) => write!(out, "/{first}:{last}"),
            }
        }
    }
}

pub(super) fn write_states(out: &mut impl Write, states: States) -> fmt::Result {
    let snat = states.has_snat().then_some("SNAT");
    let dnat = states.has_dnat().then_some("DNAT");
    let words = states.iter().map(|state| state.keyword());
    write_words(out, words.chain(snat).chain(dnat))
}

fn write_settings(out: &mut impl Write, settings: &[ModuleOption]) -> fmt::Result {
    for setting in settings {
        write!(out, "{} --{}", not(setting.negated), setting.name)?;
        if !setting.value.is_empty() {
            write!(out, " {}", setting.value)?;
        }
    }
    Ok(())
}

fn write_unknown(out: &mut impl Write, flag: &str, unknown: &UnknownModule) -> fmt::Result {
    write!(out, " {flag} {}", unknown.name)?;
    for argument in &unknown.arguments {
        out.write_char(' ')?;
        // To the tool, an option or a `!` in quotes is still one. So quotes are set only where a word needs them.
        match !argument.is_empty() && !argument.contains([' ', '\t', '\n', '"']) {
            true => out.write_str(argument)?,
            false => write_quoted(out, argument)?,
        }
    }
    Ok(())
}

fn write_target(out: &mut impl Write, target: &Target) -> fmt::Result {
    match target {
        Target::None => Ok(()),
        Target::Accept => out.write_str(" -j ACCEPT"),
        Target::Drop => out.write_str(" -j DROP"),
        Target::Return => out.write_str(" -j RETURN"),
        Target::Queue => out.write_str(" -j QUEUE"),
        Target::Jump(chain) => write!(out, " -j {chain}"),
        Target::Goto(chain) => write!(out, " -g {chain}"),
        Target::Reject(reject) => write!(out, " -j REJECT --reject-with {}", reject.as_str()),
        Target::Log(log) => write_log(out, log),
        Target::Mark(mark) => {
            write!(
                out,
                " -j MARK --set-xmark {:#x}/{:#x}",
                mark.value, mark.mask
            )
        }
        Target::Nat(nat) => write_nat(out, nat),
        Target::Other(module) => {
            write!(out, " -j {}", module.name)?;
            write_settings(out, &module.settings)
        }
        Target::Unknown(unknown) => write_unknown(out, "-j", unknown),
    }
}

fn write_log(out: &mut impl Write, log: &LogTarget) -> fmt::Result {
    out.write_str(" -j LOG")?;
    if !log.prefix.is_empty() {
        out.write_str(" --log-prefix ")?;
        write_quoted(out, &log.prefix)?;
    }
    if log.level != LogTarget::DEFAULT_LEVEL {
        write!(out, " --log-level {}", log.level)?;
    }
    for (name, set) in names::LOG_FLAGS.iter().zip(log.flags) {
        if set {
            write!(out, " --{name}")?;
        }
    }
    Ok(())
}

fn write_nat(out: &mut impl Write, nat: &NatTarget) -> fmt::Result {
    write!(out, " -j {}", nat.kind.as_str())?;
    let name = match nat.kind {
        NatKind::Snat => "--to-source",
        NatKind::Dnat => "--to-destination",
        NatKind::Redirect | NatKind::Masquerade => "--to-ports",
        NatKind::Netmap => "--to",
    };
    if nat.addresses.is_some() || nat.ports.is_some() {
        write!(out, " {name} ")?;
    }
    if let Some((first, last)) = nat.addresses {
        let brackets = first.is_ipv6() && nat.ports.is_some();
        out.write_str(if brackets { "[" } else { "" })?;
        write_address(out, first)?;
        // `NETMAP` is a network: its length is the number of bits in which the first and the last address agree.
        if nat.kind == NatKind::Netmap {
            let host = (address_bits(first) ^ address_bits(last)).count_ones();
            let bits = if first.is_ipv4() { 32 } else { 128 };
            write!(out, "/{}", bits - host)?;
        } else if last != first {
            out.write_char('-')?;
            write_address(out, last)?;
        }
        out.write_str(if brackets { "]" } else { "" })?;
    }
    if let Some(PortMatch { first, last }) = nat.ports {
        let colon = matches!(nat.kind, NatKind::Snat | NatKind::Dnat);
        write!(out, "{}{first}", if colon { ":" } else { "" })?;
        if last != first {
            write!(out, "-{last}")?;
        }
        if let Some(base) = nat.base_port {
            write!(out, "/{base}")?;
        }
    }
    for (set, name) in [
        (nat.random, " --random"),
        (nat.random_fully, " --random-fully"),
        (nat.persistent, " --persistent"),
    ] {
        out.write_str(if set { name } else { "" })?;
    }
    Ok(())
}

fn write_list<T: Display>(out: &mut impl Write, items: &[T], separator: char) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.write_char(separator)?;
        }
        write!(out, "{item}")?;
    }
    Ok(())
}

fn write_words<'a>(out: &mut impl Write, words: impl Iterator<Item = &'a str>) -> fmt::Result {
    for (index, word) in words.enumerate() {
        if index > 0 {
            out.write_char(',')?;
        }
        out.write_str(word)?;
    }
    Ok(())
}
