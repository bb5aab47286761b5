//! A real sshd: whoever applies a policy over SSH is not locked out, or gets back in.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::Test;
use super::confirm::{is_open, until};
use super::namespace::{Backend, Ended, Namespace, SSH, run};
use super::old_or_new::last_step;
use super::support::namespace::Namespace as Net;
use super::support::network::{End, link};
use super::support::tools::find;

pub const TESTS: &[(&str, Test)] = &[
    ("ssh_lockout_is_refused", ssh_lockout_is_refused),
    (
        "ssh_that_is_translated_away_is_a_lockout",
        ssh_that_is_translated_away_is_a_lockout,
    ),
    (
        "ssh_lockout_goes_back_by_itself",
        ssh_lockout_goes_back_by_itself,
    ),
    ("ssh_lockout_goes_back_when_the_terminal_dies", |backend| {
        goes_back_after(backend, Death::Terminal)
    }),
    ("ssh_lockout_goes_back_when_fwc_dies", |backend| {
        goes_back_after(backend, Death::Fwc)
    }),
    (
        "ssh_confirmation_needs_a_new_connection",
        ssh_confirmation_needs_a_new_connection,
    ),
    (
        "ssh_variable_that_is_stale_is_said",
        ssh_variable_that_is_stale_is_said,
    ),
    (
        "ssh_from_another_namespace_cannot_be_cut",
        ssh_from_another_namespace_cannot_be_cut,
    ),
    (
        "ssh_over_a_tunnel_keeps_the_tunnel",
        ssh_over_a_tunnel_keeps_the_tunnel,
    ),
    ("ssh_survives_a_panic", ssh_survives_a_panic),
    ("ssh_is_seen_through_tmux_and_su", seen_through_tmux_and_su),
    ("ssh_that_tmux_hides_is_not_known", not_known_in_tmux),
    ("ssh_is_seen_through_sudo_of_root", seen_through_sudo),
    ("ssh_that_dies_keeps_no_change", sshd_dies),
];

type Result = std::result::Result<(), String>;

/// Lets in http, and nobody over SSH.
const CLOSED: &str = "version = 1\n\n[[rules]]\nservice = \"http\"\n";

/// A host with fwc and sshd, and one that logs in.
struct Site {
    host: Namespace,
    client: Net,
    sshd: Child,
}

impl Drop for Site {
    fn drop(&mut self) {
        // The sessions end with their namespaces' sockets, sshd itself here.
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}

const SERVER: &str = "10.98.0.1";

impl Site {
    fn new(backend: Backend) -> std::result::Result<Self, String> {
        let host = Namespace::new(backend);
        let client = Net::new()?;
        link(
            &End(host.net(), "eth0", &["10.98.0.1/24"]),
            &End(&client, "eth0", &["10.98.0.2/24"]),
        )?;
        fs::write(host.path("closed.toml"), CLOSED).unwrap();
        let sshd = start_sshd(&host)?;
        let site = Self { host, client, sshd };
        site.host.apply("web.toml", &[]).expect(0);
        until("sshd answers", || site.ssh(SERVER, "true").code == Some(0));
        Ok(site)
    }

    fn command(&self, option: &str, server: &str, remote: &str) -> Command {
        let mut command = Command::new("/usr/bin/ssh");
        let key = self.host.path("key");
        let options = [
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "ConnectTimeout=30",
            "ServerAliveInterval=5",
        ];
        command.args([option, "-F", "none", "-i", key.to_str().unwrap()]);
        for option in options {
            command.args(["-o", option]);
        }
        command.arg(format!("root@{server}")).arg(remote);
        command
    }

    /// Runs a command in a new connection.
    fn ssh(&self, server: &str, remote: &str) -> Ended {
        let mut command = self.command("-T", server, remote);
        self.client.enter(|| run(&mut command, ""))
    }

