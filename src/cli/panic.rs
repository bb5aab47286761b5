//! `fwc panic`

use clap::Args as ClapArgs;

use super::host::HostArgs;
use super::state::StateArgs;
use super::{Exit, Output};
use crate::apply::panic::{self, Management};
use crate::live::Real;
use crate::live::requester::ClientConnection;
use crate::net::PerFamily;

/// Drop everything but your own SSH connection, at once; `--off` ends it
///
/// Packets within this host and those of your own SSH connection pass as far as the other rules accept them. Everything else is
/// dropped, including forwarded and established connections. No other rule is touched: `--off` restores what was. A restart ends it,
/// too.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// End it
    #[arg(long, conflicts_with = "allow_lockout")]
    off: bool,
    /// Go on even if your own connection may be cut
    #[arg(long)]
    allow_lockout: bool,
    #[command(flatten)]
    host: HostArgs,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Exit {
    if let Some(text) = StateArgs::needs_root("panic") {
        output.fatal(&text);
        return Exit::Failed;
    }
    // Rules in both backends are no reason to stay open.
    let mut host = match Real::open(args.host.backend()) {
        Ok(host) => host,
        Err(error) => {
            output.fatal(&error.to_string());
            return Exit::Failed;
        }
    };
    if args.off {
        return args.end(&mut host, output);
    }
    let management = Management::of(&ClientConnection::current());
    for doubt in &management.doubts {
        if !args.allow_lockout {
            output.fatal(&format!(
                "this may cut your own connection; nothing was changed: {doubt}\ninsist with --allow-lockout, or do it on a local terminal"
            ));
            return Exit::Failed;
        }
        output.message(&format!(
            "warning: this may cut your own connection: {doubt}"
        ));
    }
    let closed = panic::on(&mut host, &management);
    if failed(&closed, "is NOT closed", output) {
        return Exit::Failed;
    }
    output.tell("panic mode is on: only packets within this host");
    for kept in &management.kept {
        output.tell(&format!(", and {kept}"));
    }
    output.tell(" pass\nnew connections are dropped, yours too: keep this session open; `fwc panic --off` ends panic mode\n");
    Exit::Fine
}

impl Args {
    fn end(&self, host: &mut Real, output: &Output) -> Exit {
        let opened = panic::off(host);
        if failed(&opened, "is still closed", output) {
            return Exit::Failed;
        }
        let was_on = opened.iter().any(|(_, result)| matches!(result, Ok(true)));
        output.tell(if was_on {
            "panic mode is off: the rules apply as before\n"
        } else {
            "nothing to do: panic mode is not on\n"
        });
        Exit::Fine
    }
}

fn failed<T>(
    results: &PerFamily<Result<T, crate::apply::Error>>,
    words: &str,
    output: &Output,
) -> bool {
    let mut is_failed = false;
    for (family, result) in results.iter() {
        if let Err(error) = result {
            output.fatal(&format!("{family} {words}: {error}"));
            is_failed = true;
        }
    }
    is_failed
}
