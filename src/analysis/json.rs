//! Packets and boxes as JSON, for `--json` output.

use serde_json::{Map, Value, json};

use super::behaviour::BaseChain;
use super::boxes::PacketBox;
use super::witness::Witness;
use super::words::{Part, Words};
use crate::net::{Family, MacAddress, Packet, Protocol, TcpFlags, TcpFlagsMatch};

/// The parts that the output always has, as empty lists where every value is meant, so that programs need not test for
/// them.
const ALWAYS: [Part; 6] = [
    Part::From,
    Part::To,
    Part::Source,
    Part::Destination,
    Part::Service,
    Part::State,
];

impl PacketBox {
    /// Returns the box as all commands print it: `{"family", "hook", "where", "example", "depends_on"}`.
    ///
    /// A list in `where` means any of its values, or none of them if each begins with `!`; an empty list means every
    /// value. `example` is one packet of the box; `depends_on` lists the conditions that the engine does not
    /// understand.
    pub fn to_json(&self, family: Family, chain: BaseChain) -> Map<String, Value> {
        let mut map = Map::new();
        let hook = chain.as_str().to_lowercase();
        map.insert("family".to_owned(), family.keyword().into());
        map.insert("hook".to_owned(), hook.into());
        map.insert("where".to_owned(), self.words.to_json());
        map.insert("example".to_owned(), example_json(&self.example));
        let depends_on = self.words.depends_on.iter();
        let depends_on = depends_on
            .map(|(condition, holds)| json!({ "condition": condition, "holds": holds }))
            .collect::<Vec<_>>();
        map.insert("depends_on".to_owned(), depends_on.into());
        map
    }
}

impl Words {
    /// Returns the parts by name, each as a list of words.
    pub fn to_json(&self) -> Value {
        let mut parts = Map::new();
        for part in ALWAYS {
            parts.insert(part.as_str().to_owned(), json!([]));
        }
        for (part, list) in &self.parts {
            parts.insert(part.as_str().to_owned(), list.marked().into());
        }
        parts.into()
    }
}

/// Returns an example as JSON: the fields of the packet and the further facts that it is an example of.
pub fn example_json(example: &Witness) -> Value {
    let mut value = packet_json(&example.packet);
    if let Value::Object(map) = &mut value {
        for (name, text) in example.besides() {
            map.entry(name).or_insert(text.into());
        }
    }
    value
}

/// Returns a packet as JSON, with the fields that it has.
pub fn packet_json(packet: &Packet) -> Value {
    let mut map = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            map.insert(key.to_owned(), value);
        }
    };
    put("in", packet.in_device.clone().map(Value::from));
    put("out", packet.out_device.clone().map(Value::from));
    put("source", Some(packet.source.to_string().into()));
    put("destination", Some(packet.destination.to_string().into()));
    let protocol = Protocol(packet.protocol).to_string();
    put("protocol", Some(protocol.into()));
    put("source-port", packet.source_port.map(Value::from));
    put("destination-port", packet.destination_port.map(Value::from));
    let icmp = packet.icmp.map(|(kind, code)| format!("{kind}/{code}"));
    put("icmp-type", icmp.map(Value::from));
    let flags = packet.tcp_flags.map(|set| {
        let looked_at = TcpFlags(0x3f);
        TcpFlagsMatch { looked_at, set }.keyword()
    });
    put("tcp-flags", flags.map(Value::from));
    put("state", Some(packet.state.keyword().to_lowercase().into()));
    put("hop-limit", Some(packet.hop_limit.into()));
    let mark = (packet.mark != 0).then(|| format!("{:#x}", packet.mark));
    put("mark", mark.map(Value::from));
    put(
        "mac",
        packet.mac.map(|mac| MacAddress(mac).to_string().into()),
    );
    map.into()
}