    /// Whether somebody new gets in, within two seconds.
    fn lets_in(&self) -> bool {
        let mut command = self.command("-oConnectTimeout=2", SERVER, "true");
        self.client.enter(|| run(&mut command, "")).code == Some(0)
    }

    /// What a shell over there has to run for `fwc ...`.
    fn fwc(&self, arguments: &str) -> String {
        let path = |name: &str| self.host.path(name).display().to_string();
        format!(
            "cd {} && env XTABLES_LOCKFILE={} FWC_IPTABLES={} FWC_STATE_DIR={} {} {arguments} --persist-dir {}",
            path(""),
            path("xtables.lock"),
            self.host.backend,
            path("state"),
            env!("CARGO_BIN_EXE_fwc"),
            path("iptables")
        )
    }

    /// Kills sshd and the processes of its sessions.
    fn end_sshd(&mut self) {
        for (pid, _) in super::kills::processes(&self.host) {
            let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
            if name.is_ok_and(|name| name.starts_with("sshd")) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.sshd.wait();
    }

    fn is_closed(&self) -> bool {
        !self.host.saved_family("iptables").contains("--dport 22 ")
    }
}

/// sshd inside, with keys and folders of its own.
fn start_sshd(host: &Namespace) -> std::result::Result<Child, String> {
    let sshd = find("sshd")?;
    find("ssh")?;
    let keygen = find("ssh-keygen")?;
    for name in ["host_key", "key"] {
        let path = host.path(name);
        if path.exists() {
            continue;
        }
        let arguments = [
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-f",
            path.to_str().unwrap(),
        ];
        run(Command::new(&keygen).args(arguments), "").expect(0);
    }
    fs::copy(host.path("key.pub"), host.path("authorized")).unwrap();
    let config = format!(
        "Port 22\nListenAddress 0.0.0.0\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nUseDNS no\n",
        host.path("host_key").display(),
        host.path("authorized").display()
    );
    fs::write(host.path("sshd_config"), config).unwrap();
    fs::set_permissions(host.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    // The folder that sshd wants is in a /run of its own.
    let script = "mount -t tmpfs none /run && mkdir /run/sshd && exec \"$0\" -D -e -f \"$1\"";
    let mut command = Command::new(find("unshare")?);
    command
        .args(["--mount", "--", "/bin/sh", "-c", script])
        .args([sshd.as_os_str(), host.path("sshd_config").as_os_str()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    host.net()
        .enter(|| command.spawn())
        .map_err(|error| error.to_string())
}

fn ssh_lockout_is_refused(backend: Backend) -> Result {
    let site = Site::new(backend)?;
    let before = site.host.saved();
    let refused = site
        .ssh(SERVER, &site.fwc("apply closed.toml --yes"))
        .expect(1);
    for words in [
        "would lock you out",
        "a new connection like yours",
        "the policy of INPUT",
        "--allow-lockout",
    ] {
        assert!(refused.err.contains(words), "{words}: {}", refused.err);
    }
    assert!(
        !refused.err.contains("stopped by: unknown"),
        "{}",
        refused.err
    );
    assert_eq!(site.host.saved().lines().count(), before.lines().count());
    assert!(!site.is_closed());
    // One that lets it in is no lockout.
    site.ssh(SERVER, &site.fwc("apply ssh.toml --yes"))
        .expect(0);
    Ok(())
}

/// The port is open, and its packets go elsewhere, by what stands in front of the filter table.
fn ssh_that_is_translated_away_is_a_lockout(backend: Backend) -> Result {
    let site = Site::new(backend)?;
    let open = "version = 1\n[interfaces]\nwan = \"eth0\"\n[[rules]]\nservice = \"ssh\"\n[[rules]]\nservice = \"2222/tcp\"\n";
    let cases = [
        (
            "redirect",
            "[[nat]]\ntype = \"redirect\"\nfrom = \"wan\"\nservice = \"ssh\"\nto-port = 2222\n",
            "-j REDIRECT --to-ports 2222` of the table nat, which takes it to 10.98.0.1 port 2222",
        ),
        (
            "dnat",
            "[[nat]]\ntype = \"dnat\"\nfrom = \"wan\"\nservice = \"ssh\"\nto-destination = \"10.98.0.7\"\n",
            "-j DNAT --to-destination 10.98.0.7` of the table nat, which takes it to 10.98.0.7 port 22",
        ),
        (
            "untracked",
            "[[raw]]\ntype = \"notrack\"\nfrom = \"wan\"\nservice = \"ssh\"\n[[rules]]\nfrom = \"host\"\naction = \"drop\"\nstate = \"untracked\"\n",
            "-A OUTPUT",
        ),
    ];
    for (name, entry, words) in cases {
        let file = format!("{name}.toml");
        fs::write(site.host.path(&file), format!("{open}{entry}")).unwrap();
        let apply = format!("apply {file} --yes");
        let refused = site.ssh(SERVER, &site.fwc(&apply)).expect(1);
        for words in ["would lock you out", words] {
            assert!(
                refused.err.contains(words),
                "{name}, {words}: {}",
                refused.err
            );
        }
        assert!(!site.is_closed(), "{name}");
    }
    // Another port that is translated is none of this connection's, nor is another address.
    for (name, entry) in [
        (
            "other-port",
            "[[nat]]\ntype = \"redirect\"\nfrom = \"wan\"\nservice = \"http\"\nto-port = 2222\n",
        ),
        (
            "other-address",
            "[[nat]]\ntype = \"dnat\"\nfrom = \"wan\"\ndestination = \"10.98.0.9\"\nservice = \"ssh\"\nto-destination = \"10.98.0.7\"\n",
        ),
    ] {
        let file = format!("{name}.toml");
        fs::write(site.host.path(&file), format!("{open}{entry}")).unwrap();
        site.ssh(SERVER, &site.fwc(&format!("apply {file} --yes")))
            .expect(0);
        assert!(!site.is_closed(), "{name}");
    }
    Ok(())
}

fn ssh_lockout_goes_back_by_itself(backend: Backend) -> Result {
    let site = Site::new(backend)?;
    // Until then somebody has to have tried to get in.
    let apply = "apply closed.toml --allow-lockout --confirm --timeout 20s";
    let pending = site.ssh(SERVER, &site.fwc(apply)).expect(0);
    assert!(
        pending.err.contains("warning: --allow-lockout: "),
        "{}",
        pending.err
    );
    assert!(site.is_closed());
    assert!(!site.lets_in(), "nobody should get in");
    until("the change goes back", || !is_open(&site.host));
    assert!(!site.is_closed());
    site.ssh(SERVER, "true").expect(0);
    Ok(())
}

#[derive(Clone, Copy)]
enum Death {
    Terminal,
    Fwc,
}

fn goes_back_after(backend: Backend, death: Death) -> Result {
    let site = Site::new(backend)?;
    let apply = "apply closed.toml --allow-lockout --confirm --wait --timeout 10s";
    // With a terminal over there.
    let mut command = site.command("-tt", SERVER, &site.fwc(apply));
    let null = Stdio::null;
    command.stdin(Stdio::piped()).stdout(null()).stderr(null());
    let mut session = site.client.enter(|| command.spawn()).unwrap();
    until("it is in force", || site.is_closed() && is_open(&site.host));
    match death {
        Death::Terminal => session.kill().unwrap(),
        Death::Fwc => {
            let fwc = process_of(&site.host.path("state").display().to_string());
            kill_process(fwc.expect("fwc is running"), Signal::KILL).unwrap();
        }
    }
    until("the change goes back", || !is_open(&site.host));
    assert!(!site.is_closed());
    let _ = session.kill();
    let _ = session.wait();
    site.ssh(SERVER, "true").expect(0);
    Ok(())
}

/// sshd dies with all of its sessions while a change waits. Who comes in by a new one confirms it; where nobody can, it goes back.
fn sshd_dies(backend: Backend) -> Result {
    let mut site = Site::new(backend)?;
    for (policy, timeout) in [("ssh.toml", "300s"), ("closed.toml", "10s")] {
        let apply = format!("apply {policy} --allow-lockout --confirm --wait --timeout {timeout}");
        let mut command = site.command("-tt", SERVER, &site.fwc(&apply));
        let null = Stdio::null;
        command.stdin(Stdio::piped()).stdout(null()).stderr(null());
        let mut session = site.client.enter(|| command.spawn()).unwrap();
        until("it waits", || {
            last_step(&site.host).is_some_and(|line| line.contains("\"pending\""))
        });
        site.end_sshd();
        site.sshd = start_sshd(&site.host).unwrap();
        if policy == "ssh.toml" {
            until("sshd answers", || site.ssh(SERVER, "true").code == Some(0));
            site.ssh(SERVER, &site.fwc("confirm")).expect(0);
            assert!(!site.is_closed());
        }
        until("nothing waits", || !is_open(&site.host));
        site.ssh(SERVER, "true").expect(0);
        let _ = session.kill();
        let _ = session.wait();
    }
    Ok(())
}

/// The `fwc apply` that has this state folder.
fn process_of(state: &str) -> Option<Pid> {
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let mut found = entries.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let words = fs::read(entry.path().join("cmdline")).ok()?;
        let environment = fs::read(entry.path().join("environ")).ok()?;
        let has = |bytes: &[u8], words: &str| {
            bytes
                .windows(words.len())
                .any(|window| window == words.as_bytes())
        };
        let is_fwc = words.starts_with(env!("CARGO_BIN_EXE_fwc").as_bytes());
        let is_it = is_fwc && has(&words, "apply\0closed.toml") && has(&environment, state);
        is_it.then(|| Pid::from_raw(pid)).flatten()
    });
    found.next()
}

fn ssh_confirmation_needs_a_new_connection(backend: Backend) -> Result {
    let site = Site::new(backend)?;
    let both = format!(
        "{} && {}",
        site.fwc("apply ssh.toml --confirm --timeout 60s"),
        site.fwc("confirm")
    );
    let refused = site.ssh(SERVER, &both).expect(1);
    assert!(
        refused.err.contains("is older than the change"),
        "{}",
        refused.err
    );
    assert!(is_open(&site.host));
    site.ssh(SERVER, &site.fwc("confirm")).expect(0);
    assert!(!is_open(&site.host));
    let history = site.host.kept(&["history"]).expect(0);
    assert!(
        history.out.contains("`fwc confirm` over 10.98.0.2:"),
        "{}",
        history.out
    );
    Ok(())
}

/// Scripts that run in tmux on the host, until it is dropped. Each has a server of its own: one that ends with its last session
/// may still take the next client, and ends with it.
struct Tmux<'a> {
    site: &'a Site,
    name: String,
    servers: RefCell<Vec<String>>,
}

impl<'a> Tmux<'a> {
    fn new(site: &'a Site) -> std::result::Result<Self, String> {
        find("tmux")?;
        let name = site
            .host
            .path("")
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        Ok(Self {
            site,
            name,
            servers: RefCell::default(),
        })
    }

