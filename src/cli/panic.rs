//! `fwc panic`

use clap::Args as ClapArgs;

use super::host::HostArgs;
use super::state::StateArgs;
use super::{Exit, Output};
use crate::apply::panic::{self, Management};
use crate::live::Real;
use crate::live::requester::ClientConnection;
use crate::net::PerFamily;

/// Drop every packet except those of your own SSH connection, at once; `--off` ends it
///
/// Packets on loopback and those of your own SSH connection still pass, if the other rules accept them. Everything else is
/// dropped, including forwarded and established connections. Other rules are not changed, so `--off` restores the state before.
/// A restart ends panic mode, too.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// End panic mode
    #[arg(long, conflicts_with = "allow_lockout")]
    off: bool,
    /// Continue even if your own connection may be cut
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
    // `only_backend` is not called here: rules in both backends must not keep the host open.
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
                "this may cut your own connection; nothing was changed: {doubt}\nrun it on a local terminal, or add --allow-lockout"
            ));
            return Exit::Failed;
        }
        output.message(&format!(
            "warning: this may cut your own connection: {doubt}"
        ));
    }
    let closed = panic::on(&mut host, &management);
    if print_errors(&closed, "is NOT closed", output) {
        return Exit::Failed;
    }
    output.tell("Panic mode is on. Only packets on loopback");
    for kept in &management.kept {
        output.tell(&format!(" and of {kept}"));
    }
    output.tell(" pass.\nNew connections are dropped, yours too. Keep this session open, and end panic mode with `fwc panic --off`.\n");
    Exit::Fine
}

impl Args {
    fn end(&self, host: &mut Real, output: &Output) -> Exit {
        let opened = panic::off(host);
        if print_errors(&opened, "is still closed", output) {
            return Exit::Failed;
        }
        let was_on = opened.iter().any(|(_, result)| matches!(result, Ok(true)));
        output.tell(if was_on {
            "Panic mode is off. The rules apply as before.\n"
        } else {
            "nothing to do: panic mode is not on\n"
        });
        Exit::Fine
    }
}

/// Prints the errors of both families, and returns `true` if there are any.
fn print_errors<T>(
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
