//! What stands beside the rules, and is said before one relies on them: by `apply`, `status` and `check --live`.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use super::Test;
use super::namespace::{Backend, Namespace};
use super::support::tools::find;

pub const TESTS: &[(&str, Test)] = &[
    (
        "check_live_says_what_apply_would",
        check_live_says_what_apply_would,
    ),
    (
        "switches_of_the_kernel_are_said",
        switches_of_the_kernel_are_said,
    ),
    ("what_is_meant_is_not_said", what_is_meant_is_not_said),
    (
        "devices_that_rules_cannot_match_are_said",
        devices_that_rules_cannot_match_are_said,
    ),
    (
        "rules_that_nothing_loads_at_boot_are_said",
        rules_that_nothing_loads_at_boot_are_said,
    ),
    (
        "rules_that_iptables_misreads_are_said",
        rules_that_iptables_misreads_are_said,
    ),
    (
        "what_is_said_of_live_rules_says_what_it_does_not_cover",
        what_is_said_of_live_rules_says_what_it_does_not_cover,
    ),
    (
        "files_that_others_saved_are_said",
        files_that_others_saved_are_said,
    ),
    ("rules_before_ours_are_said", rules_before_ours_are_said),
    ("published_ports_are_said", published_ports_are_said),
    ("held_lock_names_its_holder", held_lock_names_its_holder),
];

type Result = std::result::Result<(), String>;

/// The names of the concerns in a report.
fn names(text: &str) -> Vec<String> {
    let report: Value = serde_json::from_str(text).unwrap();
    let concerns = report["concerns"].as_array().unwrap().iter();
    concerns
        .map(|one| one["name"].as_str().unwrap().to_owned())
        .collect()
}

/// The names of what `check --live`, then `apply`, then `status` say.
fn said(ns: &Namespace, policy: &str) -> [Vec<String>; 3] {
    let checked = ns
        .kept(&["check", "--live", policy, "--format", "json"])
        .expect(0);
    let before = ns.kept(&["check", "--live", policy]).expect(0).err;
    let applied = ns.apply(policy, &[]).expect(0).err;
    let warnings = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.starts_with("warning: "));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(warnings(&before), warnings(&applied));
    let status = ns.kept(&["status", "--format", "json"]);
    [names(&checked.out), warnings(&applied), names(&status.out)]
}

fn check_live_says_what_apply_would(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let empty = ns.saved();
    let good = ns.kept(&["check", "--live", "ssh.toml"]).expect(0);
    assert!(
        good.err.contains("ssh.toml: ready to apply on this host"),
        "{}",
        good.err
    );
    let several = ns
        .kept(&["check", "--live", "ssh.toml", "web.toml"])
        .expect(64);
    assert!(several.err.contains("name one file"), "{}", several.err);
    assert_eq!(ns.saved(), empty);
    assert!(!ns.path("iptables").exists() && !ns.path("state").exists());
    // Others' rules stop it.
    ns.iptables("iptables", &["-N", "DOCKER"]);
    let before = ns.saved();
    let stopped = ns.kept(&["check", "--live", "ssh.toml"]).expect(1);
    assert!(stopped.err.contains("Docker:"), "{}", stopped.err);
    // A policy with errors is not looked at with.
    fs::write(ns.path("wrong.toml"), "version = 1\nrulez = 1\n").unwrap();
    let wrong = ns.kept(&["check", "--live", "wrong.toml"]).expect(1);
    assert!(
        wrong.err.contains("rulez") && !wrong.err.contains("Docker:"),
        "{}",
        wrong.err
    );
    assert_eq!(ns.saved(), before);
    Ok(())
}

fn switches_of_the_kernel_are_said(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let router = "version = 1\n\n[interfaces]\nwan = \"eth0\"\nlan = \"eth1\"\n\n[[rules]]\nfrom = \"lan\"\nto = \"wan\"\nservice = \"http\"\n";
    fs::write(ns.path("router.toml"), router).unwrap();
    ns.net().ip(["link add eth0 type veth peer name eth1"])?;
    ns.net().sysctl(&[
        ("ipv4/ip_forward", "0"),
        ("ipv4/conf/all/route_localnet", "1"),
        ("ipv6/conf/all/disable_ipv6", "1"),
    ])?;
    let [checked, applied, status] = said(&ns, "router.toml");
    // Of either family.
    let wanted = [
        "forwarding-off",
        "forwarding-off",
        "ipv6-disabled",
        "route-localnet",
    ];
    assert_eq!(checked, wanted);
    assert_eq!(status, wanted);
    for words in [
        "net.ipv4.ip_forward=1",
        "IPv6 is disabled",
        "route_localnet=0",
    ] {
        assert!(
            applied.iter().any(|line| line.contains(words)),
            "{words}: {applied:?}"
        );
    }
    Ok(())
}

