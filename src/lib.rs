//! `fwc` compiles a declarative firewall policy to iptables-restore files.
//!
//! The modules follow the pipeline; a module uses only what stands above it:
//!
//! ```text
//! files ─ policy::load ─▶ Policy ─ resolve ─▶ Plan ─ expand ─▶ Rendered ─ apply ─▶ a running firewall
//! ```
//!
//! The library never prints and never exits: problems in the user's text go to a [`diag::Sink`],
//! everything that stops the program is an error value.

pub mod fault;

pub mod source;

pub mod files;

pub mod diag;

pub mod net;

pub mod lints;

pub mod policy;

pub mod iptables;

pub mod resolve;

pub mod analysis;

pub mod expand;

pub mod verify;

pub mod compile;

pub mod explain;

pub mod diff;

pub mod live;

pub mod apply;

pub mod cli;
