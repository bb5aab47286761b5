//! The real host: iptables' tools in the network namespace of this process.

use std::collections::BTreeMap;
use std::env;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::lock;
use super::scratch;
use super::sets::{self, SetsError};
use super::tools::{self, LOCKFILE, Load, ToolSettings, Tools};
use super::{Backend, Error, Host, Ipset, Ipsets, ListedIpset, LiveRuleset, Payload, Rehearsed};
use crate::net::Family;

/// The rules of the network namespace that this process runs in.
#[derive(Debug)]
pub struct Real {
    tools: Tools,
    setting: ToolSettings,
}

impl Real {
    /// Finds the tools: the default ones of the system, or those of one backend. It reads no rules yet.
    pub fn open(choice: Option<Backend>) -> Result<Self, Error> {
        Ok(Self {
            tools: Tools::find(choice)?,
            setting: ToolSettings {
                lockfile: env::var_os(LOCKFILE),
                ..ToolSettings::default()
            },
        })
    }

    /// The same while the machine starts: the tools have much more time.
    pub fn open_at_boot(choice: Option<Backend>) -> Result<Self, Error> {
        let mut host = Self::open(choice)?;
        host.setting.is_patient = true;
        Ok(host)
    }

    /// Returns the tools in use.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Waits until no other program holds the lock of iptables-legacy's tools. iptables-nft has no such lock.
    pub fn wait_for_lock(&self) -> Result<(), Error> {
        match self.tools.backend {
            Backend::Nft => Ok(()),
            Backend::Legacy => lock::wait(
                self.setting.lockfile.as_deref(),
                Duration::from_secs(self.setting.lock_wait().into()),
            )
            .map_err(Error::Lock),
        }
    }

    /// Checks that the other backend has no rules: packets would pass them too, and `iptables-save` would not show
    /// them.
    ///
    /// Rules, chains and policies count, and not the mere existence of tables: only looking at legacy tables creates
    /// empty ones.
    pub fn only_backend(&self) -> Result<(), Error> {
        let other = self.tools.backend.other();
        // Without its tools the other backend cannot be read, and was hardly ever used.
        let Ok(tools) = Tools::find(Some(other)) else {
            return Ok(());
        };
        for family in Family::ALL {
            let saved = tools.save(family, &self.setting);
            let rules = saved.ok().and_then(|text| LiveRuleset::saved(&text).ok());
            if rules.is_some_and(|dump| !dump.is_pristine()) {
                return Err(Error::BothBackends {
                    family,
                    other,
                    tool: tools::name(family, Some(other), "save"),
                });
            }
        }
        Ok(())
    }
}

impl Host for Real {
    /// Some kernels accept IPv6 rules in spite of `ipv6.disable=1`; such a family is not lacking, and its rules are
    /// loaded.
    fn lacks(&self, family: Family) -> bool {
        let is_there = match family {
            Family::V4 => true,
            Family::V6 => Path::new("/proc/self/net/if_inet6").exists(),
        };
        // Reading is tried as well: a missing /proc file alone does not prove that the kernel takes no rules.
        !is_there && self.tools.save(family, &self.setting).is_err()
    }

    fn save(&self, family: Family) -> Result<LiveRuleset, Error> {
        let text = match self.tools.save(family, &self.setting) {
            Err(_) if self.lacks(family) => return Ok(LiveRuleset::default()),
            result => result?,
        };
        LiveRuleset::saved(&text).map_err(|source| Error::Unreadable { family, source })
    }

    fn restore(&mut self, family: Family, input: &str) -> Result<(), Error> {
        let setting = &self.setting;
        // Always edits: fwc never replaces a live table as a whole, so that other chains keep their rules and counters.
        match self.tools.restore(family, Load::Edits, input, setting) {
            Err(Error::Refused { refusal, .. }) if refusal.message.contains("xtables lock") => {
                Err(Error::Lock(lock::holder_of(setting.lockfile.as_deref())))
            }
            result => result,
        }
    }

    fn list_sets(&self) -> Result<BTreeMap<String, ListedIpset>, Error> {
        Ok(sets::read_list(&tools::ipset(
            &["list", "-terse"],
            "",
            &self.setting,
        )?))
    }

    fn save_set(&self, name: &str) -> Result<Ipset, Error> {
        let text = tools::ipset(&["save", name], "", &self.setting)?;
        let sets = Ipsets::parse(&text).map_err(Error::UnreadableSets)?;
        let set = sets.0.into_values().next();
        set.ok_or_else(|| {
            Error::UnreadableSets(SetsError {
                line: 1,
                text: String::new(),
            })
        })
    }

    fn change_sets(&mut self, commands: &str) -> Result<(), Error> {
        tools::ipset(&["restore"], commands, &self.setting).map(drop)
    }

    fn add_members(&mut self, commands: &str) -> Result<(), Error> {
        tools::ipset(&["-exist", "restore"], commands, &self.setting).map(drop)
    }

    fn rehearse(&self, payload: &Payload) -> Result<Rehearsed, Error> {
        scratch::load(&self.tools, payload)
    }

    fn tie(&mut self, lock: &Arc<File>) {
        self.setting.lock = Arc::downgrade(lock);
    }

    fn finish_by(&mut self, deadline: Option<u64>) {
        self.setting.deadline = deadline;
    }
}
