//! Traps: what a reader gets wrong that does not do as iptables 1.8.9 does. All measured with it.

use libtest_mimic::{Failed, Trial};

use fwc::diag::{Code, Sink};
use fwc::iptables::{Extensions, Print, Ruleset, parse};
use fwc::net::Family;
use fwc::source::SourceMap;

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("values_are_read_as_the_tool_reads_them", values_are_read),
        Trial::test("what_the_tool_refuses_is_refused", refusals),
        Trial::test("errors_have_their_place", places),
        Trial::test("differences_of_the_backends_are_told", backends_differ),
        Trial::test("commands_are_carried_out", commands),
        Trial::test("unknown_extensions_are_kept_on_demand", unknown_extensions),
        Trial::test("names_of_groups_and_realms_are_read", names_are_read),
        Trial::test("connection_marks_are_shifted", shifts),
        Trial::test("rules_behind_a_verdict_are_legacys", unreached),
        Trial::test(
            "rules_that_a_later_line_removes_do_not_count",
            removed_again,
        ),
        Trial::test("a_chain_that_does_not_exist_is_no_extension", no_chain),
        Trial::test("equal_is_what_the_tools_treat_as_equal", equality),
    ]
}

fn read(text: &str, family: Family, sink: &mut Sink) -> Option<Ruleset> {
    let mut sources = SourceMap::new();
    let file = sources.add("rules", text);
    parse(file, &sources, family, Extensions::KnownOnly, sink)
}

fn in_input(rule: &str) -> String {
    format!("*filter\n:X - [0:0]\n-A INPUT {rule}\nCOMMIT\n")
}

/// The rules as they print, one a line, without `-A INPUT `; or the first error.
fn printed(rule: &str, family: Family) -> Result<String, String> {
    let mut sink = Sink::new();
    let ruleset = read(&in_input(rule), family, &mut sink);
    let ruleset = ruleset.ok_or_else(|| sink.sorted()[0].message.clone())?;
    let text = ruleset.to_text(Print::default());
    let rules: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("-A INPUT"))
        .map(str::trim_start)
        .collect();
    Ok(rules.join("\n"))
}

