//! Putting a ruleset in force, by whichever command: planned, shown, asked for, committed, confirmed.

use std::io::{IsTerminal, stderr, stdin};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use jiff::SignedDuration;

use super::change_report::{self, ChangeWords};
use super::hooks::{self, Told};
use super::state::{StateArgs, absolute, recovered};
use super::{Exit, Format, Output};
use crate::apply::watchdog::Watchdog;
use crate::apply::{
    self, CommitReport, Confirmation, DeniedConnections, Error, Gap, JournalStep, Lock, Lockout,
    Overrides, PlanFile, Progress, Recovered, Request, RulesetFiles, Store,
};
use crate::compile::Compiled;
use crate::live::Real;
use crate::live::connection;
use crate::live::preflight::{self, Concern};
use crate::live::requester::{ClientConnection, Requester};
use crate::live::tracked::{self, Tracked};

/// What a policy that was compiled puts in force.
pub fn ruleset_of(compiled: &Compiled) -> RulesetFiles {
    RulesetFiles {
        rules: compiled.rendered.texts(),
        sets: compiled.rendered.ipsets.clone(),
        ownership: compiled.plan.ownership.clone(),
        after_apply: compiled.plan.after_apply.clone(),
    }
}

/// Files of plans.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planned<'a> {
    /// The plan that has to be the one that is carried out.
    pub before: Option<&'a Path>,
    /// Where the plan is kept.
    pub keep: Option<&'a Path>,
}

/// How a ruleset is put in force.
#[derive(Clone, Debug, Args)]
pub struct ChangeArgs {
    /// Show what would change, and change nothing; exit status 2 when something would
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask; the checks before and after are the confirmation
    #[arg(short, long)]
    pub yes: bool,
    /// Take the change back unless `fwc confirm` comes in time; returns when it is in force
    #[arg(long)]
    pub confirm: bool,
    /// How long a confirmation is waited for
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = timeout)]
    pub timeout: Duration,
    /// With --confirm: return when it is confirmed or taken back
    #[arg(long, requires = "confirm")]
    pub wait: bool,
    /// Remove rules that fwc did not make (Docker's, fail2ban's, yours)
    #[arg(long)]
    pub take_over: bool,
    /// Stop where rules would be removed that somebody put among fwc's
    #[arg(long, conflicts_with = "take_over")]
    pub keep_stray: bool,
    /// Go on where the rules cannot be tried in a scratch network namespace first, as in some containers
    #[arg(long)]
    pub no_rehearse: bool,
    /// Before the first rules that look at connections: make the open ones known, so that they go on
    #[arg(long)]
    pub warm: bool,
    /// When the rules stay: end the connections that could not begin under them
    #[arg(long)]
    pub cut: bool,
    /// Go on even if the rules would stop your own SSH connection
    #[arg(long)]
    pub allow_lockout: bool,
    #[command(flatten)]
    pub state: StateArgs,
    /// The form of the report
    #[arg(long, value_parser = Format::parser([Format::Text, Format::Json]), default_value = "text", help_heading = "Output")]
    pub format: Format,
}

/// `60s`, `2m`, `1m 30s`
fn timeout(text: &str) -> Result<Duration, String> {
    let wrong = || "a time from 1s to 1 day, such as `60s` or `5m`".to_owned();
    let parsed: SignedDuration = text.parse().map_err(|_| wrong())?;
    let time = Duration::try_from(parsed).map_err(|_| wrong())?;
    let sane = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
    sane.contains(&time).then_some(time).ok_or_else(wrong)
}

impl ChangeArgs {
    /// What is wrong with the invocation, before anything is read: exit status and words.
    pub fn refusal(&self, command: &str) -> Option<(Exit, String)> {
        let can_ask = stdin().is_terminal() && stderr().is_terminal();
        if self.cut && self.confirm && !self.wait {
            let text = "`--cut` ends connections when the rules stay, and with `--confirm` fwc does not wait for that: add --wait";
            return Some((Exit::Usage, text.to_owned()));
        }
        if !self.dry_run && !self.yes && !self.confirm && !can_ask {
            let text = format!(
                "`fwc {command}` asks before it changes the firewall, and there is no terminal to ask on\nadd --yes to change it, --confirm to have it taken back unless `fwc confirm` comes, or --dry-run to see what would change"
            );
            return Some((Exit::Usage, text));
        }
        StateArgs::needs_root(command).map(|text| (Exit::Failed, text))
    }

    /// Puts it in force and reports.
    pub fn run(&self, ruleset: &RulesetFiles, policy: &str, output: &Output) -> Exit {
        self.run_planned(ruleset, policy, Planned::default(), output)
    }

