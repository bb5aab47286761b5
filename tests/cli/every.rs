//! Every match and every target that rules files may have, through every command that reads them. A packet's way by the sets and
//! by the walk is one way: what one half knows the other knows.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::fwc::{folder, root, run};

/// Conditions of IPv4 by the chain that they can stand in.
const CONDITIONS_V4: &[(&str, &str)] = &[
    ("INPUT", "-s 192.0.2.0/255.0.255.0"),
    ("INPUT", "! -s 10.0.0.1/255.0.0.255"),
    ("INPUT", "-s 10.0.0.1/255.0.0.255"),
    ("FORWARD", "-d 0.0.0.7/0.0.0.255"),
    ("FORWARD", "! -d 0.3.0.7/0.255.0.255"),
    ("INPUT", "-f"),
    ("FORWARD", "-f"),
    ("FORWARD", "! -f"),
    ("INPUT", "-m addrtype --dst-type LOCAL"),
    ("INPUT", "-m addrtype ! --dst-type BROADCAST,MULTICAST"),
    ("INPUT", "-m addrtype --src-type UNICAST"),
    ("INPUT", "-m addrtype --dst-type LOCAL --limit-iface-in"),
    (
        "INPUT",
        "-m addrtype --src-type BLACKHOLE ! --dst-type ANYCAST",
    ),
    ("INPUT", "-p ah -m ah --ahspi 500:600"),
    ("INPUT", "-p ah -m ah ! --ahspi 500"),
    ("INPUT", "-p icmp -m icmp --icmp-type 8"),
    ("INPUT", "-p icmp -m icmp ! --icmp-type 3/4"),
    ("INPUT", "-m realm --realm 7"),
    ("INPUT", "-m realm ! --realm 0x4/0xff"),
    ("INPUT", "-p tcp -m osf --genre Linux --ttl 0 --log 0"),
    ("INPUT", "-p tcp -m osf ! --genre Linux"),
    ("INPUT", "-m ttl --ttl-lt 5"),
    ("INPUT", "-m ttl ! --ttl-eq 64"),
];

const CONDITIONS_V6: &[(&str, &str)] = &[
    ("FORWARD", "-d ::5/::ffff:ffff:ffff:ffff"),
    ("FORWARD", "! -d ::5/::ffff:ffff:ffff:ffff"),
    ("INPUT", "-s fe80::1:0:0:5/ffc0::ffff:0:0:ffff"),
    ("INPUT", "-m addrtype --dst-type LOCAL"),
    ("INPUT", "-m addrtype --dst-type UNICAST,LOCAL"),
    ("INPUT", "-m addrtype ! --dst-type MULTICAST"),
    ("INPUT", "-m addrtype ! --src-type UNSPEC,ANYCAST"),
    ("INPUT", "-m ah --ahspi 500 --ahlen 20 --ahres"),
    ("INPUT", "-m dst --dst-len 4 --dst-opts 149:92"),
    ("INPUT", "-m dst ! --dst-len 5"),
    ("INPUT", "-m eui64"),
    (
        "INPUT",
        "-m frag --fragid 1:42 --fraglen 42 --fragres --fragfirst",
    ),
    ("INPUT", "-m frag ! --fragid 3 --fraglast"),
    ("INPUT", "-m hbh --hbh-len 4"),
    ("INPUT", "-m hl --hl-gt 5"),
    ("INPUT", "-m hl ! --hl-eq 255"),
    ("INPUT", "-p ipv6-icmp -m icmp6 --icmpv6-type 1/3"),
    ("INPUT", "-p ipv6-icmp -m icmp6 ! --icmpv6-type 128"),
    ("INPUT", "-m ipv6header --header hop-by-hop --soft"),
    ("INPUT", "-m ipv6header ! --header esp"),
    ("INPUT", "-p mobility-header -m mh --mh-type 1:3"),
    ("INPUT", "-m rt --rt-type 0 --rt-segsleft 1:23 --rt-len 42"),
    ("INPUT", "-m rt ! --rt-type 2"),
    ("INPUT", "-m srh --srh-next-hdr 17 --srh-segs-left-gt 3"),
    ("INPUT", "-m srh ! --srh-last-entry-eq 4"),
    (
        "INPUT",
        "-m conntrack --ctorigdst ::5/::ffff:ffff:ffff:ffff",
    ),
];