fn values_are_read() -> Result<(), Failed> {
    for (input, saved) in [
        // Octal, hexadecimal, short addresses, masks.
        ("-s 1.2.3.4/032", "-s 1.2.3.0/26"),
        ("-p tcp --dport 022", "-p tcp -m tcp --dport 18"),
        ("-p udp --dport 022", "-p udp -m udp --dport 22"),
        ("-p udp --dport 65536", "-p udp -m udp --dport 0"),
        ("-m mark --mark 010", "-m mark --mark 0x8"),
        ("-s 10.1", "-s 10.1.0.0/32"),
        ("-s 010.0.0.8", "-s 8.0.0.8/32"),
        ("-s 1.2.3.4/255.255.0.255", "-s 1.2.0.4/255.255.0.255"),
        ("-s 0/0", ""),
        (
            "-s 1.2.3.4,5.6.7.8 -j DROP",
            "-s 1.2.3.4/32 -j DROP\n-s 5.6.7.8/32 -j DROP",
        ),
        // Protocols are numbers with names.
        ("-p all", ""),
        ("-p hopopt", ""),
        ("-p 143", "-p ethernet"),
        ("-p 4", "-p ipencap"),
        ("-p TCP", "-p tcp"),
        ("-p 0x6", "-p tcp"),
        // Options in any order, abbreviated, doubled modules.
        ("-j ACCEPT --dpo 22 -p tcp", "unknown option \"--dpo\""),
        (
            "-p tcp --dpo 22 -j ACCEPT",
            "-p tcp -m tcp --dport 22 -j ACCEPT",
        ),
        ("-p tcp --dport=22", "-p tcp -m tcp --dport 22"),
        ("-m tcp --dport 22 -p tcp", "-p tcp -m tcp --dport 22"),
        (
            "-p tcp -m multiport --dport 5",
            "-p tcp -m multiport --dports 5",
        ),
        (
            "-p tcp -m mark --mark 5 --dport 22",
            "-p tcp -m mark --mark 0x5 -m tcp --dport 22",
        ),
        (
            "-m mark --mark 1 -m connmark ! --mark 2",
            "-m mark --mark 0x1 -m connmark ! --mark 0x2",
        ),
        ("-ieth0", "-i -ieth0"),
        ("-fj ACCEPT", "-f -j ACCEPT"),
        ("-fMx", "-f"),
        ("-i + -j ACCEPT", "-j ACCEPT"),
        ("-p tcp ! --dport :1024", "-p tcp -m tcp --dport 1025:65535"),
        (
            "-p tcp ! --dport :1024 --tcp-option 7",
            "-p tcp -m tcp ! --dport 0:1024 --tcp-option 7",
        ),
        (
            "-p sctp ! --dport :1024",
            "-p sctp -m sctp ! --dport 0:1024",
        ),
        ("-p udp --dport 80:22", "-p udp -m udp --dport 80:22"),
        ("-p tcp --tcp-flags NONE NONE", "-p tcp -m tcp"),
        ("-p icmp --icmp-type 255", "-p icmp -m icmp --icmp-type any"),
        (
            "-p icmp --icmp-type echo-req",
            "-p icmp -m icmp --icmp-type 8",
        ),
        ("-m limit --limit 300/min", "-m limit --limit 5/sec"),
        (
            "-m limit --limit 1/sec --limit-burst 5",
            "-m limit --limit 1/sec",
        ),
        (
            "-j REJECT --reject-with tcp-rst -p tcp",
            "-p tcp -j REJECT --reject-with tcp-reset",
        ),
        ("-4 -s 1.2.3.4", "-s 1.2.3.4/32"),
        ("-6 -s ::1 and anything", ""),
        // Quotes.
        (
            "-m comment --comment it's",
            "-m comment --comment \"it\\'s\"",
        ),
        (
            "-m comment --comment \"a \\\"q\\\" b\"",
            "-m comment --comment \"a \\\"q\\\" b\"",
        ),
        (
            "-m comment --comment \"back\\nslash\"",
            "-m comment --comment backnslash",
        ),
        (
            "-m comment --comment abc\" def\"",
            "-m comment --comment \"abc def\"",
        ),
        (
            "-m comment --comment -t",
            "the -t option cannot be used in a rules file",
        ),
        ("-m comment --comment \"-t\"", "-m comment --comment -t"),
        (
            "-j LOG --log-prefix 012345678901234567890123456789",
            "-j LOG --log-prefix 01234567890123456789012345678",
        ),
    ] {
        let printed = printed(input, Family::V4).unwrap_or_else(|error| error);
        assert_eq!(printed, saved, "{input}");
    }
    let long = "x".repeat(256);
    let cut = printed(&format!("-m comment --comment {long}"), Family::V4);
    assert_eq!(cut.unwrap(), format!("-m comment --comment {}", &long[1..]));
    for (input, saved) in [
        ("-s ::1.2.3.4", "-s ::1.2.3.4/128"),
        ("-s ff02::1/ffff::ffff", "-s ff02::1/ffff::ffff"),
        (
            "-p icmpv6 --icmpv6-type echo-request",
            "-p ipv6-icmp -m icmp6 --icmpv6-type 128",
        ),
        (
            "-j REJECT",
            "-j REJECT --reject-with icmp6-port-unreachable",
        ),
        ("-4 -s 1.2.3.4", ""),
    ] {
        assert_eq!(printed(input, Family::V6).as_deref(), Ok(saved), "{input}");
    }
    Ok(())
}

