//! Who asks for a change, and how he reaches this host.
//!
//! It is found by the processes above this one, whoever they belong to: `su -` and sudo empty the environment, and tmux and
//! screen cut the line of parents, so that their clients are looked at as well. What cannot be told is not guessed.

use std::collections::HashSet;
use std::env;
use std::fs;

use super::connection::{self, Connection, parse_ssh};
use super::process;

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Who {
    /// Somebody at the other end of a connection that this network namespace's firewall can cut.
    Ssh,
    /// Somebody at the machine itself.
    #[default]
    Console,
    /// Somebody who comes through another network namespace, whatever this one's rules are.
    Elsewhere,
    /// Nobody: cron, an agent, a unit at boot.
    NoUser,
    /// It cannot be told: why.
    NotKnown(String),
}

/// How the user of this process reaches this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seat {
    /// Connections through this network namespace, which its firewall can cut.
    pub connections: Vec<Connection>,
    /// Connections of the processes above through other namespaces, which it cannot.
    pub elsewhere: Vec<Connection>,
    /// Who it is.
    pub who: Who,
}

/// Where sshd says by which connection one came.
const SSH: &str = "SSH_CONNECTION";

/// Programs that a person stands behind.
const OF_PEOPLE: &[&str] = &[
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

impl Seat {
    /// Looks at this process and those above it.
    pub fn current() -> Self {
        let mut chain = vec![std::process::id().to_string()];
        chain.extend(process::parents());
        let clients = clients(&chain);
        let mut all = chain.clone();
        for client in &clients {
            all.push(client.clone());
            all.extend(process::above(client));
        }
        let here = process::network("self");
        let is_here = |pid: &String| here.is_some() && process::network(pid) == here;

        let mut seat = Self::default();
        for pid in &all {
            let list = match is_here(pid) {
                true => &mut seat.connections,
                false => &mut seat.elsewhere,
            };
            list.extend(connection::held_by(pid));
        }
        // Older than the session in a tmux; what its clients hold is newer.
        let said = said(chain.iter().filter(|pid| is_here(pid)));
        let mut stale = None;
        if let Some((said, is_of_person)) = said {
            if connection::established().contains(&said) {
                seat.connections.push(said);
            } else if all
                .iter()
                .any(|pid| connection::is_established_for(pid, &said))
            {
                seat.elsewhere.push(said);
            } else if is_of_person && clients.is_empty() {
                stale = Some(said);
            }
        }
        for list in [&mut seat.connections, &mut seat.elsewhere] {
            let mut seen = HashSet::new();
            list.retain(|connection| seen.insert(*connection));
        }
        // What the processes in another namespace sit on cannot be cut from here.
        let (inside, outside): (Vec<String>, Vec<String>) = all.into_iter().partition(is_here);
        seat.who = seat.judge(&inside, &outside, stale);
        seat
    }

    /// `inside`: the processes of this network namespace; `outside`: those above or beside them in others.
    fn judge(&self, inside: &[String], outside: &[String], stale: Option<Connection>) -> Who {
        if !self.connections.is_empty() {
            return Who::Ssh;
        }
        let mut terminals = inside.iter().filter_map(|pid| process::terminal(pid));
        if terminals.clone().any(is_console) {
            return Who::Console;
        }
        if !self.elsewhere.is_empty() {
            return Who::Elsewhere;
        }
        if let Some(stale) = stale {
            return Who::NotKnown(format!(
                "SSH_CONNECTION names a connection that does not exist any more ({stale})"
            ));
        }
        let names = inside.iter().filter_map(|pid| process::name(pid));
        let person = names
            .map(first_word)
            .find(|name| OF_PEOPLE.contains(&name.as_str()));
        let sign = match (person, terminals.next()) {
            (Some(name), _) => {
                format!("it was started below `{name}`, and no connection is behind that")
            }
            // Such as `ip netns exec` in a shell: whoever looks at the terminal does so through the shell's namespace.
            (None, Some(terminal))
                if outside
                    .iter()
                    .any(|pid| process::terminal(pid) == Some(terminal)) =>
            {
                return Who::Elsewhere;
            }
            (None, Some((major, minor))) => {
                format!(
                    "it has a terminal (device {major}:{minor}), and no connection is behind that"
                )
            }
            (None, None) if !outside.is_empty() => return Who::Elsewhere,
            (None, None) => return Who::NoUser,
        };
        match inside.iter().any(|pid| is_at_desktop(pid)) {
            true => Who::Console,
            false => Who::NotKnown(sign),
        }
    }
}

/// What the nearest of these processes that has the variable says, and whether that is a person's and no daemon's that was
/// started again by hand once.
fn said<'a>(mut chain: impl Iterator<Item = &'a String>) -> Option<(Connection, bool)> {
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

/// tmux calls its processes `tmux: server` and `tmux: client`.
fn first_word(name: String) -> String {
    let word = name.split([':', ' ', '-']).next().unwrap_or_default();
    match name.as_str() {
        "mosh-server" | "sudo-rs" => name,
        _ => word.to_owned(),
    }
}

/// The processes through which people see the tmux or screen that one of these runs in; those of all servers of its user, since
/// the kernel does not tell which client speaks to which server.
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
        // A server has no terminal, a client has the one that it draws on.
        name.as_ref() == Some(&word)
            && !chain.contains(pid)
            && process::terminal(pid).is_some()
            && process::user(pid) == user
    });
    clients
}

/// A screen and keyboard of this machine, a serial line, or that of a hypervisor; not what a program plays (`pts`).
fn is_console((major, minor): (u32, u32)) -> bool {
    match major {
        // tty1 and so on, ttyS0 and so on.
        4 => minor > 0,
        // console
        5 => minor == 1,
        // ttyUSB, ttyAMA and other serial ports, hvc, s390's.
        188 | 204 | 227 | 229 => true,
        _ => false,
    }
}

/// Whether a process belongs to somebody who sits at a desktop of this machine and has no session from elsewhere, as logind says.
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
        // tty0, which is none; tty; pts/0, pts/300
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