/// Those of both families.
const CONDITIONS: &[(&str, &str)] = &[
    ("INPUT", "-i eth0"),
    ("INPUT", "! -i eth+"),
    ("INPUT", "-p 253"),
    ("INPUT", "! -p udp"),
    ("OUTPUT", "-m cgroup --cgroup 1"),
    ("OUTPUT", "-m cgroup ! --path system.slice"),
    ("INPUT", "-m bpf --bytecode \"1,6 0 0 0\""),
    (
        "INPUT",
        "-m cluster --cluster-total-nodes 2 --cluster-local-node 1 --cluster-hash-seed 0xdeadbeef",
    ),
    (
        "INPUT",
        "-m cluster --cluster-total-nodes 4 ! --cluster-local-nodemask 0x3 --cluster-hash-seed 1",
    ),
    ("INPUT", "-m comment --comment \"hello there\""),
    (
        "INPUT",
        "-m connbytes --connbytes 1000:2000 --connbytes-mode bytes --connbytes-dir both",
    ),
    (
        "INPUT",
        "-m connbytes ! --connbytes 9 --connbytes-mode avgpkt --connbytes-dir reply",
    ),
    ("INPUT", "-m connlabel --label 40"),
    ("INPUT", "-m connlabel ! --label 41 --set"),
    (
        "INPUT",
        "-p tcp -m connlimit --connlimit-above 5 --connlimit-mask 24 --connlimit-saddr",
    ),
    (
        "INPUT",
        "-p tcp -m connlimit --connlimit-upto 5 --connlimit-mask 0 --connlimit-daddr",
    ),
    ("INPUT", "-m connmark --mark 0x1/0xff"),
    ("INPUT", "-m connmark ! --mark 0x1"),
    ("INPUT", "-m conntrack --ctstate NEW,SNAT"),
    ("INPUT", "-m conntrack ! --ctstate INVALID,DNAT"),
    ("INPUT", "-m conntrack --ctproto 6 --ctdir REPLY"),
    ("INPUT", "-m conntrack ! --ctproto 17"),
    ("INPUT", "-m conntrack --ctstatus ASSURED,SEEN_REPLY"),
    ("INPUT", "-m conntrack ! --ctstatus NONE"),
    ("INPUT", "-m conntrack --ctexpire 10:20"),
    ("INPUT", "-m conntrack ! --ctexpire 5"),
    (
        "FORWARD",
        "-m conntrack --ctorigsrcport 5 --ctorigdstport 80:90",
    ),
    ("INPUT", "-m conntrack ! --ctorigdstport 22"),
    (
        "INPUT",
        "-m conntrack --ctreplsrcport 5 ! --ctrepldstport 80",
    ),
    (
        "INPUT",
        "-m conntrack --ctstate UNTRACKED --ctorigdstport 22",
    ),
    ("INPUT", "-m cpu --cpu 0"),
    ("INPUT", "-m cpu ! --cpu 1"),
    (
        "INPUT",
        "-p dccp -m dccp --dport 5 --dccp-types REQUEST,RESPONSE",
    ),
    (
        "INPUT",
        "-p dccp -m dccp ! --dccp-types INVALID --dccp-option 3",
    ),
    ("INPUT", "-m devgroup --src-group 1"),
    ("INPUT", "-m devgroup ! --src-group default"),
    (
        "FORWARD",
        "-m devgroup --src-group guests ! --dst-group 0x2/0xff",
    ),
    ("INPUT", "-m dscp --dscp 0x2e"),
    ("INPUT", "-m dscp ! --dscp-class CS1"),
    ("INPUT", "-p tcp -m ecn --ecn-tcp-cwr --ecn-ip-ect 2"),
    ("INPUT", "-p tcp -m ecn ! --ecn-tcp-ece"),
    ("INPUT", "-p esp -m esp --espspi 500"),
    ("INPUT", "-p esp -m esp ! --espspi 500:600"),
    (
        "INPUT",
        "-m hashlimit --hashlimit-upto 5/sec --hashlimit-burst 9 --hashlimit-mode srcip,dstport --hashlimit-name a",
    ),
    (
        "INPUT",
        "-m hashlimit --hashlimit-above 1mb/s --hashlimit-mode dstip --hashlimit-name b",
    ),
    ("INPUT", "-m helper --helper ftp"),
    ("INPUT", "-m helper ! --helper \"ftp-2121\""),
    ("INPUT", "-p ipcomp -m ipcomp --ipcompspi 18"),
    ("INPUT", "-m length --length 0:100"),
    ("INPUT", "-m length ! --length 1500"),
    ("INPUT", "-m limit --limit 3/min --limit-burst 9"),
    ("INPUT", "-m mac --mac-source 02:00:00:00:00:01"),
    ("INPUT", "-m mac ! --mac-source 02:00:00:00:00:01"),
    ("INPUT", "-m mark --mark 0x1/0x3"),
    ("INPUT", "-m mark ! --mark 0x1"),
    ("INPUT", "-p udp -m multiport --sports 1,5:9"),
    ("INPUT", "-p tcp -m multiport ! --dports 22,80"),
    ("INPUT", "-p tcp -m multiport --ports 22,80"),
    ("INPUT", "-m nfacct --nfacct-name x"),
    ("OUTPUT", "-m owner --uid-owner 1000 ! --gid-owner 5-9"),
    ("OUTPUT", "-m owner ! --socket-exists"),
    (
        "FORWARD",
        "-m physdev --physdev-in eth0 ! --physdev-out eth1",
    ),
    ("FORWARD", "-m physdev ! --physdev-is-bridged"),
    ("INPUT", "-m pkttype --pkt-type broadcast"),
    ("INPUT", "-m pkttype ! --pkt-type unicast"),
    (
        "INPUT",
        "-m policy --dir in --pol ipsec --proto esp --strict",
    ),
    ("INPUT", "-m policy --dir in --pol none"),
    ("INPUT", "-m quota --quota 1000"),
    ("INPUT", "-m quota ! --quota 1000"),
    (
        "INPUT",
        "-m rateest --rateest x --rateest-lt --rateest-bps 1mbit",
    ),
    ("INPUT", "-m recent --name a --set"),
    (
        "INPUT",
        "-m recent --name a ! --rcheck --seconds 60 --hitcount 4",
    ),
    ("INPUT", "-m recent --name a --update --seconds 60 --rdest"),
    ("INPUT", "-m recent --name a --remove"),
    ("INPUT", "-p sctp -m sctp --dport 5 --chunk-types any INIT"),
    ("INPUT", "-p sctp -m sctp ! --chunk-types all DATA:Be,ABORT"),
    ("INPUT", "-m set --match-set here src"),
    ("INPUT", "-m set ! --match-set here dst,src"),
    (
        "INPUT",
        "-m set --match-set here src --return-nomatch --packets-gt 5",
    ),
    ("INPUT", "-m socket --transparent --nowildcard"),
    ("INPUT", "-m state --state NEW,RELATED"),
    ("INPUT", "-m state ! --state ESTABLISHED"),
    ("INPUT", "-m statistic --mode random --probability 0.5"),
    ("INPUT", "-m statistic --mode nth ! --every 3 --packet 0"),
    (
        "INPUT",
        "-m string --string \"x y\" --algo bm --from 3 --to 90",
    ),
    ("INPUT", "-m string ! --hex-string \"|00ff|\" --algo kmp"),
    ("INPUT", "-p tcp -m tcp --sport 1024: ! --dport 22"),
    ("INPUT", "-p tcp -m tcp --tcp-option 5"),
    (
        "INPUT",
        "-p tcp -m tcp ! --tcp-option 5 --tcp-flags ALL SYN,ACK",
    ),
    ("INPUT", "-p tcp -m tcp ! --tcp-flags SYN,ACK SYN"),
    ("INPUT", "-p tcp -m tcpmss --mss 1:500"),
    ("INPUT", "-p tcp -m tcpmss ! --mss 1460"),
    (
        "INPUT",
        "-m time --timestart 10:00 --timestop 12:00 --weekdays Mon,Tue --kerneltz",
    ),
    ("INPUT", "-m time ! --monthdays 1,2 --datestop 2030-01-01"),
    ("INPUT", "-m tos --tos 0x10"),
    ("INPUT", "-m tos ! --tos 0x10/0x3f"),
    ("INPUT", "-m u32 --u32 \"6&0xFF=1\""),
    ("INPUT", "-m u32 ! --u32 \"0>>22&0x3C@0>>24=0:5\""),
    ("INPUT", "-p udp -m udp ! --sport 53"),
];

