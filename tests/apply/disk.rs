//! A disk that is full from some moment on, and stays so: the firewall still ends old or new.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::Test;
use super::confirm::until;
use super::namespace::{Backend, Ended, Namespace, run};

pub const TESTS: &[(&str, Test)] = &[
    (
        "disk_that_fills_leaves_old_or_new_rules",
        disk_that_fills_leaves_old_or_new_rules,
    ),
    (
        "disk_that_fills_keeps_no_change_in_force",
        disk_that_fills_keeps_no_change_in_force,
    ),
];

type Result = std::result::Result<(), String>;

/// A small disk with the state folder and the rules files of a namespace.
struct Disk<'a> {
    ns: &'a Namespace,
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(self.path("")), "");
    }
}

impl<'a> Disk<'a> {
    fn new(ns: &'a Namespace) -> Self {
        let disk = Self { ns };
        fs::create_dir(disk.path("")).unwrap();
        let options = ["-t", "tmpfs", "-o", "size=512k,mode=755", "none"];
        run(Command::new("mount").args(options).arg(disk.path("")), "").expect(0);
        disk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.ns.path("disk").join(name)
    }

    /// Nothing more can be written there.
    fn fill(&self) {
        let mut file = File::create(self.path("full")).unwrap();
        for size in [4096, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    fn words<'b>(&self, arguments: &[&'b str]) -> Vec<&'b str> {
        let folders = [
            "--state-dir",
            "disk/state",
            "--persist-dir",
            "disk/iptables",
        ];
        [arguments, &folders].concat()
    }

    fn fwc(&self, arguments: &[&str]) -> Ended {
        self.ns.fwc(&self.words(arguments))
    }

    /// Runs fwc; the disk fills when it, or its watchdog, comes to this point. Both would stop at one that both pass.
    fn fills_at(&self, point: &str, arguments: &[&str]) -> Child {
        let all = self.words(arguments);
        let mut command = self.ns.command(env!("CARGO_BIN_EXE_fwc"), &all);
        command
            .env("FWC_FAULT", format!("{point}=stop"))
            .env("FWC_FAULT_TRACE", self.ns.path("trace"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let fwc = self.ns.net().enter(|| command.spawn().unwrap());
        let mut stopped = None;
        until("somebody stops there", || {
            let mut all = processes_in(self.ns).into_iter();
            stopped = all.find(|pid| is_stopped(*pid));
            stopped.is_some()
        });
        self.fill();
        kill_process(stopped.unwrap(), Signal::CONT).unwrap();
        fwc
    }

    /// There is room again: all is ended, the files are whole, and the next apply works.
    fn is_ended_with_room(&self, rules: &[Vec<String>; 2]) {
        let live = rules_of(self.ns);
        assert!(rules.contains(&live), "{live:#?}");
        fs::remove_file(self.path("full")).unwrap();
        // A watchdog that still tries may be quicker.
        let mut told = self.fwc(&["recover"]);
        until("nobody else is at it", || {
            told = self.fwc(&["recover"]);
            !told.err.contains("another fwc")
        });
        told.expect(0);
        let live = rules_of(self.ns);
        assert!(rules.contains(&live), "{live:#?}");
        let is_new = live == rules[1];
        let file = fs::read_to_string(self.path("iptables/rules.v4")).unwrap();
        assert_eq!(file.contains("--dport 80 "), is_new, "{file}");
        assert!(file.ends_with("COMMIT\n"), "{file}");
        self.fwc(&["apply", "web.toml", "--yes"]).expect(0);
        assert_eq!(rules_of(self.ns), rules[1]);
    }
}

/// The processes in a namespace.
fn processes_in(ns: &Namespace) -> Vec<Pid> {
    super::kills::processes(ns)
        .into_iter()
        .map(|(pid, _)| pid)
        .collect()
}

fn is_stopped(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| stat.contains(") T "))
}

/// Both families' rules, without counters.
fn rules_of(ns: &Namespace) -> Vec<String> {
    let saved = ns.saved();
    let lines = saved.lines().filter_map(|line| line.split_once("-A "));
    lines.map(|(_, rule)| rule.to_owned()).collect()
}

/// The rules of ssh.toml and of web.toml.
fn both(backend: Backend) -> [Vec<String>; 2] {
    let ns = Namespace::new(backend);
    ["ssh.toml", "web.toml"].map(|policy| {
        ns.apply(policy, &[]).expect(0);
        rules_of(&ns)
    })
}

/// Points that are tried: with legacy a part of them, since nothing on the disk depends on the backend.
fn tried(backend: Backend, points: &'static [&'static str]) -> &'static [&'static str] {
    match backend {
        Backend::Nft => points,
        Backend::Legacy => &points[..2],
    }
}

fn disk_that_fills_leaves_old_or_new_rules(backend: Backend) -> Result {
    let rules = both(backend);
    for &point in tried(
        backend,
        &[
            "confirmed",
            "restored-ipv4",
            "intent-written",
            "watchdog-started",
            "read-back-done",
        ],
    ) {
        let ns = Namespace::new(backend);
        let disk = Disk::new(&ns);
        disk.fwc(&["apply", "ssh.toml", "--yes"]).expect(0);
        let mut fwc = disk.fills_at(point, &["apply", "web.toml", "--yes"]);
        fwc.wait().unwrap();
        until("it is old or new", || rules.contains(&rules_of(&ns)));
        if point == "confirmed" {
            assert_eq!(rules_of(&ns), rules[1], "{point}");
        }
        disk.is_ended_with_room(&rules);
    }
    Ok(())
}

/// Nobody confirms, and nothing can be written down.
fn disk_that_fills_keeps_no_change_in_force(backend: Backend) -> Result {
    let rules = both(backend);
    for &point in tried(
        backend,
        &[
            "pending",
            "journal-undoing",
            "restored-ipv6",
            "undo-history",
        ],
    ) {
        let ns = Namespace::new(backend);
        let disk = Disk::new(&ns);
        disk.fwc(&["apply", "ssh.toml", "--yes"]).expect(0);
        let apply = ["apply", "web.toml", "--confirm", "--timeout", "1s"];
        let mut fwc = disk.fills_at(point, &apply);
        fwc.wait().unwrap();
        until("it goes back", || rules_of(&ns) == rules[0]);
        disk.is_ended_with_room(&rules);
    }
    Ok(())
}
