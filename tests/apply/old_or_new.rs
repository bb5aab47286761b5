//! A host that changes from old rules to new ones, and what must hold whatever died or failed on the way: its rules, sets and
//! files are the old or the new ones, nobody is cut off, and what was left is ended.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{RefUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::namespace::{Backend, Namespace, TOOLS};
use super::support::namespace::Namespace as Net;
use super::support::network::{End, link};

type Result<T = ()> = std::result::Result<T, String>;

/// Longer than anything takes, but on a machine that stands still.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How many cases run at the same time.
const WORKERS: usize = 4;

/// Runs all cases, some at a time: what went wrong.
pub fn each<T>(cases: &[T], one: impl Fn(&T) -> Result + Sync + RefUnwindSafe) -> Vec<String>
where
    T: std::fmt::Debug + Sync + RefUnwindSafe,
{
    let next = AtomicUsize::new(0);
    let violations = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let run = catch_unwind(|| one(case));
                    let run = run.unwrap_or_else(|panic| Err(super::words(&*panic)));
                    if let Err(text) = run {
                        violations.lock().unwrap().push(format!("{case:?}: {text}"));
                    }
                }
            });
        }
    });
    violations.into_inner().unwrap()
}

/// Whose the host's rules are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Alone,
    Shared,
    Preserve,
}

impl Whose {
    /// What the policy says of it.
    fn words(self) -> &'static str {
        match self {
            Self::Alone => "",
            Self::Shared => "[ownership]\nmode = \"shared\"\n",
            Self::Preserve => {
                "[ownership]\npreserve = [\"DOCKER\", \"f2b-*\", { device = \"docker0\" }]\n"
            }
        }
    }

    /// What others have on the host.
    fn others(self) -> &'static str {
        match self {
            Self::Alone => "",
            Self::Shared | Self::Preserve => OTHERS,
        }
    }

    /// Where the files for the next boot are.
    fn folder(self) -> &'static str {
        match self {
            Self::Shared => "iptables/fwc",
            Self::Alone | Self::Preserve => "iptables",
        }
    }
}

const OTHERS: &str = "*mangle\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n-A FORWARD -o docker0 -j MARK --set-mark 7\nCOMMIT\n*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:DOCKER - [0:0]\n:f2b-all - [0:0]\n-A INPUT -j f2b-all\n-A FORWARD -o docker0 -j DOCKER\n-A DOCKER -p tcp -m tcp --dport 80 -j ACCEPT\n-A f2b-all -m mac --mac-source 02:00:00:00:00:99 -j DROP\nCOMMIT\n";

const HOST: &str = "10.99.0.1";
const BAN: &str = "203.0.113.9";
const BY_HAND: &str = "# by hand\n";

/// A policy with sets; the two differ in a rule, a mark in the mangle table, so that they need three phases, a static set's
/// members and a dynamic set's timeout.
fn policy(head: &str, port: u16, member: &str, timeout: &str, class: &str) -> String {
    format!(
        "version = 1\n\n{head}[addresses]\nblocked = {{ include = [\"{member}\"], set = true }}\nbanned = {{ set = \"dynamic\", timeout = \"{timeout}\" }}\n\n[[rules]]\nsource = [\"blocked\", \"banned\"]\naction = \"drop\"\n\n[[rules]]\nservice = [\"ssh\", \"{port}/tcp\"]\n\n[[mangle]]\ntype = \"dscp\"\nfrom = \"host\"\nservice = \"sip\"\nset = \"{class}\"\n"
    )
}

/// A ruleset as it should be: rules without counters, the static set's members and the dynamic set's form, and the files.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    rules: String,
    sets: Vec<String>,
}

/// What the policies give on a host where nothing goes wrong.
pub struct Wanted {
    pub whose: Whose,
    empty: State,
    old: State,
    new: State,
    bare: State,
    old_files: Vec<String>,
    new_files: Vec<String>,
    bare_files: Vec<String>,
}

/// Applies the policies one after the other.
pub fn wanted(backend: Backend, whose: Whose) -> Wanted {
    let ns = Namespace::new(backend);
    prepare(&ns, whose);
    let empty = state(&ns);
    let get = |policy| -> (State, Vec<String>) {
        ns.apply(policy, &[]).expect(0);
        (state(&ns), files(&ns, whose))
    };
    let (old, old_files) = get("old.toml");
    let (new, new_files) = get("new.toml");
    let (bare, bare_files) = get("bare.toml");
    Wanted {
        whose,
        empty,
        old,
        new,
        bare,
        old_files,
        new_files,
        bare_files,
    }
}