    /// Returns the name of a new server, for `tmux -L`.
    fn server(&self, script: &str) -> String {
        let server = format!("{}-{script}", self.name);
        self.servers.borrow_mut().push(server.clone());
        server
    }

    /// What a shell over there has to run so that `fwc ...` runs in a tmux without a client, below `su -`, which empties the
    /// environment; `out` has what it says.
    fn detached(&self, name: &str, arguments: &str) -> String {
        let file = below_su(self.site, name, arguments);
        format!(
            "tmux -L {} -f /dev/null new-session -d 'sh {file}'",
            self.server(name)
        )
    }

    /// Waits for what a script wrote to `out`, which ends with `rc=N`.
    fn outcome(&self) -> (i32, String) {
        let mut text = String::new();
        until("the script in tmux ends", || {
            text = fs::read_to_string(self.site.host.path("out")).unwrap_or_default();
            text.contains("rc=") && text.ends_with('\n')
        });
        fs::remove_file(self.site.host.path("out")).unwrap();
        let code = text.lines().last().unwrap().strip_prefix("rc=").unwrap();
        (code.parse().unwrap(), text)
    }
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        for server in self.servers.borrow().iter() {
            let _ = Command::new("tmux")
                .args(["-L", server, "kill-server"])
                .output();
        }
    }
}

/// A script that runs `fwc ...` below `su -`, and tells in `out` what became of it.
fn below_su(site: &Site, name: &str, arguments: &str) -> String {
    let path = |name: String| site.host.path(&name).display().to_string();
    let (go, file, out) = (
        path(format!("{name}-go.sh")),
        path(format!("{name}.sh")),
        path("out".to_owned()),
    );
    fs::write(&go, site.fwc(arguments)).unwrap();
    let script = format!(
        "su - root -c 'sh {go}' > {out}.new 2>&1; echo rc=$? >> {out}.new; mv {out}.new {out}\n"
    );
    fs::write(&file, script).unwrap();
    file
}

/// root logs in, starts a tmux, and becomes root again by `su -`: neither a socket nor a variable is near.
fn seen_through_tmux_and_su(backend: Backend) -> Result {
    let site = Site::new(backend)?;
    let tmux = Tmux::new(&site)?;
    let out = site.host.path("out").display().to_string();
    // The login waits, as people do.
    let wait = format!("while [ ! -e {out} ]; do sleep 0.1; done");
    let apply = tmux.detached("closed", "apply closed.toml --confirm --timeout 60s");
    site.ssh(SERVER, &format!("{apply}; {wait}")).expect(0);
    let (code, text) = tmux.outcome();
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("would lock you out"), "{text}");
    assert!(!site.is_closed());
    // A client that is attached is found without any variable.
    let file = below_su(
        &site,
        "attached",
        "apply closed.toml --confirm --timeout 60s",
    );
    let attached = format!(
        "env -u SSH_CONNECTION -u SSH_CLIENT TERM=xterm tmux -L {} -f /dev/null new-session 'sh {file}'",
        tmux.server("attached")
    );
    let mut command = site.command("-tt", SERVER, &attached);
    let null = Stdio::null;
    command.stdin(Stdio::piped()).stdout(null()).stderr(null());
    let mut session = site.client.enter(|| command.spawn()).unwrap();
    let (code, text) = tmux.outcome();
    let _ = session.kill();
    let _ = session.wait();
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("would lock you out"), "{text}");
    // The login is older than the change, and does not confirm.
    let apply = tmux.detached("open", "apply ssh.toml --confirm --timeout 300s");
    let confirm = tmux.detached("confirm", "confirm");
    let both = format!("{apply}; {wait}; mv {out} {out}.1; {confirm}; {wait}");
    site.ssh(SERVER, &both).expect(0);
    let (code, text) = tmux.outcome();
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("is older than the change"), "{text}");
    assert!(is_open(&site.host));
    site.ssh(SERVER, &site.fwc("confirm")).expect(0);
    Ok(())
}

