//! The tools of iptables and ipset: where they are, which backend they use, and how they are run.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Weak;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::child::{self, Bounds, LIMIT};
use super::{Backend, Error, Refusal, clock};
use crate::iptables::TableName;
use crate::net::Family;
use crate::{fault, files};

/// The seconds that `iptables-restore` waits for the lock that all tools of iptables-legacy share. iptables-nft ignores
/// the lock.
const WAIT: u16 = 10;

/// The same at boot and in a rehearsal.
const PATIENT_WAIT: u16 = 300;

/// The time limit of each tool at boot and in a rehearsal. At boot nobody waits for an answer, and a host whose rules are
/// not loaded is open: a virtual machine that stood still for 54 seconds reached the ordinary limit and booted without
/// rules. A rehearsal changes nothing, however long it takes.
pub(super) const PATIENT_LIMIT: Duration = Duration::from_secs(600);

/// The environment variable with the lock file of iptables' tools; fwc passes it on to them.
pub(super) const LOCKFILE: &str = "XTABLES_LOCKFILE";

/// What `iptables-restore` does with the tables of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// It replaces them.
    Whole,
    /// It changes what the input names and keeps the rest (`--noflush`).
    Edits,
}

/// The conditions under which tools run.
#[derive(Clone, Debug, Default)]
pub(super) struct ToolSettings {
    /// Their lock file, if it is not the default one.
    pub lockfile: Option<OsString>,
    /// fwc's own lock, which tools that change the kernel inherit; see [`child`].
    pub lock: Weak<File>,
    /// The time by which they must be done, in milliseconds since boot.
    pub deadline: Option<u64>,
    /// Whether they may take much longer: the machine starts, or nothing is changed but a scratch namespace.
    pub is_patient: bool,
}

impl ToolSettings {
    /// Returns the bounds of a tool that only reads.
    fn to_read(&self) -> Bounds {
        Bounds {
            limit: self.limit(LIMIT),
            lock: Weak::new(),
        }
    }

    /// Returns the bounds of a tool that changes the kernel: the wait for the lock, two seconds for each thousand lines, and
    /// time for a busy machine. At a load of 20 on two cores 30 seconds were too few for a small ruleset. A change that
    /// waits for its confirmation has a deadline too, which ends the tool before.
    fn to_change(&self, input: &str) -> Bounds {
        let lines = input.lines().count() as u64;
        let limit = Duration::from_secs(u64::from(WAIT) + 110 + lines / 500);
        Bounds {
            limit: self.limit(limit),
            lock: self.lock.clone(),
        }
    }

    /// Returns the seconds that `iptables-restore` waits for the lock of iptables-legacy.
    pub(super) fn lock_wait(&self) -> u16 {
        match self.is_patient {
            true => PATIENT_WAIT,
            false => WAIT,
        }
    }

    /// Returns the time limit of a tool whose ordinary one is `limit`.
    fn limit(&self, limit: Duration) -> Duration {
        let limit = match self.is_patient {
            true => limit.max(PATIENT_LIMIT),
            false => limit,
        };
        let left = self.deadline.map(|deadline| {
            let left = deadline.saturating_sub(clock::since_boot());
            Duration::from_millis(left)
        });
        left.map_or(limit, |left| left.min(limit))
    }
}

/// The tools of one backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tools {
    /// The backend that they use.
    pub backend: Backend,
    /// The output of `iptables-save --version`.
    pub version: String,
    v4: OfFamily,
    v6: OfFamily,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct OfFamily {
    save: PathBuf,
    restore: PathBuf,
}

impl Tools {
    /// Finds the tools that the administrator chose as default (`iptables-save`), or those of one backend
    /// (`iptables-nft-save`).
    pub fn find(choice: Option<Backend>) -> Result<Self, Error> {
        let of_family = |family| -> Result<_, Error> {
            let tool = |verb| find(&name(family, choice, verb));
            let tools = OfFamily {
                save: tool("save")?,
                restore: tool("restore")?,
            };
            let version = version(&tools.save)?;
            // Before 1.8 there was only the legacy backend, and the version did not name it.
            let backend = if version.contains("(nf_tables)") {
                Backend::Nft
            } else {
                Backend::Legacy
            };
            Ok((tools, version, backend))
        };
        let (v4, version, backend) = of_family(Family::V4)?;
        let (v6, _, backend_v6) = of_family(Family::V6)?;
        if backend != backend_v6 {
            return Err(Error::MixedTools {
                v4: backend,
                v6: backend_v6,
            });
        }
        Ok(Self {
            backend,
            version,
            v4,
            v6,
        })
    }

    /// Returns the output of `iptables-save`, with counters.
    ///
    /// # Errors
    ///
    /// The tool fails, or leaves out a table that the kernel has. A tool that prints nothing and exits with 0 is not
    /// trusted: fwc would take the live rules for absent.
    pub(super) fn save(&self, family: Family, setting: &ToolSettings) -> Result<String, Error> {
        let mut text = self.print(family, setting)?;
        // Costs one more run of `nft list tables` (or a look into /proc) for each reading of the rules.
        if self.left_out(family, &text, setting).is_some() {
            // Another program may have created the table between the two readings.
            text = self.print(family, setting)?;
        }
        match self.left_out(family, &text, setting) {
            None => Ok(text),
            // An attack that was tried: an `iptables-save` that printed nothing and exited with 0 was believed.
            Some(table) => Err(Error::LeftOut {
                tool: self.of(family).save.display().to_string(),
                table,
            }),
        }
    }