fn refusals() -> Result<(), Failed> {
    for input in [
        "-p tcp --sport 4:3",
        "-p tcp --dport 65536",
        "-p udp --dport 0x16",
        "-s ! 1.2.3.4",
        "-d example.net",
        "! ! -s 1.2.3.4",
        "-s 1.2.3.4 !",
        "-m comment ! --comment x",
        "-m comment --comment a\"b\"c",
        "-j ACCEPT # why",
        "-j ACC",
        "-j accept",
        "-g ACCEPT",
        "-j ACCEPT -j DROP",
        "-p tcp -p udp",
        "-m mark --mark 1 --mark 2",
        "-m tcp --dport 22",
        "-p tcp -m udp --dport 22",
        "-m multiport --dports 22 -p tcp",
        "-p tcp -m multiport --dports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16",
        "-o eth0",
        "-i \"\"",
        "-i aaaaaaaaaaaaaaaa",
        "-s1.2.3.4",
        "-ptcp",
        "--source=1.2.3.4",
        "-m geoip --src-cc DE",
        "-j TARPIT",
        "-j MASQUERADE",
        "-m owner --uid-owner 0",
        "-m rpfilter",
        "-j REJECT --reject-with tcp-reset",
        "-m limit --limit 10001/sec",
        "-p foo",
        "! -p 0",
        "-t nat -j ACCEPT",
        "-n -j ACCEPT",
        "-fj",
        "-- -j ACCEPT",
    ] {
        let printed = printed(input, Family::V4);
        assert!(printed.is_err(), "{input} is read as {printed:?}");
    }
    for file in [
        "*filter\n:X - [0:0]\n-A INPUT -j X\n-A X -j X\nCOMMIT\n",
        "*filter\n:X - [0:0]\n:Y - [0:0]\n-A INPUT -g X\n-A X -j Y\n-A Y -g X\nCOMMIT\n",
        "*filter\n:X - [0:0]\n-A OUTPUT -j X\n-A X -m mac --mac-source 1:2:3:4:5:6\nCOMMIT\n",
        "*filter\n:x234567890123456789012345678901 - [0:0]\nCOMMIT\n",
        "*filter\n:ACCEPT - [0:0]\nCOMMIT\n",
        "*filter\n-A INPUT -j X\n:X - [0:0]\nCOMMIT\n",
        "*filter\n-A NOCHAIN -j DROP\nCOMMIT\n",
        "*filter\n:INPUT REJECT [0:0]\nCOMMIT\n",
        "*filter\n",
        "*filter\r\nCOMMIT\r\n",
        "\u{feff}*filter\nCOMMIT\n",
        "*filter\n \nCOMMIT\n",
        "*filter\nCOMMIT \n",
        "*nosuch\nCOMMIT\n",
        "-A INPUT -j DROP\n",
    ] {
        assert!(read(file, Family::V4, &mut Sink::new()).is_none(), "{file}");
    }
    // One mistake is told once.
    for file in [
        "*filter\r\n:INPUT DROP [0:0]\r\n-A INPUT -j ACCEPT\r\nCOMMIT\r\n",
        "\u{feff}*filter\n:INPUT DROP [0:0]\nCOMMIT\n",
        "*nats\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j X\nCOMMIT\n*filter\nCOMMIT\n",
    ] {
        let mut sink = Sink::new();
        assert!(read(file, Family::V4, &mut sink).is_none(), "{file}");
        assert_eq!(sink.sorted().len(), 1, "{file}");
    }
    // A loop that no base chain reaches loads, and so does an owner in a chain that nobody calls.
    for file in [
        "*filter\n:X - [0:0]\n-A X -j X\nCOMMIT\n",
        "*filter\n:X - [0:0]\n-A X -m owner --uid-owner 5\nCOMMIT\n",
        "",
        "# nothing\n\n",
    ] {
        assert!(read(file, Family::V4, &mut Sink::new()).is_some(), "{file}");
    }
    Ok(())
}

fn places() -> Result<(), Failed> {
    for (text, place) in [
        (
            "*filter\n-A INPUT -p tcp --dport htps -j ACCEPT\nCOMMIT\n",
            "rules:2:25",
        ),
        ("*filter\n-A INPUT -j ACCEPT # why\nCOMMIT\n", "rules:2:20"),
        ("*filter\n:INPUT DROPP [0:0]\nCOMMIT\n", "rules:2:8"),
        (
            "*filter\n-A INPUT -m comment --comment \"é\" -j NOSUCH\nCOMMIT\n",
            "rules:2:38",
        ),
        ("*filter\n-A INPUT -j ACCEPT\n", "rules:1:1"),
    ] {
        let mut sources = SourceMap::new();
        let file = sources.add("rules", text);
        let mut sink = Sink::new();
        let ruleset = parse(file, &sources, Family::V4, Extensions::KnownOnly, &mut sink);
        assert!(ruleset.is_none());
        let label = sink.sorted()[0].primary.clone().unwrap();
        assert_eq!(sources.place(label.span), place, "{text}");
    }
    Ok(())
}