/// `[concerns]` allows some, at once where nothing else of the policy changes.
fn what_is_meant_is_not_said(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.net().sysctl(&[
        ("ipv4/conf/all/route_localnet", "1"),
        ("ipv6/conf/all/disable_ipv6", "1"),
    ])?;
    let write = |concerns: &str| {
        let text = format!("version = 1\n\n[concerns]\n{concerns}\n[[rules]]\nservice = \"ssh\"\n");
        fs::write(ns.path("meant.toml"), text).unwrap();
    };
    write("ipv6-disabled = \"allow\"\n");
    let [checked, applied, status] = said(&ns, "meant.toml");
    assert_eq!(checked, ["route-localnet"]);
    assert_eq!(status, ["route-localnet"]);
    let words = applied.join("\n");
    assert!(!words.contains("IPv6 is disabled"), "{words}");
    assert!(words.contains("route_localnet=0"), "{words}");
    for (concerns, wanted) in [
        (
            "ipv6-disabled = \"allow\"\nroute-localnet = \"allow\"\n",
            vec![],
        ),
        (
            "ipv6-disabled = \"warn\"\n",
            vec!["ipv6-disabled", "route-localnet"],
        ),
    ] {
        write(concerns);
        let checked = ns.kept(&["check", "--live", "meant.toml", "--format", "json"]);
        assert_eq!(names(&checked.expect(0).out), wanted);
        let nothing = ns.apply("meant.toml", &[]).expect(0);
        assert!(nothing.out.contains("nothing to do"), "{}", nothing.out);
        let status = ns.kept(&["status", "--format", "json"]).expect(0);
        assert_eq!(names(&status.out), wanted);
    }
    Ok(())
}

/// A port of a bridge, a device in a VRF (where the kernel has them), one that is not there: rules for them match nothing.
fn devices_that_rules_cannot_match_are_said(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.net().ip([
        "link add eth0 type veth peer name p1",
        "link add br0 type bridge",
        "link set p1 master br0",
    ])?;
    let vrf = [
        "link add red type vrf table 10",
        "link add v1 type veth peer name v2",
        "link set v1 master red",
    ];
    let has_vrf = ns.net().ip(vrf).is_ok();
    let blue = if has_vrf { "v1" } else { "eth0" };
    let policy = format!(
        "version = 1\n\n[interfaces]\nlan = \"p1\"\nblue = \"{blue}\"\ngone = \"enp99s0\"\nvpn = \"wg+\"\n\n[[rules]]\nfrom = [\"lan\", \"blue\", \"gone\", \"vpn\"]\nservice = \"ssh\"\n"
    );
    fs::write(ns.path("ports.toml"), policy).unwrap();
    let [checked, applied, status] = said(&ns, "ports.toml");
    let mut wanted = vec!["enslaved-device", "missing-device", "missing-device"];
    let mut words = vec![
        "`p1` is a port of the bridge `br0`",
        "no device `enp99s0`",
        "no device `wg+`",
    ];
    if has_vrf {
        wanted.insert(0, "enslaved-device");
        words.push("`v1` is in the VRF `red`");
    }
    let sorted = |mut names: Vec<String>| {
        // Some kernels hand frames of bridges to iptables unless they are told otherwise.
        names.retain(|name| name != "bridge-netfilter");
        names.sort();
        names
    };
    assert_eq!(sorted(checked), wanted);
    assert_eq!(sorted(status), wanted);
    for words in words {
        let lines = applied.iter().filter(|line| line.contains(words));
        assert_eq!(lines.count(), 1, "{words}: {applied:?}");
    }
    // They are no drift.
    ns.kept(&["status"]).expect(0);
    Ok(())
}