    /// The same, with a plan that was made before, or that is to be kept.
    pub fn run_planned(
        &self,
        ruleset: &RulesetFiles,
        policy: &str,
        planned: Planned<'_>,
        output: &Output,
    ) -> Exit {
        match self.transaction(ruleset, policy, planned, output) {
            Ok(exit) => exit,
            Err(error) => self.fail(&error, output),
        }
    }

    /// Reports a failure.
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
        planned: Planned<'_>,
        output: &Output,
    ) -> Result<Exit, Error> {
        let before = planned.before.map(PlanFile::read).transpose()?;
        let (mut host, store) = self.state.open()?;
        // A dry run makes no file, so that it takes no lock either.
        let lock = if self.dry_run {
            None
        } else {
            store.refuse_in_hook()?;
            Some(store.lock(&mut host)?)
        };
        if !self.dry_run {
            host.wait_for_lock().map_err(Error::Live)?;
            end_what_was_begun(&mut host, &store, output)?;
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
        if let Some(before) = before {
            before.check(&plan)?;
        }
        if let Some(why) = plan.unrehearsed() {
            output.message(&format!(
                "warning: the rules were not tried first, as you insist (--no-rehearse): no scratch network namespace can be made here: {why}"
            ));
        }
        let seat = ClientConnection::current();
        let mut concerns = Vec::new();
        if !plan.is_nothing() {
            concerns = plan.concerns(&host)?;
            say(&concerns, output);
        }
        if plan.changes_live() {
            say_where_from(&seat, output);
            self.insist_on(plan.lockouts(&host, &seat)?, output)?;
            if let (Requester::NotKnown(why), false, false) =
                (&seat.who, self.dry_run, self.allow_lockout)
            {
                return Err(Error::WhoIsNotKnown(why.clone()));
            }
            for gap in plan.gaps() {
                output.message(&words_of(*gap));
            }
        }
        let words = ChangeWords::new(&plan, &persist_dir, self.format);
        if let Some(path) = planned.keep {
            PlanFile::of(&plan).write(path)?;
        }
        if self.dry_run {
            let owed = match plan.is_nothing() {
                true => hooks::owed(&store)?,
                false => plan.after_apply().to_vec(),
            };
            words.would(&owed, output);
            return Ok(if plan.is_nothing() && owed.is_empty() {
                Exit::Fine
            } else {
                Exit::Different
            });
        }
        let asks = !self.yes && !self.confirm;
        if asks && plan.changes_live() {
            output.show(words.question(output.style()).trim_end());
            if !output.ask("Put this in force?") {
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
        if self.warm && concerns.iter().any(preflight::is_of_untracked) {
            warm(output)?;
        }
        let denied = match self.cut {
            true => plan.denied(&host, &seat)?,
            false => DeniedConnections::default(),
        };
        // What follows when the change stays; others may go on then.
        let follow = |done: &CommitReport, lock: Option<Lock>| {
            words.tell(done, output);
            let cut = end_connections(&denied, output);
            drop(lock);
            let mut told = hooks::run(&store, output);
            not_cut(cut, &mut told, output);
            words.did(done, &told, output);
            Ok(told.exit)
        };
        let progress = apply::commit(&mut host, &store, &plan, &mut guard, &confirmation)?;
        let (done, number, until) = match progress {
            Progress::Done(done) => return follow(&done, lock),
            Progress::Pending {
                done,
                number,
                until,
                ..
            } => (done, number, until),
        };
        // Whoever confirms needs it.
        drop(lock);
        if self.confirm && !self.wait {
            words.pending(&done, number, &until, output);
            return Ok(Exit::Fine);
        }
        output.message(&change_report::goes_back(number, &until));
        let seat = ClientConnection::current();
        let local = !matches!(seat.who, Requester::Ssh | Requester::NotKnown(_));
        if asks && local {
            let keeps = ask_in_time(&store, number, output);
            // The watchdog may be quicker, when the time ends while the answer is given: `end` reports how it ended.
            match answered(&mut host, &store, number, keeps) {
                Ok(Some((concluded, lock))) => {
                    return follow(&merged(done, concluded), Some(lock));
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
        self.end(&mut host, &store, number)?;
        // Who confirmed it runs the hooks.
        words.tell(&done, output);
        let mut told = Told::nothing();
        not_cut(end_connections(&denied, output), &mut told, output);
        words.did(&done, &told, output);
        Ok(told.exit)
    }

    /// Stops where the user would be locked out, unless that is insisted on.
    fn insist_on(&self, lockouts: Vec<Lockout>, output: &Output) -> Result<(), Error> {
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

    /// Waits until the change is confirmed; an error where it is taken back.
    fn end(&self, host: &mut Real, store: &Store, number: u64) -> Result<(), Error> {
        // The watchdog's time, and a little for what it does then.
        let patience = Instant::now() + self.timeout + Duration::from_secs(3);
        while still_open(store, number) {
            if Instant::now() > patience {
                // The watchdog died.
                let _lock = store.lock(host)?;
                apply::recover(host, store)?;
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        let stays = match store.journal().last()? {
            Some((intent, step)) if intent.number == number => step == JournalStep::Done,
            // Another change began since.
            _ => store.history().has_kept(number)?,
        };
        stays.then_some(()).ok_or(Error::TakenBack(number))
    }
}

/// What may happen to connections between the tables.
fn words_of(gap: Gap) -> String {
    let how = match gap.is_bridged {
        true => "tables that depend on each other change together",
        false => {
            "tables that depend on each other change without a step between, since only the kernel understands the filter"
        }
    };
    let opens = match gap.may_open {
        true => ", and it cannot be ruled out that some get through that neither lets through",
        false => "",
    };
    format!(
        "{}: {how}; for some milliseconds new connections can be lost that the old and the new rules let through{opens}",
        gap.family
    )
}

/// Says what makes the rules mean something else than they say.
pub fn say(concerns: &[Concern], output: &Output) {
    for concern in concerns {
        output.message(&format!("warning: {concern}"));
    }
}

/// Says what of the user's connections these rules do not decide.
pub fn say_where_from(seat: &ClientConnection, output: &Output) {
    for connection in &seat.elsewhere {
        output.message(&format!(
            "your own SSH connection ({connection}) comes through another network namespace, which these rules do not filter"
        ));
    }
    if let Requester::NotKnown(why) = &seat.who {
        output.message(&format!(
            "warning: fwc cannot tell how you reach this host: {why}. It did not check whether the rules let you in"
        ));
    }
}

/// Makes the open connections known to the kernel's tracking.
fn warm(output: &Output) -> Result<(), Error> {
    let open = connection::established();
    let failures = connection::track(&open).map_err(Error::Live)?;
    let known = open.len() - failures.len();
    output.message(&format!(
        "made {known} open TCP connections of this host known to the kernel's connection tracking; what this host forwards is not among them"
    ));
    for failure in failures {
        output.message(&format!("warning: not made known: {failure}"));
    }
    Ok(())
}

/// The rules stay, whatever became of the connections.
fn not_cut(cut: Result<(), Error>, told: &mut Told, output: &Output) {
    if let Err(error) = cut {
        let text = format!(
            "the change stays in force, but connections that could not begin under it may go on: {error}"
        );
        output.fatal(&text);
        told.add_failure(text);
    }
}

/// Ends connections that could not begin under the new rules.
fn end_connections(denied: &DeniedConnections, output: &Output) -> Result<(), Error> {
    if let Some(why) = &denied.unseen {
        output.message(&format!(
            "warning: what this host forwards, and UDP, goes on as it is: {why}"
        ));
    }
    if !denied.own.is_empty() {
        let left = connection::close(&denied.own).map_err(Error::Live)?;
        for one in denied.own.iter().filter(|one| !left.contains(one)) {
            output.message(&format!("ended {one}, which the new rules do not let in"));
        }
        for one in left {
            output.message(&format!(
                "warning: could not end {one}, which the new rules do not let in"
            ));
        }
    }
    let flows: Vec<Tracked> = denied.tracked.iter().map(|flow| flow.connection).collect();
    let left = tracked::forget(&flows).map_err(Error::Live)?;
    for flow in &denied.tracked {
        let one = flow.connection;
        output.message(&match (left.contains(&one), flow.comes_back) {
            (false, false) => format!("ended {one}, which the new rules do not let begin"),
            (false, true) => format!(
                "warning: {one}, which the new rules do not let begin, can go on when the other side of it sends first: that they let begin"
            ),
            (true, _) => {
                format!("warning: could not end {one}, which the new rules do not let begin")
            }
        });
    }
    Ok(())
}

/// Ends what an earlier fwc left half done; stops where a change waits for its confirmation.
pub fn end_what_was_begun(host: &mut Real, store: &Store, output: &Output) -> Result<(), Error> {
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

/// Keeps or reverts the change that waits, as the answer says; what was done to keep it.
fn answered(
    host: &mut Real,
    store: &Store,
    number: u64,
    keeps: bool,
) -> Result<Option<(CommitReport, Lock)>, Error> {
    let lock = store.lock(host)?;
    if !still_open(store, number) {
        return Ok(None);
    }
    if keeps {
        let (_, done) = apply::confirm(host, store, "an answer in the terminal")?;
        return Ok(Some((done, lock)));
    }
    apply::take_back(host, store, "not kept in the terminal")?;
    Ok(None)
}

/// Asks while the seconds count down; whether the answer was yes, in time.
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

/// Both steps of what was done.
fn merged(done: CommitReport, concluded: CommitReport) -> CommitReport {
    CommitReport {
        replaced: done.replaced,
        sets: done.sets,
        ..concluded
    }
}
