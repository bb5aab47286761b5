//! What `apply` and `diff` share: the choice of iptables' backend.

use clap::{Args, ValueEnum};

use crate::live::Backend;

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
