//! `fwc completions`

use clap::Args as ClapArgs;
use clap_complete::Shell;

use super::{Exit, Output, command};

/// Print shell completions
///
/// For example: `fwc completions bash > /etc/bash_completion.d/fwc`
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The shell: bash, elvish, fish, powershell or zsh
    #[arg(value_name = "SHELL", hide_possible_values = true, value_parser = clap::value_parser!(Shell))]
    shell: Shell,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Exit {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "fwc", &mut text);
    output.result(&String::from_utf8_lossy(&text));
    Exit::Fine
}
