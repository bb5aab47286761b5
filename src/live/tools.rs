//! iptables' tools: where they are, which backend they speak to, how they are run.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use serde::{Deserialize, Serialize};

use super::{Backend, Error, Refusal};
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
    pub(super) fn save(&self, family: Family, lockfile: Option<&OsStr>) -> Result<String, Error> {
        let output = self.run(&self.of(family).save, &["--counters"], "", lockfile)?;
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
        lockfile: Option<&OsStr>,
    ) -> Result<(), Error> {
        let wait = WAIT.to_string();
        let mut arguments = vec!["--counters", "--wait", &wait];
        if load == Load::Edits {
            arguments.push("--noflush");
        }
        let output = self.run(&self.of(family).restore, &arguments, input, lockfile)?;
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

    fn run(
        &self,
        tool: &Path,
        arguments: &[&str],
        input: &str,
        lockfile: Option<&OsStr>,
    ) -> Result<Output, Error> {
        let mut command = clean(tool);
        command.args(arguments);
        if let Some(lockfile) = lockfile {
            command.env(LOCKFILE, lockfile);
        }
        run(command, input)
    }
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
pub(super) fn ipset(arguments: &[&str], input: &str) -> Result<String, Error> {
    let mut command = clean(&find_ipset()?);
    command.args(arguments);
    let output = run(command, input)?;
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
    let mut kept = vec![LOCKFILE];
    if cfg!(debug_assertions) {
        kept.extend([fault::VARIABLE, fault::TRACE]);
    }
    for name in kept {
        if let Some(value) = env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// Runs a command on `input` to its end.
pub(super) fn run(mut command: Command, input: &str) -> Result<Output, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |source: io::Error| Error::Io {
        what: format!("cannot run `{program}`"),
        source,
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let pipe = child.stdin.take();
    thread::scope(|scope| {
        scope.spawn(move || {
            // A tool that stops reading says why by itself.
            pipe.map(|mut pipe| pipe.write_all(input.as_bytes()))
        });
        child.wait_with_output()
    })
    .map_err(failed)
}
