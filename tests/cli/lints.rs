//! What a policy or a command line makes of lints, and the page of a code.

use crate::fwc::{Run, files_below, folder, root, run};

/// A note: nothing uses `lan`.
const UNUSED: &str = "\n[interfaces]\nlan = \"eth1\"\n\n[[rules]]\nservice = \"ssh\"\n";
/// A warning.
const STATE: &str = "\n[[rules]]\nstate = \"established\"\n";

/// Checks a policy with this beginning.
fn check(lints: &str, rest: &str, more: &[&str]) -> Run {
    let folder = folder(&[("fwc.toml", &format!("version = 1\n{lints}{rest}"))]);
    let run = run(folder.path(), &[&["check"], more].concat());
    assert_eq!(run.out, "");
    run
}

fn assert_said(run: &Run, status: i32, word: &str) {
    assert_eq!(run.status, status, "{}", run.err);
    assert!(run.err.contains(word), "no `{word}` in\n{}", run.err);
}

#[test]
fn explain_prints_the_page() {
    let folder = folder(&[]);
    let page = std::fs::read_to_string(root().join("docs/reference/errors/expires-soon.md"));
    let run = run(folder.path(), &["check", "--explain", "expires-soon"]);
    assert_eq!((run.status, run.err.as_str()), (0, ""), "no policy is read");
    assert_eq!(run.out, page.expect("a page"));
}

#[test]
fn explain_of_no_code() {
    let folder = folder(&[]);
    let explain = |code: &str| run(folder.path(), &["check", "--explain", code]);
    assert_said(&explain("expire-soon"), 64, "did you mean `expires-soon`?");
    assert_said(
        &explain("qqqqqqqq"),
        64,
        "unknown code; docs/reference/errors lists them",
    );
}

#[test]
fn each_level() {
    let lints = |level: &str| format!("[lints]\nunused-name = \"{level}\"\n");
    assert_said(&check("", UNUSED, &[]), 0, "note[unused-name]");
    assert_said(
        &check(&lints("warn"), UNUSED, &[]),
        0,
        "warning[unused-name]",
    );
    let denied = check(&lints("deny"), UNUSED, &[]);
    assert_said(&denied, 1, "error[unused-name]");
    assert_said(&denied, 1, "fwc.toml: 1 error\n");
    let allowed = check(&lints("allow"), UNUSED, &[]);
    assert_said(&allowed, 0, "fwc.toml: ok; ");
    assert!(!allowed.err.contains("unused-name"), "{}", allowed.err);
}

/// A level is of one lint: the others stay.
#[test]
fn others_stay() {
    let run = check("[lints]\nunused-name = \"deny\"\n", STATE, &[]);
    assert_said(&run, 0, "warning[state-below-established]");
}

#[test]
fn a_denied_lint_stops_the_build() {
    let policy = format!("version = 1\n[lints]\nunused-name = \"deny\"\n{UNUSED}");
    let folder = folder(&[("fwc.toml", &policy)]);
    let build = |more: &[&str]| run(folder.path(), &[&["build", "-o", "out"], more].concat());
    assert_said(&build(&[]), 1, "error[unused-name]");
    assert_eq!(files_below(folder.path()), ["fwc.toml"]);
    let policy = policy.replace("\"deny\"", "\"warn\"");
    std::fs::write(folder.path().join("fwc.toml"), policy).expect("a file");
    assert_said(&build(&["--deny", "warnings"]), 1, "error[unused-name]");
    assert_eq!(files_below(folder.path()), ["fwc.toml"]);
    assert_said(&build(&[]), 0, "warning[unused-name]");
}

/// Whatever is said of lints, errors are errors.
#[test]
fn errors_cannot_be_allowed() {
    let run = check(
        "[lints]\nunknown-service = \"allow\"\n",
        "\n[[rules]]\nservice = \"sssh\"\n",
        &[],
    );
    assert_said(&run, 1, "error[unknown-service]");
    assert_said(&run, 1, "`unknown-service` is always an error");
}

