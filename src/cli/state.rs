//! The options of all commands that change or read the live firewall: the folders, the backend, the state directory.

use std::path::{Path, PathBuf};

use clap::Args;
use rustix::process::geteuid;

use super::host::HostArgs;
use crate::apply::{Error, Recovered, Store};
use crate::files::unsafe_folder;
use crate::live::{self, NamespaceId, Real};

/// The folder that netfilter-persistent loads rules from at boot.
const PERSIST_DIR: &str = "/etc/iptables";

/// The folders for the next boot and for fwc's state, and the iptables backend.
#[derive(Clone, Debug, Args)]
pub struct StateArgs {
    /// The folder for rules.v4, rules.v6 and ipsets of the next boot [default: FWC_PERSIST_DIR, else /etc/iptables; for
    /// `confirm`, `status`, `history` and `rollback` the folder of the last change]
    #[arg(long, value_name = "DIR", env = "FWC_PERSIST_DIR", hide_env = true)]
    persist_dir: Option<PathBuf>,
    /// The folder for fwc's journal and history
    #[arg(
        long,
        value_name = "DIR",
        env = "FWC_STATE_DIR",
        hide_env_values = true,
        default_value = "/var/lib/fwc"
    )]
    pub state_dir: PathBuf,
    #[command(flatten)]
    pub host: HostArgs,
}

impl StateArgs {
    /// Returns the folder of the files for the next boot, as an absolute path.
    pub fn persist_dir(&self) -> PathBuf {
        let named = self.persist_dir.as_deref();
        absolute(named.unwrap_or(Path::new(PERSIST_DIR)))
    }

    /// Returns the same arguments with the persist folder of the last change in this network namespace, unless one was named:
    /// after `apply --persist-dir DIR`, `confirm` and `status` need no `--persist-dir`.
    pub fn of_last_change(&self) -> Result<Self, Error> {
        let mut of_change = self.clone();
        // Only root can read the journal. Other users get the plain "needs root" from the command itself.
        if of_change.persist_dir.is_none() && geteuid().is_root() {
            let last = self.store()?.journal().last()?;
            of_change.persist_dir = last.map(|(intent, _)| intent.persist_dir);
        }
        Ok(of_change)
    }

    /// Returns the message for a user other than root.
    pub fn needs_root(command: &str) -> Option<String> {
        (!geteuid().is_root()).then(|| {
            format!("reading and changing the live firewall needs root\nrun it with sudo: `sudo fwc {command} ...`")
        })
    }

    /// Opens the host and the state directory; an error if the other backend has rules too.
    pub fn open(&self) -> Result<(Real, Store), Error> {
        let (host, store) = self.open_any_backend()?;
        host.only_backend().map_err(Error::Live)?;
        Ok((host, store))
    }

    /// Like [`open`](Self::open), to end a change that has begun: rules that someone made in the other backend since must not
    /// keep it from being reverted.
    pub fn open_any_backend(&self) -> Result<(Real, Store), Error> {
        let host = Real::open(self.host.backend()).map_err(Error::Live)?;
        Ok((host, self.store()?))
    }

    /// Opens the state directory, after [`check_safe`](Self::check_safe).
    pub fn store(&self) -> Result<Store, Error> {
        self.check_safe()?;
        self.unchecked_store()
    }

    /// Returns an error unless only root can write the state directory: it holds rulesets and commands that root loads and runs.
    pub fn check_safe(&self) -> Result<(), Error> {
        let path = absolute(&self.state_dir);
        let part = geteuid().is_root().then(|| unsafe_folder(&path)).flatten();
        part.map_or(Ok(()), |part| {
            let reason = part.to_string();
            Err(Error::UnsafeState { path, reason })
        })
    }

    /// Opens the state directory, whoever can write it.
    pub fn unchecked_store(&self) -> Result<Store, Error> {
        let namespace = NamespaceId::current().map_err(|source| {
            Error::Live(live::Error::Io {
                what: "cannot read the identity of the network namespace".to_owned(),
                source,
            })
        })?;
        let state = absolute(&self.state_dir);
        Ok(Store::new(&state, namespace, &self.persist_dir()))
    }
}

/// Returns an absolute path: the journal stores it, and later commands run in other folders.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Describes a change that was recovered; `None` for one that is still pending.
pub fn recovered(found: &Recovered) -> Option<String> {
    match found {
        Recovered::Waiting { .. } => None,
        Recovered::TakenBack(number, why) => Some(format!("reverted change {number}: {why}")),
        Recovered::Completed(number, _) => Some(format!(
            "completed change {number}, which was confirmed before fwc died"
        )),
        Recovered::HooksEndedByBoot(number, count) => Some(format!(
            "{count} of the hooks of change {number} did not succeed before the machine restarted; they will not run again"
        )),
        Recovered::EndedByBoot(number) => Some(format!(
            "change {number} was not confirmed before the machine restarted; the old rules were loaded"
        )),
    }
}
