//! The value types of packet filtering: addresses, ports, protocols, ICMP types, devices, rates, times, and one packet.
//!
//! The text of a policy is parsed into them once, where it is read. These parsers are stricter than those of iptables: they
//! refuse what two readers could understand differently, such as leading zeros (octal to iptables) and host bits behind a
//! prefix. Rules files are read by [`crate::iptables`], which reads values as the tools do.

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

pub use address::{AddressError, AddressMask, AddressRange, AddressSet, address_of, number_of};
pub use family::{Family, PerFamily};
pub use icmp::IcmpType;
pub use interface::{DeviceError, InterfacePattern, LONGEST_DEVICE};
pub use interval::{IntervalSet, prefix_length};
pub use jiff::civil::Date;
pub use matches::{
    MacAddress, MarkError, MarkMatch, SetEnds, SetType, TcpFlagsError, TcpFlagsMatch,
};
pub use packet::{Hook, Packet, PerHook, State, TcpFlags, Translated};
pub use port::{PortError, PortRange};
pub use protocol::Protocol;
pub use rate::{ByteRate, ByteRateError, Rate, RateError};
pub use time::{TimeOfDay, Weekday};
