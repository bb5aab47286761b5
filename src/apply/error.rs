//! Why an apply stopped, and what that means for the firewall.

use std::fmt::{self, Write};
use std::io;
use std::path::{Path, PathBuf};

use super::lockout::Lockout;
use super::ownership::Finding;
use crate::live::sets::SetsError;
use crate::live::{self, DumpError};
use crate::net::Family;

/// Whether a failed commit was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undo {
    /// The rules of both families and the sets are as they were.
    Complete,
    /// Some are not: why.
    Failed(String),
}

/// Why it stopped. Nothing was changed unless the variant says so.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another fwc works on this network namespace.
    #[error(
        "another fwc is changing this firewall{}; wait until it is done",
        .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Locked {
        /// Its process, as far as it is known.
        pid: Option<u32>,
    },
    /// A program that is none of fwc's took fwc's own lock.
    #[error("{0} holds the lock of fwc and is not fwc: wait until it ends, or end it")]
    LockedByOther(live::XtablesLockHolder),
    /// A hook wants what only the fwc that runs it can do when the hook has ended.
    #[error(
        "this fwc runs in a hook of process {0}, and each would wait for the other to end; nothing was changed. Start it outside the hook (`systemd-run --no-block`)"
    )]
    InHook(u32),
    /// Others could have written what fwc acts on as root.
    #[error(
        "the state directory {} is not safe, and fwc acts on it as root: {reason}; nothing was changed. Let only root write it (`chown root`, `chmod go-w`), or choose another with --state-dir",
        .path.display()
    )]
    UnsafeState {
        /// The folder.
        path: PathBuf,
        /// Why it is not.
        reason: String,
    },
    /// The payload cannot be read.
    #[error("{family}: {source}")]
    Payload {
        /// Its family.
        family: Family,
        /// What is wrong with it.
        source: DumpError,
    },
    /// The kernel lacks a family that the policy has rules of.
    #[error(
        "this kernel has no {0}, and the policy has rules for it; nothing was changed. Give the kernel {0}: {way}",
        way = match .0 {
            Family::V4 => "a kernel with IPv4",
            Family::V6 => "`modprobe ipv6`, without `ipv6.disable=1` on its command line",
        }
    )]
    NoFamily(Family),
    /// The payload's sets cannot be read.
    #[error("sets: {0}")]
    Sets(SetsError),
    /// The rules name sets that are not there.
    #[error(
        "the rules name {}, which neither the policy nor the kernel has; nothing was changed. Start the program that creates {}, or run `ipset create` first",
        quoted(.0), them(.0)
    )]
    MissingSets(Vec<String>),
    /// A set of the policy has the name of a set of another type.
    #[error(
        "the kernel has a set `{name}` of the type `{kind}`, which fwc did not make and cannot replace while rules may use it; nothing was changed. Give the set another name in the policy, or remove it: `ipset destroy {name}`"
    )]
    TakenSet {
        /// Its name.
        name: String,
        /// Its type in the kernel.
        kind: String,
    },
    /// A set has more members than it could hold.
    #[error(
        "the set `{name}` has {members} members, too many for `size = {size}`; nothing was changed. Raise `size` of the set in the policy, or remove members (`ipset del`)"
    )]
    SetTooSmall {
        /// Its name.
        name: String,
        /// How many it has.
        members: usize,
        /// How many it could hold.
        size: usize,
    },
    /// The payload does not load.
    #[error("{}", rehearsal(.0))]
    Rehearsal(live::Error),
    /// Live cannot be read.
    #[error("cannot read the live rules: {0}")]
    Live(live::Error),
    /// `fwc panic` closed the firewall, and only its own end opens it.
    #[error(
        "`fwc panic` is on, and only `fwc panic --off` ends it; nothing was changed. End it, then run the command again"
    )]
    PanicIsOn,
    /// Who asks reaches this host in a way that fwc does not see.
    #[error(
        "fwc cannot tell how you reach this host: {0}. So it cannot check that the new rules let you in; nothing was changed\nwhat to do: run it in an SSH session of its own or on the console; or insist with --allow-lockout, best with --confirm"
    )]
    WhoIsNotKnown(String),
    /// What waits for its confirmation is not what is live.
    #[error(
        "change {number} cannot be kept: the live rules are no longer those that it made{}\nwhat to do: see `fwc status`; `fwc rollback` reverts the change now, otherwise it reverts when its time is over",
        .missing.iter().map(|line| format!("\n  {line}")).collect::<String>()
    )]
    NotInForce {
        /// The change.
        number: u64,
        /// What is missing, a line each.
        missing: Vec<String>,
    },
    /// Others' rules would be removed.
    #[error("{}", others(.0))]
    Others(Vec<Finding>),
    /// Rules that somebody put among fwc's would be removed, and nobody wants that.
    #[error("{}", strays(.0))]
    Strays(Vec<Finding>),
    /// Nothing can be rehearsed, and fwc cannot tell what the kernel makes of the rules.
    #[error(
        "no scratch network namespace can be made here, and without one fwc cannot tell what the kernel makes of these rules; nothing was changed: {0}"
    )]
    Unrehearsed(String),
    /// The file of a plan cannot be used.
    #[error("{}: {reason}", .path.display())]
    BadPlan {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The policy gives something else than was planned.
    #[error(
        "the policy no longer gives the planned rules; nothing was changed. Make a new plan: `fwc apply --dry-run --save-plan FILE`\n{0}"
    )]
    PlanOfOther(String),
    /// Live is not what was planned on.
    #[error(
        "fwc's part of the live rules is no longer what the plan was made for; nothing was changed. Make a new plan: `fwc apply --dry-run --save-plan FILE`\n{0}"
    )]
    PlanIsOld(String),
    /// The user would be locked out.
    #[error(
        "the new rules would lock you out; nothing was changed{}\nwhat to do: let it through in the policy, or insist with --allow-lockout, best with --confirm",
        .0.iter().map(|lockout| format!("\n  {lockout}")).collect::<String>()
    )]
    Lockout(Vec<Lockout>),
    /// Somebody changed live between plan and commit.
    #[error(
        "the live rules changed in the meantime; nothing was changed by fwc. Run the command again"
    )]
    LiveChanged,
    /// The commit failed.
    #[error("{cause}\n{undo}")]
    Commit {
        /// What the kernel refused.
        cause: live::Error,
        /// Whether it was taken back.
        undo: Undo,
    },
    /// The change took longer than it may.
    #[error("the change was not complete in time\n{undo}")]
    Late {
        /// Whether it was taken back.
        undo: Undo,
    },
    /// Live is not what the rehearsal gave.
    #[error("the live rules differ from those that fwc loaded:\n{diff}{undo}")]
    ReadBack {
        /// From the rehearsal to live.
        diff: String,
        /// Whether it was taken back.
        undo: Undo,
    },
    /// The edits do not lead from live to the target.
    #[error(
        "a trial on a copy of the live rules led to other rules than the policy's; nothing was changed. This is an internal error: please report it with these lines\n{0}"
    )]
    RehearsalDiffers(String),
    /// A step could not be written down.
    #[error("{cause}\n{undo}")]
    Journal {
        /// Why.
        cause: Box<Self>,
        /// Whether the change was taken back.
        undo: Undo,
    },
    /// A change waits for its confirmation.
    #[error(
        "change {number} waits for its confirmation until {until}; `fwc confirm` keeps it, `fwc rollback` reverts it"
    )]
    Pending {
        /// Its number.
        number: u64,
        /// Until when, in UTC.
        until: String,
    },
    /// No change waits for a confirmation.
    #[error("no change waits for a confirmation")]
    NotPending,
    /// It was not confirmed, or somebody took it back.
    #[error(
        "change {0} was not confirmed in time and was reverted: the rules are as they were before"
    )]
    TakenBack(u64),
    /// A confirmation that proves nothing.
    #[error(
        "{0}\nopen a new connection, and run `fwc confirm` there: a confirmation proves that you can still open one"
    )]
    ProvesNothing(String),
    /// There is no such entry.
    #[error("{0}")]
    NoEntry(String),
    /// The deadline has passed.
    #[error("too late: the time for the confirmation is over, and the change is being reverted")]
    TooLate,
    /// The process that takes a change back cannot be started.
    #[error(
        "cannot start the watchdog, the process that reverts the change if fwc dies; nothing was changed: {0}"
    )]
    NoWatchdog(io::Error),
    /// The watchdog would die with this process.
    #[error(
        "the watchdog, the process that reverts the change if fwc dies, would die together with fwc: {0}; nothing was changed"
    )]
    MortalWatchdog(String),
    /// The new rules are in force, and the next boot may bring the old ones.
    #[error(
        "the new rules are active, but not saved for the next boot: {0}. A reboot brings the old ones; repair that, then run `fwc apply` again"
    )]
    NotPersisted(String),
    /// The new rules are in force and kept, and fwc's memory does not know it, or not which hooks are to be run.
    #[error(
        "the new rules are active and saved for the next boot, but fwc could not record the change: {0}\nrepair that, then run `fwc apply` again"
    )]
    NotRecorded(Box<Self>),
    /// A file of the state folder is not as fwc wrote it.
    #[error("{} is not a valid record of fwc: {reason}. Remove it: fwc then treats the live rules as other programs'", .path.display())]
    BadRecord {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What hooks are to be run is not as fwc wrote it.
    #[error("{} is not a valid record of fwc: {reason}. Remove it: hooks of the last change that did not succeed then do not run again", .path.display())]
    BadOwed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system.
    #[error("{what} {}: {}", .path.display(), hint(.source))]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// Whether the firewall is not as it was.
    pub fn has_changed(&self) -> bool {
        match self {
            Self::Commit { undo, .. }
            | Self::Late { undo }
            | Self::ReadBack { undo, .. }
            | Self::Journal { undo, .. } => *undo != Undo::Complete,
            Self::NotPersisted(_) | Self::NotRecorded(_) => true,
            _ => false,
        }
    }

    pub(super) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            what,
            path: path.to_owned(),
            source,
        }
    }
}