fn backends_differ() -> Result<(), Failed> {
    for rule in [
        "-p tcp ! --dport 0:65535",
        "! -i +",
        "! -s 0.0.0.0/0",
        "-p tcp -m tcp --dport 22 -m tcp --dport 23",
        "! -p tcp --dport 22",
        "-j QUEUE",
        "-j TRACE",
        "-p tcp -j TCPMSS --set-mss 1400",
    ] {
        let mut sink = Sink::new();
        assert!(
            read(&in_input(rule), Family::V4, &mut sink).is_some(),
            "{rule}"
        );
        assert!(
            sink.sorted()
                .iter()
                .any(|one| one.code == Code::BackendsDiffer),
            "{rule}"
        );
    }
    let differ = |rule: &str, family| {
        let mut sink = Sink::new();
        assert!(read(&in_input(rule), family, &mut sink).is_some(), "{rule}");
        let codes: Vec<Code> = sink.sorted().iter().map(|one| one.code).collect();
        codes == [Code::BackendsDiffer]
    };
    // The header is a protocol in IPv4.
    for (rule, differs) in [
        ("-p ah", [false, true]),
        ("! -p 51 -j DROP", [false, true]),
        ("-p ah -m ah --ahspi 5", [false, true]),
    ] {
        for (family, differs) in Family::ALL.into_iter().zip(differs) {
            assert_eq!(differ(rule, family), differs, "{rule}");
        }
    }
    for (rule, differs) in [
        ("-m ah", false),
        ("-m ah --ahspi 5 -j DROP", false),
        ("-p tcp -m tcp --dport 22", false),
        ("-p tcp -m ah -m tcp --dport 22", true),
        ("! -p udp -m ah -j DROP", true),
    ] {
        assert_eq!(differ(rule, Family::V6), differs, "{rule}");
    }
    for file in [
        "*filter\n:X DROP [0:0]\nCOMMIT\n",
        "*filter\n:X - [0:0]\n:X - [0:0]\nCOMMIT\n",
        "*filter\n:-x - [0:0]\nCOMMIT\n",
        "*filter\nCOMMIT",
    ] {
        let mut sink = Sink::new();
        assert!(read(file, Family::V4, &mut sink).is_some(), "{file}");
        assert!(
            sink.sorted()
                .iter()
                .any(|one| one.code == Code::BackendsDiffer),
            "{file}"
        );
    }
    let mut sink = Sink::new();
    let unclosed = read(
        &in_input("-m comment --comment \"no end -j ACCEPT"),
        Family::V4,
        &mut sink,
    );
    assert!(unclosed.is_some() && sink.sorted()[0].code == Code::UnclosedQuote);
    Ok(())
}

fn commands() -> Result<(), Failed> {
    let text = "*filter\n-P INPUT DROP\n-N b\n-N a\n-A a -s 1.1.1.1 -j DROP\n-I a 1 -j ACCEPT\n-A a -j LOG\n-D a 2\n\
                -R a 2 -j RETURN\n-A INPUT -j a\n-E a c\n-A b -j DROP\n-F b\n-X b\n[5:6] -A INPUT -c 7,8 -j c\n\
                -I INPUT -s 1.1.1.1,2.2.2.2 -j DROP\n-D INPUT -s 2.2.2.2/32 -j DROP\nCOMMIT\n";
    let ruleset = read(text, Family::V4, &mut Sink::new()).unwrap();
    assert_eq!(
        ruleset.to_text(Print { counters: true }),
        "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:c - [0:0]\n\
         [0:0] -A INPUT -s 1.1.1.1/32 -j DROP\n[0:0] -A INPUT -j c\n[5:6] -A INPUT -j c\n\
         [0:0] -A c -j ACCEPT\n[0:0] -A c -j RETURN\nCOMMIT\n"
    );
    // A table that comes again replaces the first one.
    let twice =
        "*nat\n-A OUTPUT -j DROP\nCOMMIT\n*filter\nCOMMIT\n*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n";
    let ruleset = read(twice, Family::V4, &mut Sink::new()).unwrap();
    assert!(!ruleset.to_string().contains("-A"));
    Ok(())
}