/// Nobody is attached, and no variable is left: that is not the console.
fn not_known_in_tmux(backend: Backend) -> Result {
    let site = Site::new(backend)?;
    let tmux = Tmux::new(&site)?;
    // An SSH login to another network namespace, with a tmux of its own, says nothing about who is here.
    let elsewhere = Site::new(backend)?;
    let other = Tmux::new(&elsewhere)?;
    let server = other.server("attached");
    let attach = format!("TERM=xterm tmux -L {server} -f /dev/null new-session 'sleep 600'");
    let mut login = elsewhere.command("-tt", SERVER, &attach);
    let null = Stdio::null;
    login.stdin(Stdio::piped()).stdout(null()).stderr(null());
    let mut login = elsewhere.client.enter(|| login.spawn()).unwrap();
    until("the other tmux has a client", || {
        let mut clients = Command::new("tmux");
        clients.args(["-L", &server, "list-clients"]);
        clients
            .output()
            .is_ok_and(|output| !output.stdout.is_empty())
    });
    let run = |name: &str, arguments: &str| {
        let start = tmux.detached(name, arguments);
        let hidden = format!("env -u SSH_CONNECTION -u SSH_CLIENT {start}");
        site.ssh(SERVER, &hidden).expect(0);
        tmux.outcome()
    };
    let (code, text) = run("closed", "apply closed.toml --yes");
    assert_eq!(code, 1, "{text}");
    let words = "cannot tell how you reach this host";
    assert!(
        text.contains(words) && text.contains("--allow-lockout"),
        "{text}"
    );
    assert!(!site.is_closed());
    let (code, text) = run(
        "open",
        "apply ssh.toml --confirm --timeout 300s --allow-lockout",
    );
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("did not check whether"), "{text}");
    let (code, text) = run("confirm", "confirm");
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(words), "{text}");
    site.ssh(SERVER, &site.fwc("confirm")).expect(0);
    let _ = login.kill();
    let _ = login.wait();
    Ok(())
}

