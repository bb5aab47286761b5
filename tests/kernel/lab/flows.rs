//! What connection tracking has to know before a packet is sent, so that it says the state that a probe wants.

use std::net::IpAddr;
use std::time::Instant;

use fwc::net::{Family, Hook, Packet, State, TcpFlags};

use super::frame::{self, Data, Defect, protocol};
use super::{Lab, PATIENCE};
use crate::counters::decision;

impl Lab {
    pub(super) fn forget_flows(&self) -> Result<(), String> {
        self.inside.run("conntrack", &["-F"], "").map(drop)
    }

    /// Makes connection tracking know what the packet's state needs; returns how the packet has to be spoilt.
    pub(super) fn arrange_state(&mut self, packet: &Packet) -> Result<Defect, String> {
        let has_error_type = packet
            .icmp
            .is_some_and(|(kind, _)| frame::is_error(packet.protocol, kind));
        match packet.state {
            State::New | State::Untracked => {}
            State::Invalid => {
                return Ok(match (packet.icmp, packet.hook) {
                    // Not a question: INVALID by its type alone.
                    (Some((kind, _)), _) if !is_question(packet.protocol, kind) => Defect::None,
                    (_, Hook::Output) => Defect::Length,
                    _ => Defect::Checksum,
                });
            }
            State::Related if has_error_type => {
                self.know_flow(&Packet {
                    source: packet.destination,
                    destination: packet.source,
                    protocol: protocol::UDP,
                    source_port: Some(frame::CAUSE_PORTS.0),
                    destination_port: Some(frame::CAUSE_PORTS.1),
                    icmp: None,
                    ..packet.clone()
                })?;
            }
            State::Related => self.expect_flow(packet)?,
            State::Established => match packet.protocol {
                protocol::TCP | protocol::UDP | protocol::ICMP | protocol::ICMPV6 => {
                    self.know_flow(packet)?;
                }
                _ => self.exchange(packet)?,
            },
        }
        Ok(Defect::None)
    }

    /// Enters a flow that has seen packets both ways, opened in the packet's direction (an answer's: the other).
    fn know_flow(&self, packet: &Packet) -> Result<(), String> {
        let question = question_of(packet);
        let is_answer = packet.icmp.is_some() && question != packet.icmp.map(|icmp| icmp.0);
        let (from, to) = match is_answer {
            true => (packet.destination, packet.source),
            false => (packet.source, packet.destination),
        };
        let address_part = format!("-I -t 100 -u SEEN_REPLY,ASSURED -s {from} -d {to}");
        let protocol_part = match packet.protocol {
            protocol::TCP | protocol::UDP => {
                let ports = [packet.source_port, packet.destination_port];
                let [from, to] = ports.map(|port| port.unwrap_or(0));
                let protocol = match packet.protocol {
                    protocol::TCP => "tcp --state ESTABLISHED",
                    _ => "udp",
                };
                format!("-p {protocol} --sport {from} --dport {to}")
            }
            _ => {
                let kind = question.ok_or("an ICMP type without a question")?;
                let icmp = match packet.family {
                    Family::V4 => "icmp",
                    Family::V6 => "icmpv6",
                };
                let id = frame::ECHO_ID;
                format!("-p {icmp} --{icmp}-type {kind} --{icmp}-code 0 --{icmp}-id {id}")
            }
        };
        let words = [address_part.as_str(), " ", protocol_part.as_str()].concat();
        let words: Vec<&str> = words.split(' ').collect();
        self.inside.run("conntrack", &words, "").map(drop)
    }

    /// Two packets there and back, past the policy: its rules are away meanwhile.
    fn exchange(&mut self, packet: &Packet) -> Result<(), String> {
        self.without_rules(packet.family, |lab| {
            let there = as_input(packet);
            lab.pass(&there, Data::default())?;
            lab.pass(&turned_round(&there), Data::default())
        })
    }