/// The policies, and others' rules.
fn prepare(ns: &Namespace, whose: Whose) {
    let ran = ns.path("ran");
    let head = format!(
        "{}\n[hooks]\nafter-apply = [[\"touch\", {ran:?}]]\n\n",
        whose.words()
    );
    let bare = format!("version = 1\n\n{head}[[rules]]\nservice = [\"ssh\", \"8080/tcp\"]\n");
    let policies = [
        ("old.toml", policy(&head, 80, "192.0.2.0/24", "1h", "ef")),
        (
            "new.toml",
            policy(&head, 8080, "198.51.100.0/24", "2h", "af41"),
        ),
        ("bare.toml", bare),
    ];
    for (name, text) in policies {
        fs::write(ns.path(name), text).unwrap();
    }
    for tool in TOOLS {
        ns.restore(tool, whose.others()).expect(0);
    }
}

fn state(ns: &Namespace) -> State {
    let mut rules = String::new();
    for tool in TOOLS {
        let program = format!("{tool}-{}-save", ns.backend);
        let saved = ns.run(&program, &[], "").expect(0).out;
        let mut table = String::new();
        for line in saved.lines().filter(|line| !line.starts_with('#')) {
            // What a policy counted is printed without -c, too.
            let line = line.split(" [").next().unwrap();
            table.push_str(line);
            table.push('\n');
            if line == "COMMIT" {
                // A table that a load merely made says nothing.
                if table.contains("-A ") || table.contains(" DROP") {
                    rules.push_str(&table);
                }
                table.clear();
            }
        }
        rules.push_str("---\n");
    }
    let listed = ns.run("ipset", &["save"], "").expect(0).out;
    let lines = listed.lines().filter(|line| !line.contains('~'));
    let mut sets: Vec<String> = lines
        .filter(|line| !line.starts_with("add fwc4-banned"))
        .map(|line| {
            let line = line.split(" bucketsize ").next().unwrap();
            line.replace("hashsize 1024 ", "")
                .replace("hashsize 64 ", "")
        })
        .collect();
    sets.sort();
    State { rules, sets }
}

/// The files that boot, those of others left out.
fn files(ns: &Namespace, whose: Whose) -> Vec<String> {
    ["rules.v4", "rules.v6", "ipsets"]
        .iter()
        .map(|name| ns.path(&format!("{}/{name}", whose.folder())))
        .map(|path| fs::read_to_string(path).unwrap_or_default())
        .collect()
}

/// The last step that the journal has, as it is written.
pub fn last_step(ns: &Namespace) -> Option<String> {
    let folder = fs::read_dir(ns.path("state/namespaces"))
        .ok()?
        .next()?
        .ok()?;
    let journal = fs::read_to_string(folder.path().join("journal")).ok()?;
    journal.lines().last().map(str::to_owned)
}

pub fn is_closed(ns: &Namespace) -> bool {
    last_step(ns).is_none_or(|line| {
        line.contains("\"step\":\"done\"") || line.contains("\"step\":\"undone\"")
    })
}

/// What a host changes from and to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// From one policy to another one.
    Policy,
    /// To a policy without sets.
    Bare,
    /// From nothing, where somebody's rules files are.
    First,
}

/// A host with fwc and one that has a connection to it.
pub struct Changing<'a> {
    pub ns: Namespace,
    /// The file of the new policy.
    pub policy: &'static str,
    /// How long an apply takes here and now.
    pub took: Duration,
    wanted: &'a Wanted,
    change: Change,
    client: Net,
    /// Takes connections as long as it lives.
    _server: TcpListener,
    open: TcpStream,
    accepted: TcpStream,
}

