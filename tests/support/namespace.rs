//! Network namespaces that disappear with the test, however it ends.
//!
//! A namespace has no name: only an open file refers to it, so the kernel removes it (with its devices and rules) when
//! the test's process ends. `setns` applies to one thread, so short-lived threads enter the namespace and the rest of the
//! process stays outside.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use fwc::net::Family;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sched::{CloneFlags, setns, unshare};

use super::tools::{Backend, find};

/// The bound in milliseconds for things that take one or two: only a stopped machine exceeds it.
const PATIENCE: usize = 30_000;

/// A network namespace with `lo` up and an xtables lock of its own.
pub struct Namespace {
    file: File,
    /// iptables-legacy's lock file is shared by all namespaces (docs/internals/facts.md), so tests in parallel would wait for each
    /// other. This one is unnamed, too.
    xtables_lock: File,
}

impl Namespace {
    /// Creates an empty namespace.
    pub fn new() -> Result<Self, String> {
        let file = thread::scope(|scope| {
            scope
                .spawn(|| {
                    unshare(CloneFlags::CLONE_NEWNET)
                        .map_err(|error| format!("no network namespace can be made: {error}"))?;
                    File::open("/proc/thread-self/ns/net").map_err(|error| error.to_string())
                })
                .join()
                .expect("a thread that makes a namespace")
        })?;
        let xtables_lock = tempfile::tempfile().map_err(|error| error.to_string())?;
        let namespace = Self { file, xtables_lock };
        // Without duplicate address detection IPv6 addresses can be used at once.
        namespace.sysctl(&[("ipv6/conf/default/accept_dad", "0")])?;
        namespace.ip(["link set lo up"])?;
        Ok(namespace)
    }

    /// Runs `body` in a thread inside the namespace; sockets that it opens stay there.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let inside = thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.file, CloneFlags::CLONE_NEWNET).expect("an open namespace");
                    body()
                })
                .join()
        });
        inside.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Returns a path to the namespace, valid while this value lives, for `ip link set DEVICE netns PATH`.
    pub fn path(&self) -> String {
        path_of(&self.file)
    }

    /// Creates a command, which the caller must start inside of [`Namespace::enter`].
    pub fn command(&self, program: &str) -> Result<Command, String> {
        let mut command = Command::new(find(program)?);
        command.env("XTABLES_LOCKFILE", path_of(&self.xtables_lock));
        Ok(command)
    }

    /// Runs a tool inside of the namespace with `input`, and returns its output. The error holds the tool's own message.
    pub fn run(&self, program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut command = self.command(program)?;
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = self
            .enter(|| {
                let mut child = command.spawn()?;
                if let Some(mut stdin) = child.stdin.take() {
                    // Writing fails if the tool exits early; its exit status tells more.
                    let _ = stdin.write_all(input.as_bytes());
                }
                child.wait_with_output()
            })
            .map_err(|error| format!("{program}: {error}"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(format!(
                "{program} {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            ))
        }
    }

    /// Runs the lines as one `ip -batch`.
    pub fn ip<L: AsRef<str>>(&self, lines: impl IntoIterator<Item = L>) -> Result<(), String> {
        let mut batch = String::new();
        for line in lines {
            batch.push_str(line.as_ref());
            batch.push('\n');
        }
        self.run("ip", &["-batch", "-"], &batch)
            .map(drop)
            .map_err(|error| format!("{error}\n{batch}"))
    }

    /// Sets the devices up and waits until they are running, which may take the kernel a second.
    pub fn set_up<D: AsRef<str> + fmt::Debug + Sync>(&self, devices: &[D]) -> Result<(), String> {
        self.ip(devices
            .iter()
            .map(|device| format!("link set {} up", device.as_ref())))?;
        let carries = |flags: InterfaceFlags| flags.contains(InterfaceFlags::IFF_RUNNING);
        self.enter(|| {
            for _ in 0..PATIENCE {
                let found: Vec<_> = getifaddrs()
                    .map_err(|error| error.to_string())?
                    .filter(|found| carries(found.flags))
                    .map(|found| found.interface_name)
                    .collect();
                let is_found = |device: &D| found.iter().any(|name| name == device.as_ref());
                if devices.iter().all(is_found) {
                    return Ok(());
                }
                thread::sleep(Duration::from_millis(1));
            }
            Err(format!("not all of {devices:?} carry packets"))
        })
    }

    /// Waits until every IPv6 address can be used. The kernel detects duplicates in a work queue, and even with `nodad` it clears
    /// the tentative flag only there (`addrconf_dad_begin` of `net/ipv6/addrconf.c`).
    pub fn await_addresses(&self) -> Result<(), String> {
        const TENTATIVE: u32 = 0x40; // `IFA_F_TENTATIVE` of `linux/if_addr.h`
        let is_tentative = |line: &str| {
            let flags = line.split_whitespace().nth(4);
            let flags = flags.and_then(|flags| u32::from_str_radix(flags, 16).ok());
            flags.is_some_and(|flags| flags & TENTATIVE != 0)
        };
        self.enter(|| {
            for _ in 0..PATIENCE {
                let all = std::fs::read_to_string("/proc/thread-self/net/if_inet6")
                    .map_err(|error| format!("if_inet6: {error}"))?;
                if !all.lines().any(is_tentative) {
                    return Ok(());
                }
                thread::sleep(Duration::from_millis(1));
            }
            Err("some addresses are still tentative".to_owned())
        })
    }

    /// Sets keys below `/proc/sys/net`.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<(), String> {
        self.enter(|| {
            settings.iter().try_for_each(|(key, value)| {
                std::fs::write(format!("/proc/sys/net/{key}"), value)
                    .map_err(|error| format!("net/{key}: {error}"))
            })
        })
    }

    /// Loads rules for one family, as `iptables-restore` with `options` does.
    pub fn restore(
        &self,
        backend: Backend,
        family: Family,
        options: &[&str],
        rules: &str,
    ) -> Result<(), String> {
        self.run(&backend.tool(family, Some("restore")), options, rules)
            .map(drop)
    }

    /// Creates the sets of `text`, in the format of `ipset restore`; does nothing if it is empty.
    pub fn restore_sets(&self, text: &str) -> Result<(), String> {
        if text.is_empty() {
            return Ok(());
        }
        self.run("ipset", &["restore"], text).map(drop)
    }

    /// Returns the live rules of one family, as `iptables-save` with `options` prints them.
    pub fn save(
        &self,
        backend: Backend,
        family: Family,
        options: &[&str],
    ) -> Result<String, String> {
        self.run(&backend.tool(family, Some("save")), options, "")
    }
}

/// Returns a path by which other processes can open a file that is open here.
fn path_of(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}
