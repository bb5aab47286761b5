//! What this host sends to itself comes back with its connection; what has none is looked at anew.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use fwc::iptables::{Ruleset, TableName, UndecidedCondition, Unknowns, follow};
use fwc::net::{Family, Hook, Packet, State, TcpFlags, Translated};
use libtest_mimic::{Completion, Failed, Trial};
use nix::sys::socket::{AddressFamily, MsgFlags, SockaddrIn, SockaddrIn6, sendto};

use crate::environment::kernel_test;
use crate::lab::frame::{self, Data, Defect};
use crate::lab::raw_socket;
use crate::support::namespace::Namespace;
use crate::support::tools::Backend;

/// A packet takes a moment; only a machine that stands still takes this long.
const PATIENCE: Duration = Duration::from_secs(30);
const PORT: u16 = 40_000;
const RULES: &str = "\
*raw
-A PREROUTING -i lo -p tcp -m tcp --sport 40000 -j CT --notrack
COMMIT
*filter
-A INPUT -i lo -p tcp -m tcp --sport 40000 -m conntrack --ctstate NEW
-A INPUT -i lo -p tcp -m tcp --sport 40000 -m conntrack --ctstate INVALID
-A INPUT -i lo -p tcp -m tcp --sport 40000 -m conntrack --ctstate UNTRACKED
COMMIT
";

/// One test for each backend and family.
pub fn all() -> Vec<Trial> {
    let places = Backend::ALL
        .into_iter()
        .flat_map(|backend| Family::ALL.map(|family| (backend, family)));
    let tests = places.map(|(backend, family)| {
        let name = format!("looped::{backend}-{}", family.keyword());
        kernel_test(name, backend, move || {
            run(backend, family)
                .map(|()| Completion::Completed)
                .map_err(Failed::from)
        })
    });
    tests.collect()
}

/// A packet that opens a connection is tracked when it comes back, whatever the raw table says then; one that can open none
/// becomes untracked there.
fn run(backend: Backend, family: Family) -> Result<(), String> {
    let host = Namespace::new()?;
    for (flags, sent, comes_back) in [
        (0x02, State::New, State::New),
        (0x06, State::Invalid, State::Untracked),
    ] {
        let packet = packet(family, TcpFlags(flags), sent);
        let walked = walked(&packet)?;
        host.restore(backend, family, &[], RULES)?;
        host.enter(|| send(&packet))?;
        let deadline = Instant::now() + PATIENCE;
        let counted = loop {
            let text = host.save(backend, family, &["-c"])?;
            let saved = Ruleset::from_text(&text, family).map_err(|error| error.to_string())?;
            let counted = counted(&saved);
            if counted.iter().sum::<u64>() > 0 {
                break counted;
            }
            if Instant::now() > deadline {
                return Err(format!("the packet did not come back: {text}"));
            }
        };
        let wanted = [State::New, State::Invalid, State::Untracked].map(|it| it == comes_back);
        if counted != wanted.map(u64::from) || walked != comes_back {
            return Err(format!(
                "{packet}: kernel {counted:?}, walker {walked:?}, and not {comes_back:?}"
            ));
        }
    }
    Ok(())
}

/// What the rules of INPUT have counted, state by state.
fn counted(saved: &Ruleset) -> [u64; 3] {
    let table = saved.table(TableName::Filter);
    let rules = table
        .and_then(|table| table.chain("INPUT"))
        .map(|chain| &chain.rules);
    [0, 1, 2].map(|at| {
        let rule = rules.and_then(|rules| rules.get(at));
        let counters = rule.and_then(|rule| rule.counters);
        counters.map_or(0, |counters| counters.packets)
    })
}

struct Nobody;

impl Unknowns for Nobody {
    fn holds(&mut self, _: UndecidedCondition<'_>) -> Option<bool> {
        None
    }
}

/// The state with which the walker takes the packet through INPUT.
fn walked(sent: &Packet) -> Result<State, String> {
    let ruleset = Ruleset::from_text(RULES, sent.family).map_err(|error| error.to_string())?;
    let back = Packet {
        hook: Hook::Input,
        in_device: sent.out_device.clone(),
        out_device: None,
        ..sent.clone()
    };
    let journey = follow(&ruleset, &back, 0, &mut Nobody).map_err(|error| error.to_string())?;
    Ok(journey.packet.state)
}

fn packet(family: Family, flags: TcpFlags, state: State) -> Packet {
    let here: IpAddr = match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    };
    Packet {
        family,
        hook: Hook::Output,
        in_device: None,
        out_device: Some("lo".to_owned()),
        source: here,
        destination: here,
        protocol: frame::protocol::TCP,
        source_port: Some(PORT),
        destination_port: Some(9),
        icmp: None,
        tcp_flags: Some(flags),
        state,
        hop_limit: 64,
        mark: 0,
        mac: None,
        translated: Translated::default(),
    }
}

fn send(packet: &Packet) -> Result<(), String> {
    let payload = frame::ip_payload(packet, Data::default(), Defect::None);
    let bytes = frame::ip_packet(packet, packet.hop_limit, &payload);
    let flags = MsgFlags::empty();
    let sent = match packet.destination {
        IpAddr::V4(to) => {
            let socket = raw_socket(AddressFamily::Inet);
            let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
            sendto(socket.as_raw_fd(), &bytes, &to, flags)
        }
        IpAddr::V6(to) => {
            let socket = raw_socket(AddressFamily::Inet6);
            let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, 0));
            sendto(socket.as_raw_fd(), &bytes, &to, flags)
        }
    };
    sent.map(drop).map_err(|error| format!("{error}: {packet}"))
}
