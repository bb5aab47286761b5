//! `icmp = "none"`: neighbour discovery must pass for every ordinary neighbour, on every interface, at any time.

use crate::fwc::{Run, folder, run};

/// Checks a policy that has `icmp = "none"`.
fn check(defaults: &str, rest: &str) -> Run {
    let policy = format!(
        "version = 1\n[defaults]\nicmp = \"none\"\n{defaults}[services]\n\
         neighbours = {{ icmpv6 = [133, 134, 135, 136] }}\n{rest}"
    );
    let folder = folder(&[("fwc.toml", &policy)]);
    run(folder.path(), &["check"])
}

#[track_caller]
fn refused(defaults: &str, rest: &str, words: &str) {
    let run = check(defaults, rest);
    assert_eq!(run.status, 1, "{rest}\n{}", run.err);
    assert!(run.err.contains("error[icmp-none]"), "{}", run.err);
    assert!(run.err.contains(words), "no `{words}` in\n{}", run.err);
}

#[track_caller]
fn good(defaults: &str, rest: &str) {
    let run = check(defaults, rest);
    assert_eq!(run.status, 0, "{rest}\n{}", run.err);
}

/// A rule that accepts them, with a key more.
fn rule(key: &str) -> String {
    format!("[[rules]]\nservice = \"neighbours\"\n{key}\n")
}

const ALL_IN_INPUT: &str = "types 133, 134, 135, 136 in INPUT";

#[test]
fn a_rule_with_the_service_alone_is_enough() {
    good("", &rule(""));
    good("", &rule("stage = \"early\""));
    good("", &rule("state = \"untracked\""));
    good("", &rule("scope = \"ipv6\""));
    good("input = \"accept\"\n", "[[rules]]\nservice = \"ssh\"\n");
}

#[test]
fn what_only_routers_need_may_be_missing() {
    let some = |types: &str| format!("[services]\nsome = {{ icmpv6 = [{types}] }}\n");
    let check = |types: &str, rest: &str| {
        let policy = format!(
            "version = 1\n[defaults]\nicmp = \"none\"\noutput = \"drop\"\n{}{rest}",
            some(types)
        );
        let folder = folder(&[("fwc.toml", &policy)]);
        run(folder.path(), &["check"])
    };
    let input = "[[rules]]\nservice = \"some\"\n";
    let all = "[[rules]]\nfrom = \"host\"\nservice = \"icmpv6\"\n";
    assert_eq!(check("134, 135, 136", &format!("{input}{all}")).status, 0);
    let forward = "[[rules]]\nto = \"any\"\nservice = \"https\"\n";
    let router = check("134, 135, 136", &format!("{input}{all}{forward}"));
    assert_eq!(router.status, 0, "{}", router.err);
    assert!(
        router.err.contains("note[icmp-none]") && router.err.contains("type 133 in INPUT"),
        "{}",
        router.err
    );
    let without = check("135, 136", &format!("{input}{all}"));
    assert!(
        without.err.contains("types 133, 134 in INPUT"),
        "{}",
        without.err
    );
    let output = "[[rules]]\nfrom = \"host\"\nservice = \"some\"\n";
    let all = "[[rules]]\nservice = \"icmpv6\"\n";
    assert_eq!(check("133, 135, 136", &format!("{output}{all}")).status, 0);
    let without = check("134, 135, 136", &format!("{output}{all}"));
    assert!(
        without.err.contains("type 133 in OUTPUT"),
        "{}",
        without.err
    );
}

#[test]
fn a_host_that_accepts_no_ipv6_needs_no_neighbours() {
    let check = |defaults: &str, rest: &str| {
        let policy = format!(
            "version = 1\n[defaults]\npreamble = \"none\"\noutput = \"drop\"\n{defaults}\
             [[rules]]\nservice = \"ssh\"\nscope = \"ipv4\"\n{rest}"
        );
        let folder = folder(&[("fwc.toml", &policy)]);
        run(folder.path(), &["check"])
    };
    assert_eq!(check("", "").status, 0);
    assert_eq!(check("loopback = true\n", "").status, 0);
    assert_eq!(
        check("", "[[rules]]\nfrom = \"host\"\nservice = \"dns\"\n").status,
        1
    );
    assert_eq!(check("established = { input = true }\n", "").status, 1);
}

#[test]
fn a_rule_that_holds_now_and_then_is_not() {
    for key in [
        "limit = { rate = \"2/minute\", burst = 1 }",
        "limit = { rate = \"2/minute\", per = \"source\", over = \"continue\" }",
        "connections = { max = 3 }",
        "connections = { max = 3, per = \"source\" }",
        "schedule = { days = \"sun\" }",
        "schedule = { from = \"07:00\", until = \"19:00\" }",
        "expires = 2037-05-01",
    ] {
        refused("", &rule(key), ALL_IN_INPUT);
        refused("", &rule(key), "accepts some of them, not all");
    }
}

