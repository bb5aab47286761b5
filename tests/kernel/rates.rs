//! Rates hold over time, in each bucket of its own: bursts with pauses between them, counted by the kernel.

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
        trials.push(kernel_test(
            format!("rates::counted-by-parts::{backend}"),
            backend,
            move || Ok(counted_by_parts(backend)?),
        ));
        trials.push(kernel_test(
            format!("rates::bytes-a-second::{backend}"),
            backend,
            move || Ok(bytes_a_second(backend)?),
        ));
        trials.push(kernel_test(
            format!("rates::fact-bytes-are-per-second::{backend}"),
            backend,
            move || Ok(bytes_are_per_second(backend)?),
        ));
        trials.push(kernel_test(
            format!("rates::fact-a-burst-of-bytes-never-refills::{backend}"),
            backend,
            move || Ok(a_burst_of_bytes_never_refills(backend)?),
        ));
        trials.push(kernel_test(
            format!("rates::fact-rules-share-a-hashlimit-table::{backend}"),
            backend,
            move || Ok(rules_share_a_table(backend)?),
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
        Self::between(
            &["192.0.2.1/24", "2001:db8::1/64"],
            &["192.0.2.2/24", "2001:db8::2/64"],
        )
    }

    /// A wire between a host and a source with these addresses; the host has at least those of [`HOST`].
    fn between(host: &[&str], source: &[&str]) -> Result<Self, String> {
        let wire = Self {
            source: Namespace::new()?,
            host: Namespace::new()?,
        };
        link(
            &End(&wire.host, "eth0", host),
            &End(&wire.source, "eth0", source),
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

    /// Sends datagrams from an address of the source to one of the host, and returns how many of them the rule let in.
    fn passed_of(&self, backend: Backend, rule: &Rule, flight: &Flight) -> Result<u64, String> {
        let from: IpAddr = flight.from.parse().map_err(|_| "an address")?;
        let to: IpAddr = flight.to.parse().map_err(|_| "an address")?;
        let count = |wanted: &dyn Fn(&str) -> bool| -> Result<u64, String> {
            let counters = self.counters(backend, Family::of(to))?;
            let matching = counters.iter().filter(|one| wanted(&one.text));
            Ok(matching.map(|one| one.packets).sum())
        };
        let arriving = |text: &str| text.contains(&format!("--dport {} ", rule.ports));
        let passed = |text: &str| {
            text.contains(&format!("\"fwc:{}\"", rule.ports))
                && text.contains("limit --")
                && text.ends_with("-j ACCEPT")
        };
        let (arrived, before) = (count(&arriving)?, count(&passed)?);
        self.source.enter(|| {
            let socket = UdpSocket::bind(SocketAddr::new(from, 0));
            let socket = socket.map_err(|error| format!("{from}: {error}"))?;
            (0..flight.sent).try_for_each(|_| {
                let data = vec![b'x'; flight.bytes];
                let sent = socket.send_to(&data, SocketAddr::new(to, flight.port));
                sent.map(|_| ())
                    .map_err(|error| format!("sending: {error}"))
            })
        })?;
        let deadline = Instant::now() + PATIENCE;
        while count(&arriving)? < arrived + flight.sent {
            if Instant::now() > deadline {
                return Err(format!("not all of {flight:?} arrived"));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(count(&passed)? - before)
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
                && text.contains("limit --")
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

/// The kernel fact behind named limits: rules with one `--hashlimit-name` have one bucket, in any base chain; rules with the same
/// `limit` have one each. A table belongs to one family.
fn rules_share_a_table(backend: Backend) -> Result<Completion, String> {
    let wire = Wire::new()?;
    let rule = |port: u16, limit: &str| {
        format!(
            "-A INPUT -p udp --dport {port} -j P{port}\n\
             -A P{port} {limit} -m comment --comment \"fwc:{port}\" -j ACCEPT\n"
        )
    };
    let shared = "-m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 30 --hashlimit-name fact-shared \
                  --hashlimit-htable-expire 108000000";
    let own = "-m limit --limit 1/hour --limit-burst 30";
    let text = format!(
        "*filter\n:P530 - [0:0]\n:P531 - [0:0]\n:P532 - [0:0]\n:P533 - [0:0]\n{}{}{}{}COMMIT\n",
        rule(530, shared),
        rule(531, shared),
        rule(532, own),
        rule(533, own),
    );
    wire.load(backend, &PerFamily::from_fn(|_| text.clone()))?;
    for family in Family::ALL {
        for (port, sent, expected) in [(530, 20, 20), (531, 20, 10), (532, 40, 30), (533, 40, 30)] {
            let passed = wire.burst(backend, family, port, sent)?;
            if passed != expected {
                return Err(format!(
                    "{family}: {passed} of {sent} passed at port {port}, not {expected}"
                ));
            }
        }
    }
    Ok(Completion::Completed)
}

/// A rule of the policy: its ports, which are its name too, and its limit.
struct Rule {
    ports: &'static str,
    limit: &'static str,
}

/// Datagrams from one address to a port of another, each with so many bytes of data.
#[derive(Debug)]
struct Flight {
    from: &'static str,
    to: &'static str,
    port: u16,
    sent: u64,
    bytes: usize,
}

impl Rule {
    fn policy(rules: &[Self]) -> String {
        let mut policy = "version = 1\n[defaults]\nlog = false\n".to_owned();
        for Rule { ports, limit } in rules {
            let service = ports.replace(':', "-");
            policy += &format!(
                "[[rules]]\nname = \"{ports}\"\nservice = \"{service}/udp\"\nlimit = {{ {limit} }}\n"
            );
        }
        policy
    }
}

/// A wire on which all these addresses are neighbours.
fn wire_of_many() -> Result<Wire, String> {
    let host = [
        "192.0.2.1/16",
        "192.0.2.9/16",
        "2001:db8::1/32",
        "2001:db8::9/32",
    ];
    let source = [
        "192.0.2.2/16",
        "192.0.2.3/16",
        "192.0.3.2/16",
        "2001:db8::2/32",
        "2001:db8:0:ff::2/32",
        "2001:db8:0:100::2/32",
    ];
    Wire::between(&host, &source)
}

/// Each destination, and each combination of prefix and port, has a bucket of its own, and only one.
fn counted_by_parts(backend: Backend) -> Result<Completion, String> {
    let rules = [
        Rule {
            ports: "520",
            limit: "rate = \"1/hour\", burst = 3, per = \"destination\"",
        },
        Rule {
            ports: "530:531",
            limit: "rate = \"1/hour\", burst = 3, per = [\"source/24/56\", \"destination-port\"]",
        },
    ];
    let [destination, combination] = &rules;
    let wire = wire_of_many()?;
    wire.load(backend, &rules_of(&Rule::policy(&rules))?)?;
    let [v4, v6] = [
        [
            "192.0.2.2",
            "192.0.2.3",
            "192.0.3.2",
            "192.0.2.1",
            "192.0.2.9",
        ],
        [
            "2001:db8::2",
            "2001:db8:0:ff::2",
            "2001:db8:0:100::2",
            "2001:db8::1",
            "2001:db8::9",
        ],
    ];
    for [one, near, far, host, second] in [v4, v6] {
        let expected = [
            (destination, one, host, 520, 3),
            // Whoever sends: the destination's bucket is empty.
            (destination, far, host, 520, 0),
            (destination, far, second, 520, 3),
            (combination, one, host, 530, 3),
            // The same prefix and port, wherever they go.
            (combination, near, second, 530, 0),
            (combination, near, second, 531, 3),
            (combination, far, host, 530, 3),
            (combination, far, host, 531, 3),
            (combination, far, host, 531, 0),
        ];
        for (rule, from, to, port, wanted) in expected {
            let (sent, bytes) = (5, 1);
            let flight = Flight {
                from,
                to,
                port,
                sent,
                bytes,
            };
            let passed = wire.passed_of(backend, rule, &flight)?;
            if passed != wanted {
                return Err(format!("{passed} of {flight:?} passed, not {wanted}"));
            }
        }
    }
    Ok(Completion::Completed)
}

/// No more than the bytes of a second pass at once, and no more than the rate after that; what counts is not the packets.
fn bytes_a_second(backend: Backend) -> Result<Completion, String> {
    let rules = [
        Rule {
            ports: "540",
            limit: "rate = \"32KiB/second\"",
        },
        Rule {
            ports: "541",
            limit: "rate = \"32KiB/second\", per = \"destination\"",
        },
        Rule {
            ports: "542",
            limit: "rate = \"32KiB/second\", per = \"source\"",
        },
    ];
    let [together, destination, source] = &rules;
    let wire = wire_of_many()?;
    wire.load(backend, &rules_of(&Rule::policy(&rules))?)?;
    // With its headers a datagram has 1028 or 1048 bytes, so that 32 KiB have 31 of them; rounded to 16 bytes by the kernel.
    let (bytes, least, most) = (1000, 30, 33);
    let v4 = ["192.0.2.2", "192.0.2.1", "192.0.2.9"];
    let v6 = ["2001:db8::2", "2001:db8::1", "2001:db8::9"];
    for [from, host, second] in [v4, v6] {
        let flight = |to, port, sent, bytes| Flight {
            from,
            to,
            port,
            sent,
            bytes,
        };
        for (rule, port) in [(together, 540), (destination, 541), (source, 542)] {
            let begun = Instant::now();
            let mut passed = 0;
            for _ in 0..2 {
                let flight = flight(host, port, 100, bytes);
                let now = wire.passed_of(backend, rule, &flight)?;
                if now < least {
                    return Err(format!("{now} of {flight:?} passed, not {least}"));
                }
                passed += now;
                sleep(PAUSE);
            }
            let seconds = begun.elapsed().as_secs() + 1;
            if passed > most * (1 + seconds) {
                return Err(format!("port {port}: {passed} passed in {seconds} s"));
            }
            // Small ones: 200 have as many bytes as 6 large ones.
            let small = flight(host, port, 200, 1);
            let passed = wire.passed_of(backend, rule, &small)?;
            if passed != 200 {
                return Err(format!("{passed} of {small:?} passed"));
            }
        }
        // One destination leaves the other its own.
        let begun = Instant::now();
        let [first, other] = [host, second].map(|to| {
            let flight = flight(to, 541, 100, bytes);
            wire.passed_of(backend, destination, &flight)
        });
        let (first, other) = (first?, other?);
        let late = begun.elapsed() > Duration::from_millis(500);
        if other < least || (!late && first + other < 2 * least - 10) {
            return Err(format!("{first}, then {other} to another destination"));
        }
    }
    Ok(Completion::Completed)
}

/// The fact behind the units of a rate of bytes: iptables takes others without an error, for something else.
fn bytes_are_per_second(backend: Backend) -> Result<Completion, String> {
    let host = Namespace::new()?;
    for family in Family::ALL {
        for (written, saved) in [
            ("512kb/minute", "512/min"),
            ("1gb/s", "0b/s"),
            ("512kb/s", "512kb/s"),
        ] {
            let text = format!(
                "*filter\n-A INPUT -m hashlimit --hashlimit-upto {written} --hashlimit-name x -j ACCEPT\nCOMMIT\n"
            );
            host.restore(backend, family, &[], &text)?;
            let found = host.save(backend, family, &[])?;
            if !found.contains(&format!("--hashlimit-upto {saved} ")) {
                return Err(format!(
                    "{family}: {written} is not saved as {saved}\n{found}"
                ));
            }
        }
    }
    Ok(Completion::Completed)
}

/// The fact behind a rate of bytes without `burst`: the kernel counts a burst down, and never up again.
fn a_burst_of_bytes_never_refills(backend: Backend) -> Result<Completion, String> {
    let rule = Rule {
        ports: "543",
        limit: "",
    };
    let wire = wire_of_many()?;
    let text = "*filter\n:P543 - [0:0]\n-A INPUT -p udp --dport 543 -j P543\n\
         -A P543 -m hashlimit --hashlimit-upto 32kb/s --hashlimit-burst 320kb --hashlimit-mode srcip \
         --hashlimit-name fact-543 --hashlimit-htable-expire 600000 -m comment --comment \"fwc:543\" -j ACCEPT\nCOMMIT\n";
    wire.load(backend, &PerFamily::from_fn(|_| text.to_owned()))?;
    for (from, to) in [("192.0.2.2", "192.0.2.1"), ("2001:db8::2", "2001:db8::1")] {
        let pass = || {
            let flight = Flight {
                from,
                to,
                port: 543,
                sent: 400,
                bytes: 1000,
            };
            let begun = Instant::now();
            let passed = wire.passed_of(backend, &rule, &flight)?;
            Ok::<_, String>((passed, begun.elapsed().as_secs() + 1))
        };
        let (first, _) = pass()?;
        sleep(4 * PAUSE);
        let (second, seconds) = pass()?;
        // Ten seconds of the rate are 310 datagrams, and a full bucket has 31.
        if first < 310 || second > 33 * (1 + seconds) {
            return Err(format!("{first} from {from}, then {second} in {seconds} s"));
        }
    }
    Ok(Completion::Completed)
}