/// Addresses of each family.
const RANGES: [&[(&str, &str)]; 2] = [
    &[
        ("INPUT", "-m iprange --src-range 10.0.0.1-10.0.0.9"),
        ("INPUT", "-m iprange ! --dst-range 10.0.0.1-10.0.0.9"),
        ("INPUT", "-m conntrack --ctorigdst 10.0.0.1"),
        ("FORWARD", "-m conntrack ! --ctorigsrc 10.0.0.0/24"),
        ("INPUT", "-m conntrack --ctorigdst 10.0.0.1/255.0.0.255"),
        (
            "INPUT",
            "-m conntrack ! --ctreplsrc 10.0.0.1 --ctrepldst 10.0.0.0/8",
        ),
    ],
    &[
        ("INPUT", "-m iprange --src-range 2001:db8::1-2001:db8::9"),
        ("FORWARD", "-m conntrack ! --ctorigsrc 2001:db8::/32"),
    ],
];

/// Targets: table, chain, and what comes before them.
const TARGETS: &[(&str, &str, &str, &str)] = &[
    ("filter", "INPUT", "", "AUDIT --type drop"),
    ("mangle", "PREROUTING", "", "CHECKSUM --checksum-fill"),
    ("mangle", "POSTROUTING", "", "CLASSIFY --set-class 1:2"),
    ("mangle", "PREROUTING", "", "CONNMARK --set-xmark 0x5/0xff"),
    (
        "mangle",
        "PREROUTING",
        "",
        "CONNMARK --set-mark 5 --left-shift-mark 4",
    ),
    (
        "mangle",
        "PREROUTING",
        "",
        "CONNMARK --save-mark --nfmask 0xf --ctmask 0xff0 --left-shift-mark 4",
    ),
    (
        "mangle",
        "INPUT",
        "",
        "CONNMARK --restore-mark --nfmask 0xff --ctmask 0xf0 --right-shift-mark 4",
    ),
    ("mangle", "INPUT", "", "CONNSECMARK --save"),
    ("raw", "PREROUTING", "", "CT --zone 5"),
    ("raw", "PREROUTING", "", "CT --notrack"),
    ("raw", "PREROUTING", "-p tcp", "CT --helper ftp"),
    ("mangle", "INPUT", "", "DSCP --set-dscp 0x2e"),
    (
        "mangle",
        "INPUT",
        "",
        "HMARK --hmark-tuple src,dst --hmark-mod 10 --hmark-offset 1 --hmark-rnd 0xfeedcafe",
    ),
    ("filter", "INPUT", "", "IDLETIMER --timeout 60 --label x"),
    (
        "filter",
        "INPUT",
        "",
        "LOG --log-prefix \"x \" --log-level debug --log-uid",
    ),
    ("mangle", "INPUT", "", "MARK --set-xmark 0x5/0xff"),
    ("mangle", "INPUT", "", "MARK --or-mark 5"),
    (
        "filter",
        "INPUT",
        "",
        "NFLOG --nflog-group 5 --nflog-prefix x",
    ),
    (
        "filter",
        "INPUT",
        "",
        "NFQUEUE --queue-balance 1:4 --queue-bypass --queue-cpu-fanout",
    ),
    ("raw", "PREROUTING", "", "NOTRACK"),
    ("filter", "INPUT", "", "QUEUE"),
    (
        "mangle",
        "INPUT",
        "",
        "RATEEST --rateest-name x --rateest-interval 250ms --rateest-ewmalog 500ms",
    ),
    ("filter", "INPUT", "", "REJECT"),
    (
        "filter",
        "INPUT",
        "-p tcp",
        "REJECT --reject-with tcp-reset",
    ),
    (
        "security",
        "INPUT",
        "",
        "SECMARK --selctx system_u:object_r:x:s0",
    ),
    (
        "filter",
        "INPUT",
        "",
        "SET --add-set here src --exist --timeout 60",
    ),
    ("filter", "INPUT", "", "SET --del-set here dst"),
    ("mangle", "INPUT", "", "SET --map-set here src --map-mark"),
    (
        "filter",
        "INPUT",
        "-p tcp",
        "SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1460",
    ),
    ("mangle", "INPUT", "-p tcp --syn", "TCPMSS --set-mss 1400"),
    (
        "mangle",
        "FORWARD",
        "-p tcp --syn",
        "TCPMSS --clamp-mss-to-pmtu",
    ),
    (
        "mangle",
        "INPUT",
        "-p tcp",
        "TCPOPTSTRIP --strip-options 8,sack-permitted",
    ),
    ("mangle", "INPUT", "", "TOS --set-tos 0x10/0x3f"),
    (
        "mangle",
        "PREROUTING",
        "-p tcp",
        "TPROXY --on-port 3128 --tproxy-mark 0x1/0x1",
    ),
    ("raw", "PREROUTING", "", "TRACE"),
    ("nat", "PREROUTING", "-p tcp", "REDIRECT --to-ports 3128"),
    ("nat", "POSTROUTING", "", "MASQUERADE --random"),
    ("filter", "INPUT", "", "TARPIT"),
    ("filter", "INPUT", "", "CHAOS --tarpit"),
    ("filter", "INPUT", "", "RETURN"),
];

