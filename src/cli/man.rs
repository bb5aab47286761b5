//! `fwc man`

use clap::Args as ClapArgs;
use clap_mangen::Man;

use super::{Exit, Output, command};

/// Print the manual page of fwc, or of a command
///
/// For example: `fwc man apply > /usr/local/share/man/man1/fwc-apply.1`
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// A command [default: fwc itself]
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Exit {
    let mut all = command();
    all.build();
    let page = match &args.command {
        None => Some(all),
        Some(name) => {
            let mut commands = all.get_subcommands();
            commands
                .find(|command| command.get_name() == name && !command.is_hide_set())
                .cloned()
                .map(|command| command.display_name(format!("fwc-{name}")))
        }
    };
    let Some(page) = page else {
        let name = args.command.as_deref().unwrap_or_default();
        let shown = name.escape_debug();
        output.fatal(&format!(
            "there is no command `{shown}`\n`fwc --help` lists them"
        ));
        return Exit::Usage;
    };
    let mut text = Vec::new();
    if let Err(error) = Man::new(page).render(&mut text) {
        output.fatal(&format!("cannot write the manual page: {error}"));
        return Exit::Failed;
    }
    output.result(&String::from_utf8_lossy(&text));
    Exit::Fine
}
