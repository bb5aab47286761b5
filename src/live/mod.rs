//! The host: reads and changes its rules and sets, and tries rules in a scratch network namespace.
//!
//! The trait [`Host`] is the boundary. [`Real`] runs iptables' tools in the network namespace of this process. Tests of
//! the code above use a double that executes the input on a model and fails where a test wants it to.

pub mod autoload;
mod child;
pub mod clock;
mod concern;
pub mod connection;
pub mod devices;
mod dump;
#[cfg(test)]
pub mod fake;
pub mod holders;
pub mod lifetime;
mod limit_tables;
mod lock;
mod namespace;
pub mod owners;
pub mod preflight;
pub mod process;
pub mod program;
mod real;
pub mod requester;
pub mod route;
pub mod scratch;
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

pub use concern::Concern;
pub use dump::{DumpError, LINE_FEED, LiveChain, LiveChains, LiveRule, LiveRuleset};
pub use lock::LockHolder;
pub use namespace::NamespaceId;
pub use real::Real;
pub use sets::{Ipset, Ipsets, ListedIpset};
pub use tools::{Tools, own_command};

use crate::files::PROGRAM_FOLDERS;
use crate::net::{Family, PerFamily};

/// The two kernel subsystems that can hold iptables rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// nf_tables, used by iptables-nft.
    Nft,
    /// x_tables, the older one, used by iptables-legacy.
    Legacy,
}

impl Backend {
    /// Returns the word in the names of the tools: `nft` or `legacy`.
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }

    /// Returns the other backend.
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

/// The operations of fwc on a host.
pub trait Host {
    /// Returns `true` if the kernel does not support a family: it has no packets or rules of it, and accepts no rules.
    fn lacks(&self, _family: Family) -> bool {
        false
    }

    /// Returns the live rules of a family, with counters.
    fn save(&self, family: Family) -> Result<LiveRuleset, Error>;

    /// Executes `input` in the format of `iptables-restore --noflush --counters`: what it does not name is kept. Each
    /// table is changed atomically, but not all together: after an error some tables may already be changed.
    fn restore(&mut self, family: Family, input: &str) -> Result<(), Error>;

    /// Returns all ipsets, without members.
    fn list_sets(&self) -> Result<BTreeMap<String, ListedIpset>, Error>;

    /// Returns an ipset with its members.
    fn save_set(&self, name: &str) -> Result<Ipset, Error>;

    /// Executes commands of `ipset restore` up to the first that fails. Earlier commands are not undone.
    fn change_sets(&mut self, commands: &str) -> Result<(), Error>;

    /// Executes `add` commands of `ipset restore`; members that exist already are no error.
    fn add_members(&mut self, commands: &str) -> Result<(), Error>;

    /// Loads the payload in a scratch network namespace and reads it back. The test mode of `iptables-restore` is not
    /// enough: it accepts rules that the kernel then refuses.
    fn rehearse(&self, payload: &Payload) -> Result<Rehearsed, Error>;

    /// Makes tools that change the kernel hold this lock too, as long as they live.
    fn tie(&mut self, _lock: &Arc<File>) {}

    /// Sets the time, in milliseconds since boot, after which tools are killed.
    fn finish_by(&mut self, _deadline: Option<u64>) {}
}

/// The sets and rules to try in a scratch network namespace.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    /// Commands of `ipset restore` that create the sets; empty if no rule names one.
    pub sets: String,
    /// Rules files, in which each table is replaced as a whole.
    pub rules: PerFamily<Option<String>>,
    /// Edits of these rules, to be loaded one after another, in the format of `iptables-restore --noflush`.
    pub edits: PerFamily<Vec<String>>,
}

/// The state after a rehearsal, as the kernel has it.
#[derive(Clone, Debug, Default)]
pub struct Rehearsed {
    /// The output of `ipset save`.
    pub sets: String,
    /// The rules at the end.
    pub rules: PerFamily<Option<LiveRuleset>>,
    /// The rules after each edit.
    pub stages: PerFamily<Vec<LiveRuleset>>,
}