impl fmt::Display for Undo {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete => {
                out.write_str("reverted: both families and the sets are as before, except for what other programs changed meanwhile")
            }
            Self::Failed(reason) => write!(
                out,
                "THE CHANGE COULD NOT BE REVERTED YET: {reason}\nthe watchdog keeps trying; see `fwc history`, or run `fwc recover`"
            ),
        }
    }
}

/// The system's words, with what to do where that is known.
fn hint(source: &io::Error) -> String {
    let advice = match source.kind() {
        io::ErrorKind::PermissionDenied => "; run with sudo, or choose another folder",
        io::ErrorKind::ReadOnlyFilesystem => {
            "; choose a folder that can be written with --persist-dir and --state-dir"
        }
        io::ErrorKind::StorageFull => "; make room",
        _ => "",
    };
    format!("{source}{advice}")
}

fn rehearsal(error: &live::Error) -> String {
    match error {
        live::Error::NoScratch(_) => format!(
            "{error}\nfwc loads no rules that it could not try first; nothing was changed. In a container, run fwc on the host (`nsenter --net=... fwc apply`) or allow CAP_SYS_ADMIN; or insist with --no-rehearse, best with --confirm"
        ),
        other => format!("the rules do not load; nothing was changed\n{other}"),
    }
}

/// The names of sets: "the set `a`", "the sets `a`, `b`".
fn quoted(names: &[String]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    let word = if names.len() == 1 { "set" } else { "sets" };
    format!("the {word} {}", quoted.join(", "))
}

