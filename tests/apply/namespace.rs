//! A network namespace with a state folder, a folder of rules files and an xtables lock of its own.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tempfile::TempDir;

use super::schemas::assert_documented;
use super::support::namespace::Namespace as Net;
pub use super::support::tools::Backend;
use super::support::tools::find;

/// The tools of the two families.
pub const TOOLS: [&str; 2] = ["iptables", "ip6tables"];

/// Policies; the second one is the first with a rule more.
pub const SSH: &str = "version = 1\n\n[[rules]]\nservice = \"ssh\"\n";
pub const WEB: &str =
    "version = 1\n\n[[rules]]\nservice = \"ssh\"\n\n[[rules]]\nservice = \"http\"\n";

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    /// Fails the test unless the exit status is this one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        self
    }
}

pub struct Namespace {
    net: Net,
    pub backend: Backend,
    folder: Arc<TempDir>,
}

impl Namespace {
    /// Why no test with this backend can run here.
    pub fn possible(backend: Backend) -> Result<(), String> {
        static NAMESPACES: OnceLock<Result<(), String>> = OnceLock::new();
        for tool in TOOLS {
            find(&format!("{tool}-{backend}-save"))?;
        }
        NAMESPACES.get_or_init(|| Net::new().map(drop)).clone()
    }

    pub fn new(backend: Backend) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ssh.toml"), SSH).unwrap();
        fs::write(folder.path().join("web.toml"), WEB).unwrap();
        Self {
            net: Net::new().unwrap(),
            backend,
            folder: Arc::new(folder),
        }
    }

    /// Another namespace with the same folders: another container, or this machine after a reboot.
    pub fn sibling(&self) -> Self {
        let mut sibling = Self::new(self.backend);
        sibling.folder = Arc::clone(&self.folder);
        sibling
    }

    /// The network alone, to link it to others.
    pub fn net(&self) -> &Net {
        &self.net
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a program inside.
    pub fn run(&self, program: &str, arguments: &[&str], input: &str) -> Ended {
        let mut command = self.command(program, arguments);
        self.net.enter(|| run(&mut command, input))
    }

    /// A command that has to be started inside.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(find(program).unwrap_or_else(|_| program.into()));
        command
            .args(arguments)
            .env("XTABLES_LOCKFILE", self.path("xtables.lock"))
            .env("FWC_IPTABLES", self.backend.to_string())
            .env("FWC_STATE_DIR", self.path("state"))
            .env_remove("SSH_CONNECTION")
            .current_dir(self.folder.path());
        command
    }

    /// `fwc COMMAND ...` inside.
    pub fn fwc(&self, arguments: &[&str]) -> Ended {
        let ended = self.run(env!("CARGO_BIN_EXE_fwc"), arguments, "");
        assert_documented(&ended.out);
        ended
    }

    /// `fwc apply POLICY --yes ...` inside, with this namespace's folder of rules files.
    pub fn apply(&self, policy: &str, more: &[&str]) -> Ended {
        let mut arguments = vec!["apply", policy];
        if !more.contains(&"--dry-run") && !more.contains(&"--confirm") {
            arguments.push("--yes");
        }
        arguments.extend(more);
        self.kept(&arguments)
    }

    /// `fwc ...` inside, with this namespace's folder of rules files.
    pub fn kept(&self, arguments: &[&str]) -> Ended {
        let persist = self.path("iptables");
        let persist = ["--persist-dir", persist.to_str().unwrap()];
        self.fwc(&[arguments, &persist].concat())
    }

    /// `iptables ...` or `ip6tables ...` inside.
    pub fn iptables(&self, tool: &str, arguments: &[&str]) {
        let program = format!("{tool}-{}", self.backend);
        self.run(&program, arguments, "").expect(0);
    }

    /// Loads a text of `iptables-save`, with its counters.
    pub fn restore(&self, tool: &str, input: &str) -> Ended {
        let program = format!("{tool}-{}-restore", self.backend);
        self.run(&program, &["--counters"], input)
    }

    /// Both families' rules with counters, byte for byte but for the comments, which tell the time.
    pub fn saved(&self) -> String {
        TOOLS
            .iter()
            .map(|tool| self.saved_family(tool))
            .collect::<Vec<_>>()
            .join("---\n")
    }

    pub fn saved_family(&self, tool: &str) -> String {
        let program = format!("{tool}-{}-save", self.backend);
        let saved = self.run(&program, &["-c"], "").expect(0);
        let lines = saved.out.lines().filter(|line| !line.starts_with('#'));
        lines.flat_map(|line| [line, "\n"]).collect()
    }

    /// The rules files, as far as they are there.
    pub fn rules_files(&self) -> Vec<String> {
        ["iptables/rules.v4", "iptables/rules.v6"]
            .iter()
            .filter_map(|name| fs::read_to_string(self.path(name)).ok())
            .collect()
    }
}

/// Runs a command to its end, without a terminal.
pub fn run(command: &mut Command, input: &str) -> Ended {
    let spawned = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            return Ended {
                code: None,
                out: String::new(),
                err: format!("{:?}: {error}", command.get_program()),
            };
        }
    };
    // A program that refuses stops reading.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap().into()
}

/// A namespace with a name, deleted when dropped.
pub struct Named(pub String);

impl Named {
    pub fn new() -> std::result::Result<Self, String> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fwc-apply-{}-{number}", std::process::id());
        let added = run(Command::new("ip").args(["netns", "add", &name]), "");
        if added.code == Some(0) {
            Ok(Self(name))
        } else {
            Err(added.err)
        }
    }

    /// Its IPv4 rules, without the lines that tell the time.
    pub fn saved(&self, ns: &Namespace, backend: Backend) -> String {
        let tool = format!("iptables-{backend}-save");
        let saved = ns
            .run("ip", &["netns", "exec", &self.0, &tool], "")
            .expect(0);
        let lines = saved.out.lines().filter(|line| !line.starts_with('#'));
        lines.flat_map(|line| [line, "\n"]).collect()
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        run(Command::new("ip").args(["netns", "del", &self.0]), "");
    }
}
