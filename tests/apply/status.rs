//! Whether what was applied is still in force: `fwc status`.

use std::fs;

use serde_json::Value;

use super::Test;
use super::namespace::{Backend, Namespace};

pub const TESTS: &[(&str, Test)] = &[
    ("status_of_nothing", status_of_nothing),
    ("status_tells_whose_hand", status_tells_whose_hand),
    ("status_sees_a_flush", status_sees_a_flush),
    ("status_sees_the_files", status_sees_the_files),
    ("status_tells_what_waits", status_tells_what_waits),
    ("status_beside_others", status_beside_others),
    ("status_of_sets", status_of_sets),
    ("status_for_prometheus", status_for_prometheus),
    ("concerns_are_said", concerns_are_said),
];

type Result = std::result::Result<(), String>;

#[track_caller]
fn status(ns: &Namespace, code: i32) -> String {
    ns.kept(&["status"]).expect(code).out
}

#[track_caller]
fn report(ns: &Namespace, code: i32) -> Value {
    let ended = ns.kept(&["status", "--format", "json"]).expect(code);
    serde_json::from_str(&ended.out).unwrap()
}

fn status_of_nothing(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let out = status(&ns, 2);
    assert_eq!(out, "applied: nothing yet; run `fwc apply` first\n");
    // To look is not to touch.
    assert!(!ns.path("state").exists());
    assert_eq!(report(&ns, 2)["applied"], Value::Null);
    Ok(())
}

fn status_tells_whose_hand(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("web.toml", &[]).expect(0);
    let saved = ns.saved();
    let out = status(&ns, 0);
    assert!(out.contains("applied: change 1 of "), "{out}");
    assert!(
        out.ends_with("live:    as applied\nat boot: the files are as applied\n"),
        "{out}"
    );
    assert_eq!(ns.saved(), saved);

    ns.iptables("iptables", &["-N", "f2b-sshd"]);
    ns.iptables("iptables", &["-I", "INPUT", "-j", "f2b-sshd"]);
    ns.iptables(
        "iptables",
        &["-A", "INPUT", "-s", "192.0.2.7", "-j", "DROP"],
    );
    ns.iptables("ip6tables", &["-P", "INPUT", "ACCEPT"]);
    ns.iptables("ip6tables", &["-D", "INPUT", "1"]);
    let out = status(&ns, 2);
    for expected in [
        "    + -A INPUT -j f2b-sshd\n        of fail2ban\n",
        "    + -A INPUT -s 192.0.2.7/32 -j DROP\n        by hand, or by a tool that fwc does not know\n",
        "  IPv4 filter f2b-sshd: a chain that fwc did not make, with 0 rules; of fail2ban\n",
        "  IPv6 filter INPUT\n    the policy is ACCEPT; DROP was applied\n    - -A INPUT -i lo -j ACCEPT\n",
        "at boot: the files are as applied\n",
        "what to do: ",
    ] {
        let out = out.to_lowercase();
        assert!(out.contains(&expected.to_lowercase()), "{expected}\n{out}");
    }
    let report = report(&ns, 2);
    assert_eq!(report["schema"], "fwc.status/1");
    assert_eq!(report["as_applied"], false);
    let drift = report["drift"].as_array().unwrap();
    assert_eq!(drift.len(), 3, "{report:#}");
    assert_eq!(drift[0]["rules"][0]["owner"], "fail2ban");
    assert_eq!(drift[1]["change"], "added");
    assert_eq!(drift[2]["policy"]["live"], "ACCEPT");
    ns.apply("web.toml", &["--take-over"]).expect(0);
    status(&ns, 0);
    Ok(())
}

fn status_sees_a_flush(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("web.toml", &[]).expect(0);
    for tool in super::namespace::TOOLS {
        ns.iptables(tool, &["-F"]);
    }
    let out = status(&ns, 2);
    assert!(out.contains("NONE of the applied rules"), "{out}");
    assert_eq!(report(&ns, 2)["gone"], true);
    Ok(())
}

fn status_sees_the_files(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("web.toml", &[]).expect(0);
    let (v4, v6) = (ns.path("iptables/rules.v4"), ns.path("iptables/rules.v6"));
    // What `netfilter-persistent save` does.
    let program = format!("iptables-{backend}-save");
    let saved = ns.run(&program, &[], "").expect(0);
    fs::write(&v4, saved.out).unwrap();
    fs::remove_file(&v6).unwrap();
    let out = status(&ns, 2);
    assert!(out.contains("live:    as applied\n"), "{out}");
    assert!(
        out.contains("rules.v4 was written by iptables-save"),
        "{out}"
    );
    assert!(out.contains("rules.v6 is missing\n"), "{out}");
    let report = report(&ns, 2);
    assert_eq!(report["files"][0]["change"], "saved-by-others");
    assert_eq!(report["files"][1]["change"], "missing");
    Ok(())
}

fn status_tells_what_waits(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    ns.apply("web.toml", &["--confirm", "--timeout", "300s"])
        .expect(0);
    let out = status(&ns, 2);
    assert!(out.contains("open:    change 2 "), "{out}");
    assert!(out.contains("waits for `fwc confirm` until "), "{out}");
    // Live is the new one, the files are the old ones, and both are as they should be.
    assert!(out.contains("live:    as applied\n"), "{out}");
    assert!(out.contains("at boot: the files are as applied\n"), "{out}");
    assert_eq!(report(&ns, 2)["open"]["state"]["step"], "pending");
    ns.kept(&["confirm"]).expect(0);
    status(&ns, 0);
    Ok(())
}

