//! iptables' tools: where they are, which backend they speak to, how they are run.

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

/// Seconds that `iptables-restore` waits for the lock that all iptables tools share.
pub(super) const WAIT: u8 = 10;

/// The environment variable that names the lock file of iptables' tools; handed on to them.
pub(super) const LOCKFILE: &str = "XTABLES_LOCKFILE";

/// What `iptables-restore` does with the tables that its input names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// It replaces them.
    Whole,
    /// It changes what the input names.
    Edits,
}

/// What tools are run with.
#[derive(Clone, Debug, Default)]
pub(super) struct Setting {
    /// Their lock file, unless it is the usual one.
    pub lockfile: Option<OsString>,
    /// fwc's own lock, which tools that change the kernel inherit.
    pub lock: Weak<File>,
    /// When they have to be done, in milliseconds since boot.
    pub deadline: Option<u64>,
}

impl Setting {
    /// The bounds of a tool that only reads.
    fn to_read(&self) -> Bounds {
        Bounds {
            limit: self.within(LIMIT),
            lock: Weak::new(),
        }
    }

    /// The bounds of a tool that changes the kernel: a thousand rules may take it two seconds.
    fn to_change(&self, input: &str) -> Bounds {
        let lines = input.lines().count() as u64;
        let limit = Duration::from_secs(u64::from(WAIT) + 20 + lines / 500);
        Bounds {
            limit: self.within(limit),
            lock: self.lock.clone(),
        }
    }

    fn within(&self, limit: Duration) -> Duration {
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
    /// Where their rules are.
    pub backend: Backend,
    /// What `iptables-save --version` prints.
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
    /// The tools that the system's administrator chose (`iptables-save`), or those of one backend (`iptables-nft-save`).
    pub fn find(choice: Option<Backend>) -> Result<Self, Error> {
        let of_family = |family| -> Result<_, Error> {
            let tool = |verb| find(&name(family, choice, verb));
            let tools = OfFamily {
                save: tool("save")?,
                restore: tool("restore")?,
            };
            let version = version(&tools.save)?;
            // Before 1.8 there was one backend, and no word for it.
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

    /// What `iptables-save` prints, with counters.
    ///
    /// # Errors
    ///
    /// It fails, or leaves out a table that the kernel has: a tool that prints nothing and exits with 0 is not believed.
    pub(super) fn save(&self, family: Family, setting: &Setting) -> Result<String, Error> {
        let mut text = self.print(family, setting)?;
        if self.left_out(family, &text, setting).is_some() {
            // Somebody may have made the table just now.
            text = self.print(family, setting)?;
        }
        match self.left_out(family, &text, setting) {
            None => Ok(text),
            Some(table) => Err(Error::LeftOut {
                tool: self.of(family).save.display().to_string(),
                table,
            }),
        }
    }

    /// A table that the kernel has, as others say, and that the text does not have.
    fn left_out(&self, family: Family, text: &str, setting: &Setting) -> Option<String> {
        let there = match self.backend {
            Backend::Legacy => legacy_tables(family),
            Backend::Nft => nft_tables(family, text, setting),
        };
        let has = |table: &str| {
            text.lines().any(|line| match line.strip_prefix('*') {
                Some(name) => name.trim() == table,
                // It says that it cannot show the table.
                None => line.starts_with('#') && line.contains(&format!("`{table}'")),
            })
        };
        there.into_iter().find(|table| !has(table))
    }

    fn print(&self, family: Family, setting: &Setting) -> Result<String, Error> {
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
        // Comments on standard error count as well: a version may say there that a table is left out.
        let comments = stderr.lines().filter(|line| line.starts_with('#'));
        let mut text = comments.flat_map(|line| [line, "\n"]).collect::<String>();
        text.push_str(
            str::from_utf8(&output.stdout).map_err(|_| failed("its output is not UTF-8"))?,
        );
        Ok(text)
    }

    /// Loads `input`, its counters too.
    pub(super) fn restore(
        &self,
        family: Family,
        load: Load,
        input: &str,
        setting: &Setting,
    ) -> Result<(), Error> {
        let mut command = in_setting(&self.of(family).restore, setting);
        command.args(["--counters", "--wait", &WAIT.to_string()]);
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

/// The tables of iptables-legacy in this network namespace, as the kernel says.
fn legacy_tables(family: Family) -> Vec<String> {
    let file = match family {
        Family::V4 => "/proc/self/net/ip_tables_names",
        Family::V6 => "/proc/self/net/ip6_tables_names",
    };
    let names = fs::read_to_string(file).unwrap_or_default();
    names.lines().map(str::to_owned).collect()
}

/// The tables of iptables-nft in this network namespace, as `nft` says; where that is not installed, as `iptables -S` says when
/// there is none at all.
fn nft_tables(family: Family, text: &str, setting: &Setting) -> Vec<String> {
    let word = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    if let Ok(nft) = find("nft") {
        let mut command = clean(&nft);
        command.args(["list", "tables", word]);
        let listed = child::run(command, "", &setting.to_read());
        let listed = listed.ok().filter(|output| output.status.success());
        let Some(listed) = listed else {
            return Vec::new();
        };
        // `table ip filter`
        let names = String::from_utf8_lossy(&listed.stdout);
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

/// A command that inherits nothing but the place of the lock file.
fn in_setting(tool: &Path, setting: &Setting) -> Command {
    let mut command = clean(tool);
    if let Some(lockfile) = &setting.lockfile {
        command.env(LOCKFILE, lockfile);
    }
    command
}

/// The name of a tool: `ip6tables-save`, `iptables-nft-restore`.
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

/// A tool's place.
pub(super) fn find(tool: &str) -> Result<PathBuf, Error> {
    files::in_folders(tool).ok_or_else(|| Error::Missing {
        tool: tool.to_owned(),
    })
}

/// How a missing tool is installed.
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

/// The tool of sets.
const IPSET: &str = "ipset";

/// The place of `ipset`.
pub(super) fn find_ipset() -> Result<PathBuf, Error> {
    find(IPSET)
}

/// Runs `ipset` and returns what it prints.
pub(super) fn ipset(arguments: &[&str], input: &str, setting: &Setting) -> Result<String, Error> {
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

/// What a tool that may be missing prints; `None` where it is, or fails.
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

/// A command that inherits nothing: what a user's environment says must not change what root runs.
pub(super) fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", files::PROGRAM_FOLDERS.join(":"))
        .env("LC_ALL", "C")
        .current_dir("/");
    command
}

/// A command that starts this program again, for work that outlives it.
pub fn own_command(program: &Path) -> Command {
    let mut command = clean(program);
    keep_settings(&mut command);
    command
}

/// Hands on the few variables that are fwc's own.
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

/// Runs a command that changes no rules to its end.
pub(super) fn run(command: Command, input: &str) -> Result<Output, Error> {
    child::run(command, input, &Bounds::default())
}
