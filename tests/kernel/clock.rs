//! Rules that hold at some times, judged by the kernel's own clock.

use fwc::net::{Family, Hook, Packet, Protocol, State, TcpFlags, Translated};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};
use libtest_mimic::{Completion, Failed, Trial};

use crate::compile::{Compiled, compile};
use crate::counters::Verdict::{self, Accept, Drop};
use crate::environment::{kernel_test, with_lab};
use crate::support::tools::Backend;

pub fn all() -> Vec<Trial> {
    let trial = |backend| {
        let title = format!("clock::{backend}");
        kernel_test(title, backend, move || judge(backend))
    };
    Backend::ALL.map(trial).into()
}

/// So many minutes from now, in UTC.
fn moment(minutes: i64) -> Zoned {
    let moment = Timestamp::now() + SignedDuration::from_mins(minutes);
    moment.to_zoned(TimeZone::UTC)
}

fn day(moment: &Zoned) -> String {
    format!("{:?}", moment.weekday()).to_lowercase()[..3].to_owned()
}

fn hour(moment: &Zoned) -> String {
    moment.strftime("%H:%M").to_string()
}

/// Each port is open at another time; whenever this runs, some schedules go across midnight.
fn judge(backend: Backend) -> Result<Completion, Failed> {
    let (begun, ends, later) = (moment(-60), moment(60), moment(120));
    let (from, until) = (hour(&begun), hour(&ends));
    let tomorrow = day(&(&begun + SignedDuration::from_hours(24)));
    let schedules: [(u16, String, Verdict); 6] = [
        (
            1,
            format!("schedule = {{ from = '{from}', until = '{until}' }}"),
            Accept,
        ),
        (
            2,
            format!(
                "schedule = {{ days = '{}', from = '{from}', until = '{until}' }}",
                day(&begun)
            ),
            Accept,
        ),
        // A night belongs to the day on which it begins.
        (
            3,
            format!("schedule = {{ days = '{tomorrow}', from = '{from}', until = '{until}' }}"),
            Drop,
        ),
        (
            4,
            format!(
                "schedule = {{ from = '{until}', until = '{}' }}",
                hour(&later)
            ),
            Drop,
        ),
        (
            5,
            format!("schedule = {{ from = '{until}', until = '{from}' }}"),
            Drop,
        ),
        (6, format!("expires = {}", moment(24 * 60).date()), Accept),
    ];
    let rules = schedules
        .iter()
        .map(|(port, schedule, _)| format!("[[rules]]\nservice = '{port}/tcp'\n{schedule}\n"));
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = folder.path().join("fwc.toml");
    let policy = format!("version = 1\n{}", rules.collect::<String>());
    std::fs::write(&path, &policy).map_err(|error| error.to_string())?;
    let rules = match compile(&path) {
        Compiled::Rules(rules) => rules,
        Compiled::Wrong(_, messages) => return Err(messages.into()),
    };
    with_lab(backend, &["eth0".to_owned()], |lab| {
        lab.load_policy(&rules)?;
        for family in Family::ALL {
            for (port, schedule, expected) in &schedules {
                let found = lab.judge(&syn(family, *port))?.verdict;
                if found != *expected {
                    return Err(format!(
                        "{family}, {schedule}: expected {expected}, found {found}"
                    ));
                }
            }
        }
        Ok(())
    })?;
    Ok(Completion::Completed)
}

fn syn(family: Family, port: u16) -> Packet {
    let [source, destination] = match family {
        Family::V4 => ["198.51.100.7", "192.0.2.1"],
        Family::V6 => ["2001:db8:bad::7", "2001:db8::1"],
    };
    Packet {
        family,
        hook: Hook::Input,
        in_device: Some("eth0".to_owned()),
        out_device: None,
        source: source.parse().expect("an address"),
        destination: destination.parse().expect("an address"),
        protocol: Protocol::TCP.0,
        source_port: Some(40_000),
        destination_port: Some(port),
        icmp: None,
        tcp_flags: Some(TcpFlags::SYN),
        state: State::New,
        hop_limit: 64,
        mark: 0,
        mac: None,
        translated: Translated::default(),
    }
}
