//! The options that describe packets, and the question that they make.

use std::collections::BTreeSet;

use clap::{Args, ValueEnum};

use crate::cli::build::FamilyArg;
use crate::diag::{Sink, did_you_mean};
use crate::explain::{AskedHook, AskedStates, Question};
use crate::net::{
    Family, Hook, IcmpType, InterfacePattern, IntervalSet, MacAddress, MarkMatch, PortError,
    PortRange, Protocol, State, TcpFlagsMatch,
};
use crate::policy::{self, Policy, Scope};
use crate::resolve::{self, OneOf, Plan, ServicePart, ServicePorts};
use crate::source::{Located, SourceMap, Span};

/// The packets to explain. An option that is left out may have any value.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Packets")]
pub struct PacketArgs {
    /// The origin: zones and interfaces of the policy, `any`, or `host`
    #[arg(long, value_name = "ZONE", value_delimiter = ',')]
    from: Vec<String>,
    /// The final destination: zones and interfaces of the policy, `any`, or `host`
    #[arg(long, value_name = "ZONE", value_delimiter = ',')]
    to: Vec<String>,
    /// The device on which they arrive, such as eth0 or wg+
    #[arg(long = "in", value_name = "DEVICE", value_parser = device)]
    in_device: Option<InterfacePattern>,
    /// The device on which they leave
    #[arg(long = "out", value_name = "DEVICE", value_parser = device)]
    out_device: Option<InterfacePattern>,
    /// The hook: input, forward or output [default: from the zones and devices]
    #[arg(long, value_enum, ignore_case = true, hide_possible_values = true)]
    hook: Option<HookArg>,
    /// ipv4 or ipv6 [default: those of the addresses, else both]
    #[arg(long, value_enum, hide_possible_values = true)]
    family: Option<FamilyArg>,
    /// Source addresses, literal or names of the policy; a leading `!` negates
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    source: Vec<String>,
    /// Destination addresses before any translation; `host` is any address of this host
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    destination: Vec<String>,
    /// Services by name, or ports such as 8443/tcp
    #[arg(
        long,
        value_name = "SERVICE",
        value_delimiter = ',',
        conflicts_with_all = ["protocol", "destination_port", "icmp_type"]
    )]
    service: Vec<String>,
    /// An IP protocol: tcp, udp, icmp, icmpv6, another name, or a number
    #[arg(long, value_parser = protocol)]
    protocol: Option<Protocol>,
    /// A source port, or a range such as 1024-65535
    #[arg(long, value_name = "PORT", value_parser = port)]
    source_port: Option<PortRange>,
    /// A destination port, or a range
    #[arg(long, value_name = "PORT", value_parser = port)]
    destination_port: Option<PortRange>,
    /// An ICMP type by name or number, or TYPE/CODE
    #[arg(long, value_name = "TYPE")]
    icmp_type: Option<String>,
    /// TCP flags as SET/EXAMINED: syn/syn,ack
    #[arg(long, value_name = "FLAGS", value_parser = tcp_flags)]
    tcp_flags: Option<TcpFlagsMatch>,
    /// Connection states: new, established, related, invalid, untracked, any [default: new, if such packets can be new]
    #[arg(long, value_delimiter = ',', value_parser = state)]
    state: Vec<StateArg>,
    /// The packet mark on arrival: VALUE or VALUE/MASK
    #[arg(long, value_parser = mark)]
    mark: Option<MarkMatch>,
    /// The source MAC address
    #[arg(long, value_parser = mac)]
    mac: Option<MacAddress>,
}

/// A value of `--hook`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum HookArg {
    /// To this host
    Input,
    /// Through this host
    Forward,
    /// From this host
    Output,
}

/// A value of `--state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StateArg {
    Any,
    One(State),
}

/// The parts of a service, and their family if they belong to one family only.
type Parts = (Option<Scope>, Vec<ServicePart>);

/// Why the options make no question.
#[derive(Debug)]
pub enum PacketArgsError {
    /// The options contradict each other: a message with what to do.
    Usage(String),
    /// The policy does not define some names: the findings, with the command line as their source.
    Words(SourceMap, Sink),
}

impl PacketArgs {
    /// Returns `true` if a zone was named.
    pub fn names_zones(&self) -> bool {
        !self.from.is_empty() || !self.to.is_empty()
    }

    /// Returns the family that was named.
    pub fn family(&self) -> Option<Family> {
        self.family.map(Family::from)
    }