const TARGETS_V4: &[(&str, &str, &str, &str)] = &[
    (
        "nat",
        "PREROUTING",
        "-p tcp",
        "DNAT --to-destination 10.0.0.5:80-90",
    ),
    (
        "nat",
        "PREROUTING",
        "",
        "DNAT --to-destination 10.0.0.5-10.0.0.9 --persistent",
    ),
    (
        "nat",
        "POSTROUTING",
        "",
        "SNAT --to-source 192.0.2.1 --random-fully",
    ),
    (
        "nat",
        "PREROUTING",
        "-d 192.0.2.0/24",
        "NETMAP --to 10.0.0.0/24",
    ),
    (
        "nat",
        "PREROUTING",
        "-d 10.0.0.7/255.0.0.255",
        "NETMAP --to 10.0.0.0/8",
    ),
    ("mangle", "INPUT", "-p tcp", "ECN --ecn-tcp-remove"),
    ("mangle", "INPUT", "", "TTL --ttl-dec 1"),
    ("mangle", "INPUT", "", "TEE --gateway 192.0.2.9"),
    ("filter", "INPUT", "", "ULOG"),
    ("filter", "INPUT", "", "MIRROR"),
];

const TARGETS_V6: &[(&str, &str, &str, &str)] = &[
    (
        "nat",
        "PREROUTING",
        "-p tcp",
        "DNAT --to-destination [2001:db8::5]:80",
    ),
    ("nat", "POSTROUTING", "", "SNAT --to-source 2001:db8::1"),
    (
        "nat",
        "PREROUTING",
        "-d ::5/::ffff:ffff:ffff:ffff",
        "NETMAP --to 2001:db8::/64",
    ),
    (
        "mangle",
        "PREROUTING",
        "",
        "DNPT --src-pfx 2001:db8::/64 --dst-pfx 2001:db8:1::/64",
    ),
    (
        "mangle",
        "POSTROUTING",
        "",
        "SNPT --src-pfx 2001:db8::/64 --dst-pfx 2001:db8:1::/64",
    ),
    ("mangle", "INPUT", "", "HL --hl-set 64"),
    ("mangle", "INPUT", "", "TEE --gateway 2001:db8::9"),
];