impl<'a> Changing<'a> {
    /// The old rules are in force.
    pub fn new(backend: Backend, change: Change, wanted: &'a Wanted) -> Result<Self> {
        let ns = Namespace::new(backend);
        let client = Net::new()?;
        link(
            &End(ns.net(), "eth0", &["10.99.0.1/24", "2001:db8:99::1/64"]),
            &End(&client, "eth0", &["10.99.0.2/24", "2001:db8:99::2/64"]),
        )?;
        prepare(&ns, wanted.whose);
        let begun = Instant::now();
        if change == Change::First {
            let folder = ns.path(wanted.whose.folder());
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("rules.v4"), BY_HAND).unwrap();
        } else {
            ns.apply("old.toml", &[]).expect(0);
            fs::remove_file(ns.path("ran")).unwrap();
            ns.run("ipset", &["add", "fwc4-banned", BAN], "").expect(0);
        }
        let took = begun.elapsed();
        let server = ns.net().enter(|| TcpListener::bind((HOST, 22)).unwrap());
        let open = connect(&client).ok_or("the old rules do not let in")?;
        let (accepted, _) = server.accept().unwrap();
        for end in [&open, &accepted] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        Ok(Self {
            ns,
            policy: match change {
                Change::Bare => "bare.toml",
                Change::Policy | Change::First => "new.toml",
            },
            took,
            wanted,
            change,
            client,
            _server: server,
            open,
            accepted,
        })
    }

    fn old(&self) -> (&State, Vec<String>) {
        let wanted = self.wanted;
        match self.change {
            Change::First => (
                &wanted.empty,
                vec![BY_HAND.to_owned(), String::new(), String::new()],
            ),
            Change::Policy | Change::Bare => (&wanted.old, wanted.old_files.clone()),
        }
    }

    fn new_one(&self) -> (&State, &Vec<String>) {
        let wanted = self.wanted;
        match self.change {
            Change::Bare => (&wanted.bare, &wanted.bare_files),
            Change::Policy | Change::First => (&wanted.new, &wanted.new_files),
        }
    }

    /// Rules, sets and each file are the old or the new ones.
    pub fn is_old_or_new(&self, when: &str) -> Result {
        let ((old, old_files), (new, new_files)) = (self.old(), self.new_one());
        let now = state(&self.ns);
        // Only the watchdog's last breath may leave sets that nobody needs.
        let is = |wanted: &State| {
            wanted.rules == now.rules
                && now
                    .sets
                    .iter()
                    .all(|line| wanted.sets.contains(line) || line.starts_with("create "))
                && wanted.sets.iter().all(|line| now.sets.contains(line))
        };
        if !is(old) && !is(new) {
            return Err(format!(
                "{when}: neither old nor new:\n{now:#?}\nold: {old:#?}\nnew: {new:#?}"
            ));
        }
        for (index, text) in files(&self.ns, self.wanted.whose).iter().enumerate() {
            if *text != old_files[index] && *text != new_files[index] {
                return Err(format!(
                    "{when}: the file {index} is neither old nor new: {text}"
                ));
            }
        }
        Ok(())
    }

    /// An open connection stays open, in both directions, and a new one gets in.
    pub fn lets_in(&mut self) -> Result {
        let lost = |error: std::io::Error| format!("the open connection: {error}");
        self.open.write_all(b"x").map_err(lost)?;
        self.accepted.read_exact(&mut [0]).map_err(lost)?;
        self.accepted.write_all(b"y").map_err(lost)?;
        self.open.read_exact(&mut [0]).map_err(lost)?;
        let fresh = connect(&self.client).ok_or("no new connection gets in")?;
        let _ = fresh.shutdown(Shutdown::Both);
        Ok(())
    }

    /// `fwc recover` ends what was left, all is of one ruleset, and a second apply works.
    pub fn is_ended_by_recover(&self) -> Result {
        let (ns, whose) = (&self.ns, self.wanted.whose);
        let ((_, old_files), (new, new_files)) = (self.old(), self.new_one());
        let recovered = ns.kept(&["recover"]);
        if recovered.code != Some(0) {
            return Err(format!("recover: {}{}", recovered.out, recovered.err));
        }
        if !is_closed(ns) {
            return Err(format!("recover left it open: {:?}", last_step(ns)));
        }
        self.is_old_or_new("after recover")?;
        let now = files(ns, whose);
        if now != old_files && now != *new_files {
            return Err("after recover some files are old and some new".to_owned());
        }
        // Hooks follow a change that stays, and no other.
        let (ran, stays) = (ns.path("ran").exists(), now == *new_files);
        if ran != stays {
            return Err(format!("the change stays: {stays}, its hook ran: {ran}"));
        }
        let again = ns.apply(self.policy, &[]);
        if again.code != Some(0) {
            return Err(format!("the second apply: {}{}", again.out, again.err));
        }
        if state(ns) != *new || files(ns, whose) != *new_files {
            return Err(format!(
                "the second apply did not bring the new rules: {:#?}",
                state(ns)
            ));
        }
        if !ns.path("ran").exists() {
            return Err("the second apply did not run the hook".to_owned());
        }
        let banned = ns.run("ipset", &["test", "fwc4-banned", BAN], "");
        if self.change == Change::Policy && banned.code != Some(0) {
            return Err("a ban was lost".to_owned());
        }
        Ok(())
    }
}

fn connect(client: &Net) -> Option<TcpStream> {
    let address = SocketAddr::new(HOST.parse().unwrap(), 22);
    let connected = client.enter(|| TcpStream::connect_timeout(&address, PATIENCE));
    connected.ok()
}
