//! Loading rules in a network namespace that exists for this only, and reading them back.
//!
//! `unshare --net fwc __rehearse` loads and saves: the namespace ends with that process, whatever ends it.

use std::env;
use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::process::Command;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use super::tools::{self, Tools};
use super::{Dump, Error, NamespaceId, Refusal};
use crate::net::{Family, PerFamily};

/// The hidden command that runs inside.
pub const COMMAND: &str = "__rehearse";

/// What goes in, on standard input.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    tools: Tools,
    /// The namespace that must not be touched.
    outside: NamespaceId,
    ipv4: Option<String>,
    ipv6: Option<String>,
}

/// What comes out, on standard output.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Loaded {
        ipv4: Option<String>,
        ipv6: Option<String>,
    },
    Refused {
        ipv6: bool,
        refusal: Refusal,
    },
    NotPossible(String),
}

/// Loads what is there of `payload` in one scratch namespace, and returns what the kernel made of it.
///
/// Without root a user namespace is made too, where the system allows that.
pub(super) fn load(
    tools: &Tools,
    payload: &PerFamily<Option<String>>,
) -> Result<PerFamily<Option<Dump>>, Error> {
    let request = Request {
        tools: tools.clone(),
        outside: NamespaceId::current().map_err(|source| Error::Io {
            what: "cannot read the identity of the network namespace".to_owned(),
            source,
        })?,
        ipv4: payload.v4.clone(),
        ipv6: payload.v6.clone(),
    };
    let request = serde_json::to_string(&request).map_err(|error| no_scratch(&error))?;
    let answer = if geteuid().is_root() {
        // A container's root may not be allowed the first and still the second.
        ask(&["--net"], &request)
            .or_else(|_| ask(&["--net", "--user", "--map-root-user"], &request))
    } else {
        ask(&["--net", "--user", "--map-root-user"], &request)
    };
    match answer? {
        Answer::Loaded { ipv4, ipv6 } => {
            let parse = |family, text: Option<String>| {
                text.map(|text| Dump::parse(&text))
                    .transpose()
                    .map_err(|source| Error::Unreadable { family, source })
            };
            Ok(PerFamily {
                v4: parse(Family::V4, ipv4)?,
                v6: parse(Family::V6, ipv6)?,
            })
        }
        Answer::Refused { ipv6, refusal } => Err(Error::Refused {
            family: if ipv6 { Family::V6 } else { Family::V4 },
            refusal,
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
    let output = tools::run(command, request)?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        no_scratch(&stderr.trim())
    })
}

fn no_scratch(reason: &dyn ToString) -> Error {
    Error::NoScratch(reason.to_string())
}

/// The inner side: reads a request, works, returns the answer to print.
pub fn inside(request: &str) -> String {
    let answer = serde_json::from_str(request)
        .map_err(|error| Answer::NotPossible(error.to_string()))
        .and_then(|request| answer(&request))
        .unwrap_or_else(|answer| answer);
    serde_json::to_string(&answer).unwrap_or_default()
}

fn answer(request: &Request) -> Result<Answer, Answer> {
    let here = NamespaceId::current();
    if here.is_ok_and(|here| here == request.outside) {
        return Err(Answer::NotPossible(
            "the network namespace is still the old one".to_owned(),
        ));
    }
    // The tools of all namespaces share one lock file; nobody should wait for a rehearsal. This one dies with the process.
    let lock = memfd_create("xtables.lock", MemfdFlags::empty())
        .map_err(|error| Answer::NotPossible(error.to_string()))?;
    let lockfile = OsString::from(format!("/proc/self/fd/{}", lock.as_raw_fd()));
    let load = |family, input: &Option<String>| -> Result<Option<String>, Answer> {
        let Some(input) = input else { return Ok(None) };
        request
            .tools
            .restore(family, input, Some(&lockfile))
            .map_err(|error| refused(error, family))?;
        let saved = request.tools.save(family, Some(&lockfile));
        // What was loaded here and cannot be read is the namespace's fault (legacy, without root), not the text's.
        saved
            .map(Some)
            .map_err(|error| Answer::NotPossible(error.to_string()))
    };
    Ok(Answer::Loaded {
        ipv4: load(Family::V4, &request.ipv4)?,
        ipv6: load(Family::V6, &request.ipv6)?,
    })
}

fn refused(error: Error, family: Family) -> Answer {
    match error {
        Error::Refused { refusal, .. } if !refusal.is_permission() => Answer::Refused {
            ipv6: family == Family::V6,
            refusal,
        },
        other => Answer::NotPossible(other.to_string()),
    }
}
