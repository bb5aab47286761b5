//! Debian's fail2ban, which bans and unbans by its own commands while fwc applies.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Test;
use super::confirm::until;
use super::namespace::{Backend, Ended, Namespace};
use super::support::namespace::Namespace as Net;
use super::support::network::{End, link};
use super::support::tools::find;

pub const TESTS: &[(&str, Test)] = &[
    ("fail2ban_beside_shared_mode", |backend| {
        bans_outlive_applies(backend, "mode = \"shared\"", 50)
    }),
    ("fail2ban_beside_preserve", |backend| {
        bans_outlive_applies(backend, "preserve = \"f2b-*\"", 16)
    }),
];

type Result = std::result::Result<(), String>;

/// A running server; it ends with this value.
struct Fail2ban<'a> {
    ns: &'a Namespace,
    server: Child,
}

impl Drop for Fail2ban<'_> {
    fn drop(&mut self) {
        // As a machine that loses its power does: its rules are not removed.
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = fs::remove_file(self.ns.path("f2b/socket"));
    }
}

impl<'a> Fail2ban<'a> {
    /// The package's own action, with folders of this namespace.
    fn configure(ns: &Namespace) -> Result {
        let own = |name: &str| ns.path("f2b").join(name);
        for folder in ["action.d", "filter.d", "bin"] {
            fs::create_dir_all(own(folder)).unwrap();
        }
        let action = "action.d/iptables.conf";
        fs::copy(format!("/etc/fail2ban/{action}"), own(action))
            .map_err(|error| format!("fail2ban's action: {error}"))?;
        for tool in ["iptables", "ip6tables"] {
            let program = find(&format!("{tool}-{}", ns.backend))?;
            symlink(program, own("bin").join(tool)).unwrap();
        }
        let file = |name: &str, text: &str| fs::write(own(name), text).unwrap();
        file("auth.log", "");
        file(
            "filter.d/trial.conf",
            "[Definition]\nfailregex = ^failed <HOST>$\n",
        );
        let here = own("").display().to_string();
        file(
            "fail2ban.conf",
            &format!(
                "[Definition]\nloglevel = INFO\nlogtarget = {here}log\nsyslogsocket = auto\nsocket = {here}socket\npidfile = {here}pid\ndbfile = {here}bans.sqlite3\ndbpurgeage = 1d\ndbmaxmatches = 10\n[Thread]\nstacksize = 0\n"
            ),
        );
        file(
            "jail.conf",
            &format!(
                "[DEFAULT]\nbantime = 1h\nfindtime = 10m\nmaxretry = 5\nbackend = polling\nusedns = no\n[sshd]\nenabled = true\nfilter = trial\nlogpath = {here}auth.log\naction = iptables[type=multiport, name=sshd, port=22, protocol=tcp]\n"
            ),
        );
        Ok(())
    }

    fn start(ns: &'a Namespace) -> Self {
        let config = ns.path("f2b");
        let path = format!("{}/bin:/usr/sbin:/usr/bin:/sbin:/bin", config.display());
        let mut command = ns.command(
            "fail2ban-server",
            &["-f", "-x", "-c", config.to_str().unwrap(), "start"],
        );
        command.env("PATH", path).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let server = ns.net().enter(|| command.spawn()).unwrap();
        let started = Self { ns, server };
        until("fail2ban answers", || {
            started.client(&["status", "sshd"]).code == Some(0)
        });
        started
    }

    fn client(&self, arguments: &[&str]) -> Ended {
        let socket = self.ns.path("f2b/socket");
        let all = [&["-s", socket.to_str().unwrap()], arguments].concat();
        self.ns.run("fail2ban-client", &all, "")
    }

    fn ban(&self, address: &str) {
        self.client(&["set", "sshd", "banip", address]).expect(0);
    }

    fn unban(&self, address: &str) {
        self.client(&["set", "sshd", "unbanip", address]).expect(0);
    }
}

/// How often each address is banned in the live rules, and how often INPUT jumps there.
fn live(ns: &Namespace) -> (BTreeMap<String, usize>, usize) {
    let saved = ns.saved_family("iptables");
    let mut bans = BTreeMap::new();
    for line in saved.lines() {
        if let Some((_, rule)) = line.split_once("-A f2b-sshd -s ") {
            let address = rule.split_once("/32 ").unwrap().0;
            *bans.entry(address.to_owned()).or_default() += 1;
        }
    }
    let jumps = saved.matches("-A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd\n");
    (bans, jumps.count())
}

const BANNED: &str = "10.95.1.2";

/// Tries to get in again and again. Returns the number of attempts that did, the number of all, and how the last failed one ended.
fn knock(
    client: &Net,
    server: &str,
    patience: u64,
    is_over: &AtomicBool,
) -> (usize, usize, Option<String>) {
    let (mut inside, mut all, mut failed) = (0, 0, None);
    let server: SocketAddr = server.parse().unwrap();
    client.enter(|| {
        while !is_over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let reached = TcpStream::connect_timeout(&server, Duration::from_millis(patience));
            inside += usize::from(reached.is_ok());
            all += 1;
            if let Err(error) = reached {
                failed = Some(format!("{error} after {:?}", begun.elapsed()));
            }
            thread::sleep(Duration::from_millis(5));
        }
    });
    (inside, all, failed)
}

