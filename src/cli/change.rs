//! Applies a ruleset for `apply` and `rollback`: plans, shows, asks, commits, and waits for the confirmation.

use std::io::{IsTerminal, stderr, stdin};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use jiff::SignedDuration;

use super::change_report::{self, ChangeWords, PendingChange};
use super::hooks::{self, HookResults};
use super::state::{StateArgs, absolute, recovered};
use super::{Exit, Format, Output};
use crate::apply::watchdog::Watchdog;
use crate::apply::{
    self, CommitReport, Confirmation, DeniedConnections, Error, Gap, JournalStep, Lock, Lockout,
    Overrides, PlanFile, Progress, Recovered, Request, RulesetFiles, Store,
};
use crate::compile::Compiled;
use crate::live::Concern;
use crate::live::Real;
use crate::live::connection;
use crate::live::preflight;
use crate::live::requester::{ClientConnection, Requester};
use crate::live::tracked::{self, Tracked};

/// Returns the rules, sets, ownership and hooks of a compiled policy, for [`apply::plan`].
pub fn ruleset_of(compiled: &Compiled) -> RulesetFiles {
    RulesetFiles {
        rules: compiled.rendered.texts(),
        sets: compiled.rendered.ipsets.clone(),
        ownership: compiled.plan.ownership.clone(),
        after_apply: compiled.plan.after_apply.clone(),
        allowed_concerns: compiled.plan.allowed_concerns.clone(),
    }
}

/// The plan files of `apply --plan` and `apply --save-plan`.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlanFiles<'a> {
    /// A saved plan (`--plan`): the change must match it.
    pub expected: Option<&'a Path>,
    /// The file to save the plan to (`--save-plan`).
    pub save: Option<&'a Path>,
}

/// The options of commands that apply a ruleset.
#[derive(Clone, Debug, Args)]
pub struct ChangeArgs {
    /// Show what would change and change nothing; exit status 2 if something would change
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask; keep the change once its checks pass
    #[arg(short, long)]
    pub yes: bool,
    /// Revert the change unless `fwc confirm` runs in time; return as soon as the rules are active
    #[arg(long)]
    pub confirm: bool,
    /// How long to wait for the confirmation, from 1s to 24h
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = timeout)]
    pub timeout: Duration,
    /// With --confirm: wait until the change is confirmed or reverted
    #[arg(long, requires = "confirm")]
    pub wait: bool,
    /// Remove rules that fwc did not make (Docker's, fail2ban's, yours)
    #[arg(long)]
    pub take_over: bool,
    /// Stop instead of removing rules that someone added to fwc's chains
    #[arg(long, conflicts_with = "take_over")]
    pub keep_stray: bool,
    /// Continue without a test load where no scratch network namespace can be made, as in some containers
    #[arg(long)]
    pub no_rehearse: bool,
    /// Before the first stateful rules: add open TCP connections to conntrack, so that they do not stall
    #[arg(long)]
    pub warm: bool,
    /// Once the change is kept: close connections that the new rules would not allow to open
    #[arg(long)]
    pub cut: bool,
    /// Continue even if the rules would block your own SSH connection
    #[arg(long)]
    pub allow_lockout: bool,
    #[command(flatten)]
    pub state: StateArgs,
    /// The format of the report
    #[arg(long, value_parser = Format::parser([Format::Text, Format::Json]), default_value = "text", help_heading = "Output")]
    pub format: Format,
}

/// Parses `--timeout`, such as `60s`, `2m` or `1m 30s`.
fn timeout(text: &str) -> Result<Duration, String> {
    let wrong = || "use a time from 1s to 24h, for example `60s` or `5m`".to_owned();
    let parsed: SignedDuration = text.parse().map_err(|_| wrong())?;
    let time = Duration::try_from(parsed).map_err(|_| wrong())?;
    let sane = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
    sane.contains(&time).then_some(time).ok_or_else(wrong)
}

impl ChangeArgs {
    /// Returns the exit status and the message if these options cannot run, before anything is read.
    pub fn refusal(&self, command: &str) -> Option<(Exit, String)> {
        let can_ask = stdin().is_terminal() && stderr().is_terminal();
        if self.cut && self.confirm && !self.wait {
            let text = "`--cut` closes connections once the change is kept, and `--confirm` returns before that: add --wait";
            return Some((Exit::Usage, text.to_owned()));
        }
        if !self.dry_run && !self.yes && !self.confirm && !can_ask {
            let text = format!(
                "`fwc {command}` asks before it changes the firewall, and there is no terminal to ask on\nadd --yes to apply without asking, --confirm to revert unless `fwc confirm` runs in time, or --dry-run to see what would change"
            );
            return Some((Exit::Usage, text));
        }
        StateArgs::needs_root(command).map(|text| (Exit::Failed, text))
    }