/// Notes are no warnings, unless the policy makes them so.
#[test]
fn deny_warnings() {
    let deny = ["--deny", "warnings"];
    assert_said(
        &check("", STATE, &deny),
        1,
        "error[state-below-established]",
    );
    assert_said(&check("", UNUSED, &deny), 0, "note[unused-name]");
    let warn = "[lints]\nunused-name = \"warn\"\n";
    assert_said(&check(warn, UNUSED, &deny), 1, "error[unused-name]");
    let allow = "[lints]\nstate-below-established = \"allow\"\n";
    let allowed = check(allow, STATE, &deny);
    assert_said(&allowed, 0, "fwc.toml: ok; ");
    assert!(!allowed.err.contains("state-below"), "{}", allowed.err);
}

#[test]
fn deny_one() {
    let deny = ["--deny", "unused-name"];
    assert_said(&check("", UNUSED, &deny), 1, "error[unused-name]");
    assert_said(
        &check("", STATE, &deny),
        0,
        "warning[state-below-established]",
    );
    let both = ["--deny", "unused-name", "--deny", "state-below-established"];
    assert_said(
        &check("", STATE, &both),
        1,
        "error[state-below-established]",
    );
    // The command line is asked last: a run that wants it strict gets it strict.
    let allow = "[lints]\nunused-name = \"allow\"\n";
    assert_said(&check(allow, UNUSED, &deny), 1, "error[unused-name]");
}

#[test]
fn deny_of_no_lint() {
    for name in ["unknown-key", "qqqqqqqq"] {
        let run = check("", UNUSED, &["--deny", name]);
        assert_said(
            &run,
            64,
            "unknown lint: use `warnings`, expires-soon, expiring-deny, ",
        );
    }
}

/// A second file has the last word only where it says that it means it.
#[test]
fn in_two_files() {
    let base = "[lints]\nunused-name = \"allow\"\nlarge-list = \"allow\"\n";
    let check = |lints: &str| {
        let policy = format!("version = 1\ninclude = \"base.toml\"\n{lints}{UNUSED}");
        let folder = folder(&[("fwc.toml", &policy), ("base.toml", base)]);
        run(folder.path(), &["check"])
    };
    let allowed = check("");
    assert_said(&allowed, 0, "fwc.toml: ok; ");
    assert!(!allowed.err.contains("unused-name"), "{}", allowed.err);

    let twice = check("[lints]\nunused-name = \"deny\"\n");
    assert_said(&twice, 1, "`unused-name` in [lints] is set twice");

    let won = check("[lints]\noverride = true\nunused-name = \"deny\"\n");
    assert_said(&won, 1, "error[unused-name]");
    assert_said(&won, 1, "fwc.toml: 1 error\n");

    let other = check("[lints]\none-family = \"deny\"\n");
    assert_said(&other, 0, "fwc.toml: ok; ");
}

/// What arrives at another port reaches the same server; a source that is narrow does not show it to everybody.
#[test]
fn a_translation_that_shows_a_database_to_everybody() {
    let policy = |more: &str| {
        format!(
            "[interfaces]\nlan = {{ device = \"eth1\", networks = \"10.0.0.0/24\" }}\n\
             [[nat]]\ntype = \"dnat\"\nto = \"lan\"\nservice = \"13306/tcp\"\nto-destination = \"10.0.0.5:3306\"\n{more}"
        )
    };
    let open = check("", &policy(""), &[]);
    assert_said(
        &open,
        0,
        "warning[world-open]: MySQL (tcp 3306) is open to everybody by this translation",
    );
    for more in [
        "source = \"192.0.2.0/24\"\n",
        "accept = false\n",
        "[[rules]]\nto = \"lan\"\nservice = \"3306/tcp\"\naction = \"drop\"\n",
    ] {
        let closed = check("", &policy(more), &[]);
        assert_eq!(closed.status, 0, "{}", closed.err);
        assert!(!closed.err.contains("world-open"), "{more}: {}", closed.err);
    }
}