fn unknown_extensions() -> Result<(), Failed> {
    let rule = "-p tcp -m geoip --src-cc DE,AT --dport 22 -j TARPIT --honeypot 5";
    let ruleset = Ruleset::from_text(&in_input(rule), Family::V4).unwrap();
    let again = Ruleset::from_text(&ruleset.to_string(), Family::V4).unwrap();
    assert!(
        ruleset
            .to_string()
            .contains("-m geoip --src-cc DE,AT -m tcp --dport 22 -j TARPIT --honeypot 5"),
        "{ruleset}"
    );
    assert!(again.is_same(&ruleset));
    Ok(())
}

fn equality() -> Result<(), Failed> {
    let same = |one: &str, other: &str| {
        let read = |rule: &str| read(&in_input(rule), Family::V4, &mut Sink::new()).unwrap();
        read(one).is_same(&read(other))
    };
    for (one, other) in [
        (
            "-m state --state NEW,RELATED",
            "-m conntrack --ctstate related,new",
        ),
        (
            "-p tcp --syn",
            "-p 6 -m tcp --tcp-flags SYN,RST,ACK,FIN SYN",
        ),
        ("-s 1.2.3.4", "-s 1.2.3.4/255.255.255.255"),
        ("-s 10.1.2.3/8", "-s 10.0.0.0/8"),
        ("-m mark --mark 16", "-m mark --mark 0x10/0xffffffff"),
        ("-p tcp --dport ssh", "-p tcp --dport 22:22"),
        ("-j REJECT", "-j REJECT --reject-with port-unreach"),
        ("-c 1,2 -j DROP", "-j DROP"),
    ] {
        assert!(same(one, other), "{one} and {other}");
    }
    for (one, other) in [
        ("-p tcp --dport 22", "-p tcp -m multiport --dports 22"),
        (
            "-p tcp -m multiport --dports 1,2",
            "-p tcp -m multiport --dports 2,1",
        ),
        (
            "-m mark --mark 1 -m comment --comment x",
            "-m comment --comment x -m mark --mark 1",
        ),
        ("-j X", "-g X"),
        ("-p tcp", "! -p tcp"),
        ("-m comment --comment a", "-m comment --comment A"),
        (
            "-m limit --limit 1/s",
            "-m limit --limit 1/s --limit-burst 6",
        ),
    ] {
        assert!(!same(one, other), "{one} and {other}");
    }
    Ok(())
}

/// The stock files of iproute2 have a name for 0, which the tools print.
fn names_are_read() -> Result<(), Failed> {
    for (input, saved) in [
        (
            "-m devgroup --src-group default",
            "-m devgroup --src-group 0x0",
        ),
        (
            "-m devgroup ! --src-group 5",
            "-m devgroup ! --src-group 0x5",
        ),
        (
            "-m devgroup --src-group 0/0xff",
            "-m devgroup --src-group 0x0/0xff",
        ),
        (
            "-m devgroup --src-group guests",
            "-m devgroup --src-group guests",
        ),
        ("-m realm --realm cosmos", "-m realm --realm 0x0"),
        ("-m realm ! --realm 7/0xf", "-m realm ! --realm 0x7/0xf"),
        ("-m realm --realm inr.ac", "-m realm --realm inr.ac"),
    ] {
        assert_eq!(printed(input, Family::V4), Ok(saved.to_owned()), "{input}");
    }
    for wrong in [
        "-m devgroup --src-group default/0xff",
        "-m devgroup --src-group a,b",
        "-m devgroup --dst-group 5",
        "-m realm --realm ''",
    ] {
        assert!(printed(wrong, Family::V4).is_err(), "{wrong}");
    }
    let realm = "*mangle\n-A PREROUTING -m realm --realm 5\nCOMMIT\n";
    assert!(read(realm, Family::V4, &mut Sink::new()).is_none());
    Ok(())
}

fn shifts() -> Result<(), Failed> {
    for (input, saved) in [
        (
            "--set-mark 5 --left-shift-mark 4",
            "--set-xmark 0x5/0xffffffff --left-shift-mark 4",
        ),
        (
            "--or-mark 5 --right-shift-mark 4",
            "--set-xmark 0x5/0x5 --right-shift-mark 4",
        ),
        (
            "--save-mark --nfmask 0xf --ctmask 0xff0 --left-shift-mark 4",
            "--save-mark --nfmask 0xf --ctmask 0xff0 --left-shift-mark 4",
        ),
        (
            "--save-mark --left-shift-mark 31 --right-shift-mark 2",
            "--save-mark --nfmask 0xffffffff --ctmask 0xffffffff --right-shift-mark 2",
        ),
        (
            "--restore-mark --left-shift-mark 0",
            "--restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
        ),
    ] {
        let (input, saved) = (
            format!("-j CONNMARK {input}"),
            format!("-j CONNMARK {saved}"),
        );
        assert_eq!(printed(&input, Family::V4), Ok(saved), "{input}");
    }
    for wrong in ["--left-shift-mark 4", "--save-mark --left-shift-mark 32"] {
        assert!(
            printed(&format!("-j CONNMARK {wrong}"), Family::V4).is_err(),
            "{wrong}"
        );
    }
    Ok(())
}