    /// Applies a ruleset and prints the report. `policy` is the name for the history.
    pub fn run(&self, ruleset: &RulesetFiles, policy: &str, output: &Output) -> Exit {
        self.run_planned(ruleset, policy, PlanFiles::default(), output)
    }

    /// Like [`run`](Self::run), and compares with or saves a plan file.
    pub fn run_planned(
        &self,
        ruleset: &RulesetFiles,
        policy: &str,
        plans: PlanFiles<'_>,
        output: &Output,
    ) -> Exit {
        match self.transaction(ruleset, policy, plans, output) {
            Ok(exit) => exit,
            Err(error) => self.fail(&error, output),
        }
    }

    /// Prints an error, as JSON too with `--format json`.
    pub fn fail(&self, error: &Error, output: &Output) -> Exit {
        if self.format == Format::Json {
            output.json(&change_report::ApplyDocument::from(error));
        }
        output.fatal(&error.to_string());
        Exit::Failed
    }

    fn transaction(
        &self,
        ruleset: &RulesetFiles,
        policy: &str,
        plans: PlanFiles<'_>,
        output: &Output,
    ) -> Result<Exit, Error> {
        let expected = plans.expected.map(PlanFile::read).transpose()?;
        let (mut host, store) = self.state.open()?;
        // The lock is a file in the state directory, and a dry run must create no file.
        let lock = if self.dry_run {
            None
        } else {
            store.refuse_in_hook()?;
            Some(store.lock(&mut host)?)
        };
        if !self.dry_run {
            host.wait_for_lock().map_err(Error::Live)?;
            recover_first(&mut host, &store, output)?;
        }
        let persist_dir = self.state.persist_dir();
        let request = Request {
            ruleset,
            policy,
            persist_dir: &persist_dir,
            insist: Overrides {
                take_over: self.take_over,
                keep_stray: self.keep_stray,
                no_rehearse: self.no_rehearse,
            },
        };
        let plan = apply::plan(&host, &store, request)?;
        if let Some(expected) = expected {
            expected.check(&plan)?;
        }
        if let Some(why) = plan.unrehearsed() {
            output.message(&format!(
                "warning: --no-rehearse: the rules were not tried first, because no scratch network namespace can be made here: {why}"
            ));
        }
        let client = ClientConnection::current();
        let mut needs_warming = false;
        if !plan.is_nothing() {
            let mut concerns = plan.concerns(&host)?;
            needs_warming = concerns.iter().any(preflight::is_of_untracked);
            concerns.retain(|concern| !ruleset.allowed_concerns.contains(&concern.name));
            print_concerns(&concerns, output);
        }
        if plan.changes_live() {
            print_unchecked(&client, output);
            self.allow_or_stop(plan.lockouts(&host, &client)?, output)?;
            if let (Requester::NotKnown(why), false, false) =
                (&client.who, self.dry_run, self.allow_lockout)
            {
                return Err(Error::WhoIsNotKnown(why.clone()));
            }
            for gap in plan.gaps() {
                output.message(&describe_gap(*gap));
            }
        }
        let words = ChangeWords::new(&plan, &persist_dir, self.format);
        if let Some(path) = plans.save {
            PlanFile::of(&plan).write(path)?;
        }
        if self.dry_run {
            let owed = match plan.is_nothing() {
                true => hooks::owed(&store)?,
                false => plan.after_apply().to_vec(),
            };
            words.print_dry_run(&owed, output);
            return Ok(if plan.is_nothing() && owed.is_empty() {
                Exit::Fine
            } else {
                Exit::Different
            });
        }
        let asks = !self.yes && !self.confirm;
        if asks && plan.changes_live() {
            output.show(words.question(output.style()).trim_end());
            if !output.ask("Apply these rules?") {
                output.fatal("not confirmed; nothing was changed");
                return Ok(Exit::Failed);
            }
        }
        let confirmation = if self.yes && !self.confirm {
            Confirmation::Checks("--yes".to_owned())
        } else {
            Confirmation::Awaited(self.timeout)
        };
        let mut guard = Watchdog::new(
            absolute(&self.state.state_dir),
            persist_dir.clone(),
            self.state.host.backend(),
        );
        if plan.changes_live()
            && let Some(text) = guard.prepare()?
        {
            output.message(&text);
        }
        if self.warm && needs_warming {
            warm(output)?;
        }
        let denied = match self.cut {
            true => plan.denied(&host, &client)?,
            false => DeniedConnections::default(),
        };
        // The steps after the change is kept. The lock is free while hooks run: a slow hook must not keep anyone from changing
        // or closing the firewall (docs/guides/apply.md, Hooks).
        let finish = |done: &CommitReport, lock: Option<Lock>| {
            words.print_done(done, output);
            let closed = close_denied(&denied, output);
            drop(lock);
            let mut hooks = hooks::run(&store, output);
            report_not_closed(closed, &mut hooks, output);
            words.print_done_json(done, &hooks, output);
            Ok(hooks.exit)
        };
        let progress = apply::commit(&mut host, &store, &plan, &mut guard, &confirmation)?;
        let (done, pending) = match progress {
            Progress::Done(done) => return finish(&done, lock),
            Progress::Pending {
                done,
                number,
                deadline,
                until,
            } => (
                done,
                PendingChange {
                    number,
                    deadline,
                    until,
                },
            ),
        };
        let number = pending.number;
        // `fwc confirm` and the watchdog need the lock.
        drop(lock);
        if self.confirm && !self.wait {
            words.print_pending(&done, &pending, output);
            return Ok(Exit::Fine);
        }
        output.message(&pending.to_string());
        // Read again: the SSH session may have ended while the rules were applied.
        let client = ClientConnection::current();
        let local = !matches!(client.who, Requester::Ssh | Requester::NotKnown(_));
        if asks && local {
            let keep = ask_in_time(&store, number, output);
            // The watchdog may be faster if the time ends while the user answers; `await_end` then reports how it ended.
            match conclude(&mut host, &store, number, keep) {
                Ok(Some((concluded, lock))) => {
                    return finish(&merged(done, concluded), Some(lock));
                }
                Ok(None)
                | Err(
                    Error::NotPending
                    | Error::TooLate
                    | Error::Locked { .. }
                    | Error::LockedByOther(_),
                ) => {}
                Err(error) => return Err(error),
            }
        }
        if asks && !local {
            output.message("answering in this session would not prove that you can still log in: open a new one, and run `fwc confirm` there");
        }
        self.await_end(&mut host, &store, number)?;
        words.print_done(&done, output);
        // The fwc that confirmed the change runs the hooks, once.
        let mut hooks = HookResults::none();
        report_not_closed(close_denied(&denied, output), &mut hooks, output);
        words.print_done_json(&done, &hooks, output);
        Ok(hooks.exit)
    }

