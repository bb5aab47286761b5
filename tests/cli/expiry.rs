//! Rules that end, on days that the tests choose by `SOURCE_DATE_EPOCH`.

use std::path::Path;

use crate::fwc::{Run, command, folder, run};

const POLICY: &str = "version = 1\n\n[[rules]]\nservice = \"ssh\"\nexpires = 2026-06-15\n";

/// Seconds since 1970, UTC.
const JUNE_15_FIRST_SECOND: i64 = 1_781_481_600;
const DAY: i64 = 24 * 60 * 60;

fn run_at(folder: &Path, epoch: i64, arguments: &[&str]) -> Run {
    let mut command = command(folder, arguments);
    // The day is one of UTC wherever fwc runs.
    command.env("TZ", "Pacific/Kiritimati");
    command.env("SOURCE_DATE_EPOCH", epoch.to_string());
    command.output().expect("fwc").into()
}

/// Exit status, and the first line of what is said.
fn check(epoch: i64) -> (i32, String) {
    let folder = folder(&[("fwc.toml", POLICY)]);
    let run = run_at(folder.path(), epoch, &["check"]);
    let first = run.err.lines().next().unwrap_or_default();
    (run.status, first.to_owned())
}

#[test]
fn fine_then_soon_then_expired() {
    let good = (0, "fwc.toml: ok;");
    let warning = |when| (0, format!("warning[expires-soon]: the rule ends {when}"));
    let at = |days: i64| check(JUNE_15_FIRST_SECOND + days * DAY);

    let fine = at(-15);
    assert!(fine.0 == good.0 && fine.1.starts_with(good.1), "{fine:?}");
    assert_eq!(at(-14), warning("in 14 days"));
    assert_eq!(at(-2), warning("in 2 days"));
    assert_eq!(check(JUNE_15_FIRST_SECOND - DAY - 1), warning("in 2 days"));
    assert_eq!(at(-1), warning("tomorrow"));
    assert_eq!(check(JUNE_15_FIRST_SECOND - 1), warning("tomorrow"));
    assert_eq!(at(0), warning("today"));
    assert_eq!(check(JUNE_15_FIRST_SECOND + DAY - 1), warning("today"));
    let expired = (
        1,
        "error[expired]: the rule expired on 2026-06-15".to_owned(),
    );
    assert_eq!(at(1), expired);
    assert_eq!(at(1000), expired);
}

/// A build can be repeated: the kernel counts the days, not the file.
#[test]
fn the_same_bytes_on_any_day() {
    let folder = folder(&[("fwc.toml", POLICY)]);
    let build = |epoch: i64, family: &str| {
        let arguments = ["build", "-q", "-o", "-", "--family", family];
        let run = run_at(folder.path(), epoch, &arguments);
        assert_eq!((run.status, run.err.as_str()), (0, ""));
        run.out
    };
    for family in ["ipv4", "ipv6"] {
        let texts = [
            0,
            JUNE_15_FIRST_SECOND - DAY,
            JUNE_15_FIRST_SECOND + DAY - 1,
        ];
        let texts = texts.map(|epoch| build(epoch, family));
        assert!(texts.windows(2).all(|pair| pair[0] == pair[1]));
        assert!(
            texts[0].contains(" --datestop 2026-06-15T23:59:59"),
            "{}",
            texts[0]
        );
    }
}

#[test]
fn an_expired_rule_is_not_built() {
    let folder = folder(&[("fwc.toml", POLICY)]);
    let epoch = JUNE_15_FIRST_SECOND + DAY;
    let run = run_at(folder.path(), epoch, &["build", "-o", "out"]);
    assert_eq!(run.status, 1);
    assert!(!folder.path().join("out").exists());
}

#[test]
fn a_warning_that_is_denied() {
    let folder = folder(&[("fwc.toml", POLICY)]);
    let check =
        |epoch: i64, lint: &str| run_at(folder.path(), epoch, &["check", "--deny", lint]).status;
    assert_eq!(check(JUNE_15_FIRST_SECOND, "expires-soon"), 1);
    assert_eq!(check(JUNE_15_FIRST_SECOND, "warnings"), 1);
    assert_eq!(check(JUNE_15_FIRST_SECOND - 15 * DAY, "expires-soon"), 0);
}

/// Without the variable the clock counts.
#[test]
fn today_is_today() {
    let expiring = |year: u16| {
        let policy = POLICY.replace("2026", &year.to_string());
        let folder = folder(&[("fwc.toml", &policy)]);
        run(folder.path(), &["check"]).status
    };
    assert_eq!((expiring(2025), expiring(2037)), (1, 0));
}
