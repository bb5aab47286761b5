//! Finds out who runs fwc and by which connection, so that a change that would cut this connection is noticed.
//!
//! It looks at the ancestors of this process, whatever user they run as. `su -` and sudo empty the environment, and tmux and
//! screen break the line of ancestors, so their clients are examined too. If the answer is not certain it is "not
//! known", never a guess: taking an SSH user for one at the console could lock them out.

use std::collections::HashSet;
use std::env;
use std::fs;

use super::connection::{self, TcpConnection, parse_ssh};
use super::process;

/// Where the user is. There is no default: a wrong guess could lock somebody out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requester {
    /// At the other end of a remote login (SSH, telnet, mosh) that the firewall of this network namespace can cut.
    Ssh,
    /// At the machine itself.
    Console,
    /// Connected through another network namespace, which the rules of this one do not affect.
    Elsewhere,
    /// There is no user: cron, an agent, a unit at boot.
    NoUser,
    /// It is not known, for this reason.
    NotKnown(String),
}

/// How the user of this process is connected to this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConnection {
    /// Connections through this network namespace, which its firewall can cut.
    pub connections: Vec<TcpConnection>,
    /// Connections of the ancestors through other namespaces, which it cannot cut.
    pub elsewhere: Vec<TcpConnection>,
    /// Where the user is.
    pub who: Requester,
}

/// The variable in which sshd passes the connection of the session.
const SSH: &str = "SSH_CONNECTION";

/// Programs by which people log in or change their user.
const LOGIN_PROGRAMS: &[&str] = &[
    "sshd",
    "dropbear",
    "mosh-server",
    "in.telnetd",
    "telnetd",
    "login",
    "su",
    "sudo",
    "sudo-rs",
    "doas",
    "runuser",
    "pkexec",
    "screen",
    "SCREEN",
    "tmux",
];

impl ClientConnection {
    /// Examines this process and its ancestors.
    pub fn current() -> Self {
        let mut chain = vec![std::process::id().to_string()];
        // All ancestors, whatever user they run as: below `su -` in root's tmux only root's own processes tell.
        chain.extend(process::parents());
        let clients = clients(&chain);
        let here = process::network("self");
        let is_here = |pid: &String| here.is_some() && process::network(pid) == here;
        let mut all = chain.clone();
        for client in &clients {
            let mut of_client = vec![client.clone()];
            of_client.extend(process::above(client));
            // A client may belong to another server, so one in another namespace does not prove that its user cannot be
            // cut off here. Its ancestors in this namespace still show who can.
            if !is_here(client) {
                of_client.retain(is_here);
            }
            all.extend(of_client);
        }

        let (mut connections, mut elsewhere) = (Vec::new(), Vec::new());
        for pid in &all {
            let list = match is_here(pid) {
                true => &mut connections,
                false => &mut elsewhere,
            };
            list.extend(connection::held_by(pid));
        }
        // In tmux the variable is as old as the server and may name an old connection; the clients' connections are
        // current.
        let said = said(chain.iter().filter(|pid| is_here(pid)));
        let mut stale = None;
        if let Some((said, is_of_person)) = said {
            // The variable alone proves nothing: it outlives its connection in daemons and in tmux.
            if connection::established().contains(&said) {
                connections.push(said);
            } else if all
                .iter()
                .any(|pid| connection::is_established_for(pid, &said))
            {
                elsewhere.push(said);
            } else if is_of_person && clients.is_empty() {
                stale = Some(said);
            }
        }
        for list in [&mut connections, &mut elsewhere] {
            let mut seen = HashSet::new();
            list.retain(|connection| seen.insert(*connection));
        }
        // The firewall of this namespace cannot cut the connections of processes in other ones.
        let (inside, outside): (Vec<String>, Vec<String>) = all.into_iter().partition(is_here);
        let who = requester(
            !connections.is_empty(),
            !elsewhere.is_empty(),
            &inside,
            &outside,
            stale,
        );
        Self {
            connections,
            elsewhere,
            who,
        }
    }
}

/// Decides where the user is. `inside` are the processes in this network namespace, `outside` the ancestors and clients in
/// others. `is_here` and `is_elsewhere` say whether connections were found in this namespace and in others.
fn requester(
    is_here: bool,
    is_elsewhere: bool,
    inside: &[String],
    outside: &[String],
    stale: Option<TcpConnection>,
) -> Requester {
    if is_here {
        return Requester::Ssh;
    }
    let mut terminals = inside.iter().filter_map(|pid| process::terminal(pid));
    if terminals.clone().any(is_console) {
        return Requester::Console;
    }
    if is_elsewhere {
        return Requester::Elsewhere;
    }
    if let Some(stale) = stale {
        return Requester::NotKnown(format!(
            "SSH_CONNECTION names a connection that does not exist any more ({stale})"
        ));
    }
    let names = inside.iter().filter_map(|pid| process::name(pid));
    let person = names
        .map(first_word)
        .find(|name| LOGIN_PROGRAMS.contains(&name.as_str()));
    let sign = match (person, terminals.next()) {
        (Some(name), _) => {
            format!("it was started below `{name}`, and no connection is behind that")
        }
        // For example `ip netns exec` in a shell: the terminal belongs to the shell, which is in another namespace.
        (None, Some(terminal))
            if outside
                .iter()
                .any(|pid| process::terminal(pid) == Some(terminal)) =>
        {
            return Requester::Elsewhere;
        }
        (None, Some((major, minor))) => {
            format!("it has a terminal (device {major}:{minor}), and no connection is behind that")
        }
        (None, None) if !outside.is_empty() => return Requester::Elsewhere,
        (None, None) => return Requester::NoUser,
    };
    match inside.iter().any(|pid| is_at_desktop(pid)) {
        true => Requester::Console,
        false => Requester::NotKnown(sign),
    }
}