/// `mark_source_chains` of `ip_tables.c` does not look behind a verdict without matches; nf_tables looks at every rule.
fn unreached() -> Result<(), Failed> {
    let codes = |rules: &str| {
        let mut sink = Sink::new();
        let text = format!("*mangle\n:u - [0:0]\n{rules}COMMIT\n");
        let ruleset = read(&text, Family::V4, &mut sink);
        let codes: Vec<Code> = sink.sorted().iter().map(|one| one.code).collect();
        (ruleset.is_some(), codes)
    };
    let wrong = "-A PREROUTING -j CLASSIFY --set-class 1:1\n";
    for end in ["ACCEPT", "DROP", "RETURN"] {
        let rules = format!("-A PREROUTING -j {end}\n{wrong}");
        assert_eq!(codes(&rules), (true, vec![Code::BackendsDiffer]), "{end}");
    }
    assert_eq!(
        codes("-A PREROUTING -j ACCEPT\n-A PREROUTING -j u\n-A u -j CLASSIFY --set-class 1:1\n"),
        (true, vec![Code::BackendsDiffer])
    );
    for before in [
        "",
        "-A PREROUTING -p tcp -j ACCEPT\n",
        "-A PREROUTING -m comment --comment x -j ACCEPT\n",
        "-A PREROUTING -j u\n-A u -j ACCEPT\n",
    ] {
        let rules = format!("{before}{wrong}");
        assert_eq!(codes(&rules), (false, vec![Code::BadRules]), "{before}");
    }
    assert_eq!(codes("-A u -j CLASSIFY --set-class 1:1\n"), (true, vec![]));
    Ok(())
}

/// Both backends load these files but the last, which iptables-nft refuses.
fn removed_again() -> Result<(), Failed> {
    let codes = |rules: &str| {
        let mut sink = Sink::new();
        let text = format!("*filter\n:A - [0:0]\n:B - [0:0]\n{rules}COMMIT\n");
        let ruleset = read(&text, Family::V4, &mut sink);
        let codes: Vec<Code> = sink.sorted().iter().map(|one| one.code).collect();
        (ruleset.is_some(), codes)
    };
    for rules in [
        "-A B -j A\n-D B 1\n-X B\n",
        "-A INPUT -j A\n-D INPUT 1\n-X A\n",
        "-A INPUT -j A\n-D INPUT -j A\n-X A\n",
        "-A A -j B\n-D A 1\n-A B -j A\n-A INPUT -j B\n",
        "-A A -m owner --uid-owner 0 -j ACCEPT\n-D A 1\n-A INPUT -j A\n",
    ] {
        assert_eq!(codes(rules), (true, vec![]), "{rules}");
    }
    assert_eq!(
        codes("-A INPUT -m owner --uid-owner 0 -j ACCEPT\n-D INPUT 1\n"),
        (true, vec![Code::BackendsDiffer])
    );
    Ok(())
}

fn no_chain() -> Result<(), Failed> {
    let reads = |target: &str, extensions: Extensions<'_>| {
        let text = in_input(&format!("-j {target}"));
        let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
        let file = sources.add("rules", &text);
        parse(file, &sources, Family::V4, extensions, &mut sink).is_some()
    };
    for chain in ["NOWHERE", "ufw-user-input", "log_drop"] {
        assert!(!reads(chain, Extensions::KeepPlausible), "{chain}");
        assert!(reads(chain, Extensions::KeepUnknown), "{chain}");
    }
    for target in ["TARPIT", "ULOG --ulog-nlgroup 1", "JOOL --instance x"] {
        assert!(reads(target, Extensions::KeepPlausible), "{target}");
    }
    Ok(())
}