fn seen_through_sudo(backend: Backend) -> Result {
    find("sudo")?;
    let site = Site::new(backend)?;
    fs::write(site.host.path("go.sh"), site.fwc("apply closed.toml --yes")).unwrap();
    let sudo = format!(
        "env -u SSH_CONNECTION sudo -n sh {}",
        site.host.path("go.sh").display()
    );
    let refused = site.ssh(SERVER, &sudo).expect(1);
    assert!(
        refused.err.contains("would lock you out"),
        "{}",
        refused.err
    );
    Ok(())
}

fn with_variable(ns: &Namespace, value: &str, arguments: &[&str]) -> Ended {
    let persist = ns.path("iptables");
    let persist = ["--persist-dir", persist.to_str().unwrap()];
    let mut command = ns.command(env!("CARGO_BIN_EXE_fwc"), &[arguments, &persist].concat());
    command.env("SSH_CONNECTION", value);
    ns.net().enter(|| run(&mut command, ""))
}

fn ssh_variable_that_is_stale_is_said(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    fs::write(ns.path("closed.toml"), CLOSED).unwrap();
    let stale = "198.51.100.7 40000 192.0.2.1 22";
    let apply = ["apply", "closed.toml", "--confirm", "--timeout", "300s"];
    let refused = with_variable(&ns, stale, &apply).expect(1);
    let words = "does not exist any more";
    assert!(refused.err.contains(words), "{}", refused.err);
    let insisted = [&apply[..], &["--allow-lockout"]].concat();
    let told = with_variable(&ns, stale, &insisted).expect(0);
    assert!(told.err.contains(words), "{}", told.err);
    let refused = with_variable(&ns, stale, &["confirm"]).expect(1);
    assert!(
        refused.err.contains("does not exist any more"),
        "{}",
        refused.err
    );
    ns.kept(&["confirm"]).expect(0);
    Ok(())
}