/// A forward is what passes through this host, whether a rule or a translation opens it; a test of its public address is one
/// about it.
#[test]
fn a_translation_without_a_test() {
    let policy = "[interfaces]\nwan = \"eth0\"\nlan = \"eth1\"\n\
        [[nat]]\ntype = \"dnat\"\nfrom = \"wan\"\nto = \"lan\"\nservice = \"http\"\nto-destination = \"10.0.0.5\"\n\
        [[tests]]\nname = \"ssh\"\nservice = \"ssh\"\nexpect = \"drop\"\n";
    let test = "[[tests]]\nname = \"web\"\nfrom = \"wan\"\nto = \"lan\"\ndestination = \"203.0.113.1\"\n\
        service = \"http\"\nexpect = \"accept\"\n";
    assert_said(&check("", policy, &[]), 0, "note[forward-untested]");
    let tested = check("", &format!("{policy}{test}"), &[]);
    assert_eq!(tested.status, 0, "{}", tested.err);
    assert!(!tested.err.contains("forward-untested"), "{}", tested.err);
}

const WAN_AND_LAN: &str = "[interfaces]\nwan = \"eth0\"\nlan = { device = \"eth1\", networks = [\"10.0.0.0/24\", \"fd00::/64\"] }\n";

/// A forward of https with this end, and more keys.
fn forward(end: &str) -> String {
    format!(
        "[[nat]]\ntype = \"dnat\"\nfrom = \"wan\"\nto = \"lan\"\nservice = \"https\"\nto-destination = {end}\n"
    )
}

/// Of entries that stand for something in some place nothing is said.
#[test]
fn entries_that_are_not_idle() {
    let (five, six) = (forward("\"10.0.0.5\""), forward("\"10.0.0.6\""));
    let of_lan = |kind: &str, keys: &str| {
        format!("[[mangle]]\ntype = \"{kind}\"\nfrom = \"lan\"\nto = \"wan\"\n{keys}\n")
    };
    let more = of_lan("ttl", "increase = 1");
    let mark = |keys: &str| format!("[[mangle]]\ntype = \"mark\"\nfrom = \"lan\"\n{keys}\n");
    let (one, two) = (mark("set = 1"), mark("set = 2"));
    let cases = [
        (
            "the other family",
            format!("{five}{}", forward("[\"10.0.0.6\", \"fd00::6\"]")),
        ),
        (
            "a set that others fill",
            format!(
                "[addresses]\nbanned = {{ set = \"dynamic\" }}\n{five}source = \"banned\"\n{six}source = \"banned\"\n"
            ),
        ),
        (
            "who else translates is not known, and this accepts",
            format!("[ownership]\nmode = \"shared\"\n{five}{six}"),
        ),
        (
            "the same beside what is preserved",
            format!("[ownership]\npreserve = [\"DOCKER*\"]\n{five}{six}"),
        ),
        (
            "connections that run are asked again",
            format!("[defaults]\nestablished = false\n{five}{six}"),
        ),
        (
            "others are translated to there",
            format!(
                "{five}{six}{}accept = false\n",
                five.replace("\"https\"", "\"8443/tcp\"")
                    .replace("\"10.0.0.5\"", "\"10.0.0.6:443\"")
            ),
        ),
        (
            "it accepts, the later one does not",
            format!("{five}source = \"192.0.2.0/24\"\nscope = \"ipv4\"\n{five}accept = false\n"),
        ),
        ("two hops are more than one", format!("{more}{more}")),
        (
            "the mark is read before it is another",
            format!(
                "{one}{}{two}",
                mark("mark = 1\nservice = \"ssh\"\nsave = true")
            ),
        ),
        (
            "some bits stay",
            format!("{}{}", mark("set = 2"), mark("set = \"1/1\"")),
        ),
        (
            "half of the time",
            format!(
                "{}{}",
                of_lan("dscp", "set = \"ef\""),
                of_lan(
                    "dscp",
                    "set = \"cs1\"\nschedule = { from = \"00:00\", until = \"12:00\" }"
                )
            ),
        ),
        (
            "an exception of what is set before",
            format!(
                "{}{}",
                of_lan("dscp", "set = \"ef\""),
                of_lan("dscp", "set = \"cs1\"\nservice = \"ssh\"")
            ),
        ),
        (
            "smaller segments",
            format!(
                "{}{}",
                of_lan("clamp-mss", "set = 1300"),
                of_lan("clamp-mss", "set = 1400")
            ),
        ),
    ];
    for (why, policy) in cases {
        let run = check("", &format!("{WAN_AND_LAN}{policy}"), &[]);
        assert_eq!(run.status, 0, "{why}: {}", run.err);
        for code in ["shadowed", "redundant", "never-matches"] {
            assert!(!run.err.contains(code), "{why}: {}", run.err);
        }
    }
}