fn them(names: &[String]) -> &'static str {
    if names.len() == 1 { "it" } else { "them" }
}

/// The list, grouped by owner.
fn others(findings: &[Finding]) -> String {
    let mut text =
        "the live firewall holds rules that fwc did not make; nothing was changed".to_owned();
    let mut owners: Vec<_> = findings.iter().map(|finding| finding.owner).collect();
    // The unknown ones last: they are the ones to think about.
    owners.sort_by_key(|owner| (owner.is_none(), *owner));
    owners.dedup();
    for owner in owners {
        // Writing to a String cannot fail.
        let _ = match owner {
            Some(owner) => write!(text, "\n  {owner}:"),
            None => write!(text, "\n  by hand, or by a tool that fwc does not know:"),
        };
        for finding in findings.iter().filter(|finding| finding.owner == owner) {
            let _ = write!(text, "\n    {finding}");
        }
    }
    text.push_str(
        "\nwhat to do: add your own rules to the policy, or remove them by hand; keep other programs' rules with `mode = \"shared\"` or `preserve` under [ownership]; or insist with --take-over, which removes all of them",
    );
    text
}

fn strays(findings: &[Finding]) -> String {
    let mut text =
        "somebody added rules to fwc's chains, and `apply` would remove them; nothing was changed"
            .to_owned();
    for finding in findings {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  {finding}");
    }
    text.push_str(
        "\nwhat to do: add the rules that you want to keep to the policy; without --keep-stray `apply` removes the others",
    );
    text
}
