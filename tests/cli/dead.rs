//! Rules and entries that no packet reaches, whatever they ask: `check` says so, of policies and of rules files.

use crate::fwc::{Run, folder, run};

fn check(policy: &str) -> Run {
    let folder = folder(&[("fwc.toml", &format!("version = 1\n{policy}"))]);
    run(folder.path(), &["check"])
}

/// How often a code is found: equal findings are counted by the first of them.
fn count(run: &Run, code: &str) -> usize {
    assert_eq!(run.status, 0, "{}", run.err);
    let blocks = run.err.split("\n\n");
    let of_code = blocks.filter(|block| block.contains(&format!("[{code}]")));
    let times = of_code.map(|block| {
        let more = block.split_once("... and ").and_then(|(_, more)| {
            let (more, _) = more.split_once(" more like this")?;
            more.parse::<usize>().ok()
        });
        1 + more.unwrap_or(0)
    });
    times.sum()
}

#[track_caller]
fn shadowed(policy: &str, times: usize) -> Run {
    let run = check(policy);
    assert_eq!(count(&run, "shadowed"), times, "{policy}\n{}", run.err);
    run
}

/// A rule behind one that accepts all ssh, with keys more.
fn behind_ssh(keys: &str) -> String {
    format!("[[rules]]\nservice = \"ssh\"\n[[rules]]\nservice = \"ssh\"\n{keys}\n")
}

#[test]
fn a_dead_rule_is_named_whatever_it_asks() {
    for keys in [
        "limit = \"9/minute\"",
        "limit = { rate = \"9/minute\", over = \"continue\" }\nlog = true",
        "action = \"drop\"\nlimit = { rate = \"9/minute\", per = \"source\", over = \"continue\" }",
        "connections = { max = 2, per = \"source\" }",
        "action = \"drop\"\nschedule = { from = \"22:00\", until = \"05:00\" }",
        "expires = 2037-08-01",
        "action = \"drop\"\nipset = \"bots\"\nscope = \"ipv4\"",
        "action = \"drop\"\nmark = \"0x3\"",
        "action = \"log\"",
        "action = \"log\"\nlimit = \"1/hour\"",
    ] {
        shadowed(&behind_ssh(keys), 1);
    }
    let dynamic = "[addresses]\nbots = { set = \"dynamic\" }\n".to_owned();
    shadowed(
        &(dynamic + &behind_ssh("action = \"drop\"\nsource = \"bots\"")),
        1,
    );
    let from_host = "[[rules]]\nfrom = \"host\"\nservice = \"http\"\naction = \"drop\"\n\
                     [[rules]]\nfrom = \"host\"\nservice = \"http\"\nuser = 12\n";
    shadowed(from_host, 1);
}

#[test]
fn behind_a_rule_that_has_everything_all_are_dead() {
    let run = shadowed(
        "[[rules]]\nfrom = \"any\"\naction = \"drop\"\n[[rules]]\nservice = \"http\"\n\
         [[rules]]\nservice = \"ssh\"\nlimit = \"3/minute\"\n[[rules]]\nservice = \"ntp\"\nmark = 7\n",
        3,
    );
    assert!(run.err.contains("decides all its packets"), "{}", run.err);
}

/// A rule that holds now and then leaves something.
#[test]
fn a_living_rule_is_not() {
    let rate = "[[rules]]\nservice = \"ssh\"\nlimit = { rate = \"9/minute\", over = \"continue\" }\n\
                [[rules]]\nservice = \"ssh\"\nsource = \"192.0.2.0/24\"\nscope = \"ipv4\"\n";
    shadowed(rate, 0);
    let night = "[[rules]]\nservice = \"ssh\"\nschedule = { days = \"sat\" }\naction = \"drop\"\n\
                 [[rules]]\nservice = \"ssh\"\nconnections = { max = 4 }\n";
    shadowed(night, 0);
}

