//! The `fwc` binary as a user meets it: what it prints, what it writes, how it ends.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // in the helpers

mod build;
mod cases;
mod check;
mod dead;
mod diff;
mod discovery;
mod every;
mod expiry;
mod explain;
mod files;
#[path = "../kernel/folders.rs"]
mod folders;
mod fwc;
mod help;
mod hostile;
mod hosts;
mod idle;
mod lints;
mod matrix;
mod partial;
mod positions;
mod proof;
mod recordings;
mod schema;
#[path = "../support/schemas.rs"]
mod schemas;
mod sets;
mod shells;
mod templates;
mod tests;
mod untracked;
mod wrong;
