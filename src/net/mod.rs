//! The field's own values: addresses, ports, protocols, packets. Parsed once, at the edge.

mod family;
mod packet;

pub use family::{Family, PerFamily};
pub use packet::{Hook, Packet, State, TcpFlags};