    /// Returns the question, with names resolved by the policy and its plan.
    pub fn question(&self, policy: &Policy, plan: &Plan) -> Result<Question, PacketArgsError> {
        let parts = self.parts().map_err(PacketArgsError::Usage)?;
        let mut packets = self.resolved(policy, plan)?;
        if let Some((scope, parts)) = parts {
            packets.service = Some(parts);
            packets.scope = scope.or(packets.scope);
        }
        packets.tcp_flags = self.tcp_flags.map(OneOf::only);
        packets.mark = self.mark.map(OneOf::only);
        packets.mac = self.mac.map(OneOf::only);
        let place = AskedHook {
            hook: self.hook.map(Hook::from),
            in_device: self.in_device.clone(),
            out_device: self.out_device.clone(),
        };
        let hooks = place
            .hooks(&mut packets)
            .map_err(|wrong| PacketArgsError::Usage(wrong.to_string()))?;
        if self.mac.is_some() && hooks == [Hook::Output] {
            let text = "a packet from this host has no source MAC address: leave --mac out";
            return Err(PacketArgsError::Usage(text.to_owned()));
        }
        Ok(Question {
            packets,
            for_this_host: self.is_for_this_host(),
            hooks,
            in_device: place.in_device,
            out_device: place.out_device,
            // With a protocol, `parts` has made it a part of the service.
            source_port: self.source_port.filter(|_| self.protocol.is_none()),
            states: self.states(),
        })
    }

    /// Returns `true` if the destination is any address of this host.
    fn is_for_this_host(&self) -> bool {
        self.destination == ["host"]
    }

    /// Resolves the names by the code that resolves a policy's rule. For its findings the options are joined to a command line,
    /// which serves as the source file.
    fn resolved(
        &self,
        policy: &Policy,
        plan: &Plan,
    ) -> Result<resolve::PlannedRule, PacketArgsError> {
        let mut line = String::from("fwc explain");
        let family = self
            .family
            .map(|family| Family::from(family).keyword().to_lowercase());
        let destination: &[String] = match self.is_for_this_host() {
            true => &[],
            false => &self.destination,
        };
        let lists: [(&str, &str, &[String]); 6] = [
            ("--family", "scope", family.as_slice()),
            ("--from", "from", &self.from),
            ("--to", "to", &self.to),
            ("--source", "source", &self.source),
            ("--destination", "destination", destination),
            ("--service", "service", &self.service),
        ];
        let mut places = Vec::new();
        for (option, key, words) in lists {
            for (number, word) in words.iter().enumerate() {
                line.push_str(&match number {
                    0 => format!(" {option} "),
                    _ => ",".to_owned(),
                });
                let start = line.len();
                line.push_str(word);
                places.push((key, word.as_str(), start..line.len()));
            }
        }
        let mut sources = SourceMap::new();
        let mut sink = Sink::new();
        let whole = 0..line.len();
        let file = sources.add("the command line", line);
        let words: Vec<_> = places
            .into_iter()
            .map(|(key, word, range)| (key, Located::new(word, Span::new(file, range))))
            .collect();
        let written = policy::question(&words, Span::new(file, whole), &mut sink);
        let packets = resolve::question(policy, plan, &written, &mut sink);
        packets.ok_or(PacketArgsError::Words(sources, sink))
    }

    fn states(&self) -> AskedStates {
        if self.state.is_empty() {
            return AskedStates::Usual;
        }
        let one = |state: &StateArg| match state {
            StateArg::Any => None,
            StateArg::One(state) => Some(*state),
        };
        let states: Option<BTreeSet<State>> = self.state.iter().map(one).collect();
        states.map_or(AskedStates::Any, AskedStates::These)
    }

    /// Returns the service that protocol, ports and ICMP type describe, and its family if it belongs to one only.
    fn parts(&self) -> Result<Option<Parts>, String> {
        let has_ports = self.source_port.is_some() || self.destination_port.is_some();
        let flags = self.tcp_flags.is_some();
        if let Some(protocol) = self.protocol {
            if flags && protocol != Protocol::TCP {
                return Err(format!(
                    "{protocol} has no TCP flags: leave --tcp-flags out"
                ));
            }
            if has_ports && !protocol.has_ports() {
                return Err(format!(
                    "{protocol} has no ports: leave --source-port and --destination-port out"
                ));
            }
            if self.icmp_type.is_some() && family_of(protocol).is_none() {
                return Err(format!(
                    "{protocol} has no ICMP types: use --protocol icmp or --protocol icmpv6"
                ));
            }
        }
        let family = match (
            self.family.map(Family::from),
            self.protocol.and_then(family_of),
        ) {
            (Some(asked), Some(family)) if asked != family => {
                let other = match asked {
                    Family::V4 => "icmp",
                    Family::V6 => "icmpv6",
                };
                return Err(format!(
                    "that protocol does not belong to {asked}: use --protocol {other}"
                ));
            }
            (asked, of_protocol) => of_protocol.or(asked),
        };
        if let Some(kind) = &self.icmp_type {
            if has_ports || flags {
                return Err(
                    "ICMP has neither ports nor TCP flags: leave them out, or --icmp-type"
                        .to_owned(),
                );
            }
            let parts = icmp_parts(kind, family)?;
            let scope = match parts[..] {
                [ServicePart::Icmp(_)] => Some(Scope::Only(Family::V4)),
                [ServicePart::Icmpv6(_)] => Some(Scope::Only(Family::V6)),
                _ => None,
            };
            return Ok(Some((scope, parts)));
        }
        let set = |ports: PortRange| {
            IntervalSet::from_intervals([(ports.first.into(), ports.last.into())])
        };
        match self.protocol {
            Some(protocol) if has_ports => {
                let ports = ServicePorts {
                    protocol,
                    source: self.source_port.map(set),
                    destination: self.destination_port.map(set),
                };
                Ok(Some((None, vec![ServicePart::Ports(ports)])))
            }
            Some(protocol) => {
                let scope = family_of(protocol).map(Scope::Only);
                Ok(Some((scope, vec![ServicePart::Protocol(protocol)])))
            }
            None if has_ports && flags && self.service.is_empty() => {
                let ports = ServicePorts {
                    protocol: Protocol::TCP,
                    source: self.source_port.map(set),
                    destination: self.destination_port.map(set),
                };
                Ok(Some((None, vec![ServicePart::Ports(ports)])))
            }
            None if has_ports && self.service.is_empty() => Err(
                "a port needs a protocol: add --protocol tcp or --protocol udp, or use a service, `--service 22/tcp`".to_owned(),
            ),
            None => Ok(None),
        }
    }
}