/// The preamble accepts ping first: a limit there is never asked.
#[test]
fn what_the_preamble_makes_void_is_named() {
    let limited = "service = \"ping\"\nlimit = { rate = \"4/second\", per = \"source\" }\n";
    let run = shadowed(&format!("[[rules]]\n{limited}"), 1);
    assert!(
        run.err.contains("what comes before all rules"),
        "{}",
        run.err
    );
    assert!(run.err.contains("essential-no-ping"), "{}", run.err);
    for more in [
        "service = \"ping\"\nsource = \"192.0.2.0/24\"\nscope = \"ipv4\"\n",
        "service = \"ping\"\nlog = true\n",
        "service = \"ping\"\naction = \"log\"\n",
        "service = \"ping\"\naction = \"drop\"\nschedule = { days = \"sat\" }\n",
        "state = \"invalid\"\nservice = \"ssh\"\n",
    ] {
        shadowed(&format!("[[rules]]\n{more}"), 1);
    }
    let no_ping = "[defaults]\nicmp = \"essential-no-ping\"\n[[rules]]\n".to_owned() + limited;
    shadowed(&no_ping, 0);
    shadowed(&format!("[[rules]]\nstage = \"early\"\n{limited}"), 0);
    // It says again what the preamble does.
    shadowed("[[rules]]\nservice = \"ping\"\n", 0);
    shadowed("[[rules]]\nstate = \"invalid\"\naction = \"drop\"\n", 0);
}

/// In shared mode a chain that goes on accepts established connections only where it has a rule that accepts.
#[test]
fn a_state_that_the_preamble_leaves_is_not_below_it() {
    let shared = "[ownership]\nmode = \"shared\"\n[interfaces]\nlan = \"eth1\"\n";
    let cut = "[[rules]]\nfrom = \"lan\"\nto = \"any\"\nstate = \"established\"\nservice = \"ssh\"\naction = \"drop\"\n";
    let alone = check(&format!("{shared}{cut}"));
    assert_eq!(count(&alone, "state-below-established"), 0, "{}", alone.err);
    let accepts = "[[rules]]\nfrom = \"lan\"\nto = \"any\"\nservice = \"http\"\n";
    let both = check(&format!("{shared}{cut}{accepts}"));
    assert_eq!(count(&both, "state-below-established"), 1, "{}", both.err);
    let limited = "[[rules]]\nstate = [\"established\", \"related\"]\nlimit = \"9/second\"\n";
    let limited = check(limited);
    assert_eq!(
        count(&limited, "state-below-established"),
        1,
        "{}",
        limited.err
    );
}

/// What a log-only rule would write keeps an accept in front of it from being redundant.
#[test]
fn a_rule_that_keeps_packets_from_a_log_is_needed() {
    let policy = "[[rules]]\nservice = \"ssh\"\nsource = \"192.0.2.0/24\"\nscope = \"ipv4\"\n\
                  [[rules]]\nservice = \"ssh\"\naction = \"log\"\n[[rules]]\nservice = \"ssh\"\n";
    let run = check(policy);
    assert_eq!(count(&run, "redundant"), 0, "{}", run.err);
}

const NAT: &str = "[interfaces]\nwan = \"eth0\"\ndmz = { device = \"eth1\", networks = \"10.9.0.0/24\" }\n\
                   [[nat]]\ntype = \"dnat\"\nfrom = \"wan\"\nto = \"dmz\"\nservice = \"https\"\n\
                   to-destination = \"10.9.0.4:8443\"\n";

