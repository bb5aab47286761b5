//! The `--iptables` option, and the hidden command that loads rules inside the scratch network namespace.

use clap::{Args, ValueEnum};

use super::{Exit, Output};
use crate::live::{Backend, scratch};

/// A value of `--iptables`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Choice {
    /// iptables-nft: rules in nf_tables
    Nft,
    /// iptables-legacy: rules in x_tables
    Legacy,
}

/// The iptables backend to use.
#[derive(Clone, Copy, Debug, Args)]
pub struct HostArgs {
    /// The iptables backend to use [default: that of `iptables-save`]
    #[arg(
        long = "iptables",
        env = "FWC_IPTABLES",
        value_name = "BACKEND",
        hide_env_values = true
    )]
    choice: Option<Choice>,
}

impl HostArgs {
    /// Returns the backend that was named; `None` to detect it.
    pub fn backend(self) -> Option<Backend> {
        self.choice.map(|choice| match choice {
            Choice::Nft => Backend::Nft,
            Choice::Legacy => Backend::Legacy,
        })
    }
}

/// Loads rules in a scratch namespace: the process that `apply` and `diff` start there.
pub fn rehearse(output: &mut Output) -> Exit {
    // If reading fails the request is empty, and `scratch::inside` answers with an error.
    let request = std::io::read_to_string(std::io::stdin()).unwrap_or_default();
    output.result(&scratch::inside(&request));
    Exit::Fine
}