/// Returns the family of a protocol that belongs to one only.
fn family_of(protocol: Protocol) -> Option<Family> {
    match protocol {
        Protocol::ICMP => Some(Family::V4),
        Protocol::ICMPV6 => Some(Family::V6),
        _ => None,
    }
}

fn icmp_parts(text: &str, family: Option<Family>) -> Result<Vec<ServicePart>, String> {
    if family.is_none() && text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!(
            "ICMP type {text} has a different meaning in each family: add --family ipv4 or --family ipv6"
        ));
    }
    let of = |of: Family| {
        let asked = family.is_none_or(|family| family == of);
        IcmpType::parse(of, text).filter(|_| asked)
    };
    let v4 = of(Family::V4).map(ServicePart::Icmp);
    let parts: Vec<_> = v4
        .into_iter()
        .chain(of(Family::V6).map(ServicePart::Icmpv6))
        .collect();
    if !parts.is_empty() {
        return Ok(parts);
    }
    let families = family.map_or(Family::ALL.to_vec(), |family| vec![family]);
    let names = families.iter().flat_map(|family| IcmpType::names(*family));
    let near = did_you_mean(text, names);
    let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
    let shown = text.escape_debug();
    Err(format!("`{shown}` is not a valid ICMP type{near}"))
}

impl From<HookArg> for Hook {
    fn from(hook: HookArg) -> Self {
        match hook {
            HookArg::Input => Self::Input,
            HookArg::Forward => Self::Forward,
            HookArg::Output => Self::Output,
        }
    }
}

fn device(text: &str) -> Result<InterfacePattern, String> {
    InterfacePattern::parse(text).map_err(|_| {
        "use a device name, such as eth0, or a prefix with a trailing +, such as wg+".to_owned()
    })
}

fn protocol(text: &str) -> Result<Protocol, String> {
    Protocol::parse(text).ok_or_else(|| {
        let near = did_you_mean(text, Protocol::names());
        let near = near.map_or(String::new(), |near| format!("did you mean `{near}`? "));
        format!("{near}use a name such as tcp, or a number from 1 to 255")
    })
}

fn port(text: &str) -> Result<PortRange, String> {
    PortRange::parse(text).map_err(|error| match error {
        PortError::NotAPort(_) => {
            "use a port from 1 to 65535, or a range such as 8000-8100".to_owned()
        }
        PortError::Reversed(range) => format!("the range ends before it begins: use {range}"),
    })
}

fn tcp_flags(text: &str) -> Result<TcpFlagsMatch, String> {
    TcpFlagsMatch::parse(text)
        .map_err(|_| "use SET/EXAMINED, for example syn/syn,ack,fin,rst".to_owned())
}

fn state(text: &str) -> Result<StateArg, String> {
    if text == "any" {
        return Ok(StateArg::Any);
    }
    let mut states = State::ALL.into_iter();
    let found = states.find(|state| state.keyword().eq_ignore_ascii_case(text));
    found.map(StateArg::One).ok_or_else(|| {
        "use new, established, related, invalid, untracked, or any for all of them".to_owned()
    })
}

fn mark(text: &str) -> Result<MarkMatch, String> {
    MarkMatch::parse(text)
        .map_err(|_| "use VALUE or VALUE/MASK in hex or decimal, for example 0x10/0xff".to_owned())
}

fn mac(text: &str) -> Result<MacAddress, String> {
    MacAddress::parse(text)
        .ok_or_else(|| "use six pairs of hex digits, for example 02:00:5e:10:00:01".to_owned())
}