/// A rules file that has one condition twice, plain and behind a narrower rule, and something before and behind it.
fn file(table: &str, chain: &str, rule: &str) -> String {
    let filter = |rules: &str| {
        format!(
            "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n{rules}COMMIT\n"
        )
    };
    let ssh = "-p tcp -m tcp --dport 22";
    match table {
        "filter" => filter(&format!(
            "-A {chain} {ssh} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A {chain} {rule}\n-A {chain} {ssh} -j ACCEPT\n"
        )),
        _ => {
            let rules = filter(&format!(
                "-A INPUT {ssh} -j ACCEPT\n-A FORWARD {ssh} -m mark --mark 0x5/0xff -j ACCEPT\n-A FORWARD -m connmark --mark 0x50/0xff0 -j ACCEPT\n"
            ));
            format!("*{table}\n-A {chain} {rule}\nCOMMIT\n{rules}")
        }
    }
}

/// What no command may say of such rules.
const NEVER: [&str; 5] = [
    "internal error",
    "cannot be told",
    "fwc is",
    "panicked",
    "proof-failed",
];

fn asked(rules: &str, without: &str, family: &str, hook: &str, custom: &str) -> Vec<String> {
    let scope = if family == "4" { "ipv4" } else { "ipv6" };
    let policy = format!(
        "version = 1\n[interfaces]\nwan = \"eth0\"\nlan = \"eth1\"\n\
         [[custom]]\nchain = \"{}\"\nscope = \"{scope}\"\nrule = '''{custom}'''\n\
         [[rules]]\nfrom = \"wan\"\nservice = \"ssh\"\n\
         [[tests]]\nname = \"ssh\"\nfrom = \"wan\"\nscope = \"{scope}\"\nservice = \"ssh\"\nexpect = \"accept\"\n\
         [[tests]]\nname = \"web\"\nfrom = \"wan\"\nscope = \"{scope}\"\nservice = \"http\"\nexpect = \"drop\"\n\
         [[tests]]\nname = \"through\"\nfrom = \"wan\"\nto = \"lan\"\nscope = \"{scope}\"\nservice = \"http\"\nexpect = \"drop\"\n",
        hook.to_uppercase()
    );
    let (one, other) = (format!("one.v{family}"), format!("other.v{family}"));
    let (one, other) = (one.as_str(), other.as_str());
    let folder = folder(&[
        (one, rules),
        (other, without),
        ("fwc.toml", policy.as_str()),
    ]);
    let mut commands = vec![
        vec!["explain", "--rules", one, "--hook", hook],
        vec!["explain", "--rules", one, "--hook", "forward"],
        vec!["check", "--rules", one],
        vec!["matrix", "--rules", one],
        vec!["diff", one, one],
        vec!["diff", one, other],
        vec!["diff", other, one],
    ];
    if !custom.is_empty() {
        commands.extend([vec!["check"], vec!["explain", "--hook", hook]]);
    }
    let mut wrong = Vec::new();
    for command in &commands {
        let ran = run(folder.path(), command);
        let said = format!("{}{}", ran.out, ran.err);
        let bad = NEVER.iter().find(|never| said.contains(**never));
        let is_same = command[..] == ["diff", one, one] && ran.status != 0;
        let reads = ran.status == 2 && command.contains(&"--rules");
        if bad.is_some() || is_same || reads {
            wrong.push(format!("{command:?} ({}):\n{rules}\n{said}", ran.status));
        }
    }
    wrong
}

