//! What `apply` and `diff` share: the choice of iptables' backend, and the inner side of the scratch namespace.

use clap::{Args, ValueEnum};

use super::{Exit, Output};
use crate::live::{Backend, scratch};

/// iptables' backend by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Choice {
    /// iptables-nft: rules in nf_tables
    Nft,
    /// iptables-legacy: rules in x_tables
    Legacy,
}

/// Which iptables to use.
#[derive(Clone, Copy, Debug, Args)]
pub struct HostArgs {
    /// Which iptables to use [default: the one that `iptables-save` is]
    #[arg(
        long = "iptables",
        env = "FWC_IPTABLES",
        value_name = "BACKEND",
        hide_env_values = true
    )]
    choice: Option<Choice>,
}

impl HostArgs {
    /// The backend that was asked for.
    pub fn backend(self) -> Option<Backend> {
        self.choice.map(|choice| match choice {
            Choice::Nft => Backend::Nft,
            Choice::Legacy => Backend::Legacy,
        })
    }
}

/// Loads rules in a scratch namespace: the process that `apply` and `diff` start there.
pub fn rehearse(output: &mut Output) -> Exit {
    // A request that cannot be read is none, and is answered as such.
    let request = std::io::read_to_string(std::io::stdin()).unwrap_or_default();
    output.result(&scratch::inside(&request));
    Exit::Fine
}