/// Why an operation on the host failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tool is not installed.
    #[error(
        "`{tool}` is not installed (looked in {}); {}",
        PROGRAM_FOLDERS.join(", "),
        tools::install(tool)
    )]
    Missing {
        /// The name of the tool.
        tool: String,
    },
    /// The IPv4 tool and the IPv6 tool use different backends.
    #[error(
        "`iptables-save` uses the {v4} backend and `ip6tables-save` the {v6} one; make them the same with `update-alternatives --config ip6tables`, or choose with --iptables nft or --iptables legacy"
    )]
    MixedTools {
        /// The backend of the IPv4 tool.
        v4: Backend,
        /// The backend of the IPv6 tool.
        v6: Backend,
    },
    /// The backend that is not in use has rules too.
    #[error(
        "{family} rules are in the {other} backend too, where `iptables-save` does not show them, and packets pass through both; look with `{tool}`, and empty them, or choose that backend with --iptables {other}"
    )]
    BothBackends {
        /// The family of these rules.
        family: Family,
        /// The backend that is not in use.
        other: Backend,
        /// The tool that shows them.
        tool: String,
    },
    /// Another program holds the lock of iptables' tools.
    #[error(
        "{} holds the lock of iptables' tools and does not release it; wait until it is done, or end it",
        .0.as_ref().map_or_else(|| "another program".to_owned(), ToString::to_string)
    )]
    Lock(Option<LockHolder>),
    /// A tool exceeded its time limit and was killed.
    #[error("`{tool}` was not done after {} seconds, and was killed", .limit.as_secs_f32())]
    TimedOut {
        /// The path of the tool.
        tool: String,
        /// The time limit.
        limit: Duration,
    },
    /// The output of a tool is incomplete.
    #[error("`{tool}` left out the table `{table}`, which the kernel has: it cannot be relied on")]
    LeftOut {
        /// The path of the tool.
        tool: String,
        /// The table that it left out.
        table: String,
    },
    /// `iptables-restore` or `iptables-save` ended with an error.
    #[error("{family}: {refusal}")]
    Refused {
        /// The family of the rules.
        family: Family,
        /// The tool's message.
        refusal: Refusal,
    },
    /// `ipset` ended with an error.
    #[error("sets: {0}")]
    RefusedSets(Refusal),
    /// The live sets could not be read reliably.
    #[error("sets: {0}")]
    UnreadableSets(sets::SetsError),
    /// The live rules could not be read reliably.
    #[error("{family}: {source}")]
    Unreadable {
        /// The family of the rules.
        family: Family,
        /// What is wrong with the output.
        source: DumpError,
    },
    /// A scratch network namespace could not be created.
    #[error("cannot make a scratch network namespace: {0}")]
    NoScratch(String),
    /// The operating system returned an error.
    #[error("{what}: {source}")]
    Io {
        /// The operation that failed.
        what: String,
        /// The error of the system.
        source: io::Error,
    },
}

impl Error {
    /// Returns `true` if an operation at boot may succeed when it is tried again. A tool or a lock for which fwc has waited
    /// as long as it does at boot is no such error: to wait again would only keep the network down.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::TimedOut { limit, .. } => *limit < tools::PATIENT_LIMIT,
            Self::LeftOut { .. }
            | Self::Refused { .. }
            | Self::RefusedSets(_)
            | Self::UnreadableSets(_)
            | Self::NoScratch(_)
            | Self::Io { .. } => true,
            Self::Lock(_)
            | Self::Missing { .. }
            | Self::MixedTools { .. }
            | Self::BothBackends { .. }
            | Self::Unreadable { .. } => false,
        }
    }
}

/// The error of a tool that refused its input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The name of the tool.
    pub tool: String,
    /// Its message, without its name and the advice to read its help.
    pub message: String,
    /// The line of the input that it named: its number, from 1, and its text.
    pub line: Option<(usize, String)>,
}

impl Refusal {
    /// Extracts the message about `input` from the standard error of a tool.
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
            // "Error occurred at line: 3" repeats only the number; "line 3: RULE_APPEND failed (...)" also has the
            // reason.
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
            // iptables-legacy loads a table as a whole at COMMIT, and the kernel does not say which rule it refused.
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
    /// Returns `true` if rights were missing, so that the input is not to blame.
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

/// Returns the number in `Error occurred at line: 11`, `line 10: RULE_APPEND failed` or `iptables-restore: line 12
/// failed`.
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