#[test]
fn what_rules_may_say_is_one_thing_to_sets_and_walkers() {
    let mut cases: Vec<Vec<String>> = Vec::new();
    let families = [
        ("4", CONDITIONS_V4, TARGETS_V4),
        ("6", CONDITIONS_V6, TARGETS_V6),
    ];
    for ((family, conditions, targets), ranges) in families.into_iter().zip(RANGES) {
        for (chain, condition) in CONDITIONS.iter().chain(conditions).chain(ranges) {
            let (rule, other) = (
                format!("{condition} -j ACCEPT"),
                format!("-p tcp {condition} -j DROP"),
            );
            let other = if condition.contains("-p ") {
                String::new()
            } else {
                format!("-A {chain} {other}\n")
            };
            let (one, without) = (
                file("filter", chain, &format!("{rule}\n{other}")),
                file("filter", chain, "-p 254 -j ACCEPT"),
            );
            cases.push(vec![
                one,
                without,
                family.into(),
                chain.to_lowercase(),
                rule,
            ]);
        }
        for (table, chain, before, target) in TARGETS.iter().chain(targets) {
            let rule = format!("{before} -j {target}");
            let hook = match *chain {
                "OUTPUT" | "FORWARD" => chain.to_lowercase(),
                _ => "input".to_owned(),
            };
            let custom = if *table == "filter" {
                rule.clone()
            } else {
                String::new()
            };
            let without = file(table, chain, "-p 254 -j RETURN");
            cases.push(vec![
                file(table, chain, &rule),
                without,
                family.into(),
                hook,
                custom,
            ]);
        }
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut wrong = Vec::new();
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let [rules, without, family, hook, custom] = &case[..] else {
                panic!()
            };
            wrong.extend(asked(rules, without, family, hook, custom));
        }
        wrong
    };
    let wrong: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        let ended = threads.into_iter().map(|thread| thread.join().unwrap());
        ended.flatten().collect()
    });
    assert!(
        wrong.is_empty(),
        "{} wrong\n{}",
        wrong.len(),
        wrong.join("\n----\n")
    );
}

