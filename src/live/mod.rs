//! The host: its rules and sets read and replaced, payloads tried in a scratch network namespace.
//!
//! [`Host`] is the border: [`Real`] runs iptables' tools in the network namespace of this process; the tests of what
//! stands above have a double that executes restore input on a model and fails on demand.

pub mod autoload;
mod child;
pub mod clock;
pub mod connection;
pub mod devices;
mod dump;
#[cfg(test)]
pub mod fake;
pub mod holders;
pub mod lifetime;
mod lock;
mod namespace;
pub mod owners;
pub mod preflight;
pub mod process;
pub mod program;
mod real;
pub mod route;
pub mod scratch;
pub mod seat;
pub mod sets;
mod tools;
pub mod tracked;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use dump::{Chain, Chains, Dump, DumpError, LINE_FEED, Rule};
pub use lock::Holder;
pub use namespace::NamespaceId;
pub use real::Real;
pub use sets::{Listed, Set, Sets};
pub use tools::{Tools, own_command};

use crate::files::PROGRAM_FOLDERS;
use crate::net::{Family, PerFamily};

/// The kernel's two ways to hold iptables' rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// In nf_tables.
    Nft,
    /// In x_tables, the older one.
    Legacy,
}

impl Backend {
    /// The word in the names of the tools: `nft` or `legacy`.
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }

    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::Nft => Self::Legacy,
            Self::Legacy => Self::Nft,
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.keyword())
    }
}

/// What fwc does with a host.
pub trait Host {
    /// Whether the kernel has no such family: it has no packets and no rules of it, and takes none.
    fn lacks(&self, _family: Family) -> bool {
        false
    }

    /// The live rules of a family, with counters.
    fn save(&self, family: Family) -> Result<Dump, Error>;

    /// Makes the edits of `input`, in the format of `iptables-restore --noflush --counters`: what it does not name stays.
    /// Atomic a table, not as a whole: after an error some tables may be new.
    fn restore(&mut self, family: Family, input: &str) -> Result<(), Error>;

    /// Every ipset, without members.
    fn list_sets(&self) -> Result<BTreeMap<String, Listed>, Error>;

    /// An ipset of addresses with its members.
    fn save_set(&self, name: &str) -> Result<Set, Error>;

    /// Executes commands of `ipset restore` up to the first that fails; what was done by then stays done.
    fn change_sets(&mut self, commands: &str) -> Result<(), Error>;

    /// The same for `add` commands, of which some may be in force already.
    fn add_members(&mut self, commands: &str) -> Result<(), Error>;

    /// Loads the payload in a network namespace of its own and reads it back.
    fn rehearse(&self, payload: &Payload) -> Result<Rehearsed, Error>;

    /// Makes the tools that change the kernel hold this lock, too, as long as they live.
    fn tie(&mut self, _lock: &Arc<File>) {}

    /// Sets when tools have to be done, in milliseconds since boot; later they are killed.
    fn finish_by(&mut self, _deadline: Option<u64>) {}
}

/// What is to be tried.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    /// Commands of `ipset restore` that make the sets; empty where no rule names one.
    pub sets: String,
    /// Rules files, each table replaced as a whole.
    pub rules: PerFamily<Option<String>>,
    /// Edits of these, one after another, in the format of `iptables-restore --noflush`.
    pub edits: PerFamily<Vec<String>>,
}

/// What the kernel made of it.
#[derive(Clone, Debug, Default)]
pub struct Rehearsed {
    /// What `ipset save` prints.
    pub sets: String,
    /// The rules at the end.
    pub rules: PerFamily<Option<Dump>>,
    /// The rules after each of the edits.
    pub stages: PerFamily<Vec<Dump>>,
}

/// Why the host did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tool is not installed.
    #[error(
        "`{tool}` is not installed (looked in {}); {}",
        PROGRAM_FOLDERS.join(", "),
        tools::install(tool)
    )]
    Missing {
        /// Its name.
        tool: String,
    },
    /// The IPv4 and the IPv6 tool hold their rules in different places.
    #[error(
        "`iptables-save` uses the {v4} backend and `ip6tables-save` the {v6} one; make them the same with `update-alternatives --config ip6tables`, or choose with --iptables nft or --iptables legacy"
    )]
    MixedTools {
        /// That of IPv4.
        v4: Backend,
        /// That of IPv6.
        v6: Backend,
    },
    /// Rules are in the backend that is not in use.
    #[error(
        "{family} rules are in the {other} backend too, where `iptables-save` does not show them, and packets pass through both; look with `{tool}`, and empty them, or choose that backend with --iptables {other}"
    )]
    BothBackends {
        /// Whose rules.
        family: Family,
        /// The backend that is not in use.
        other: Backend,
        /// The tool that shows them.
        tool: String,
    },
    /// Another program keeps iptables' tools from working.
    #[error(
        "{} holds the lock of iptables' tools for more than {} seconds; wait until it is done, or end it",
        .0.as_ref().map_or_else(|| "another program".to_owned(), ToString::to_string), tools::WAIT
    )]
    Lock(Option<Holder>),
    /// A tool was not done in time, and was killed.
    #[error("`{tool}` was not done after {} seconds, and was killed", .limit.as_secs_f32())]
    TimedOut {
        /// Its path.
        tool: String,
        /// The time that it had.
        limit: Duration,
    },
    /// What a tool printed is not all.
    #[error("`{tool}` left out the table `{table}`, which the kernel has: it cannot be relied on")]
    LeftOut {
        /// Its path.
        tool: String,
        /// The table.
        table: String,
    },
    /// `iptables-restore` or `iptables-save` ended with an error.
    #[error("{family}: {refusal}")]
    Refused {
        /// The rules' family.
        family: Family,
        /// What it said.
        refusal: Refusal,
    },
    /// `ipset` ended with an error.
    #[error("sets: {0}")]
    RefusedSets(Refusal),
    /// The live sets cannot be read for sure.
    #[error("sets: {0}")]
    UnreadableSets(sets::SetsError),
    /// The live rules cannot be read for sure.
    #[error("{family}: {source}")]
    Unreadable {
        /// The rules' family.
        family: Family,
        /// What is wrong with the dump.
        source: DumpError,
    },
    /// No scratch network namespace.
    #[error("cannot make a scratch network namespace: {0}")]
    NoScratch(String),
    /// The system.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

