//! Loads rules in a scratch network namespace and reads them back.
//!
//! `unshare --net fwc __rehearse` loads and saves. The namespace belongs to that process and ends with it, however it
//! ends, so that nothing is left behind.

use std::env;
use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use super::child::{self, Bounds};
use super::tools::{self, Load, ToolSettings, Tools};
use super::{Error, LiveRuleset, NamespaceId, Payload, Refusal, Rehearsed};
use crate::net::{Family, PerFamily};

/// The hidden command that runs inside the namespace.
pub const COMMAND: &str = "__rehearse";

/// The time limit of a rehearsal. It is long: a rehearsal loads and reads each family several times, and changes
/// nothing outside.
const LIMIT: Duration = Duration::from_secs(600);

/// The input of the hidden command, as JSON on standard input.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    tools: Tools,
    /// The namespace of the caller, which must not be changed.
    outside: NamespaceId,
    sets: String,
    rules: PerFamily<Option<String>>,
    edits: PerFamily<Vec<String>>,
}

/// The output of the hidden command, as JSON on standard output.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// The rules of each family, first as loaded, then after each edit; empty if none were given.
    Loaded {
        sets: String,
        stages: PerFamily<Vec<String>>,
    },
    Refused {
        what: What,
        refusal: Refusal,
    },
    NotPossible(String),
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum What {
    Sets,
    Ipv4,
    Ipv6,
}

/// Loads a payload in one scratch namespace and returns what the kernel made of it.
///
/// Without root it also creates a user namespace, if the system allows that.
pub(super) fn load(tools: &Tools, payload: &Payload) -> Result<Rehearsed, Error> {
    if !payload.sets.is_empty() {
        // If ipset is missing, the error here names it; inside, the message would only be that of a failed rehearsal.
        tools::find_ipset()?;
    }
    let request = Request {
        tools: tools.clone(),
        outside: NamespaceId::current().map_err(|source| Error::Io {
            what: "cannot read the identity of the network namespace".to_owned(),
            source,
        })?,
        sets: payload.sets.clone(),
        rules: payload.rules.clone(),
        edits: payload.edits.clone(),
    };
    let request = serde_json::to_string(&request).map_err(|error| no_scratch(&error))?;
    let answer = if geteuid().is_root() {
        // Root in a container may be forbidden the first and allowed the second.
        ask(&["--net"], &request)
            .or_else(|_| ask(&["--net", "--user", "--map-root-user"], &request))
    } else {
        ask(&["--net", "--user", "--map-root-user"], &request)
    };
    match answer? {
        Answer::Loaded { sets, stages } => {
            let parse = |family| -> Result<(Option<LiveRuleset>, Vec<LiveRuleset>), Error> {
                let dumps = stages[family].iter().map(|text| LiveRuleset::saved(text));
                let dumps: Result<Vec<_>, _> = dumps.collect();
                let mut dumps = dumps.map_err(|source| Error::Unreadable { family, source })?;
                let last = dumps.last().cloned();
                dumps.drain(..dumps.len().min(1));
                Ok((last, dumps))
            };
            let (v4, stages_v4) = parse(Family::V4)?;
            let (v6, stages_v6) = parse(Family::V6)?;
            Ok(Rehearsed {
                sets,
                rules: PerFamily { v4, v6 },
                stages: PerFamily {
                    v4: stages_v4,
                    v6: stages_v6,
                },
            })
        }
        Answer::Refused { what, refusal } => Err(match what {
            What::Sets => Error::RefusedSets(refusal),
            What::Ipv4 => Error::Refused {
                family: Family::V4,
                refusal,
            },
            What::Ipv6 => Error::Refused {
                family: Family::V6,
                refusal,
            },
        }),
        Answer::NotPossible(reason) => Err(Error::NoScratch(reason)),
    }
}

fn ask(options: &[&str], request: &str) -> Result<Answer, Error> {
    let own = env::current_exe().map_err(|error| no_scratch(&error))?;
    let mut command: Command = tools::clean(
        &tools::find("unshare")
            .map_err(|_| no_scratch(&"`unshare` of util-linux is not installed"))?,
    );
    command.args(options).arg("--").arg(own).arg(COMMAND);
    let bounds = Bounds {
        limit: LIMIT,
        ..Bounds::default()
    };
    let output = child::run(command, request, &bounds)?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        no_scratch(&stderr.trim())
    })
}

fn no_scratch(reason: &dyn ToString) -> Error {
    Error::NoScratch(reason.to_string())
}

/// Handles a request inside the namespace, and returns the answer to print.
pub fn inside(request: &str) -> String {
    let answer = serde_json::from_str(request)
        .map_err(|error| Answer::NotPossible(error.to_string()))
        .and_then(|request| answer(&request))
        .unwrap_or_else(|answer| answer);
    serde_json::to_string(&answer).unwrap_or_default()
}

fn answer(request: &Request) -> Result<Answer, Answer> {
    let here = NamespaceId::current();
    // Whatever went wrong with `unshare`, the rules of the caller must never be replaced.
    if here.is_ok_and(|here| here == request.outside) {
        return Err(Answer::NotPossible(
            "the network namespace is still the old one".to_owned(),
        ));
    }
    // The tools of all namespaces share one lock file, and no other program should wait for a rehearsal. This lock file
    // ends with the process.
    let lock = memfd_create("xtables.lock", MemfdFlags::empty())
        .map_err(|error| Answer::NotPossible(error.to_string()))?;
    let setting = ToolSettings {
        // The tools inherit the descriptor, which is not closed on exec, so the path is valid in their own /proc.
        lockfile: Some(OsString::from(format!(
            "/proc/self/fd/{}",
            lock.as_raw_fd()
        ))),
        is_patient: true,
        ..ToolSettings::default()
    };
    let load = |family| -> Result<Vec<String>, Answer> {
        let Some(input) = &request.rules[family] else {
            return Ok(Vec::new());
        };
        let mut stages = Vec::new();
        let whole = std::iter::once((Load::Whole, input));
        let edits = request.edits[family].iter();
        for (load, input) in whole.chain(edits.map(|input| (Load::Edits, input))) {
            request
                .tools
                .restore(family, load, input, &setting)
                .map_err(refused)?;
            let saved = request.tools.save(family, &setting);
            // If rules were loaded here and cannot be read, the namespace is the reason (legacy without root), not the
            // rules.
            stages.push(saved.map_err(|error| Answer::NotPossible(error.to_string()))?);
        }
        Ok(stages)
    };
    let mut sets = String::new();
    if !request.sets.is_empty() {
        tools::ipset(&["restore"], &request.sets, &setting).map_err(refused)?;
        sets = tools::ipset(&["save"], "", &setting).map_err(refused)?;
    }
    Ok(Answer::Loaded {
        sets,
        stages: PerFamily {
            v4: load(Family::V4)?,
            v6: load(Family::V6)?,
        },
    })
}

fn refused(error: Error) -> Answer {
    let (what, refusal) = match error {
        Error::Refused { family, refusal } => match family {
            Family::V4 => (What::Ipv4, refusal),
            Family::V6 => (What::Ipv6, refusal),
        },
        Error::RefusedSets(refusal) => (What::Sets, refusal),
        other => return Answer::NotPossible(other.to_string()),
    };
    if refusal.is_permission() {
        return Answer::NotPossible(refusal.to_string());
    }
    Answer::Refused { what, refusal }
}
