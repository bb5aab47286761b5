//! The field's own values: addresses, ports, protocols, packets. Parsed once, at the edge.

mod address;
mod family;
mod icmp;
mod interface;
mod interval;
mod matches;
mod packet;
mod port;
mod protocol;
mod rate;
mod time;

pub use address::{AddressError, AddressRange, AddressSet, address_of, number_of};
pub use family::{Family, PerFamily};
pub use icmp::IcmpType;
pub use interface::{DeviceError, InterfacePattern, LONGEST_DEVICE};
pub use interval::{IntervalSet, prefix_length};
pub use jiff::civil::Date;
pub use matches::{MacAddress, MarkError, MarkMatch, TcpFlagsError, TcpFlagsMatch};
pub use packet::{Hook, Packet, State, TcpFlags, Translated};
pub use port::{PortError, PortRange};
pub use protocol::Protocol;
pub use rate::{Rate, RateError};
pub use time::{TimeOfDay, Weekday};