#[test]
fn a_translation_that_a_rule_kills_is_named() {
    let killed = |rule: &str| format!("{NAT}[[rules]]\nservice = \"ssh\"\n[[rules]]\n{rule}\n");
    for rule in [
        "from = \"wan\"\nto = \"dmz\"\naction = \"drop\"",
        "from = \"any\"\nto = \"any\"\naction = \"reject\"",
        "to = \"dmz\"\ndestination = \"10.9.0.4\"\nscope = \"ipv4\"\naction = \"drop\"",
    ] {
        let run = shadowed(&killed(rule), 1);
        assert!(
            run.err
                .contains("no packet that this entry translates gets through"),
            "{}",
            run.err
        );
        assert!(run.err.contains("denies what it translates"), "{}", run.err);
    }
    for rule in [
        "from = \"wan\"\nto = \"dmz\"\nservice = \"https\"\naction = \"drop\"",
        "from = \"wan\"\nto = \"dmz\"\naction = \"drop\"\nschedule = { days = \"sun\" }",
        "from = \"wan\"\nto = \"dmz\"\naction = \"drop\"\nsource = \"198.51.100.0/24\"\nscope = \"ipv4\"",
    ] {
        shadowed(&killed(rule), 0);
    }
    let redirect = "[interfaces]\nlan = \"eth1\"\n[[nat]]\ntype = \"redirect\"\nfrom = \"lan\"\nservice = \"dns\"\nto-port = 5353\n\
                    [[rules]]\nfrom = \"lan\"\naction = \"drop\"\n";
    shadowed(redirect, 1);
    shadowed(
        &redirect.replace("action = \"drop\"", "service = \"ssh\""),
        0,
    );
}

/// A masquerade needs a rule that forwards, and `accept = false` one that accepts.
#[test]
fn a_translation_that_the_default_denies_is_named() {
    let masquerade = "[interfaces]\nwan = \"eth0\"\nlan = { device = \"eth1\", networks = \"10.9.0.0/24\" }\n\
                      [[nat]]\ntype = \"masquerade\"\nfrom = \"lan\"\nto = \"wan\"\n[[rules]]\nfrom = \"lan\"\n";
    let run = shadowed(&format!("{masquerade}service = \"ssh\"\n"), 1);
    assert!(run.err.contains("the default denies it"), "{}", run.err);
    shadowed(
        &format!("{masquerade}to = \"wan\"\nservice = \"http\"\n"),
        0,
    );
    let alone = NAT.to_owned() + "accept = false\n[[rules]]\nservice = \"ssh\"\n";
    shadowed(&alone, 1);
    shadowed(
        &(alone + "[[rules]]\nfrom = \"wan\"\nto = \"dmz\"\nservice = \"8443/tcp\"\n"),
        0,
    );
    let others = masquerade.to_owned()
        + "service = \"ssh\"\n[ownership]\npreserve = [{ device = \"docker0\" }]\n";
    shadowed(&others, 0);
}

/// A rule of the policy may change a set of the policy: what is in it now says nothing of later.
#[test]
fn a_set_that_a_custom_rule_changes_shadows_nothing() {
    let policy = "[addresses]\nknocked = { include = [\"192.0.2.7\"], set = true }\n\
                  [[rules]]\nsource = \"knocked\"\nservice = \"ssh\"\nscope = \"ipv4\"\n\
                  [[rules]]\nsource = \"192.0.2.7\"\nservice = \"ssh\"\nscope = \"ipv4\"\n";
    shadowed(policy, 1);
    let custom = "[[custom]]\ntable = \"filter\"\nchain = \"INPUT\"\nplace = \"before\"\nscope = \"ipv4\"\n\
                  rule = \"-p tcp --dport 7777 -j SET --del-set fwc4-knocked src\"\n";
    shadowed(&format!("{policy}{custom}"), 0);
}

/// Checks a folder with these rules of INPUT and these sets.
fn check_folder(rules: &str, sets: &str) -> Run {
    let text = format!("*filter\n:INPUT ACCEPT [0:0]\n{rules}COMMIT\n");
    let folder = folder(&[("r/rules.v4", &text), ("r/ipsets", sets)]);
    run(folder.path(), &["check", "--rules", "r"])
}