/// Returns the SSH connection that the nearest of these processes names, and `true` if that process belongs to a
/// person. A daemon that was once restarted by hand keeps the variable of that session.
fn said<'a>(mut chain: impl Iterator<Item = &'a String>) -> Option<(TcpConnection, bool)> {
    let own = env::var(SSH).ok().map(|text| (text, true));
    let said = own.or_else(|| {
        chain.find_map(|pid| {
            let text = process::variable(pid, SSH)?;
            let is_of_person = process::terminal(pid).is_some()
                || process::user(pid).is_some_and(|user| user != "0");
            Some((text, is_of_person))
        })
    });
    let (text, is_of_person) = said?;
    Some((parse_ssh(&text)?, is_of_person))
}

/// Returns the program in a process name. tmux names its processes `tmux: server` and `tmux: client`.
fn first_word(name: String) -> String {
    let word = name.split([':', ' ', '-']).next().unwrap_or_default();
    match name.as_str() {
        "mosh-server" | "sudo-rs" => name,
        _ => word.to_owned(),
    }
}

/// Returns the client processes of the tmux or screen in which one of these processes runs. They are those of all
/// servers of its user, because the kernel does not tell which client belongs to which server.
fn clients(chain: &[String]) -> Vec<String> {
    let server = chain.iter().find_map(|pid| {
        let name = process::name(pid)?;
        let word = first_word(name);
        let word = word.to_ascii_lowercase();
        matches!(word.as_str(), "tmux" | "screen").then(|| (pid.clone(), word))
    });
    let Some((server, word)) = server else {
        return Vec::new();
    };
    let user = process::user(&server);
    let mut clients = process::all();
    clients.retain(|pid| {
        let name = process::name(pid).map(|name| first_word(name).to_ascii_lowercase());
        // A server has no terminal; a client has the terminal that it draws on.
        name.as_ref() == Some(&word)
            && !chain.contains(pid)
            && process::terminal(pid).is_some()
            && process::user(pid) == user
    });
    clients
}

/// Returns `true` for a console: a screen and keyboard, a serial line, or a console of a hypervisor, but not a
/// pseudo-terminal (`pts`).
fn is_console((major, minor): (u32, u32)) -> bool {
    match major {
        // tty1, tty2, ...; ttyS0, ttyS1, ... (minor 0 is tty0, the current console)
        4 => minor > 0,
        // console
        5 => minor == 1,
        // ttyUSB, ttyAMA and other serial ports, hvc, consoles of s390
        188 | 204 | 227 | 229 => true,
        _ => false,
    }
}

/// Returns `true` if a process belongs to a user who, as logind says, has a session at the desktop of this machine and
/// none from elsewhere.
fn is_at_desktop(pid: &str) -> bool {
    let login = fs::read_to_string(format!("/proc/{pid}/loginuid"));
    let Some(user) = login.ok().filter(|user| user.trim() != "4294967295") else {
        return false;
    };
    let entries = fs::read_dir("/run/systemd/sessions")
        .into_iter()
        .flatten()
        .flatten();
    let sessions = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let of_user = sessions.filter(|text| has(text, "UID", user.trim()));
    let of_user: Vec<String> = of_user.collect();
    let is_local = |text: &String| has(text, "REMOTE", "0") && has(text, "SEAT", "seat0");
    of_user.iter().any(is_local) && !of_user.iter().any(|text| has(text, "REMOTE", "1"))
}

fn has(session: &str, name: &str, value: &str) -> bool {
    let mut lines = session.lines();
    lines.any(|line| {
        line.strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('='))
            == Some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::{first_word, has, is_console};

    #[test]
    fn consoles_are_known_by_their_devices() {
        // tty1, ttyS0, console, hvc0
        for device in [(4, 1), (4, 64), (5, 1), (229, 0)] {
            assert!(is_console(device), "{device:?}");
        }
        // tty0, which is an alias; tty; pts/0, pts/300
        for device in [(4, 0), (5, 0), (136, 0), (137, 44)] {
            assert!(!is_console(device), "{device:?}");
        }
    }

    #[test]
    fn names_of_processes() {
        let words = [
            "tmux: server",
            "SCREEN",
            "sshd-session",
            "mosh-server",
            "su",
        ];
        let words = words.map(|name| first_word(name.to_owned()));
        assert_eq!(words, ["tmux", "SCREEN", "sshd", "mosh-server", "su"]);
    }

    #[test]
    fn sessions_of_logind() {
        let text = "UID=1000\nREMOTE=0\nSEAT=seat0\nTYPE=wayland\n";
        assert!(has(text, "SEAT", "seat0") && has(text, "UID", "1000"));
        assert!(!has(text, "UID", "100") && !has(text, "SEA", "T=seat0"));
    }
}
