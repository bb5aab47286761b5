//! The command line: one file for each command. No other module prints.

mod apply;
mod batch;
mod budget;
mod build;
mod change;
mod change_report;
mod check;
mod compile;
mod completions;
mod confirm;
mod diff;
mod explain;
mod fmt;
mod history;
mod hooks;
mod host;
mod junit;
mod live_check;
mod man;
mod matrix;
mod output;
mod panic;
mod recover;
mod rollback;
mod rules;
mod schema;
#[cfg(test)]
mod schemas;
mod services;
mod state;
mod status;
mod templates;
mod test;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

pub use output::{Format, Output};

/// The exit status of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Success, and nothing to do.
    Fine,
    /// The policy, a test or the system failed.
    Failed,
    /// Success, and there is a difference.
    Different,
    /// Wrong usage: `EX_USAGE` of sysexits.h, because clap's own 2 means a difference here.
    Usage,
}

impl Exit {
    /// Combines two statuses: a failure beats a difference, a difference beats success.
    fn and(self, other: Self) -> Self {
        let rank = |exit: Self| match exit {
            Self::Fine => 0,
            Self::Different => 1,
            Self::Failed => 2,
            Self::Usage => 3,
        };
        if rank(other) > rank(self) {
            other
        } else {
            self
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Fine => 0,
            Exit::Failed => 1,
            Exit::Different => 2,
            Exit::Usage => 64,
        })
    }
}

/// Compiles a firewall policy to iptables rules, proves them, shows what would change, and applies them safely
#[derive(Debug, Parser)]
#[command(
    name = "fwc",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = AFTER_HELP
)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Begin with a policy in fwc.toml:
  version = 1
  [[rules]]
  service = [\"ssh\", \"http\"]

Exit status: 0 success, nothing to change; 1 an error in the policy or the system; 2 success, and
something differs; 64 wrong usage.";

/// Options that every command has.
#[derive(Debug, Args)]
struct Common {
    /// Use colours: auto (on a terminal, unless NO_COLOR is set), always or never
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        hide_possible_values = true,
        help_heading = "Output"
    )]
    color: output::When,
    /// Print errors only
    #[arg(short, long, global = true, help_heading = "Output")]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Args),
    Test(test::Args),
    Build(build::Args),
    Explain(explain::Args),
    Diff(diff::Args),
    Matrix(matrix::Args),
    Fmt(fmt::Args),
    Apply(apply::Args),
    Confirm(confirm::Args),
    Rollback(rollback::Args),
    History(history::Args),
    Recover(recover::Args),
    Status(status::Args),
    Panic(panic::Args),
    Services(services::Args),
    Templates(templates::Args),
    Schema(schema::Args),
    Completions(completions::Args),
    Man(man::Args),
    /// Loads rules in a scratch network namespace; `apply` runs it there
    #[command(name = crate::live::scratch::COMMAND, hide = true)]
    Rehearse,
    /// Reverts a change if the fwc that made it dies, or if nobody confirms it in time; `apply` starts it
    #[command(name = crate::apply::watchdog::COMMAND, hide = true)]
    Watchdog {
        #[arg(hide = true)]
        arguments: Vec<String>,
    },
}

/// Returns the command line without the hidden commands that only fwc itself runs. clap_complete and clap_mangen would list
/// them.
fn command() -> clap::Command {
    let all = Cli::command();
    let shown = |command: &&clap::Command| !command.is_hide_set();
    let commands: Vec<_> = all.get_subcommands().filter(shown).cloned().collect();
    let mut only = clap::Command::new("fwc").version(env!("CARGO_PKG_VERSION"));
    if let Some(about) = all.get_about() {
        only = only.about(about.clone());
    }
    only.args(all.get_arguments().cloned())
        .subcommands(commands)
}

/// Runs the command line `arguments` (the program's name first).
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // clap prints help to stdout and errors to stderr. A closed pipe (`fwc --help | head`) is not an error.
            let _ = error.print();
            return if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Fine
            }
            .into();
        }
    };
    let mut output = Output::new(cli.common.color, cli.common.quiet);
    match cli.command {
        Command::Check(args) => check::run(&args, &mut output),
        Command::Test(args) => test::run(&args, &output),
        Command::Build(args) => build::run(&args, &mut output),
        Command::Diff(args) => diff::run(&args, &output),
        Command::Explain(args) => explain::run(&args, &output),
        Command::Matrix(args) => matrix::run(&args, &mut output),
        Command::Fmt(args) => fmt::run(&args, &mut output),
        Command::Apply(args) => apply::run(&args, &mut output),
        Command::Confirm(args) => confirm::run(&args, &output),
        Command::Rollback(args) => rollback::run(&args, &output),
        Command::History(args) => history::run(&args, &output),
        Command::Recover(args) => recover::run(&args, &output),
        Command::Status(args) => status::run(&args, &output),
        Command::Panic(args) => panic::run(&args, &output),
        Command::Services(args) => services::run(&args, &mut output),
        Command::Templates(args) => templates::run(&args, &output),
        Command::Schema(args) => schema::run(&args, &output),
        Command::Completions(args) => completions::run(&args, &output),
        Command::Man(args) => man::run(&args, &output),
        Command::Rehearse => host::rehearse(&mut output),
        Command::Watchdog { arguments } => {
            crate::apply::watchdog::run(&arguments);
            Exit::Fine
        }
    }
    .into()
}