#[test]
fn members_that_do_not_stay_make_no_rule_needless() {
    let rules = "-A INPUT -m set --match-set friends src -j ACCEPT\n-A INPUT -s 198.51.100.9/32 -j ACCEPT\n";
    let sets = "create friends hash:ip family inet\nadd friends 198.51.100.9\n";
    let found = |rules: &str, sets: &str| count(&check_folder(rules, sets), "shadowed");
    assert_eq!(found(rules, sets), 1);
    let timed =
        "create friends hash:ip family inet timeout 0\nadd friends 198.51.100.9 timeout 90\n";
    assert_eq!(found(rules, timed), 0);
    for change in ["--add-set", "--del-set"] {
        let changing =
            format!("{rules}-A INPUT -p udp -m udp --dport 9 -j SET {change} friends src\n");
        assert_eq!(found(&changing, sets), 0, "{change}");
    }
    let other = format!("{rules}-A INPUT -p udp -m udp --dport 9 -j SET --add-set others src\n");
    assert_eq!(found(&other, sets), 1);
}

/// All rules behind one that accepts the same port are dead, whatever else they ask.
#[test]
fn dead_rules_of_a_file_are_named_whatever_they_ask() {
    let behind = "-A INPUT -p tcp -m tcp --dport 25 -j ACCEPT\n\
         -A INPUT -p tcp -m tcp --dport 25 -m recent --set --name MAIL --mask 255.255.255.255 --rsource\n\
         -A INPUT -p tcp -m tcp --dport 25 -m recent --update --seconds 30 --hitcount 5 --name MAIL --mask 255.255.255.255 --rsource -j DROP\n\
         -A INPUT -p tcp -m tcp --dport 25 -m connlimit --connlimit-above 9 --connlimit-mask 24 --connlimit-saddr -j DROP\n\
         -A INPUT -p tcp -m tcp --dport 25 -m limit --limit 1/sec -j LOG\n\
         -A INPUT -p tcp -m tcp --dport 25 -m hashlimit --hashlimit-above 5/min --hashlimit-mode srcip --hashlimit-name m -j DROP\n\
         -A INPUT -p tcp -m tcp --dport 25 -m time --weekdays Sat,Sun -j DROP\n\
         -A INPUT -p tcp -m tcp --dport 25 -m set --match-set spammers src -j DROP\n\
         -A INPUT -p tcp -m tcp --dport 25 -m mark --mark 0x5 -j DROP\n\
         -A INPUT -p tcp -m tcp --dport 25 -m connmark --mark 0x5 -j DROP\n\
         -A INPUT -p tcp -m tcp --dport 25 -m string --string \"spam\" --algo kmp -j DROP\n\
         -A INPUT -p tcp -m tcp --dport 25 -m unheard-of --thing 3 -j DROP\n";
    let run = check_folder(behind, "");
    assert_eq!(count(&run, "shadowed"), 2, "{}", run.err);
    assert!(run.err.contains("these 9 rules"), "{}", run.err);
    assert!(run.err.contains("these 2 rules"), "{}", run.err);
}

/// The help of `never-matches` names what keeps the packets away, not the first reason at hand.
#[test]
fn why_a_rule_of_a_file_never_matches_is_said_truly() {
    let why = |rules: &str| {
        let run = check_folder(rules, "");
        assert_eq!(count(&run, "never-matches"), 1, "{rules}{}", run.err);
        let help = run.err.lines().find(|line| line.contains("= help: "));
        help.expect("a help").trim().to_owned()
    };
    let tracked = "-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n";
    let put_together = "= help: rules here track connections, so that the kernel reassembles packets first: \
                        no rule sees a later fragment";
    for (rules, expected) in [
        (
            // An address of IPv4 has one type.
            "-A INPUT -m addrtype --dst-type BROADCAST -m addrtype --dst-type LOCAL -j ACCEPT\n"
                .to_owned(),
            "= help: its conditions exclude each other",
        ),
        (format!("{tracked}-A INPUT -f -j ACCEPT\n"), put_together),
        (
            "-A INPUT -f -j ACCEPT\n".to_owned(),
            "= help: the kernel reassembles packets for this host before INPUT, so that no later fragment gets there",
        ),
        (
            "-A INPUT -s 127.0.0.5/32 -i eth4 -p udp -j ACCEPT\n".to_owned(),
            "= help: keep it if this host has that setting; otherwise remove it",
        ),
    ] {
        assert_eq!(why(&rules), expected, "{rules}");
    }
}
