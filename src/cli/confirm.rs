//! `fwc confirm`

use clap::Args as ClapArgs;

use super::change_report::{self, DID};
use super::hooks;
use super::state::StateArgs;
use super::{Exit, Output};
use crate::apply::{self, Error};
use crate::live::requester::{ClientConnection, Requester};

/// Keep the pending change
///
/// Over SSH, run it from a connection that you opened after the change: that proves that the new rules let you in.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    state: StateArgs,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Exit {
    if let Some(text) = StateArgs::needs_root("confirm") {
        output.fatal(&text);
        return Exit::Failed;
    }
    match args.confirm(output) {
        Ok(exit) => exit,
        Err(error) => {
            output.fatal(&error.to_string());
            Exit::Failed
        }
    }
}

impl Args {
    fn confirm(&self, output: &Output) -> Result<Exit, Error> {
        let (mut host, store) = self.state.of_last_change()?.open()?;
        store.refuse_in_hook()?;
        let lock = store.lock(&mut host)?;
        let (intent, _) = store.journal().open()?.ok_or(Error::NotPending)?;
        let by = witness(&ClientConnection::current(), &intent.connections)?;
        let (number, done) = apply::confirm(&mut host, &store, &by)?;
        let text = change_report::files(&done, &DID);
        output.tell(&format!("kept change {number}\n{text}"));
        drop(lock);
        Ok(hooks::run(&store, output).exit)
    }
}

/// Returns what confirms the change, for the history: a connection that is newer than the change, or a local user.
///
/// A connection that is older proves nothing: rules that accept ESTABLISHED keep it alive even if they block new ones.
fn witness(client: &ClientConnection, before: &[String]) -> Result<String, Error> {
    let is_new = |text: &String| !before.contains(text);
    let connections = client.connections.iter();
    let mut connections: Vec<String> = connections.map(ToString::to_string).collect();
    if let Some(at) = connections.iter().position(is_new) {
        return Ok(format!(
            "`fwc confirm` over {}",
            connections.swap_remove(at)
        ));
    }
    if let Some(old) = connections.first() {
        return Err(Error::ProvesNothing(format!(
            "this connection ({old}) is older than the change, and stays open even under rules that block new ones"
        )));
    }
    let by = match &client.who {
        Requester::NotKnown(why) => {
            return Err(Error::ProvesNothing(format!(
                "fwc cannot tell how you reach this host: {why}"
            )));
        }
        Requester::Ssh | Requester::Console => "on the machine itself",
        Requester::Elsewhere => "from another network namespace",
        Requester::NoUser => "by a program",
    };
    Ok(format!("`fwc confirm` {by}"))
}

#[cfg(test)]
mod tests {
    use super::witness;
    use crate::live::connection::TcpConnection;
    use crate::live::requester::{ClientConnection, Requester};

    fn connection(port: u16) -> TcpConnection {
        TcpConnection {
            remote: ([198, 51, 100, 7], port).into(),
            local: ([192, 0, 2, 1], 22).into(),
        }
    }

    #[test]
    fn only_a_connection_newer_than_the_change_counts() {
        let before = [connection(1000).to_string()];
        let over = |ports: &[u16]| ClientConnection {
            connections: ports.iter().map(|port| connection(*port)).collect(),
            elsewhere: Vec::new(),
            who: match ports.is_empty() {
                true => Requester::Console,
                false => Requester::Ssh,
            },
        };
        assert!(witness(&over(&[1000]), &before).is_err());
        assert!(witness(&over(&[1001]), &before).is_ok());
        // A new login that attached to a `screen` of an old login.
        assert!(witness(&over(&[1000, 1001]), &before).is_ok());
        assert!(witness(&over(&[]), &before).is_ok());
        let by = |who| ClientConnection {
            connections: Vec::new(),
            elsewhere: Vec::new(),
            who,
        };
        let not_known = Requester::NotKnown("a test".to_owned());
        assert!(witness(&by(not_known), &before).is_err());
        for who in [Requester::Console, Requester::Elsewhere, Requester::NoUser] {
            assert!(witness(&by(who), &before).is_ok());
        }
    }
}
