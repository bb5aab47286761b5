//! `[hooks]`: programs to run after an apply. (Not the hooks of netfilter.)

use std::fmt;

use serde::{Deserialize, Serialize};

use super::names::{OVERRIDE, harmless_text, set_twice};
use crate::diag::{Code, Diagnostic, Sink};
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::{CheckedTable, FileValue};
use crate::source::Located;

/// `[hooks]` as written; absent keys are `None`.
#[derive(Clone, Debug, Default)]
pub struct Hooks {
    /// `after-apply`: the commands to run, in order, when a change is kept.
    pub after_apply: Option<Located<Vec<Located<CommandLine>>>>,
}

/// A program and its arguments, which the kernel gets as they are. No shell is involved, so nothing in them is
/// expanded.
///
/// ```
/// use fwc::policy::{CommandLine, NoCommand};
///
/// let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
/// let reload = CommandLine::try_from(words(&["systemctl", "reload", "fail2ban"]))?;
/// assert_eq!(reload.program(), "systemctl");
/// assert_eq!(reload.to_string(), "systemctl reload fail2ban");
/// let relative = CommandLine::try_from(words(&["bin/reload"]));
/// assert_eq!(relative, Err(NoCommand::Relative));
/// # Ok::<(), NoCommand>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct CommandLine {
    program: String,
    arguments: Vec<String>,
}

impl CommandLine {
    /// Returns the program: an absolute path, or a name without a slash.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Returns the arguments without the program.
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// Returns the argument vector: the program, then its arguments.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        let all = [&self.program].into_iter().chain(&self.arguments);
        all.map(String::as_str)
    }
}

/// Why some words are not a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCommand {
    /// There are no words, or the program is empty.
    #[error("it names no program")]
    Empty,
    /// The program is a relative path. It would depend on the current directory.
    #[error("the program is neither a name nor an absolute path")]
    Relative,
    /// The program contains white space. It is probably a whole command line in one string.
    #[error("the program has a space in its name")]
    Spaced,
    /// A word contains a control character.
    #[error("it has a control character")]
    Control,
}

impl TryFrom<Vec<String>> for CommandLine {
    type Error = NoCommand;

    fn try_from(mut words: Vec<String>) -> Result<Self, NoCommand> {
        if words.iter().any(|word| word.contains(char::is_control)) {
            return Err(NoCommand::Control);
        }
        if words.first().is_none_or(String::is_empty) {
            return Err(NoCommand::Empty);
        }
        let program = words.remove(0);
        if program.contains(char::is_whitespace) {
            return Err(NoCommand::Spaced);
        }
        if program.contains('/') && !program.starts_with('/') {
            return Err(NoCommand::Relative);
        }
        Ok(Self {
            program,
            arguments: words,
        })
    }
}

impl From<CommandLine> for Vec<String> {
    fn from(command: CommandLine) -> Self {
        command.words().map(str::to_owned).collect()
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, word) in self.words().enumerate() {
            if number > 0 {
                out.write_str(" ")?;
            }
            let is_plain = |c: char| c.is_alphanumeric() || "_-./:=@%+,".contains(c);
            match !word.is_empty() && word.chars().all(is_plain) {
                true => out.write_str(word)?,
                false => write!(out, "{word:?}")?,
            }
        }
        Ok(())
    }
}

/// The longest word. Linux accepts longer ones, but nobody writes them by hand.
const LONGEST: u32 = 4096;

pub(super) const KEYS: TableKeys = TableKeys {
    of: "[hooks]",
    known: &[
        Key::new(
            "after-apply",
            Shape::List(&Shape::List(&Shape::Text(LONGEST))),
            "Programs that are run when a change of the firewall stays: each a list of its name or absolute path and its arguments. No \
             shell reads them.",
        )
        .example("[['systemctl', 'reload', 'fail2ban']]"),
        OVERRIDE,
    ],
};

pub(super) fn read(root: CheckedTable<'_>, hooks: &mut Hooks, sink: &mut Sink) {
    let Some(value) = root.get("hooks") else {
        return;
    };
    let Some(table) = value.table("hooks", sink) else {
        return;
    };
    table.check(KEYS, sink);
    let overrides = table
        .boolean("override", sink)
        .is_some_and(|flag| flag.value);
    let Some(commands) = table.get(AFTER_APPLY) else {
        return;
    };
    let span = table.key_span(AFTER_APPLY);
    let read = Located::new(read_commands(commands, sink), span);
    match &hooks.after_apply {
        Some(earlier) if !overrides => {
            sink.report(set_twice("hooks", AFTER_APPLY, [earlier.span, span]));
        }
        _ => hooks.after_apply = Some(read),
    }
}

const AFTER_APPLY: &str = "after-apply";

