//! A rate per source holds over time: bursts with pauses between them, counted by the kernel.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fwc::net::{Family, PerFamily};
use libtest_mimic::{Completion, Trial};

use crate::compile::rules_of;
use crate::counters::{Counter, Counters};
use crate::environment::kernel_test;
use crate::support::namespace::Namespace;
use crate::support::network::{End, Reply, link, udp};
use crate::support::tools::Backend;

pub fn all() -> Vec<Trial> {
    let mut trials = Vec::new();
    for backend in Backend::ALL {
        trials.push(kernel_test(
            format!("rates::held-over-pauses::{backend}"),
            backend,
            move || Ok(held_over_pauses(backend)?),
        ));
        trials.push(kernel_test(
            format!("rates::fact-a-silent-source-is-forgotten::{backend}"),
            backend,
            move || Ok(a_silent_source_is_forgotten(backend)?),
        ));
    }
    trials
}

/// Longer than a bucket lives by iptables' own value under a rate a second: one second, and up to one more until the
/// kernel looks for what has expired (`--hashlimit-htable-gcinterval`).
const PAUSE: Duration = Duration::from_millis(2_500);

/// How long counters may lag behind what was sent, on a machine with other work.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One source and the host that it sends to.
pub struct Wire {
    pub source: Namespace,
    pub host: Namespace,
}

/// The host's addresses.
pub const HOST: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

impl Wire {
    pub fn new() -> Result<Self, String> {
        let wire = Self {
            source: Namespace::new()?,
            host: Namespace::new()?,
        };
        link(
            &End(&wire.host, "eth0", &["192.0.2.1/24", "2001:db8::1/64"]),
            &End(&wire.source, "eth0", &["192.0.2.2/24", "2001:db8::2/64"]),
        )?;
        // Neighbours that know each other lose none of the first packets.
        for address in HOST {
            let address: IpAddr = address.parse().map_err(|_| "an address")?;
            let deadline = Instant::now() + PATIENCE;
            while udp(&wire.source, &wire.host, SocketAddr::new(address, 9))? != Reply::Answer {
                if Instant::now() > deadline {
                    return Err(format!("{address} does not answer without rules"));
                }
            }
        }
        Ok(wire)
    }

    pub fn load(&self, backend: Backend, rules: &PerFamily<String>) -> Result<(), String> {
        rules
            .iter()
            .try_for_each(|(family, text)| self.host.restore(backend, family, &[], text))
    }

    /// What the host's rules have counted.
    pub fn counters(&self, backend: Backend, family: Family) -> Result<Vec<Counter>, String> {
        let saved = self.host.save(backend, family, &["-c"])?;
        Ok(Counters::parse(&saved).0)
    }

    /// Sends so many datagrams to a port of the host.
    pub fn send(&self, family: Family, port: u16, number: u64) -> Result<(), String> {
        let address: IpAddr = HOST[family as usize].parse().map_err(|_| "an address")?;
        self.source.enter(|| {
            let here = match family {
                Family::V4 => "0.0.0.0:0",
                Family::V6 => "[::]:0",
            };
            let socket = UdpSocket::bind(here).map_err(|error| error.to_string())?;
            (0..number).try_for_each(|_| {
                let sent = socket.send_to(b"x", SocketAddr::new(address, port));
                sent.map(|_| ())
                    .map_err(|error| format!("sending: {error}"))
            })
        })
    }