    /// Returns an error if the user would be locked out, unless `--allow-lockout` is given.
    fn allow_or_stop(&self, lockouts: Vec<Lockout>, output: &Output) -> Result<(), Error> {
        if lockouts.is_empty() {
            return Ok(());
        }
        if !self.allow_lockout {
            return Err(Error::Lockout(lockouts));
        }
        for lockout in lockouts {
            output.message(&format!("warning: --allow-lockout: {lockout}"));
        }
        Ok(())
    }

    /// Waits until the change is confirmed; an error if it is reverted.
    fn await_end(&self, host: &mut Real, store: &Store, number: u64) -> Result<(), Error> {
        // The watchdog acts at the deadline; 3 s more give it time to load the old rules.
        let patience = Instant::now() + self.timeout + Duration::from_secs(3);
        while still_open(store, number) {
            if Instant::now() > patience {
                // The watchdog died: revert the change here.
                let _lock = store.lock(host)?;
                apply::recover(host, store)?;
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        let is_kept = match store.journal().last()? {
            Some((intent, step)) if intent.number == number => step == JournalStep::Done,
            // The journal holds one change only, and another one has begun since.
            _ => store.history().has_kept(number)?,
        };
        is_kept.then_some(()).ok_or(Error::TakenBack(number))
    }
}

/// Describes what may happen to connections while one table is new and another one is old: each table is its own commit.
fn describe_gap(gap: Gap) -> String {
    let how = match gap.is_bridged {
        true => "tables that depend on each other change together",
        false => {
            "tables that depend on each other change without a filter in between, because fwc does not understand all of the filter table"
        }
    };
    let opens = match gap.may_open {
        true => ", and connections may get through that neither accepts",
        false => "",
    };
    format!(
        "{}: {how}; for some milliseconds new connections can be lost that both the old and the new rules accept{opens}",
        gap.family
    )
}

/// Prints host settings outside of iptables that change what the rules do.
pub fn print_concerns(concerns: &[Concern], output: &Output) {
    for concern in concerns {
        output.message(&format!("warning: {concern}"));
    }
}

/// Prints which of the user's own connections the lockout check cannot cover.
pub fn print_unchecked(client: &ClientConnection, output: &Output) {
    for connection in &client.elsewhere {
        output.message(&format!(
            "your own SSH connection ({connection}) comes through another network namespace, which these rules do not filter"
        ));
    }
    if let Requester::NotKnown(why) = &client.who {
        output.message(&format!(
            "warning: fwc cannot tell how you reach this host: {why}. It did not check whether the rules let you in"
        ));
    }
}

/// Adds the open TCP connections to conntrack. Without entries their packets are not ESTABLISHED, and a stateful ruleset drops
/// them until this host sends (docs/internals/facts.md).
fn warm(output: &Output) -> Result<(), Error> {
    let open = connection::established();
    let failures = connection::track(&open).map_err(Error::Live)?;
    let known = open.len() - failures.len();
    output.message(&format!(
        "added {known} open TCP connections of this host to the kernel's connection tracking; forwarded connections cannot be added"
    ));
    for failure in failures {
        output.message(&format!("warning: not added: {failure}"));
    }
    Ok(())
}

/// Reports that connections could not be closed. The change is kept all the same: reverting it would not close them either.
fn report_not_closed(closed: Result<(), Error>, hooks: &mut HookResults, output: &Output) {
    if let Err(error) = closed {
        let text = format!(
            "the change is kept, but connections that it does not allow may still be open: {error}"
        );
        output.fatal(&text);
        hooks.add_failure(text);
    }
}

/// Closes connections that could not be opened under the new rules (`--cut`).
fn close_denied(denied: &DeniedConnections, output: &Output) -> Result<(), Error> {
    if let Some(why) = &denied.unseen {
        output.message(&format!(
            "warning: forwarded connections and UDP are not closed: {why}"
        ));
    }
    if !denied.own.is_empty() {
        let left = connection::close(&denied.own).map_err(Error::Live)?;
        for one in denied.own.iter().filter(|one| !left.contains(one)) {
            output.message(&format!("closed {one}, which the new rules do not allow"));
        }
        for one in left {
            output.message(&format!(
                "warning: could not close {one}, which the new rules do not allow"
            ));
        }
    }
    let flows: Vec<Tracked> = denied.tracked.iter().map(|flow| flow.connection).collect();
    let left = tracked::forget(&flows).map_err(Error::Live)?;
    for flow in &denied.tracked {
        let one = flow.connection;
        output.message(&match (left.contains(&one), flow.comes_back) {
            (false, false) => format!("closed {one}, which the new rules do not allow"),
            (false, true) => format!(
                "warning: {one}, which the new rules do not allow, may continue if its other side sends first: they allow that direction"
            ),
            (true, _) => {
                format!("warning: could not close {one}, which the new rules do not allow")
            }
        });
    }
    Ok(())
}

/// Completes or reverts a change that a crash interrupted; an error if a change is pending.
pub fn recover_first(host: &mut Real, store: &Store, output: &Output) -> Result<(), Error> {
    for found in apply::recover(host, store)? {
        if let Recovered::Waiting { number, until } = found {
            return Err(Error::Pending { number, until });
        }
        if let Some(text) = recovered(&found) {
            output.message(&text);
        }
    }
    Ok(())
}

fn still_open(store: &Store, number: u64) -> bool {
    let open = store.journal().open();
    matches!(open, Ok(Some((intent, _))) if intent.number == number)
}

/// Keeps or reverts the pending change. Returns the report and the lock if it was kept; `None` if it was reverted, or has ended
/// already.
fn conclude(
    host: &mut Real,
    store: &Store,
    number: u64,
    keep: bool,
) -> Result<Option<(CommitReport, Lock)>, Error> {
    let lock = store.lock(host)?;
    if !still_open(store, number) {
        return Ok(None);
    }
    if keep {
        let (_, done) = apply::confirm(host, store, "an answer in the terminal")?;
        return Ok(Some((done, lock)));
    }
    apply::take_back(host, store, "not kept in the terminal")?;
    Ok(None)
}

/// Asks with a countdown, and returns `true` if the answer was yes and in time.
fn ask_in_time(store: &Store, number: u64, output: &Output) -> bool {
    let deadline = match store.journal().open() {
        Ok(Some((_, JournalStep::Pending { deadline, .. }))) => deadline,
        _ => return false,
    };
    let left = || deadline.saturating_sub(apply::since_boot());
    output.ask_until("Keep these rules?", || {
        let left = left();
        (left > 0 && still_open(store, number)).then_some(left.div_ceil(1000))
    })
}

/// Merges the report of the commit (rules and sets) with that of the confirmation (files for the next boot).
fn merged(done: CommitReport, concluded: CommitReport) -> CommitReport {
    CommitReport {
        replaced: done.replaced,
        sets: done.sets,
        ..concluded
    }
}
