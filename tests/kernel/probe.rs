//! One probe: a packet and its verdict, as `probes.toml` writes them.

use std::net::IpAddr;
use std::path::Path;

use fwc::net::{Family, Hook, Packet, State, TcpFlags, Translated};
use fwc::policy::NatChain;
use serde::Deserialize;

use crate::circumstances::{Circumstances, Original, Others};
use crate::counters::Verdict;

/// `probes.toml` of one case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Case {
    pub about: String,
    pub sentence: String,
    #[serde(rename = "probe")]
    pub probes: Vec<Probe>,
}

/// One packet and what has to become of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Probe {
    family: String,
    hook: String,
    r#in: Option<String>,
    out: Option<String>,
    source: IpAddr,
    destination: IpAddr,
    protocol: Protocol,
    source_port: Option<u16>,
    destination_port: Option<u16>,
    icmp_type: Option<u8>,
    state: String,
    hop_limit: Option<u8>,
    mac: Option<String>,
    mark: Option<Mark>,
    tcp_flags: Option<String>,
    user: Option<u32>,
    group: Option<u32>,
    #[serde(default)]
    member_of: Vec<String>,
    /// Sets of others that have it as its rules ask.
    #[serde(default)]
    in_set: Vec<String>,
    #[serde(default)]
    earlier: usize,
    #[serde(default)]
    beyond: bool,
    /// So many came just before, and whether those were too many is for the burst to say.
    before: Option<usize>,
    before_source: Option<IpAddr>,
    before_destination: Option<IpAddr>,
    before_destination_port: Option<u16>,
    at: Option<toml::value::Datetime>,
    /// It has an authentication header; of IPv6, where `protocol = "ah"` says no more.
    #[serde(default)]
    ah: bool,
    /// Its destination was translated (ctstate DNAT).
    #[serde(default)]
    pub translated: bool,
    length: Option<u16>,
    original_destination: Option<IpAddr>,
    original_port: Option<u16>,
    /// `reply`; not said, that of the connection's first packet.
    direction: Option<String>,
    /// It came out of IPsec.
    #[serde(default)]
    ipsec_in: bool,
    /// It will go into IPsec.
    #[serde(default)]
    ipsec_out: bool,
    expect: Expect,
    pub why: String,
}

/// What has to become of a packet.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum Expect {
    Verdict(Verdict),
    Translation(Translation),
}