/// What a tool said when it refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The tool's name.
    pub tool: String,
    /// Its words, without its name and its advice to read its help.
    pub message: String,
    /// The line of the input that it named: number from 1, and text.
    pub line: Option<(usize, String)>,
}

impl Refusal {
    /// Finds in a tool's standard error what it says about `input`.
    pub fn read(tool: &str, stderr: &str, input: &str) -> Self {
        let mut line = None;
        let mut words = Vec::new();
        for text in stderr.lines().map(str::trim) {
            let named = line_number(text);
            line = line.or(named);
            let text = text
                .split_once("): ")
                .filter(|(before, _)| before.contains("tables"))
                .map_or(text, |(_, after)| after);
            let says_more = named.is_none() || text.contains("failed (");
            if says_more && !text.is_empty() && !text.starts_with("Try `") && !text.ends_with("):")
            {
                words.push(text);
            }
        }
        let line = line.and_then(|number| {
            let text = input.lines().nth(number.checked_sub(1)?)?;
            Some((number, text.to_owned()))
        });
        let message = match &line {
            _ if !words.is_empty() => words.join("; "),
            // x_tables loads a table at its end, and the kernel does not say which rule was wrong.
            Some((number, text)) if text == "COMMIT" => {
                let above = input.lines().take(*number);
                let table = above.filter_map(|line| line.strip_prefix('*')).last();
                let table = table.unwrap_or_default();
                format!("the kernel refused a rule of the table `{table}`; `dmesg` may say which")
            }
            _ => "it gave no reason".to_owned(),
        };
        Self {
            tool: tool.to_owned(),
            message,
            line,
        }
    }
}

impl Refusal {
    /// Whether rights were missing, whatever the input.
    pub fn is_permission(&self) -> bool {
        ["Permission denied", "Operation not permitted"]
            .iter()
            .any(|words| self.message.contains(words))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.line {
            Some((number, text)) => {
                write!(
                    out,
                    "`{}` refused line {number}: {}",
                    self.tool, self.message
                )?;
                write!(out, "\n  {number} | {text}")
            }
            None => write!(out, "`{}` failed: {}", self.tool, self.message),
        }
    }
}

/// The number in `Error occurred at line: 11`, `line 10: RULE_APPEND failed`, `iptables-restore: line 12 failed`.
fn line_number(text: &str) -> Option<usize> {
    let (_, after) = text.split_once("line")?;
    let digits = after.trim_start_matches([':', ' ']);
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    digits[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::Refusal;

    #[test]
    fn refusals_name_the_line() {
        let input = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j NOPE\nCOMMIT\n";
        let cases = [
            (
                "iptables-nft-restore v1.8.9 (nf_tables): Set nope doesn't exist.\n\nError occurred at line: 3\nTry `iptables-nft-restore -h' or 'iptables-nft-restore --help' for more information.\n",
                "`restore` refused line 3: Set nope doesn't exist.\n  3 | -A INPUT -j NOPE",
            ),
            (
                "iptables-nft-restore v1.8.9 (nf_tables): \nline 3: RULE_APPEND failed (Invalid argument): rule in chain INPUT\n",
                "`restore` refused line 3: line 3: RULE_APPEND failed (Invalid argument): rule in chain INPUT\n  3 | -A INPUT -j NOPE",
            ),
            (
                "iptables-restore: line 4 failed\n",
                "`restore` refused line 4: the kernel refused a rule of the table `filter`; `dmesg` may say which\n  4 | COMMIT",
            ),
            (
                "iptables-restore v1.8.9 (legacy): Couldn't load target `NOPE':No such file or directory\n\nError occurred at line: 3\n",
                "`restore` refused line 3: Couldn't load target `NOPE':No such file or directory\n  3 | -A INPUT -j NOPE",
            ),
            ("", "`restore` failed: it gave no reason"),
        ];
        for (stderr, expected) in cases {
            assert_eq!(
                Refusal::read("restore", stderr, input).to_string(),
                expected
            );
        }
    }
}