    /// Returns a table that the kernel has, as other sources say, and the text does not.
    fn left_out(&self, family: Family, text: &str, setting: &ToolSettings) -> Option<String> {
        let there = match self.backend {
            Backend::Legacy => legacy_tables(family),
            Backend::Nft => nft_tables(family, text, setting),
        };
        let has = |table: &str| {
            text.lines().any(|line| match line.strip_prefix('*') {
                Some(name) => name.trim() == table,
                // A comment says that iptables cannot show the table; [`Dump`](super::Dump) reports that.
                None => line.starts_with('#') && line.contains(&format!("`{table}'")),
            })
        };
        there.into_iter().find(|table| !has(table))
    }

    fn print(&self, family: Family, setting: &ToolSettings) -> Result<String, Error> {
        let mut command = in_setting(&self.of(family).save, setting);
        command.arg("--counters");
        let output = child::run(command, "", &setting.to_read())?;
        let failed = |stderr: &str| {
            let refusal = Refusal::read(&name(family, None, "save"), stderr, "");
            Error::Refused { family, refusal }
        };
        let stderr = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(failed(&stderr));
        }
        // Comments on standard error are kept too: some versions say there that a table is left out.
        let comments = stderr.lines().filter(|line| line.starts_with('#'));
        let mut text = comments.flat_map(|line| [line, "\n"]).collect::<String>();
        text.push_str(
            str::from_utf8(&output.stdout).map_err(|_| failed("its output is not UTF-8"))?,
        );
        Ok(text)
    }

    /// Loads `input`, with its counters.
    pub(super) fn restore(
        &self,
        family: Family,
        load: Load,
        input: &str,
        setting: &ToolSettings,
    ) -> Result<(), Error> {
        let mut command = in_setting(&self.of(family).restore, setting);
        // With `--counters`, rules that are written again keep their counts.
        command.args(["--counters", "--wait", &setting.lock_wait().to_string()]);
        if load == Load::Edits {
            command.arg("--noflush");
        }
        let output = child::run(command, input, &setting.to_change(input))?;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let refusal = Refusal::read(&name(family, None, "restore"), &stderr, input);
        Err(Error::Refused { family, refusal })
    }

    fn of(&self, family: Family) -> &OfFamily {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

/// Returns the tables of iptables-legacy in this network namespace, from the kernel.
fn legacy_tables(family: Family) -> Vec<String> {
    let file = match family {
        Family::V4 => "/proc/self/net/ip_tables_names",
        Family::V6 => "/proc/self/net/ip6_tables_names",
    };
    let names = fs::read_to_string(file).unwrap_or_default();
    names.lines().map(str::to_owned).collect()
}

/// Returns the tables of iptables-nft in this network namespace, from `nft`. If that is not installed and the text has
/// no table at all, `iptables -S` tells whether the filter table exists.
fn nft_tables(family: Family, text: &str, setting: &ToolSettings) -> Vec<String> {
    let word = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    if let Ok(nft) = find("nft") {
        let mut command = clean(&nft);
        // It names the empty tables too, and `iptables-save` prints those, so the two lists must agree.
        command.args(["list", "tables", word]);
        let listed = child::run(command, "", &setting.to_read());
        let listed = listed.ok().filter(|output| output.status.success());
        let Some(listed) = listed else {
            return Vec::new();
        };
        // `table ip filter`
        let names = String::from_utf8_lossy(&listed.stdout);
        // Tables with other names are native ones, which `iptables-save` never prints.
        let names = names.lines().filter_map(|line| line.split(' ').nth(2));
        let of_iptables =
            names.filter(|name| TableName::ALL.iter().any(|table| table.as_str() == *name));
        return of_iptables.map(str::to_owned).collect();
    }
    if text.contains('*') {
        return Vec::new();
    }
    let tool = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    let Ok(tool) = find(&format!("{tool}-nft")) else {
        return Vec::new();
    };
    let mut command = in_setting(&tool, setting);
    command.arg("-S");
    let listed = child::run(command, "", &setting.to_read());
    let is_empty = listed.is_ok_and(|output| {
        let text = String::from_utf8_lossy(&output.stdout);
        output.status.success()
            && text
                .lines()
                .all(|line| line.ends_with(" ACCEPT") && line.starts_with("-P "))
    });
    match is_empty {
        true => Vec::new(),
        false => vec![TableName::Filter.as_str().to_owned()],
    }
}

/// Returns a command that inherits nothing but the path of the lock file.
fn in_setting(tool: &Path, setting: &ToolSettings) -> Command {
    let mut command = clean(tool);
    if let Some(lockfile) = &setting.lockfile {
        command.env(LOCKFILE, lockfile);
    }
    command
}

/// Returns the name of a tool: `ip6tables-save`, `iptables-nft-restore`.
pub(super) fn name(family: Family, backend: Option<Backend>, verb: &str) -> String {
    let tool = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    match backend {
        Some(backend) => format!("{tool}-{backend}-{verb}"),
        None => format!("{tool}-{verb}"),
    }
}

/// Returns the path of a tool.
pub(super) fn find(tool: &str) -> Result<PathBuf, Error> {
    files::in_folders(tool).ok_or_else(|| Error::Missing {
        tool: tool.to_owned(),
    })
}

/// Returns how to install a missing tool.
pub(super) fn install(tool: &str) -> &'static str {
    match tool {
        IPSET => {
            "the policy has sets: install ipset: `apt install ipset`, `dnf install ipset`, `pacman -S ipset` or `apk add ipset`"
        }
        "conntrack" => {
            "install conntrack: `apt install conntrack`, `dnf install conntrack-tools`, `pacman -S conntrack-tools` or `apk add conntrack-tools`"
        }
        "ss" => {
            "install iproute2: `apt install iproute2`, `dnf install iproute`, `pacman -S iproute2` or `apk add iproute2`"
        }
        _ => {
            "install iptables: `apt install iptables`, `dnf install iptables-nft`, `pacman -S iptables` or `apk add iptables`"
        }
    }
}