/// What one chain of the nat table makes of the first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Translation {
    None,
    Masquerade,
    Snat,
    Dnat,
    Redirect,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Protocol {
    Number(u8),
    Name(String),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Mark {
    Number(u32),
    Text(String),
}

impl Case {
    /// Reads `probes.toml`.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        toml::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// The devices that the packets use.
    pub fn devices(&self) -> impl Iterator<Item = String> {
        let devices = |probe: &Probe| [probe.r#in.clone(), probe.out.clone()];
        self.probes.iter().flat_map(devices).flatten()
    }
}

impl Probe {
    /// The verdict that the packet must have; `None` for one that is judged by the nat table alone.
    pub fn verdict(&self) -> Option<Verdict> {
        match self.expect {
            Expect::Verdict(verdict) => Some(verdict),
            Expect::Translation(_) => None,
        }
    }

    /// The chain of the nat table that the packet is judged by, and what that has to make of it.
    pub fn translation(&self) -> Result<Option<(NatChain, Translation)>, String> {
        let Expect::Translation(expected) = self.expect else {
            return Ok(None);
        };
        let chain = match self.hook.as_str() {
            "prerouting" => NatChain::Prerouting,
            "output" => NatChain::Output,
            "postrouting" => NatChain::Postrouting,
            other => return Err(format!("the nat table in {other}")),
        };
        Ok(Some((chain, expected)))
    }

    /// The hook of the packet; of a chain of the nat table one in which it has the same devices.
    fn hook(&self) -> Option<Hook> {
        match self.hook.as_str() {
            "prerouting" => Some(Hook::Input),
            "postrouting" if self.r#in.is_none() => Some(Hook::Output),
            "postrouting" => Some(Hook::Forward),
            name => {
                let mut hooks = Hook::ALL.into_iter();
                hooks.find(|hook| hook.chain().eq_ignore_ascii_case(name))
            }
        }
    }

    /// What the packet does not tell.
    pub fn circumstances(&self) -> Result<Circumstances, String> {
        let at = self.at.map(|at| at.to_string().parse());
        Ok(Circumstances {
            user: self.user,
            group: self.group,
            member_of: [&self.member_of[..], &self.in_set].concat(),
            earlier: self.before.unwrap_or(self.earlier),
            beyond: self.beyond,
            before: self.before,
            others: Others {
                source: self.before_source,
                destination: self.before_destination,
                destination_port: self.before_destination_port,
            },
            at: at.transpose().map_err(|error| format!("at: {error}"))?,
            extension_header: (self.ah || self.is_ah_in_ipv6()?).then_some(51),
            length: self.length,
            from_ipsec: self.ipsec_in,
            into_ipsec: self.ipsec_out,
            original: Original {
                destination: self.original_destination,
                port: self.original_port,
                is_reply: match self.direction.as_deref() {
                    None => false,
                    Some("reply") => true,
                    Some(other) => return Err(format!("direction {other}")),
                },
            },
        })
    }

    fn protocol(&self) -> Result<u8, String> {
        match &self.protocol {
            Protocol::Number(number) => Ok(*number),
            Protocol::Name(name) => protocol_number(name),
        }
    }

    fn is_ah_in_ipv6(&self) -> Result<bool, String> {
        Ok(self.family == Family::V6.keyword() && self.protocol()? == 51)
    }

    /// The packet that the probe describes.
    pub fn packet(&self) -> Result<Packet, String> {
        /// IPv6 in IPv6: what follows the header in tunnel mode.
        const TUNNELLED: u8 = 41;
        let protocol = match self.is_ah_in_ipv6()? {
            true => TUNNELLED,
            false => self.protocol()?,
        };
        let tcp_flags = match &self.tcp_flags {
            Some(names) => Some(flags(names)?),
            None => (protocol == 6).then_some(TcpFlags::SYN),
        };
        let mark = match &self.mark {
            None => 0,
            Some(Mark::Number(mark)) => *mark,
            Some(Mark::Text(text)) => number(text)?,
        };
        Ok(Packet {
            family: Family::ALL
                .into_iter()
                .find(|family| family.keyword() == self.family)
                .ok_or_else(|| format!("family {}", self.family))?,
            hook: self.hook().ok_or_else(|| format!("hook {}", self.hook))?,
            in_device: self.r#in.clone(),
            out_device: self.out.clone(),
            source: self.source,
            destination: self.destination,
            protocol,
            source_port: self.source_port,
            destination_port: self.destination_port,
            icmp: self.icmp_type.map(|kind| (kind, 0)),
            tcp_flags,
            state: State::ALL
                .into_iter()
                .find(|state| state.keyword().eq_ignore_ascii_case(&self.state))
                .ok_or_else(|| format!("state {}", self.state))?,
            hop_limit: self.hop_limit.unwrap_or(64),
            mark,
            mac: self.mac.as_deref().map(mac).transpose()?,
            translated: Translated {
                destination: self.translated,
                ..Translated::default()
            },
        })
    }
}

/// IANA, "Assigned Internet Protocol Numbers": the names that probes use.
fn protocol_number(name: &str) -> Result<u8, String> {
    Ok(match name {
        "icmp" => 1,
        "igmp" => 2,
        "ipip" | "ipencap" => 4,
        "tcp" => 6,
        "udp" => 17,
        "dccp" => 33,
        "ipv6" => 41,
        "gre" => 47,
        "esp" => 50,
        "ah" => 51,
        "icmpv6" => 58,
        "ospf" => 89,
        "pim" => 103,
        "vrrp" => 112,
        "l2tp" => 115,
        "sctp" => 132,
        "udplite" => 136,
        other => other.parse().map_err(|_| format!("protocol {other}"))?,
    })
}

fn flags(names: &str) -> Result<TcpFlags, String> {
    const NAMES: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];
    let mut bits = 0;
    for name in names
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
    {
        let bit = NAMES
            .iter()
            .position(|known| *known == name)
            .ok_or_else(|| format!("tcp flag {name}"))?;
        bits |= 1 << bit;
    }
    Ok(TcpFlags(bits))
}

fn number(text: &str) -> Result<u32, String> {
    match text.strip_prefix("0x") {
        Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16),
        None => text.parse(),
    }
    .map_err(|_| format!("number {text}"))
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Result<Vec<u8>, _> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect();
    bytes
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| format!("mac {text}"))
}
