//! Packets and boxes for programs.

use serde::Serialize;

use super::behaviour::BaseChain;
use super::boxes::PacketBox;
use super::naming::{BoxWords, PacketPart, ValueList};
use crate::net::{Family, MacAddress, Packet, Protocol, TcpFlags, TcpFlagsMatch};

/// A box of packets, as all commands print it.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct JsonBox {
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// The hook of netfilter at which the packets are looked at, such as `input`.
    pub hook: String,
    /// The packets of the box: those that fit every list.
    #[serde(rename = "where")]
    pub fits: JsonWhere,
    /// One packet of the box.
    pub example: JsonPacket,
    /// Conditions that fwc does not understand, and whether they hold for the packets of the box.
    pub depends_on: Vec<JsonCondition>,
}

/// Lists of values. A packet fits a list that has its value, or, where each value begins with `!`, that does not have it. Every
/// packet fits an empty list, and a list that is not there.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct JsonWhere {
    /// Zones, interfaces or devices that the packets come in by.
    pub from: Vec<String>,
    /// Zones, interfaces or devices that they leave by.
    pub to: Vec<String>,
    /// Source addresses.
    pub source: Vec<String>,
    /// Destination addresses.
    pub destination: Vec<String>,
    /// Services, ports, protocols, ICMP types.
    pub service: Vec<String>,
    /// Connection states.
    pub state: Vec<String>,
    /// TCP flags: those set, of those looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_flags: Option<Vec<String>>,
    /// Whether the connection's source was translated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_nat: Option<Vec<String>>,
    /// Whether the connection's destination was translated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_nat: Option<Vec<String>>,
    /// Marks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<Vec<String>>,
    /// Hop limits (TTL).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hop_limit: Option<Vec<String>>,
    /// Source MAC addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Vec<String>>,
    /// How the packets were addressed on the link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet_type: Option<Vec<String>>,
    /// Whether they are later fragments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fragment: Option<Vec<String>>,
}

/// A packet, with the fields that it has.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct JsonPacket {
    /// The device that it comes in by.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    in_device: Option<String>,
    /// The device that it leaves by.
    #[serde(rename = "out", skip_serializing_if = "Option::is_none")]
    out_device: Option<String>,
    /// Its source address.
    source: String,
    /// Its destination address.
    destination: String,
    /// Its protocol, by name or number.
    protocol: String,
    /// Its source port.
    #[serde(skip_serializing_if = "Option::is_none")]
    source_port: Option<u16>,
    /// Its destination port.
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_port: Option<u16>,
    /// Its ICMP type and code: `8/0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp_type: Option<String>,
    /// Its TCP flags: those looked at, `/`, those set.
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_flags: Option<String>,
    /// The state of its connection.
    state: String,
    /// Its hop limit (TTL).
    hop_limit: u8,
    /// Its mark, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    mark: Option<String>,
    /// The mark of its connection, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_mark: Option<String>,
    /// Its source MAC address.
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    /// How it was addressed on the link, where not to one host: `broadcast` or `multicast`.
    #[serde(skip_serializing_if = "Option::is_none")]
    packet_type: Option<String>,
    /// `yes` for a later fragment.
    #[serde(skip_serializing_if = "Option::is_none")]
    fragment: Option<String>,
}

/// A condition that fwc does not understand.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct JsonCondition {
    /// The condition, as iptables-save prints it or in words.
    pub condition: String,
    /// Whether it holds.
    pub holds: bool,
}

impl PacketBox {
    /// The box for programs.
    pub fn to_json(&self, family: Family, chain: BaseChain) -> JsonBox {
        let depends_on = self.words.depends_on.iter();
        JsonBox {
            family: family.keyword(),
            hook: chain.as_str().to_lowercase(),
            fits: self.words.to_json(),
            example: JsonPacket::of(&self.example.packet, self.example.besides()),
            depends_on: depends_on
                .map(|(condition, holds)| JsonCondition {
                    condition: condition.clone(),
                    holds: *holds,
                })
                .collect(),
        }
    }
}

impl BoxWords {
    /// The parts for programs.
    pub fn to_json(&self) -> JsonWhere {
        let some = |part| self.get(part).map(ValueList::marked);
        let always = |part| some(part).unwrap_or_default();
        JsonWhere {
            from: always(PacketPart::From),
            to: always(PacketPart::To),
            source: always(PacketPart::Source),
            destination: always(PacketPart::Destination),
            service: always(PacketPart::Service),
            state: always(PacketPart::State),
            tcp_flags: some(PacketPart::TcpFlags),
            source_nat: some(PacketPart::SourceNat),
            destination_nat: some(PacketPart::DestinationNat),
            mark: some(PacketPart::Mark),
            hop_limit: some(PacketPart::HopLimit),
            mac: some(PacketPart::Mac),
            packet_type: some(PacketPart::PacketType),
            fragment: some(PacketPart::Fragment),
        }
    }
}

impl From<&Packet> for JsonPacket {
    fn from(packet: &Packet) -> Self {
        Self::of(packet, [])
    }
}

impl JsonPacket {
    /// A packet with what a [`Packet`] has no field for, by name: see [`Witness::besides`](super::Witness::besides).
    pub fn of(packet: &Packet, besides: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        let flags = packet.tcp_flags.map(|set| {
            let looked_at = TcpFlags(0x3f);
            TcpFlagsMatch { looked_at, set }.keyword()
        });
        let mut json = Self {
            in_device: packet.in_device.clone(),
            out_device: packet.out_device.clone(),
            source: packet.source.to_string(),
            destination: packet.destination.to_string(),
            protocol: Protocol(packet.protocol).to_string(),
            source_port: packet.source_port,
            destination_port: packet.destination_port,
            icmp_type: packet.icmp.map(|(kind, code)| format!("{kind}/{code}")),
            tcp_flags: flags,
            state: packet.state.keyword().to_lowercase(),
            hop_limit: packet.hop_limit,
            mark: (packet.mark != 0).then(|| format!("{:#x}", packet.mark)),
            connection_mark: None,
            mac: packet.mac.map(|mac| MacAddress(mac).to_string()),
            packet_type: None,
            fragment: None,
        };
        for (name, text) in besides {
            match name {
                "connection-mark" => json.connection_mark = Some(text),
                "packet-type" => json.packet_type = Some(text),
                "fragment" => json.fragment = Some(text),
                // The hop limit is a field of the packet.
                _ => {}
            }
        }
        json
    }
}