/// The lists above have each module that the parser knows.
#[test]
fn no_match_and_no_target_is_left_out() {
    let mut lists = vec![CONDITIONS, CONDITIONS_V4, CONDITIONS_V6];
    lists.extend(RANGES);
    let conditions: Vec<&str> = lists.concat().into_iter().map(|(_, words)| words).collect();
    let targets: Vec<&str> = [TARGETS, TARGETS_V4, TARGETS_V6]
        .concat()
        .into_iter()
        .map(|one| one.3)
        .collect();
    let read = |file: &str| std::fs::read_to_string(root().join(file)).unwrap();
    let names = |text: &str| {
        let specs = text.split("spec(").skip(1);
        let names = specs.filter_map(|rest| {
            Some(
                rest.trim_start()
                    .strip_prefix('"')?
                    .split('"')
                    .next()?
                    .to_owned(),
            )
        });
        names.collect::<Vec<_>>()
    };
    let matches = names(&read("src/iptables/matches/mod.rs"));
    assert!(matches.len() > 50, "{matches:?}");
    // It stands in PREROUTING of raw and mangle only, and the lists are of the filter table.
    let matches = matches.into_iter().filter(|name| name != "rpfilter");
    for name in matches {
        let there = |words: &&str| format!("{words} ").contains(&format!("-m {name} "));
        assert!(conditions.iter().any(there), "the match {name}");
    }
    let known = names(&read("src/iptables/targets/mod.rs"));
    assert!(known.len() > 30, "{known:?}");
    for name in known {
        let there = |words: &&str| words.split(' ').next() == Some(&*name);
        assert!(targets.iter().any(there), "the target {name}");
    }
}