const SHARED: &str =
    "version = 1\n\n[ownership]\nmode = \"shared\"\n\n[[rules]]\nservice = \"ssh\"\n";
const PRESERVE: &str =
    "version = 1\n\n[ownership]\npreserve = \"f2b-*\"\n\n[[rules]]\nservice = \"ssh\"\n";

fn status_beside_others(backend: Backend) -> Result {
    for (policy, is_shared) in [(SHARED, true), (PRESERVE, false)] {
        let ns = Namespace::new(backend);
        fs::write(ns.path("beside.toml"), policy).unwrap();
        ns.apply("beside.toml", &[]).expect(0);
        status(&ns, 0);
        // Others' business.
        ns.iptables("iptables", &["-N", "f2b-sshd"]);
        ns.iptables(
            "iptables",
            &["-A", "f2b-sshd", "-s", "192.0.2.7", "-j", "DROP"],
        );
        if is_shared {
            ns.iptables("iptables", &["-A", "INPUT", "-j", "LOG"]);
            status(&ns, 0);
            // Now somebody decides before fwc does.
            ns.iptables("iptables", &["-I", "INPUT", "-j", "LOG"]);
            let out = status(&ns, 2);
            assert!(out.contains("    > -A INPUT -j FWC-INPUT\n"), "{out}");
            assert_eq!(out.matches("-j ").count(), 1, "{out}");
        } else {
            ns.iptables("iptables", &["-I", "INPUT", "-j", "f2b-sshd"]);
            status(&ns, 0);
            ns.iptables("iptables", &["-A", "INPUT", "-j", "LOG"]);
            let out = status(&ns, 2);
            assert!(out.contains("    + -A INPUT -j LOG\n"), "{out}");
        }
    }
    Ok(())
}

fn status_of_sets(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let policy = "version = 1\n\n[addresses]\nbad = { set = true, include = [\"192.0.2.1\", \"198.51.100.0/24\"] }\n\n[[rules]]\naction = \"drop\"\nsource = \"bad\"\n\n[[rules]]\nservice = \"ssh\"\n";
    fs::write(ns.path("sets.toml"), policy).unwrap();
    ns.apply("sets.toml", &[]).expect(0);
    status(&ns, 0);
    ns.run("ipset", &["del", "fwc4-bad", "192.0.2.1"], "")
        .expect(0);
    let out = status(&ns, 2);
    assert!(
        out.contains("  fwc4-bad: the set has other members"),
        "{out}"
    );
    assert_eq!(report(&ns, 2)["sets"]["changed"][0], "fwc4-bad");
    Ok(())
}

fn status_for_prometheus(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("web.toml", &[]).expect(0);
    ns.iptables("iptables", &["-A", "INPUT", "-j", "ACCEPT"]);
    let out = ns.kept(&["status", "--format", "prometheus"]).expect(2).out;
    for line in [
        "fwc_as_applied 0",
        "fwc_applied_change 1",
        "fwc_open_change 0",
        "fwc_drifted_chains{family=\"ipv4\"} 1",
        "fwc_drifted_chains{family=\"ipv6\"} 0",
        "fwc_drifted_sets 0",
        "fwc_drifted_files 0",
    ] {
        assert!(out.lines().any(|one| one == line), "{line}\n{out}");
    }
    // Each sample has its help and its type.
    let samples = out.lines().filter(|line| !line.starts_with('#'));
    for sample in samples {
        let name = sample.split(['{', ' ']).next().unwrap();
        assert!(out.contains(&format!("# TYPE {name} gauge\n")), "{name}");
    }
    Ok(())
}

/// A native nftables chain that drops what the policy lets in, and a router that does not forward.
fn concerns_are_said(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let router = "version = 1\n\n[interfaces]\nwan = \"eth0\"\nlan = \"eth1\"\n\n[[rules]]\nfrom = \"lan\"\nto = \"wan\"\nservice = \"http\"\n";
    fs::write(ns.path("router.toml"), router).unwrap();
    let quiet = ns.apply("ssh.toml", &[]).expect(0);
    assert!(!quiet.err.contains("warning: "), "{}", quiet.err);
    assert_eq!(report(&ns, 0)["concerns"].as_array().unwrap().len(), 0);
    let nft =
        "table inet mine {\n chain in {\n type filter hook input priority 0; policy drop;\n }\n}\n";
    ns.run("nft", &["-f", "-"], nft).expect(0);
    ns.net().sysctl(&[("ipv4/ip_forward", "0")])?;
    let said = ns.apply("router.toml", &[]).expect(0);
    for words in [
        "warning: the nftables chain `in` of `table inet mine`, whose policy drops,",
        "nft list ruleset",
        "the kernel does not forward any; `sysctl -w net.ipv4.ip_forward=1`",
    ] {
        assert!(said.err.contains(words), "{words}: {}", said.err);
    }
    // They are no drift.
    let report = report(&ns, 0);
    let names = report["concerns"].as_array().unwrap().iter();
    let names: Vec<_> = names.filter_map(|one| one["name"].as_str()).collect();
    assert!(names.contains(&"native-nft"), "{names:?}");
    assert!(names.contains(&"forwarding-off"), "{names:?}");
    assert!(status(&ns, 0).contains("beware:  the nftables chain `in`"));
    Ok(())
}
