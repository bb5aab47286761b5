//! `fwc schema`

use clap::Args as ClapArgs;

use super::{Exit, Output};
use crate::policy::json_schema;

/// Print the JSON Schema of policies, for editors
///
/// An editor with TOML support uses it to complete keys and values and to underline mistakes: see docs/guides/editors.md.
#[derive(Debug, ClapArgs)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: &Args, output: &Output) -> Exit {
    output.foreign_json(&json_schema());
    Exit::Fine
}