/// Where others have rules too an entry that accepts nothing may still be idle.
#[test]
fn an_idle_entry_in_shared_mode() {
    let six = forward("\"10.0.0.6\"");
    let policy = |before: &str| {
        format!(
            "[ownership]\nmode = \"shared\"\n{WAN_AND_LAN}{}{before}{six}accept = false\n",
            forward("\"10.0.0.5\"")
        )
    };
    assert_said(
        &check("", &policy(""), &[]),
        0,
        "warning[shadowed]: no packet is left for this entry",
    );
    let allowed = check("", &policy("# fwc: allow(shadowed)\n"), &[]);
    assert!(!allowed.err.contains("shadowed"), "{}", allowed.err);
    assert!(!allowed.err.contains("unused-allow"), "{}", allowed.err);
    let lints = "[lints]\nshadowed = \"allow\"\n";
    let allowed = check(lints, &policy(""), &[]);
    assert!(!allowed.err.contains("shadowed"), "{}", allowed.err);
    assert_said(
        &check("", &policy(""), &["--deny", "shadowed"]),
        1,
        "error[shadowed]",
    );
}

/// An entry that reaches into several places is idle where each of them is: several backends, hosts beside them, what goes round.
#[test]
fn idle_entries_of_several_places() {
    for more in [
        "",
        "hairpin = true\n",
        "hairpin = true\nfrom = [\"wan\", \"host\"]\n",
    ] {
        let of = |ends: &str| {
            let whole = forward(ends);
            let own = if more.contains("from") {
                whole.replace("from = \"wan\"\n", "")
            } else {
                whole
            };
            own + more
        };
        let policy = [
            WAN_AND_LAN,
            &of("[\"10.0.0.5\", \"10.0.0.7\", \"fd00::5\"]"),
            &of("[\"10.0.0.6\", \"10.0.0.8\", \"fd00::6\", \"fd00::8\"]"),
        ];
        let run = check("", &policy.concat(), &[]);
        assert_said(
            &run,
            0,
            "warning[shadowed]: no packet is left for this entry",
        );
    }
}

/// Of two that are the same one is idle, not both.
#[test]
fn one_of_two() {
    let rule = "[[rules]]\nservice = \"ssh\"\n";
    let five = forward("\"10.0.0.5\"");
    let dscp = "[[mangle]]\ntype = \"dscp\"\nfrom = \"lan\"\nto = \"wan\"\nset = \"ef\"\n";
    let mark = "[[mangle]]\ntype = \"mark\"\nfrom = \"lan\"\nset = 1\n";
    let raw = "[[raw]]\ntype = \"notrack\"\nfrom = \"lan\"\nservice = \"53/udp\"\n";
    for (entry, code) in [
        (rule, "[shadowed]"),
        (&five, "[shadowed]"),
        (dscp, "[redundant]"),
        (mark, "[redundant]"),
        (raw, "[shadowed]"),
    ] {
        let run = check("", &format!("{WAN_AND_LAN}{entry}{entry}"), &[]);
        assert_said(&run, 0, code);
        let idle = run.err.matches("[shadowed]").count() + run.err.matches("[redundant]").count();
        assert_eq!(idle, 1, "{}", run.err);
    }
}

/// Devices and sets that custom rules name are used.
#[test]
fn what_custom_rules_name_is_used() {
    let policy = |rule: &str| {
        format!(
            "\n[interfaces]\ntun = \"tun+\"\nlan = \"eth1\"\n\n[addresses]\nknocked = {{ set = \"dynamic\" }}\n\
             \n[[rules]]\nservice = \"ssh\"\n\n[[custom]]\nchain = \"INPUT\"\nscope = \"ipv4\"\nrule = \"{rule}\"\n"
        )
    };
    let count = |rule: &str| {
        check("", &policy(rule), &[])
            .err
            .matches("[unused-name]")
            .count()
    };
    assert_eq!(count("-p udp -j DROP"), 3);
    assert_eq!(count("-i tun7 -j DROP"), 2);
    assert_eq!(count("! -i tun+ -j DROP"), 2);
    assert_eq!(
        count("-i eth1 -m set --match-set fwc4-knocked src -j DROP"),
        1
    );
}
