//! Why an apply stopped, and what that means for the firewall.

use std::fmt::{self, Write};
use std::io;
use std::path::{Path, PathBuf};

use super::lockout::Lockout;
use super::ownership::Finding;
use crate::live::sets::SetsError;
use crate::live::{self, DumpError};
use crate::net::Family;

/// Whether a failed commit was reverted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undo {
    /// The rules of both families and the sets are as before.
    Complete,
    /// Some are not; the text says why.
    Failed(String),
}

/// Why an apply, or a command that ends one, stopped. Nothing was changed unless the variant says so.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another fwc is changing this network namespace.
    #[error(
        "another fwc is changing this firewall{}; wait until it is done",
        .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Locked {
        /// Its process id, if it is known.
        pid: Option<u32>,
    },
    /// A program other than fwc holds the lock of fwc.
    #[error("{0} holds the lock of fwc and is not fwc: wait until it ends, or end it")]
    LockedByOther(live::LockHolder),
    /// fwc was started by a hook, and would wait for the fwc that waits for the hook.
    #[error(
        "this fwc runs in a hook of process {0}, and each would wait for the other to end; nothing was changed. Start it outside the hook (`systemd-run --no-block`)"
    )]
    InHook(u32),
    /// A user other than root can write the state directory, on which fwc acts as root.
    #[error(
        "the state directory {} is not safe, and fwc acts on it as root: {reason}; nothing was changed. Let only root write it (`chown root`, `chmod go-w`), or choose another with --state-dir",
        .path.display()
    )]
    UnsafeState {
        /// The directory.
        path: PathBuf,
        /// Why it is not safe.
        reason: String,
    },
    /// A rules file, or recorded rules, cannot be parsed.
    #[error("{family}: {source}")]
    Payload {
        /// Its family.
        family: Family,
        /// The parse error.
        source: DumpError,
    },
    /// The kernel lacks a family that the policy accepts packets of.
    #[error(
        "this kernel has no {0}, and the policy has rules for it; nothing was changed. {way} under [defaults]",
        way = match .0 {
            Family::V4 => "Boot a kernel with IPv4, or write `families = \"ipv6\"`",
            Family::V6 => "Run `modprobe ipv6` (and boot without `ipv6.disable=1`), or write `families = \"ipv4\"`",
        }
    )]
    NoFamily(Family),
    /// The sets file, or recorded sets, cannot be parsed.
    #[error("sets: {0}")]
    Sets(SetsError),
    /// The rules name sets that neither the policy nor the kernel has.
    #[error(
        "the rules name {}, which neither the policy nor the kernel has; nothing was changed. Start the program that creates {}, or run `ipset create` first",
        quoted(.0), them(.0)
    )]
    MissingSets(Vec<String>),
    /// The kernel has a set of another program with the name of a set of the policy.
    #[error(
        "the kernel has a set `{name}` of the type `{kind}`, which fwc did not make and cannot replace while rules may use it; nothing was changed. Give the set another name in the policy, or remove it: `ipset destroy {name}`"
    )]
    TakenSet {
        /// Its name.
        name: String,
        /// Its type in the kernel.
        kind: String,
    },
    /// A set of the policy has another type in the kernel.
    #[error(
        "the set `{name}` has the type `{kind}`, but the policy wants `{wanted}`: the kernel cannot change the type of a set; nothing was changed. Give the set another name in the policy, or leave it out for one `fwc apply`: its members are lost either way"
    )]
    SetOfAnotherType {
        /// The name of the set in the kernel.
        name: String,
        /// Its type in the kernel.
        kind: String,
        /// Its type in the policy.
        wanted: String,
    },
    /// A set has more members than its new size allows.
    #[error(
        "the set `{name}` has {members} members, too many for `size = {size}`; nothing was changed. Raise `size` of the set in the policy, or remove members (`ipset del`)"
    )]
    SetTooSmall {
        /// Its name.
        name: String,
        /// How many members it has.
        members: usize,
        /// How many it could have.
        size: usize,
    },
    /// The ruleset does not load in the scratch network namespace, or none can be made.
    #[error("{}", rehearsal(.0))]
    Rehearsal(live::Error),
    /// The kernel cannot be read or changed.
    #[error("the live firewall cannot be read or changed: {0}")]
    Live(live::Error),
    /// `fwc panic` is on.
    #[error(
        "`fwc panic` is on, and only `fwc panic --off` ends it; nothing was changed. End it, then run the command again"
    )]
    PanicIsOn,
    /// fwc cannot tell by which connection the user reaches this host.
    #[error(
        "fwc cannot tell how you reach this host: {0}. So it cannot check that the new rules let you in; nothing was changed\nwhat to do: run it in an SSH session of its own or on the console; or insist with --allow-lockout, best with --confirm"
    )]
    WhoIsNotKnown(String),
    /// The pending change is not live any more, so it cannot be confirmed.
    #[error(
        "change {number} cannot be kept: the live rules are no longer those that it made{}\nwhat to do: see `fwc status`; `fwc rollback` reverts the change now, otherwise it reverts when its time is over",
        .missing.iter().map(|line| format!("\n  {line}")).collect::<String>()
    )]
    NotInForce {
        /// Its number.
        number: u64,
        /// The missing rules, chains and sets, a line each.
        missing: Vec<String>,
    },
    /// Other programs' rules would be removed.
    #[error("{}", others(.0))]
    Others(Vec<Finding>),
    /// Rules that somebody added to fwc's chains would be removed, which the user asked not to do.
    #[error("{}", strays(.0))]
    Strays(Vec<Finding>),
    /// Nothing can be rehearsed, and fwc cannot predict the kernel's form of a rule.
    #[error(
        "no scratch network namespace can be made here, and without one fwc cannot tell what the kernel makes of these rules; nothing was changed: {0}"
    )]
    Unrehearsed(String),
    /// A plan file cannot be used.
    #[error("{}: {reason}", .path.display())]
    BadPlan {
        /// The file.
        path: PathBuf,
        /// Why it cannot be used.
        reason: String,
    },
    /// The policy gives other rules than when the plan was made.
    #[error(
        "the policy no longer gives the planned rules; nothing was changed. Make a new plan: `fwc apply --dry-run --save-plan FILE`\n{0}"
    )]
    PlanOfOther(String),
    /// The live rules are not those that the plan was made for.
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
    /// The live rules changed between plan and commit.
    #[error(
        "the live rules changed in the meantime; nothing was changed by fwc. Run the command again"
    )]
    LiveChanged,
    /// The commit failed.
    #[error("{cause}\n{undo}")]
    Commit {
        /// What failed.
        cause: live::Error,
        /// Whether the change was reverted.
        undo: Undo,
    },
    /// The change was not complete before its deadline.
    #[error("the change was not complete in time\n{undo}")]
    Late {
        /// Whether the change was reverted.
        undo: Undo,
    },
    /// After the commit the live rules are not the rehearsed ones.
    #[error("the live rules differ from those that fwc loaded:\n{diff}{undo}")]
    ReadBack {
        /// The diff from the rehearsed rules to the live ones.
        diff: String,
        /// Whether the change was reverted.
        undo: Undo,
    },
    /// The edits do not lead from the live rules to the target: an internal error.
    #[error(
        "a trial on a copy of the live rules led to other rules than the policy's; nothing was changed. This is an internal error: please report it with these lines\n{0}"
    )]
    RehearsalDiffers(String),
    /// A step could not be written to the journal.
    #[error("{cause}\n{undo}")]
    Journal {
        /// Why not.
        cause: Box<Self>,
        /// Whether the change was reverted.
        undo: Undo,
    },
    /// A change waits for its confirmation.
    #[error(
        "change {number} waits for `fwc confirm` until {until}; run it to keep the change, or `fwc rollback` to revert it"
    )]
    Pending {
        /// Its number.
        number: u64,
        /// When it reverts, in UTC.
        until: String,
    },
    /// No change waits for a confirmation.
    #[error("no change waits for `fwc confirm`")]
    NotPending,
    /// The change was not confirmed in time, or `fwc rollback` reverted it.
    #[error(
        "change {0} was not confirmed and was reverted: the rules are as they were before; `fwc history` says why"
    )]
    TakenBack(u64),
    /// The confirmation does not prove that the user can still connect.
    #[error(
        "{0}\nopen a new connection, and run `fwc confirm` there: a confirmation proves that you can still open one"
    )]
    ProvesNothing(String),
    /// The history has no such entry.
    #[error("{0}")]
    NoEntry(String),
    /// The time for the confirmation is over.
    #[error("too late: the time for the confirmation is over, and the change is being reverted")]
    TooLate,
    /// The watchdog cannot be started.
    #[error(
        "cannot start the watchdog, the process that reverts the change if fwc dies; nothing was changed: {0}"
    )]
    NoWatchdog(io::Error),
    /// The watchdog would die with this process.
    #[error(
        "the watchdog, the process that reverts the change if fwc dies, would die together with fwc: {0}; nothing was changed"
    )]
    MortalWatchdog(String),
    /// The new rules are active, but the files for the next boot could not be written.
    #[error(
        "the new rules are active, but not saved for the next boot: {0}. A reboot brings the old ones; repair that, then run `fwc apply` again"
    )]
    NotPersisted(String),
    /// The new rules are active and saved, but the records, the history or the hooks to run could not be written.
    #[error(
        "the new rules are active and saved for the next boot, but fwc could not record the change: {0}\nrepair that, then run `fwc apply` again"
    )]
    NotRecorded(Box<Self>),
    /// The record of a change, open or ended, is not as fwc wrote it.
    #[error("{} is not a valid record of fwc: {reason}. It may be the only way to revert a change that is not confirmed: look at the live rules before you move it away", .path.display())]
    BadChange {
        /// The file that holds the record.
        path: PathBuf,
        /// What is wrong with the file.
        reason: String,
    },
    /// The record of the rules that fwc made is not as fwc wrote it.
    #[error("{} is not a valid record of fwc: {reason}. Remove it: fwc then treats the live rules as other programs'", .path.display())]
    BadRecord {
        /// The file that holds the record.
        path: PathBuf,
        /// What is wrong with the file.
        reason: String,
    },
    /// The list of hooks to run is not as fwc wrote it.
    #[error("{} is not a valid record of fwc: {reason}. Remove it: hooks of the last change that did not succeed then do not run again", .path.display())]
    BadOwed {
        /// The file that holds the record.
        path: PathBuf,
        /// What is wrong with the file.
        reason: String,
    },
    /// A file operation failed.
    #[error("{what} {}: {}", .path.display(), hint(.source))]
    Io {
        /// What failed, such as `cannot read`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

impl Error {
    /// Returns `true` if the firewall is not as before.
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

    /// Returns `true` if an operation at boot may succeed when it is tried again.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Live(error) | Self::Commit { cause: error, .. } => error.may_pass(),
            Self::Locked { .. } | Self::LockedByOther(_) | Self::LiveChanged | Self::Io { .. } => {
                true
            }
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

/// Returns the error of the system, with what to do about the known kinds.
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

/// Returns the names of sets as "the set `a`" or "the sets `a`, `b`".
fn quoted(names: &[String]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    let word = if names.len() == 1 { "set" } else { "sets" };
    format!("the {word} {}", quoted.join(", "))
}

fn them(names: &[String]) -> &'static str {
    if names.len() == 1 { "it" } else { "them" }
}

/// Returns the message that lists other programs' rules, grouped by owner.
fn others(findings: &[Finding]) -> String {
    let mut text =
        "the live firewall holds rules that fwc did not make; nothing was changed".to_owned();
    let mut owners: Vec<_> = findings.iter().map(|finding| finding.owner).collect();
    // The unknown ones last: they need the most thought.
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