/// `ip netns exec` in a login: the session goes past these rules.
fn ssh_from_another_namespace_cannot_be_cut(backend: Backend) -> Result {
    let site = Site::new(backend)?;
    let inside = format!(
        "unshare --net sh -c '{}'",
        site.fwc("apply closed.toml --yes --state-dir other")
    );
    let told = site.ssh(SERVER, &inside).expect(0);
    assert!(
        told.err.contains("through another network namespace"),
        "{}",
        told.err
    );
    assert!(!site.is_closed());
    Ok(())
}

fn ssh_over_a_tunnel_keeps_the_tunnel(backend: Backend) -> Result {
    let site = Site::new(backend)?;
    let vxlan = |ns: &Net, local: &str, remote: &str, address: &str| {
        ns.ip([
            format!("link add tun9 type vxlan id 9 local {local} remote {remote} dstport 4789"),
            format!("addr add {address}/24 dev tun9"),
            "link set tun9 up".to_owned(),
        ])
    };
    vxlan(site.host.net(), "10.98.0.1", "10.98.0.2", "10.97.0.1")
        .map_err(|error| format!("no vxlan tunnels here: {error}"))?;
    vxlan(&site.client, "10.98.0.2", "10.98.0.1", "10.97.0.2")?;
    let inner = "10.97.0.1";
    let carrier = [
        "-I", "INPUT", "-p", "udp", "--dport", "4789", "-j", "ACCEPT",
    ];
    site.host.iptables("iptables", &carrier);
    until("the tunnel carries", || {
        site.ssh(inner, "true").code == Some(0)
    });
    let refused = site.ssh(inner, &site.fwc("apply ssh.toml --yes")).expect(1);
    let words = "the tunnel `tun9`, which carries your own connection";
    assert!(refused.err.contains(words), "{}", refused.err);
    let open = format!("{SSH}\n[[rules]]\nservice = \"4789/udp\"\n");
    fs::write(site.host.path("open.toml"), open).unwrap();
    site.ssh(inner, &site.fwc("apply open.toml --yes"))
        .expect(0);
    site.ssh(inner, "true").expect(0);
    Ok(())
}