/// The name of the tool for sets.
const IPSET: &str = "ipset";

/// Returns the path of `ipset`.
pub(super) fn find_ipset() -> Result<PathBuf, Error> {
    find(IPSET)
}

/// Runs `ipset` and returns its output.
pub(super) fn ipset(
    arguments: &[&str],
    input: &str,
    setting: &ToolSettings,
) -> Result<String, Error> {
    let mut command = clean(&find_ipset()?);
    command.args(arguments);
    let bounds = match input.is_empty() {
        true => setting.to_read(),
        false => setting.to_change(input),
    };
    let output = child::run(command, input, &bounds)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    // `ipset v7.17: Error in line 4: Element cannot be added ...`
    let mut said = String::new();
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        let words = line
            .strip_prefix("ipset v")
            .and_then(|rest| rest.split_once(": "));
        let words = words.map_or(line, |(_, words)| words);
        let (place, reason) = match words.split_once(": ") {
            Some((place, reason)) if place.starts_with("Error in line ") => (place, reason),
            _ => ("", words),
        };
        said.extend([place, "\n", reason, "\n"]);
    }
    Err(Error::RefusedSets(Refusal::read(IPSET, &said, input)))
}

/// Returns the output of a tool that may be missing; `None` if it is, or if it fails.
pub(super) fn output(tool: &str, arguments: &[&str]) -> Option<String> {
    let mut command = clean(&find(tool).ok()?);
    command.args(arguments);
    let output = run(command, "").ok()?;
    let succeeded = output.status.success();
    succeeded.then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn version(tool: &Path) -> Result<String, Error> {
    let mut command = clean(tool);
    command.arg("--version");
    let output = run(command, "")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Returns a command with an empty environment, for nothing in a user's environment may change what root runs.
pub(super) fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", files::PROGRAM_FOLDERS.join(":"))
        // Messages of the tools are parsed, so they must not be translated.
        .env("LC_ALL", "C")
        .current_dir("/");
    command
}

/// Returns a command that starts this program again, for work that outlives this process.
pub fn own_command(program: &Path) -> Command {
    let mut command = clean(program);
    keep_settings(&mut command);
    command
}

/// Passes on the few variables that fwc itself reads.
pub(super) fn keep_settings(command: &mut Command) {
    let mut kept = vec![LOCKFILE];
    if cfg!(debug_assertions) {
        kept.extend([fault::VARIABLE, fault::TRACE]);
    }
    for name in kept {
        if let Some(value) = env::var_os(name) {
            command.env(name, value);
        }
    }
}

/// Runs a command that changes no rules, and waits for it.
pub(super) fn run(command: Command, input: &str) -> Result<Output, Error> {
    child::run(command, input, &Bounds::default())
}

#[cfg(test)]
mod tests {
    use super::{Error, LIMIT, PATIENT_LIMIT, ToolSettings, clock};

    #[test]
    fn tool_that_had_ten_minutes_is_not_tried_again() {
        let timed_out = |limit| Error::TimedOut {
            tool: "iptables-restore".to_owned(),
            limit,
        };
        assert!(timed_out(LIMIT).may_pass());
        assert!(!timed_out(PATIENT_LIMIT).may_pass());
        assert!(!Error::Lock(None).may_pass());
    }

    #[test]
    fn tools_have_more_time_at_boot_but_no_more_than_the_deadline() {
        let mut setting = ToolSettings {
            is_patient: true,
            ..ToolSettings::default()
        };
        for bounds in [setting.to_read(), setting.to_change("")] {
            assert_eq!(bounds.limit, PATIENT_LIMIT);
        }
        setting.deadline = Some(clock::since_boot() + 5000);
        assert!(setting.to_read().limit.as_secs() <= 5);
    }
}