#[test]
fn a_rule_for_certain_neighbours_is_not() {
    for key in [
        "mac = \"02:00:00:00:00:07\"",
        "source = \"2001:db8:7::/64\"",
        "destination = \"2001:db8:7::1\"",
        "ipset = \"friends\"\nscope = \"ipv6\"",
        "mark = \"0x7\"",
        "state = \"new\"",
    ] {
        refused("", &rule(key), ALL_IN_INPUT);
    }
    refused(
        "",
        &("[addresses]\nfriends = { set = \"dynamic\" }\n".to_owned()
            + &rule("source = \"friends\"")),
        ALL_IN_INPUT,
    );
    refused(
        "",
        &("[interfaces]\nlan = \"eth1\"\n".to_owned() + &rule("from = \"lan\"")),
        ALL_IN_INPUT,
    );
}

/// The kernel itself speaks with neighbours: no process does.
#[test]
fn a_user_does_not_speak_with_neighbours() {
    let output = "output = \"drop\"\n";
    let from_host = |key: &str| rule("") + &rule(&format!("from = \"host\"\n{key}"));
    good(output, &from_host(""));
    for key in ["user = 7", "group = 7"] {
        refused(output, &from_host(key), "133, 134, 135, 136 in OUTPUT");
    }
    let denied = "[[rules]]\naction = \"drop\"\nfrom = \"host\"\nuser = 7\n";
    good(output, &(denied.to_owned() + &from_host("")));
}

/// Two rules may do it together, and a later one does not help behind one that denies.
#[test]
fn rules_are_asked_together() {
    let day = rule("schedule = { from = \"08:00\", until = \"20:00\" }");
    good("", &(day.clone() + &rule("")));
    let wan = "[interfaces]\nwan = \"eth0\"\n[[rules]]\nfrom = \"wan\"\naction = \"drop\"\n";
    refused("", &(wan.to_owned() + &rule("")), ALL_IN_INPUT);
    let night = "[[rules]]\nfrom = \"any\"\naction = \"drop\"\n\
                 schedule = { from = \"20:00\", until = \"08:00\" }\n";
    refused("", &(night.to_owned() + &rule("")), ALL_IN_INPUT);
    let some = "[[rules]]\nservice = \"some\"\n[services.some]\nicmpv6 = [133, 135, 136]\n";
    refused("", some, "type 134 in INPUT");
}

/// Advertisements of routers come from addresses of the link and from no others (RFC 4861, section 4.2).
#[test]
fn what_neighbours_send_is_enough() {
    let split = "[services.routers]\nicmpv6 = [134]\n[services.rest]\nicmpv6 = [133, 135, 136]\n\
                 [[rules]]\nservice = \"routers\"\nsource = \"fe80::/10\"\n[[rules]]\nservice = \"rest\"\n";
    good("", split);
    good("", &split.replace("icmpv6 = [134]", "icmpv6 = [\"134/0\"]"));
}

/// Hosts may be kept out by name.
#[test]
fn certain_hosts_may_be_denied() {
    for key in [
        "source = [\"2001:db8:7::/64\", \"fe80::7\"]\nscope = \"ipv6\"",
        "mac = \"02:00:00:00:00:07\"",
        "source = \"banned\"",
        "ipset = \"bots\"\nscope = \"ipv6\"",
    ] {
        let banned = "[addresses]\nbanned = { set = \"dynamic\" }\n";
        let rest = format!("{banned}[[rules]]\naction = \"drop\"\n{key}\n{}", rule(""));
        good("", &rest);
    }
    let only = "[addresses]\nfriends = { set = \"dynamic\" }\n[[rules]]\naction = \"drop\"\n\
                source = \"!friends\"\nscope = \"dual\"\n";
    refused("", &(only.to_owned() + &rule("")), ALL_IN_INPUT);
}

/// What custom rules do counts, as far as it is known.
#[test]
fn custom_rules_are_asked_too() {
    let custom = |rule: &str| {
        format!(
            "[[custom]]\ntable = \"filter\"\nchain = \"INPUT\"\nplace = \"before\"\nscope = \"ipv6\"\nrule = \"{rule}\"\n"
        )
    };
    let accepts = "-p icmpv6 --icmpv6-type 133 -j ACCEPT";
    let all: String = (133..=136)
        .map(|kind| custom(&accepts.replace("133", &kind.to_string())))
        .collect();
    good("", &("[[rules]]\nservice = \"ssh\"\n".to_owned() + &all));
    let limited = all.replace(" -j", " -m limit --limit 1/day -j");
    refused(
        "",
        &("[[rules]]\nservice = \"ssh\"\n".to_owned() + &limited),
        ALL_IN_INPUT,
    );
    good(
        "",
        &(custom("-m set --match-set bots src -j DROP") + &rule("")),
    );
    refused("", &(custom("-p icmpv6 -j DROP") + &rule("")), ALL_IN_INPUT);
}

/// All forms of findings have it, and nothing is written.
#[test]
fn nothing_is_built() {
    let policy = "version = 1\n[defaults]\nicmp = \"none\"\n[services]\nnd = { icmpv6 = [133, 134, 135, 136] }\n\
                  [[rules]]\nservice = \"nd\"\nlimit = \"1/day\"\n";
    let folder = folder(&[("fwc.toml", policy)]);
    let run = run(folder.path(), &["build", "--no-verify", "-o", "out"]);
    assert_eq!(run.status, 1, "{}", run.err);
    assert!(!folder.path().join("out").exists());
}
