//! Each case of the probes: every packet's verdict by `policy::decide`.

use std::path::Path;

use fwc::diag::{Severity, Sink};
use fwc::files::Access;
use fwc::net::Date;
use fwc::policy::{self, Circumstance, Policy, Schedule};
use fwc::resolve::resolve;
use fwc::source::SourceMap;
use jiff::civil::DateTime;
use libtest_mimic::{Failed, Trial};

use crate::circumstances::Circumstances;
use crate::counters::Verdict;
use crate::folders::{cases, folders};
use crate::probe::Case;

/// One test for each case.
pub fn all() -> Vec<Trial> {
    let cases = folders().into_iter().flat_map(|folder| cases(&folder));
    cases.map(|path| case(&path)).collect()
}

fn case(path: &Path) -> Trial {
    let name = format!("probes::{}", path.file_name().unwrap().to_string_lossy());
    let case = Case::read(&path.join("probes.toml")).unwrap_or_else(|e| panic!("{e}"));
    let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
    let read = policy::load(
        &path.join("fwc.toml"),
        Access::Read,
        &mut sources,
        &mut sink,
    );
    if let Some(policy) = &read {
        resolve(policy, &mut sink);
    }
    let errors = sink.sorted().into_iter();
    let errors = errors.filter(|diagnostic| diagnostic.severity == Severity::Error);
    let messages: Vec<_> = errors.map(|error| error.message.clone()).collect();
    Trial::test(name, move || match &read {
        Some(policy) if messages.is_empty() => judge(policy, &case),
        _ => Err(format!("the policy was refused: {}", messages.join("; ")).into()),
    })
}

fn judge(policy: &Policy, case: &Case) -> Result<(), Failed> {
    let mut wrong = String::new();
    for (number, probe) in (1..).zip(&case.probes) {
        let circumstances = probe.circumstances()?;
        let decision =
            policy::decide_when(policy, &probe.packet()?, &|it| holds(&circumstances, it));
        let said = match decision.verdict {
            // Alone on the host, with base chains that accept.
            policy::Verdict::Accept | policy::Verdict::Continue => Verdict::Accept,
            policy::Verdict::Custom => return Err("a custom rule decides".into()),
            policy::Verdict::Drop => Verdict::Drop,
            policy::Verdict::Reject(_) => Verdict::Reject,
        };
        if said != probe.expect {
            let (expected, why) = (probe.expect, &probe.why);
            wrong += &format!("probe {number} ({why}): expected {expected:?}, {decision:?}\n");
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!("{}\n{}\n{wrong}", case.about, case.sentence).into())
}

/// Whether a circumstance of the policy holds, by the words of the language.
fn holds(this: &Circumstances, circumstance: Circumstance<'_>) -> bool {
    match circumstance {
        Circumstance::WithinLimit(_) | Circumstance::WithinConnections(_) => !this.beyond,
        Circumstance::User(id) => this.user == Some(id),
        Circumstance::Group(id) => this.group == Some(id),
        Circumstance::Time(schedule) => this.at.is_none_or(|at| is_time(schedule, at)),
        Circumstance::NotAfter(Date { year, month, day }) => {
            let today = |at: DateTime| (at.year(), at.month(), at.day());
            let last = (year as i16, month as i8, day as i8);
            this.at.is_none_or(|at| today(at) <= last)
        }
        Circumstance::InSet { name, source } => source && this.is_member(name),
        Circumstance::InForeignSet { name, source } => source && this.is_member(name),
        Circumstance::FromIpsec => false,
        Circumstance::ToThisHost => true,
        Circumstance::Custom(_) | Circumstance::Turn(_) => false,
    }
}

/// A schedule across midnight belongs to the day on which it begins.
fn is_time(schedule: &Schedule, at: DateTime) -> bool {
    let now = format!("{:02}:{:02}", at.hour(), at.minute());
    let (mut day, mut is_hour) = (at.date(), true);
    if let Some((from, until)) = &schedule.hours {
        let (from, until) = (from.to_string(), until.to_string());
        is_hour = match from < until {
            true => from <= now && now < until,
            false => from <= now || now < until,
        };
        if until < from && now < until {
            day = day.yesterday().expect("a day before");
        }
    }
    let days = schedule.days.as_deref();
    let day = format!("{:?}", day.weekday());
    is_hour && days.is_none_or(|days| days.iter().any(|it| format!("{it:?}") == day))
}