/// Where the first process is in the same network namespace, and a systemd is asked that is none.
fn rules_that_nothing_loads_at_boot_are_said(backend: Backend) -> Result {
    let systemctl = find("systemctl")?;
    find("unshare")?;
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    let folder = ns.path("");
    let folder = folder.to_str().unwrap().trim_end_matches('/');
    let fake = format!(
        "#!/bin/sh\ncase $1 in\nis-enabled) grep -qx $2 {folder}/enabled && echo enabled ;;\ncat) cat {folder}/unit ;;\n*) exit 3 ;;\nesac\n"
    );
    fs::write(ns.path("systemctl"), fake).unwrap();
    fs::set_permissions(ns.path("systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
    let booted = |enabled: &str, unit: &str, arguments: &str| {
        fs::write(ns.path("enabled"), enabled).unwrap();
        fs::write(ns.path("unit"), unit).unwrap();
        let script = format!(
            "mount -t tmpfs none /run && mkdir -p /run/systemd/system && mount --bind {folder}/systemctl {} && {} {arguments} --persist-dir {folder}/iptables",
            systemctl.display(),
            env!("CARGO_BIN_EXE_fwc"),
        );
        let first = ["-p", "-f", "-m", "--mount-proc", "sh", "-c", &script];
        ns.run("unshare", &first, "")
    };
    let none = booted("", "", "status");
    if none.code == Some(32) {
        return Err(format!("nothing can be mounted here: {}", none.err));
    }
    let none = none.expect(2);
    assert!(none.out.contains("at boot: NOT loaded"), "{}", none.out);
    assert!(
        none.out.contains("systemctl enable fwc.service"),
        "{}",
        none.out
    );
    let report = booted("", "", "status --format json").expect(2);
    let report: Value = serde_json::from_str(&report.out).unwrap();
    assert_eq!(report["loaded_at_boot"], false);
    assert_eq!(report["as_applied"], true);
    assert_eq!(report["concerns"][0]["name"], "not-loaded-at-boot");
    let checked = booted("", "", "check --live web.toml").expect(0);
    assert!(
        checked.err.contains("nothing loads these rules"),
        "{}",
        checked.err
    );
    // The files are not where netfilter-persistent looks, and the unit has to name them.
    booted("netfilter-persistent.service\n", "", "status").expect(2);
    booted("fwc.service\n", "ExecStart=fwc recover --boot\n", "status").expect(2);
    let unit = format!("Environment=FWC_PERSIST_DIR={folder}/iptables\n");
    let fine = booted("fwc.service\n", &unit, "status").expect(0);
    assert!(!fine.out.contains("NOT loaded"), "{}", fine.out);
    // In a network namespace of another process nobody can know.
    ns.kept(&["status"]).expect(0);
    Ok(())
}

fn rules_that_iptables_misreads_are_said(backend: Backend) -> Result {
    if backend == Backend::Legacy {
        return Err("nft's rules are in iptables-nft's tables".to_owned());
    }
    let ns = Namespace::new(backend);
    let policy = "version = 1\n\n[ownership]\nmode = \"shared\"\n\n[[rules]]\nservice = \"ssh\"\n";
    fs::write(ns.path("shared.toml"), policy).unwrap();
    // Their own sets and ranges are none.
    ns.iptables(
        "iptables",
        &[
            "-A",
            "INPUT",
            "-p",
            "tcp",
            "-m",
            "multiport",
            "--dports",
            "22,80",
            "-j",
            "ACCEPT",
        ],
    );
    ns.iptables(
        "iptables",
        &[
            "-A", "INPUT", "-p", "tcp", "--dport", "22:80", "-j", "ACCEPT",
        ],
    );
    ns.apply("shared.toml", &[]).expect(0);
    let status = ns.kept(&["status"]).expect(0);
    assert!(!status.out.contains("beware:"), "{}", status.out);
    let rule = "add rule ip filter INPUT tcp dport { 22, 80 } counter accept\n";
    ns.run("nft", &["-f", "-"], rule).expect(0);
    let more = format!("{policy}\n[[rules]]\nservice = \"http\"\n");
    fs::write(ns.path("more.toml"), more).unwrap();
    let [checked, _, status] = said(&ns, "more.toml");
    assert_eq!(checked, ["misread-nft"]);
    assert_eq!(status, ["misread-nft"]);
    Ok(())
}

fn what_is_said_of_live_rules_says_what_it_does_not_cover(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    let table =
        "table inet own {\n chain in {\n type filter hook input priority 0; policy drop;\n }\n}\n";
    ns.run("nft", &["-f", "-"], table).expect(0);
    let looks: [&[&str]; 3] = [
        &["explain", "--live", "--in", "eth0", "--service", "ssh"],
        &["diff", "ssh.toml"],
        &["matrix", "--live", "--service", "22/tcp"],
    ];
    for arguments in looks {
        let said = ns.fwc(arguments);
        assert!(
            said.err
                .contains("warning: the nftables chain `in` of `table inet own`"),
            "{arguments:?}: {}{}",
            said.out,
            said.err
        );
    }
    Ok(())
}

fn files_that_others_saved_are_said(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    let program = format!("iptables-{backend}-save");
    let saved = ns.run(&program, &[], "").expect(0).out;
    fs::write(ns.path("iptables/rules.v4"), saved).unwrap();
    let status = ns.kept(&["status"]).expect(2);
    assert!(
        status.out.contains("was written by iptables-save"),
        "{}",
        status.out
    );
    let checked = ns.kept(&["check", "--live", "ssh.toml"]).expect(0);
    assert!(
        checked
            .err
            .contains("rules.v4 was written by iptables-save"),
        "{}",
        checked.err
    );
    let applied = ns.apply("ssh.toml", &[]).expect(0);
    assert!(
        applied
            .err
            .contains("rules.v4 was written by iptables-save"),
        "{}",
        applied.err
    );
    let again = ns.apply("ssh.toml", &[]).expect(0);
    assert!(!again.err.contains("warning"), "{}", again.err);
    Ok(())
}

fn rules_before_ours_are_said(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let policy = "version = 1\n\n[ownership]\nmode = \"shared\"\n\n[[rules]]\nservice = \"ssh\"\n";
    fs::write(ns.path("shared.toml"), policy).unwrap();
    let others = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:f2b-sshd - [0:0]\n:DOCKER-USER - [0:0]\n-A INPUT -p tcp -m tcp --dport 22 -j DROP\n-A INPUT -j f2b-sshd\n-A f2b-sshd -s 203.0.113.9/32 -j DROP\n-A DOCKER-USER -s 203.0.113.9/32 -j DROP\nCOMMIT\n";
    ns.restore("iptables", others).expect(0);
    let [checked, applied, status] = said(&ns, "shared.toml");
    assert_eq!(checked, ["docker-user-unused", "foreign-first"]);
    assert_eq!(status, checked);
    let first = applied
        .iter()
        .find(|line| line.contains("comes before fwc's rules"));
    let words = "`-A INPUT -p tcp -m tcp --dport 22 -j DROP` comes before fwc's rules and decides first; it shadows `-A FWC-INPUT -p tcp -m tcp --dport 22 ";
    assert!(
        first.is_some_and(|line| line.contains(words)),
        "{applied:?}"
    );
    Ok(())
}

fn published_ports_are_said(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.net().ip([
        "link add eth0 type veth peer name eth0-peer",
        "addr add 192.0.2.1/24 dev eth0",
        "link set eth0-peer up",
        "link set eth0 up",
        "route add default via 192.0.2.254",
        "link add docker0 type veth peer name docker0-peer",
        "addr add 172.17.0.1/16 dev docker0",
        "link set docker0-peer up",
        "link set docker0 up",
    ])?;
    ns.net().sysctl(&[("ipv4/ip_forward", "1")])?;
    let others = "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80\nCOMMIT\n*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:DOCKER - [0:0]\n-A FORWARD -o docker0 -j DOCKER\n-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT\nCOMMIT\n";
    ns.restore("iptables", others).expect(0);
    let policy = |defaults: &str, more: &str| {
        format!(
            "version = 1\n\n[ownership]\nmode = \"shared\"\n\n[defaults]\ninput = \"drop\"\n{defaults}\n[interfaces]\nwan = \"eth0\"\ndocker = \"docker0\"\n\n[[rules]]\nservice = \"ssh\"\n{more}"
        )
    };
    fs::write(ns.path("host.toml"), policy("", "")).unwrap();
    let [checked, applied, status] = said(&ns, "host.toml");
    assert_eq!(checked, ["published-port"]);
    assert_eq!(status, checked);
    let words = "IPv4: port 8080/tcp is forwarded to 172.17.0.2:80 by `-A DOCKER ! -i docker0";
    assert!(applied[0].contains(words), "{applied:?}");
    assert!(applied[0].contains("(of Docker)"), "{applied:?}");
    // A policy that means what is forwarded, too.
    fs::write(ns.path("closed.toml"), policy("forward = \"drop\"\n", "")).unwrap();
    let [checked, ..] = said(&ns, "closed.toml");
    assert_eq!(checked, [""; 0]);
    // One that means the port to be open.
    fs::write(
        ns.path("open.toml"),
        policy("", "\n[[rules]]\nservice = \"8080/tcp\"\n"),
    )
    .unwrap();
    let [checked, ..] = said(&ns, "open.toml");
    assert_eq!(checked, [""; 0]);
    Ok(())
}

fn held_lock_names_its_holder(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    let before = ns.saved();
    let lock = File::options()
        .append(true)
        .create(true)
        .open(ns.path("xtables.lock"))
        .unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let begun = Instant::now();
    let ended = ns.apply("web.toml", &[]);
    if backend == Backend::Nft {
        ended.expect(0);
        return Ok(());
    }
    let refused = ended.expect(1);
    let holder = format!(
        "(process {}) holds the lock of iptables' tools",
        std::process::id()
    );
    assert!(refused.err.contains(&holder), "{}", refused.err);
    assert!(begun.elapsed().as_secs() >= 9, "it did not wait");
    assert_eq!(ns.saved(), before);
    // Let go while fwc waits: it goes on.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| ns.apply("web.toml", &[]));
        std::thread::sleep(std::time::Duration::from_secs(1));
        drop(lock);
        waiting.join().unwrap().expect(0);
    });
    assert_ne!(ns.saved(), before);
    Ok(())
}