    /// Has a connection tracking helper expect the packet: FTP for tcp (RFC 959, RFC 2428), TFTP for udp.
    fn expect_flow(&mut self, packet: &Packet) -> Result<(), String> {
        let mut question = turned_round(&as_input(packet));
        let answer_port = packet.destination_port.unwrap_or(0);
        let family = packet.family;
        self.without_rules(family, |lab| match packet.protocol {
            protocol::UDP => {
                question.destination_port = Some(69);
                lab.fill_helpers(family, helper_lines("udp", 69, "tftp"))?;
                let bytes = b"\0\x01file\0octet\0";
                lab.pass(
                    &question,
                    Data {
                        bytes,
                        ..Data::default()
                    },
                )
            }
            protocol::TCP => {
                question.source_port = Some(3000);
                question.destination_port = Some(21);
                lab.fill_helpers(family, helper_lines("tcp", 21, "ftp"))?;
                lab.pass(&question, Data::default())?;
                let flags = |packet: Packet, flags| Packet {
                    tcp_flags: Some(TcpFlags(flags)),
                    ..packet
                };
                lab.pass(&flags(turned_round(&question), 0x12), Data::default())?;
                let address = question.source;
                let command = match address {
                    IpAddr::V4(address) => {
                        let [a, b, c, d] = address.octets();
                        let [high, low] = answer_port.to_be_bytes();
                        format!("PORT {a},{b},{c},{d},{high},{low}\r\n")
                    }
                    IpAddr::V6(_) => format!("EPRT |2|{address}|{answer_port}|\r\n"),
                };
                let says = flags(question, 0x18);
                // The helper reads a line once it has seen the end of the line before.
                lab.pass(
                    &says,
                    Data {
                        bytes: b"\n",
                        ..Data::default()
                    },
                )?;
                let bytes = command.as_bytes();
                lab.pass(
                    &says,
                    Data {
                        offset: 1,
                        bytes,
                        ..Data::default()
                    },
                )
            }
            other => Err(format!("nothing makes protocol {other} RELATED")),
        })
    }

    fn without_rules(
        &mut self,
        family: Family,
        body: impl FnOnce(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        self.load_family(family, "")?;
        let done = body(self);
        let rules = self.rules[family].clone();
        self.load_family(family, &rules)?;
        done
    }

    /// Sends a packet to this host and waits until its filter table has seen it.
    fn pass(&mut self, packet: &Packet, data: Data<'_>) -> Result<(), String> {
        self.route_for(packet)?;
        if self.helpers[packet.family].is_none() {
            self.fill_helpers(packet.family, "-A TEST-OUT -j DROP\n".to_owned())?;
        }
        let before = self.counters(packet.family)?;
        self.send(packet, Defect::None, data)?;
        let deadline = Instant::now() + PATIENCE;
        while decision(packet.hook, &self.counters(packet.family)?.since(&before)?)?.is_none() {
            if Instant::now() > deadline {
                return Err("a packet that prepares another did not arrive".to_owned());
            }
        }
        Ok(())
    }
}

/// The packet on its way to this host: how other packets of its flow are sent while there are no rules.
fn as_input(packet: &Packet) -> Packet {
    let device = packet.in_device.clone().or(packet.out_device.clone());
    Packet {
        hook: Hook::Input,
        in_device: device,
        out_device: None,
        state: State::New,
        ..packet.clone()
    }
}

fn turned_round(packet: &Packet) -> Packet {
    Packet {
        source: packet.destination,
        destination: packet.source,
        source_port: packet.destination_port,
        destination_port: packet.source_port,
        ..packet.clone()
    }
}

fn helper_lines(protocol: &str, port: u16, helper: &str) -> String {
    format!(
        "-A TEST-IN -p {protocol} --dport {port} -j CT --helper {helper}\n-A TEST-OUT -j DROP\n"
    )
}

/// The kernel's list (`nf_conntrack_proto_icmp.c`, `nf_conntrack_proto_icmpv6.c`): these open a flow of their own.
fn is_question(protocol: u8, kind: u8) -> bool {
    match protocol {
        protocol::ICMP => matches!(kind, 8 | 13 | 15 | 17),
        _ => matches!(kind, 128 | 139),
    }
}

pub fn question_of(packet: &Packet) -> Option<u8> {
    let (kind, _) = packet.icmp?;
    let question = match (packet.protocol, kind) {
        (protocol::ICMP, 0) => 8,
        (protocol::ICMP, 14 | 16 | 18) | (protocol::ICMPV6, 129 | 140) => kind - 1,
        _ => kind,
    };
    is_question(packet.protocol, question).then_some(question)
}

/// Neighbour discovery and multicast listeners: the kernel leaves them untracked by itself.
pub fn is_never_tracked(packet: &Packet) -> bool {
    packet.protocol == protocol::ICMPV6
        && matches!(packet.icmp, Some((130..=137 | 143 | 151 | 152, _)))
}