/// All is dropped but the session that it was asked for in.
fn ssh_survives_a_panic(backend: Backend) -> Result {
    let site = Site::new(backend)?;
    let rules = |saved: &str| -> Vec<String> {
        let lines = saved.lines().filter(|line| line.contains("-A "));
        let specs = lines.filter_map(|line| line.split_once("-A "));
        specs.map(|(_, rule)| rule.to_owned()).collect()
    };
    let before = rules(&site.host.saved());
    let panic = |arguments: &str| {
        let all = site.fwc(arguments);
        all.split(" --persist-dir").next().unwrap().to_owned()
    };
    let script = format!(
        "{} && read line && {}",
        panic("panic"),
        panic("panic --off")
    );
    let mut command = site.command("-T", SERVER, &script);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut session = site.client.enter(|| command.spawn()).unwrap();
    until("it is on", || {
        let saved = site.host.saved();
        saved.matches("-A OUTPUT -j FWC-PANIC\n").count() == 2
    });
    assert_ne!(site.ssh(SERVER, "true").code, Some(0), "a new connection");
    // Nothing goes out either, but within the host.
    let ping =
        |to: &str, seconds: &str| site.host.run("ping", &["-c1", "-w", seconds, to], "").code;
    assert_ne!(ping("10.98.0.2", "1"), Some(0));
    assert_eq!(ping("127.0.0.1", "30"), Some(0));
    let refused = site.host.apply("ssh.toml", &[]).expect(1);
    assert!(refused.err.contains("fwc panic:"), "{}", refused.err);
    // What others do meanwhile stays.
    site.host.iptables(
        "iptables",
        &["-A", "INPUT", "-s", "192.0.2.7", "-j", "DROP"],
    );
    // The session goes on.
    let mut stdin = session.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"\n").unwrap();
    let ended = Ended::from(session.wait_with_output().unwrap()).expect(0);
    assert!(
        ended
            .out
            .starts_with("Panic mode is on. Only packets on loopback and of 10.98.0.2:"),
        "{}{}",
        ended.out,
        ended.err
    );
    assert!(
        ended
            .out
            .ends_with("Panic mode is off. The rules apply as before.\n"),
        "{}",
        ended.out
    );
    let mut after = rules(&site.host.saved());
    after.retain(|rule| !rule.contains("192.0.2.7"));
    assert_eq!(after, before);
    site.ssh(SERVER, "true").expect(0);
    assert_eq!(ping("10.98.0.2", "30"), Some(0));
    let again = site.host.fwc(&["panic", "--off"]).expect(0);
    assert!(again.out.contains("nothing to do"), "{}", again.out);
    Ok(())
}
