//! What the commands share that change the firewall or look at its past: the host, and where fwc remembers.

use std::path::{Path, PathBuf};

use clap::Args;
use rustix::process::geteuid;

use super::host::HostArgs;
use crate::apply::{Error, Recovered, Store};
use crate::files::unsafe_folder;
use crate::live::{self, NamespaceId, Real};

/// Where netfilter-persistent loads rules from at boot.
const PERSIST_DIR: &str = "/etc/iptables";

/// Where things are kept, and which iptables is used.
#[derive(Clone, Debug, Args)]
pub struct StateArgs {
    /// Where rules.v4, rules.v6 and ipsets are kept for the next boot [default: /etc/iptables, or what FWC_PERSIST_DIR
    /// names; for `confirm`, `status`, `history` and `rollback` that of the last change]
    #[arg(long, value_name = "DIR", env = "FWC_PERSIST_DIR", hide_env = true)]
    persist_dir: Option<PathBuf>,
    /// Where fwc remembers what it applied
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
    /// The folder of the files for the next boot, as an absolute path.
    pub fn persist_dir(&self) -> PathBuf {
        let named = self.persist_dir.as_deref();
        absolute(named.unwrap_or(Path::new(PERSIST_DIR)))
    }

    /// The same arguments with the persist folder of the last change in this network namespace, unless one was named: what
    /// was applied with `--persist-dir` is confirmed and looked at without.
    pub fn of_last_change(&self) -> Result<Self, Error> {
        let mut of_change = self.clone();
        // Others cannot read the journal: their command fails for a plainer reason.
        if of_change.persist_dir.is_none() && geteuid().is_root() {
            let last = self.store()?.journal().last()?;
            of_change.persist_dir = last.map(|(intent, _)| intent.persist_dir);
        }
        Ok(of_change)
    }

    /// What is wrong where the live firewall is to be read.
    pub fn needs_root(command: &str) -> Option<String> {
        (!geteuid().is_root()).then(|| {
            format!("reading and changing the live firewall needs root\nrun it with sudo: `sudo fwc {command} ...`")
        })
    }

    /// The host and the memory.
    pub fn open(&self) -> Result<(Real, Store), Error> {
        let (host, store) = self.open_to_end()?;
        host.only_backend().map_err(Error::Live)?;
        Ok((host, store))
    }

    /// The same for ending what was begun: that somebody made rules in the other backend since is no reason to leave it there.
    pub fn open_to_end(&self) -> Result<(Real, Store), Error> {
        let host = Real::open(self.host.backend()).map_err(Error::Live)?;
        Ok((host, self.store()?))
    }

    /// The memory alone.
    pub fn store(&self) -> Result<Store, Error> {
        self.is_safe()?;
        self.store_as_it_is()
    }

    /// Whether nobody else could have written the memory: rulesets and commands are in it that root loads and runs.
    pub fn is_safe(&self) -> Result<(), Error> {
        let path = absolute(&self.state_dir);
        let part = geteuid().is_root().then(|| unsafe_folder(&path)).flatten();
        part.map_or(Ok(()), |part| {
            let reason = part.to_string();
            Err(Error::UnsafeState { path, reason })
        })
    }

    /// The memory, by whom ever it was written.
    pub fn store_as_it_is(&self) -> Result<Store, Error> {
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

/// The path for a process that works elsewhere.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// What was found half done, in words; `None` where there is nothing to say.
pub fn recovered(found: &Recovered) -> Option<String> {
    match found {
        Recovered::Waiting { .. } => None,
        Recovered::TakenBack(number, why) => Some(format!("took change {number} back: {why}")),
        Recovered::Completed(number, _) => Some(format!(
            "completed change {number}, which was confirmed before fwc died"
        )),
        Recovered::HooksEndedByBoot(number, count) => Some(format!(
            "{count} of the hooks of change {number} were not run to a good end before the machine restarted, and are not run any more"
        )),
        Recovered::EndedByBoot(number) => Some(format!(
            "change {number} was not confirmed before the machine restarted; the old rules were loaded"
        )),
    }
}
