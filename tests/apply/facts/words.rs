//! What the tools make of the words of a rule.

use super::super::Test;
use super::super::namespace::{Backend, Namespace};
use super::{Result, has, load, refused, saved};

pub const TESTS: &[(&str, Test)] = &[
    (
        "fact_log_prefixes_are_cut_without_a_word",
        log_prefixes_are_cut_without_a_word,
    ),
    (
        "fact_comments_and_nflog_prefixes_end_somewhere",
        comments_and_nflog_prefixes_end_somewhere,
    ),
    (
        "fact_names_of_chains_and_devices_and_lists_of_ports_end",
        names_of_chains_and_devices_and_lists_of_ports_end,
    ),
    (
        "fact_times_and_users_come_back_in_other_words",
        times_and_users_come_back_in_other_words,
    ),
];

fn log_prefixes_are_cut_without_a_word(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let line = format!("-A INPUT -j LOG --log-prefix {}", "x".repeat(40));
    let ended = load(&ns, &[], "filter", &[&line]).expect(0);
    assert_eq!(ended.err, "");
    has(&saved(&ns), &format!("--log-prefix {}\n", "x".repeat(29)));
    Ok(())
}

fn comments_and_nflog_prefixes_end_somewhere(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let prefix = format!("-A INPUT -j NFLOG --nflog-prefix {}", "x".repeat(200));
    let comment = format!("-A INPUT -m comment --comment {} -j DROP", "y".repeat(300));
    let ended = load(&ns, &[], "filter", &[&prefix, &comment]).expect(0);
    assert_eq!(ended.err, "");
    let most = match backend {
        Backend::Nft => 127,
        Backend::Legacy => 63,
    };
    has(
        &saved(&ns),
        &format!("--nflog-prefix {}\n", "x".repeat(most)),
    );
    has(
        &saved(&ns),
        &format!("--comment {} -j DROP\n", "y".repeat(255)),
    );
    Ok(())
}

fn names_of_chains_and_devices_and_lists_of_ports_end(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let chain = |length| format!(":{} - [0:0]", "c".repeat(length));
    let device = |length| format!("-A INPUT -i {} -j DROP", "d".repeat(length));
    let ports = |most: usize| {
        let ports: Vec<_> = (1..=most).map(|port| port.to_string()).collect();
        let ports = ports.join(",");
        format!("-A INPUT -p tcp -m multiport --dports {ports} -j DROP")
    };
    let lines = [chain(28), device(15), ports(15)];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    load(&ns, &[], "filter", &lines).expect(0);
    for line in [chain(29), device(16), ports(16)] {
        refused(load(&ns, &[], "filter", &[&line]));
    }
    Ok(())
}

fn times_and_users_come_back_in_other_words(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let lines = [
        "-A OUTPUT -m time --timestart 08:00 --timestop 18:00 -j ACCEPT",
        "-A OUTPUT -m owner --uid-owner www-data -j ACCEPT",
    ];
    load(&ns, &[], "filter", &lines).expect(0);
    let saved = saved(&ns);
    has(&saved, "--timestart 08:00:00 --timestop 18:00:00");
    has(&saved, "--datestop 2038-01-19T03:14:07");
    has(&saved, "--uid-owner 33 ");
    let line = "-A OUTPUT -m owner --uid-owner no-such-user -j ACCEPT";
    refused(load(&ns, &[], "filter", &[line]));
    Ok(())
}
