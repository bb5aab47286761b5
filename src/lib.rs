//! `fwc` compiles a declarative firewall policy to iptables-restore files, and proves that they mean what the policy says.
//!
//! As a library it offers five things; the other public modules have the types in their signatures.
//!
//! - [`compile`](mod@compile): a policy file becomes rules, or findings that say why not.
//! - [`policy`]: the policy as written, and what it decides about a single packet.
//! - [`iptables`]: rules files and the output of `iptables-save`, read, printed, and followed with a single packet.
//! - [`analysis`]: rules as sets of packets, for questions about all packets at once.
//! - [`diff`]: the rules, and the packets, that differ between two rulesets.
//!
//! The library never prints and never exits, except for [`run`], which is the whole command: problems in the user's text are
//! findings in a [`diag::Sink`], and everything that ends the work is an error value.
//!
//! # Example
//!
//! A policy is compiled, and its rules for IPv4 are compared with those that a server has now:
//!
//! ```
//! use fwc::compile::{Deny, Options, compile};
//! use fwc::diff;
//! use fwc::files::Access;
//! use fwc::iptables::Ruleset;
//! use fwc::net::{Date, Family};
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("fwc.toml");
//! std::fs::write(&path, "version = 1\n\n[[rules]]\nservice = \"ssh\"\n")?;
//! let options = Options {
//!     access: Access::Read,
//!     templates: None,
//!     verify: true,
//!     deny: &Deny::default(),
//!     max_lines: None,
//!     today: Date::constant(2026, 1, 1),
//! };
//! let compiled = compile(&path, options).result?;
//! let wanted = Ruleset::from_text(compiled.rendered.rules[Family::V4].text(), Family::V4)?;
//!
//! let saved = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
//!              -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n";
//! let live = Ruleset::from_text(saved, Family::V4)?;
//! let changes = diff::rules(&live, &wanted, &|_, _| false);
//! assert!(!changes.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How it is built
//!
//! A module uses only modules above it, from `fault` down to `cli`; `docs/internals/architecture.md` has the picture.

// In the order of the layers: the lower ones first.
mod fault;

pub mod source;

pub mod files;

pub mod diag;

pub mod net;

mod lints;

pub mod policy;

pub mod iptables;

mod resolve;

pub mod analysis;

mod expand;

mod verify;

pub mod compile;

mod explain;

pub mod diff;

mod live;

mod apply;

mod cli;

pub use cli::run;

/// The other modules, for this package's own tests and benches. They are not part of the API and change at any time.
#[doc(hidden)]
#[allow(missing_docs)] // each is documented where it is
pub mod internals {
    pub mod apply {
        pub use crate::apply::*;
    }
    pub mod expand {
        pub use crate::expand::*;
    }
    pub mod explain {
        pub use crate::explain::*;
    }
    pub mod fault {
        pub use crate::fault::*;
    }
    pub mod lints {
        pub use crate::lints::*;
    }
    pub mod live {
        pub use crate::live::*;
    }
    pub mod resolve {
        pub use crate::resolve::*;
    }
    pub mod verify {
        pub use crate::verify::*;
    }
}