/// So many applies, and as many bans meanwhile, of which every second one is taken back.
fn bans_outlive_applies(backend: Backend, ownership: &str, rounds: usize) -> Result {
    find("fail2ban-server")?;
    let ns = Namespace::new(backend);
    let (free, banned) = (Net::new()?, Net::new()?);
    link(
        &End(ns.net(), "eth0", &["10.95.0.1/24"]),
        &End(&free, "eth0", &["10.95.0.2/24"]),
    )?;
    link(
        &End(ns.net(), "eth1", &["10.95.1.1/24"]),
        &End(&banned, "eth0", &["10.95.1.2/24"]),
    )?;
    for (name, more) in [
        ("one.toml", ""),
        ("two.toml", "\n[[rules]]\nservice = \"http\"\n"),
    ] {
        let text = format!(
            "version = 1\n\n[ownership]\n{ownership}\n\n[[rules]]\nservice = \"ssh\"\n{more}"
        );
        fs::write(ns.path(name), text).unwrap();
    }
    Fail2ban::configure(&ns)?;
    let fail2ban = Fail2ban::start(&ns);
    fail2ban.ban(BANNED);
    until("the first ban", || live(&ns).0.contains_key(BANNED));
    let server = ns.net().enter(|| TcpListener::bind("0.0.0.0:22").unwrap());
    let serving = server.try_clone().unwrap();
    let address = |number: usize| format!("198.51.100.{number}");

    let is_over = AtomicBool::new(false);
    let [bans, done, breaches] = [const { AtomicUsize::new(0) }; 3];
    // None of them before or after all of the others.
    let wait_for = |others: &AtomicUsize, number: usize| {
        until("the others", || others.load(Ordering::Relaxed) + 3 > number);
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let (_, from) = serving.accept().unwrap();
                breaches.fetch_add(
                    usize::from(from.ip().to_string() == BANNED),
                    Ordering::Relaxed,
                );
            }
        });
        let knocking = [(&free, "10.95.0.1:22", 5000), (&banned, "10.95.1.1:22", 20)];
        let knocking = knocking.map(|(client, server, patience)| {
            let is_over = &is_over;
            scope.spawn(move || knock(client, server, patience, is_over))
        });
        let banning = scope.spawn(|| {
            for number in 1..=rounds {
                wait_for(&done, number);
                fail2ban.ban(&address(number));
                if number % 2 == 0 {
                    fail2ban.unban(&address(number));
                }
                bans.fetch_add(1, Ordering::Relaxed);
            }
        });
        let applies = std::panic::catch_unwind(|| {
            for round in 0..rounds {
                // None of them before or after all bans.
                until("the bans go on", || {
                    bans.load(Ordering::Relaxed) + 3 > round
                });
                let policy = ["one.toml", "two.toml"][round % 2];
                ns.apply(policy, &[]).expect(0);
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
        let banning = banning.join();
        is_over.store(true, Ordering::Relaxed);
        let [let_in, kept_out] = knocking.map(|one| one.join().unwrap());
        // Ends the server.
        free.enter(|| drop(TcpStream::connect("10.95.0.1:22")));
        assert!(applies.is_ok(), "an apply failed");
        banning.unwrap();
        assert!(
            let_in.1 > 100 && kept_out.1 > 100,
            "{let_in:?} {kept_out:?}"
        );
        assert_eq!(let_in.0, let_in.1, "packets were lost: {:?}", let_in.2);
        let breaches = breaches.load(Ordering::Relaxed);
        assert_eq!((kept_out.0, breaches), (0, 0), "of {} attempts", kept_out.1);
        let line = format!(
            "{backend}, {ownership}: {rounds} applies during {rounds} bans: {} of {} attempts of a free host got in, 0 of {} of a banned one\n",
            let_in.0, let_in.1, kept_out.1
        );
        // Past the harness, which shows what is printed of failing tests only.
        let _ = std::io::stderr().write_all(line.as_bytes());
    });

    let mut wanted: BTreeMap<String, usize> = (1..=rounds)
        .filter(|number| number % 2 == 1)
        .map(|number| (address(number), 1))
        .collect();
    wanted.insert(BANNED.to_owned(), 1);
    // It bans in its own time.
    until("all bans", || live(&ns).0 == wanted);
    assert_eq!(live(&ns), (wanted.clone(), 1));
    for name in ["iptables/rules.v4", "iptables/fwc/rules.v4"] {
        if let Ok(text) = fs::read_to_string(ns.path(name)) {
            assert!(!text.contains("f2b"), "{text}");
        }
    }

    // The power goes, and comes back.
    drop(fail2ban);
    let again = ns.sibling();
    again.kept(&["recover", "--boot"]).expect(0);
    let fail2ban = Fail2ban::start(&again);
    until("all bans are there again", || live(&again).0 == wanted);
    again.kept(&["recover", "--boot"]).expect(0);
    again.apply("one.toml", &[]).expect(0);
    assert_eq!(live(&again), (wanted, 1));
    drop(fail2ban);
    Ok(())
}