fn read_commands(value: FileValue<'_>, sink: &mut Sink) -> Vec<Located<CommandLine>> {
    let list = value.list(AFTER_APPLY, sink).unwrap_or_default();
    if list.len() > 1 && list.iter().all(|word| word.as_text().is_some()) {
        let words: Vec<_> = list.iter().filter_map(|word| word.as_text()).collect();
        sink.report(
            Diagnostic::error(
                Code::BadValue,
                value.span,
                "is this one command, or several without arguments?",
            )
            .help(format!(
                "a command is a list by itself: `[{}]` is one",
                toml_list(&words)
            )),
        );
        return Vec::new();
    }
    let commands = list.into_iter().filter_map(|value| {
        let command = read_command(value, sink)?;
        Some(Located::new(command, value.span))
    });
    commands.collect()
}

/// Returns the words as a TOML list.
fn toml_list(words: &[&str]) -> String {
    let quoted: Vec<_> = words
        .iter()
        .map(|word| toml::Value::from(*word).to_string())
        .collect();
    format!("[{}]", quoted.join(", "))
}

fn read_command(value: FileValue<'_>, sink: &mut Sink) -> Option<CommandLine> {
    let errors = sink.errors();
    let mut words = Vec::new();
    for word in value.list(AFTER_APPLY, sink)? {
        let Some(text) = word.as_text() else {
            word.wrong_type(AFTER_APPLY, "made of strings", sink);
            continue;
        };
        let text = Located::new(text, word.span);
        if harmless_text(AFTER_APPLY, &text, sink) {
            words.push(text);
        }
    }
    if sink.errors() > errors {
        return None;
    }
    let first = words.first()?;
    let texts: Vec<_> = words.iter().map(|word| word.value.to_owned()).collect();
    match CommandLine::try_from(texts) {
        Ok(command) => Some(command),
        Err(why) => {
            sink.report(no_command(why, first));
            None
        }
    }
}

fn no_command(why: NoCommand, program: &Located<&str>) -> Diagnostic {
    let shown = program.value;
    let (message, help) = match why {
        NoCommand::Spaced => {
            let words: Vec<_> = shown.split_whitespace().collect();
            (
                format!("`{shown}` is not a valid program: fwc runs programs without a shell"),
                format!("write each argument by itself: {}", toml_list(&words)),
            )
        }
        NoCommand::Relative => (
            format!("`{shown}` begins in no folder that fwc could know"),
            "write the absolute path, or the name alone of what is in /usr/sbin, /sbin, /usr/bin or /bin"
                .to_owned(),
        ),
        NoCommand::Empty | NoCommand::Control => (
            "a command begins with its program".to_owned(),
            "write its absolute path, or the name alone of what is in /usr/sbin, /sbin, /usr/bin or /bin"
                .to_owned(),
        ),
    };
    Diagnostic::error(Code::BadValue, program.span, message).help(help)
}

#[cfg(test)]
mod tests {
    use super::{CommandLine, NoCommand};

    fn command(words: &[&str]) -> Result<CommandLine, NoCommand> {
        CommandLine::try_from(
            words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn a_command_is_a_program_and_whatever_arguments() {
        for (words, wanted) in [
            (&[][..], Err(NoCommand::Empty)),
            (&["", "x"], Err(NoCommand::Empty)),
            (&["./x"], Err(NoCommand::Relative)),
            (&["../x"], Err(NoCommand::Relative)),
            (&["bin/x"], Err(NoCommand::Relative)),
            (&["x y"], Err(NoCommand::Spaced)),
            (&["/x\u{a0}y"], Err(NoCommand::Spaced)),
            (&["x", "a\nb"], Err(NoCommand::Control)),
            (&["x", "a\0"], Err(NoCommand::Control)),
            (&["x", "\u{1b}[1m"], Err(NoCommand::Control)),
            (&["x"], Ok("x")),
            (&["/x/y"], Ok("/x/y")),
            (
                &["x", "a b", "", "$HOME;", "-n"],
                Ok(r#"x "a b" "" "$HOME;" -n"#),
            ),
        ] {
            let shown = command(words).map(|command| command.to_string());
            assert_eq!(shown, wanted.map(str::to_owned), "{words:?}");
        }
    }

    /// Commands read from the state directory get the same checks as those of a policy.
    #[test]
    fn what_was_written_down_is_read_again_or_refused() {
        let good = command(&["x", "a b"]).unwrap();
        let text = serde_json::to_string(&good).unwrap();
        assert_eq!(text, r#"["x","a b"]"#);
        assert_eq!(serde_json::from_str::<CommandLine>(&text).unwrap(), good);
        for bad in ["[]", r#"["bin/x"]"#, r#"["x","\u0000"]"#, r#""x""#] {
            assert!(serde_json::from_str::<CommandLine>(bad).is_err(), "{bad}");
        }
    }
}