    /// Sends so many datagrams to a port, and returns how many of them its rule let in.
    fn burst(&self, backend: Backend, family: Family, port: u16, sent: u64) -> Result<u64, String> {
        let count = |wanted: &dyn Fn(&str) -> bool| -> Result<u64, String> {
            let counters = self.counters(backend, family)?;
            let matching = counters.iter().filter(|one| wanted(&one.text));
            Ok(matching.map(|one| one.packets).sum())
        };
        let arriving = |text: &str| text.contains(&format!("--dport {port} "));
        let passed = |text: &str| {
            text.contains(&format!("\"fwc:{port}\""))
                && text.contains("-m hashlimit")
                && text.ends_with("-j ACCEPT")
        };
        let (arrived, before) = (count(&arriving)?, count(&passed)?);
        self.send(family, port, sent)?;
        let deadline = Instant::now() + PATIENCE;
        while count(&arriving)? < arrived + sent {
            if Instant::now() > deadline {
                return Err(format!("not all of {sent} datagrams to {port} arrived"));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(count(&passed)? - before)
    }
}

/// What was let in from one source, and the time from before the first packet until after the last.
struct Passed {
    first: u64,
    later: u64,
    seconds: u64,
}

/// Three bursts, each of twice what may come at once, with a pause before the second and the third.
fn three_bursts(
    wire: &Wire,
    backend: Backend,
    family: Family,
    port: u16,
    burst: u64,
) -> Result<Passed, String> {
    let begun = Instant::now();
    let first = wire.burst(backend, family, port, 2 * burst)?;
    let mut later = 0;
    for _ in 0..2 {
        sleep(PAUSE);
        later += wire.burst(backend, family, port, 2 * burst)?;
    }
    Ok(Passed {
        first,
        later,
        seconds: begun.elapsed().as_secs() + 1,
    })
}

/// The ports with the burst and the packets a second of their rule, each a rule of its own.
const RULES: [(u16, &str, u64, u64); 3] = [
    (514, "rate = \"1/second\", burst = 30", 30, 1),
    (515, "rate = \"1/second\"", 5, 1),
    (516, "rate = \"120/minute\", burst = 40", 40, 2),
];

/// No source gets more than its burst and its rate, however it divides its packets over the time.
fn held_over_pauses(backend: Backend) -> Result<Completion, String> {
    let wire = Wire::new()?;
    let mut policy = "version = 1\n[defaults]\nlog = false\n".to_owned();
    for (port, rate, ..) in RULES {
        policy += &format!(
            "[[rules]]\nname = \"{port}\"\nservice = \"{port}/udp\"\nlimit = {{ {rate}, per = \"source\" }}\n"
        );
    }
    wire.load(backend, &rules_of(&policy)?)?;
    for family in Family::ALL {
        for (port, rate, burst, a_second) in RULES {
            let passed = three_bursts(&wire, backend, family, port, burst)?;
            let Passed {
                first,
                later,
                seconds,
            } = passed;
            let most = burst + seconds * a_second;
            let what = format!("{family}, {rate}: {first}, then {later} in {seconds} s");
            if first < burst {
                return Err(format!("{what}: the first burst has {burst}"));
            }
            if first + later > most {
                return Err(format!("{what}: no more than {most} may pass"));
            }
            // Two pauses of more than two seconds.
            if first + later < burst + 4 * a_second && seconds < burst / a_second {
                return Err(format!("{what}: the bucket does not refill"));
            }
        }
    }
    Ok(Completion::Completed)
}

/// The kernel fact behind `--hashlimit-htable-expire`: without it a source that waits for one unit of the rate is forgotten,
/// and has its whole burst again. With it, it has not.
fn a_silent_source_is_forgotten(backend: Backend) -> Result<Completion, String> {
    let wire = Wire::new()?;
    let rule = |port: u16, expiry: &str| {
        format!(
            "-A INPUT -p udp --dport {port} -j P{port}\n\
             -A P{port} -m hashlimit --hashlimit-upto 1/min --hashlimit-burst 30 --hashlimit-mode srcip \
             --hashlimit-name fact-{port}{expiry} -m comment --comment \"fwc:{port}\" -j ACCEPT\n"
        )
    };
    let text = format!(
        "*filter\n:P520 - [0:0]\n:P521 - [0:0]\n{}{}COMMIT\n",
        rule(520, " --hashlimit-htable-expire 1000"),
        rule(521, " --hashlimit-htable-expire 1800000"),
    );
    wire.load(backend, &PerFamily::from_fn(|_| text.clone()))?;
    for family in Family::ALL {
        let first = wire.burst(backend, family, 520, 60)?;
        if first != 30 {
            return Err(format!(
                "{family}: the first burst has 30 packets, not {first}"
            ));
        }
        let deadline = Instant::now() + PATIENCE;
        // A burst in between would keep the bucket: each time it waits until the kernel had time to look.
        loop {
            sleep(PAUSE);
            match wire.burst(backend, family, 520, 60)? {
                30 => break,
                _ if Instant::now() < deadline => {}
                later => return Err(format!("{family}: {later} after a pause, not 30")),
            }
        }
        let kept = three_bursts(&wire, backend, family, 521, 30)?;
        let most = 30 + kept.seconds / 60 + 1;
        if kept.first < 30 || kept.first + kept.later > most {
            let Passed { first, later, .. } = kept;
            return Err(format!(
                "{family}: {first}, then {later}, and at most {most} may pass"
            ));
        }
    }
    Ok(Completion::Completed)
}
