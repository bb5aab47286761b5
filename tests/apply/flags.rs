//! What a user may insist on: plans that are kept, strays that stay, rules that nobody tried.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::Test;
use super::namespace::{Backend, Ended, Namespace};

pub const TESTS: &[(&str, Test)] = &[
    (
        "plan_that_was_kept_is_applied",
        plan_that_was_kept_is_applied,
    ),
    (
        "plan_that_is_not_so_any_more_is_refused",
        plan_that_is_not_so_any_more_is_refused,
    ),
    (
        "plan_that_somebody_changed_is_refused",
        plan_that_somebody_changed_is_refused,
    ),
    ("plan_looks_at_own_parts_only", plan_looks_at_own_parts_only),
    ("keep_stray_stops", keep_stray_stops),
    (
        "no_rehearse_where_nothing_can_be_rehearsed",
        no_rehearse_where_nothing_can_be_rehearsed,
    ),
];

type Result = std::result::Result<(), String>;

fn save_plan(ns: &Namespace, policy: &str) -> Ended {
    ns.apply(policy, &["--dry-run", "--save-plan", "plan.json"])
        .expect(2)
}

fn plan_that_was_kept_is_applied(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    let before = ns.saved();
    save_plan(&ns, "web.toml");
    assert_eq!(ns.saved(), before);
    let mode = fs::metadata(ns.path("plan.json"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    ns.apply("web.toml", &["--plan", "plan.json"]).expect(0);
    assert!(ns.saved().contains("--dport 80 "));
    // It is done: live is not what it was made of any more.
    let again = ns.apply("web.toml", &["--plan", "plan.json"]).expect(1);
    assert!(
        again.err.contains("no longer what the plan was made for"),
        "{}",
        again.err
    );
    Ok(())
}

fn plan_that_is_not_so_any_more_is_refused(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    save_plan(&ns, "web.toml");
    // Another policy.
    let changed = fs::read_to_string(ns.path("web.toml"))
        .unwrap()
        .replace("http", "https");
    fs::write(ns.path("other.toml"), changed).unwrap();
    let before = ns.saved();
    let refused = ns.apply("other.toml", &["--plan", "plan.json"]).expect(1);
    assert!(
        refused.err.contains("no longer gives the planned rules"),
        "{}",
        refused.err
    );
    assert!(
        refused.err.contains("+-A INPUT -p tcp -m tcp --dport 443 "),
        "{}",
        refused.err
    );
    assert_eq!(ns.saved(), before);
    // Another live firewall.
    ns.iptables(
        "iptables",
        &["-A", "FORWARD", "-s", "192.0.2.7", "-j", "DROP"],
    );
    let before = ns.saved();
    let refused = ns.apply("web.toml", &["--plan", "plan.json"]).expect(1);
    assert!(
        refused.err.contains("no longer what the plan was made for"),
        "{}",
        refused.err
    );
    assert!(
        refused.err.contains("+-A FORWARD -s 192.0.2.7/32 -j DROP"),
        "{}",
        refused.err
    );
    assert_eq!(ns.saved(), before);
    Ok(())
}

fn plan_that_somebody_changed_is_refused(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    save_plan(&ns, "web.toml");
    let before = ns.saved();
    let path = ns.path("plan.json");
    let text = fs::read_to_string(&path).unwrap();
    let tampered = [
        text.replace("--dport 80 ", "--dport 81 "),
        text.replacen("--dport 22 ", "--dport 23 ", 1),
        text.replace("fwc.plan/1", "fwc.plan/9"),
        text.replacen('{', "{\"more\": 1,", 1),
        text[..text.len() / 2].to_owned(),
        String::new(),
    ];
    for tampered in tampered {
        assert_ne!(tampered, text);
        fs::write(&path, &tampered).unwrap();
        let refused = ns.apply("web.toml", &["--plan", "plan.json"]).expect(1);
        assert!(!refused.err.is_empty());
        assert_eq!(ns.saved(), before, "{}", refused.err);
    }
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let refused = ns.apply("web.toml", &["--plan", "plan.json"]).expect(1);
    assert!(
        refused.err.contains("others can write it"),
        "{}",
        refused.err
    );
    assert_eq!(ns.saved(), before);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    ns.apply("web.toml", &["--plan", "plan.json"]).expect(0);
    Ok(())
}

/// What others do between plan and apply is none of its business.
fn plan_looks_at_own_parts_only(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let shared = "version = 1\n\n[ownership]\nmode = \"shared\"\n\n[[rules]]\nservice = \"ssh\"\n";
    fs::write(ns.path("shared.toml"), shared).unwrap();
    ns.iptables("iptables", &["-N", "f2b-sshd"]);
    ns.iptables("iptables", &["-A", "INPUT", "-j", "f2b-sshd"]);
    save_plan(&ns, "shared.toml");
    ns.iptables(
        "iptables",
        &["-A", "f2b-sshd", "-s", "203.0.113.9", "-j", "DROP"],
    );
    ns.iptables(
        "iptables",
        &["-I", "FORWARD", "-s", "203.0.113.9", "-j", "DROP"],
    );
    ns.apply("shared.toml", &["--plan", "plan.json"]).expect(0);
    let saved = ns.saved_family("iptables");
    assert_eq!(
        saved.matches("203.0.113.9/32 -j DROP").count(),
        2,
        "{saved}"
    );
    assert!(saved.contains("-A INPUT -j FWC-INPUT\n"), "{saved}");
    Ok(())
}

fn keep_stray_stops(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    ns.iptables(
        "iptables",
        &["-A", "INPUT", "-s", "192.0.2.7", "-j", "DROP"],
    );
    let before = ns.saved();
    let refused = ns.apply("web.toml", &["--keep-stray"]).expect(1);
    for words in ["-A INPUT -s 192.0.2.7/32 -j DROP", "without --keep-stray"] {
        assert!(refused.err.contains(words), "{words}: {}", refused.err);
    }
    assert_eq!(ns.saved(), before);
    let done = ns.apply("web.toml", &[]).expect(0);
    assert!(
        done.out
            .contains("removed (added by hand, or by an unknown tool): "),
        "{}",
        done.out
    );
    ns.apply("ssh.toml", &["--keep-stray"]).expect(0);
    Ok(())
}

/// Where a container's root may make no network namespace: with nft in a user namespace that may have no further one. Legacy rules
/// cannot be read there, so for them it is root without that privilege, in a changed root folder, who may make no user namespace.
fn no_rehearse_where_nothing_can_be_rehearsed(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let apply = format!(
        "{} apply ssh.toml --yes --persist-dir iptables",
        env!("CARGO_BIN_EXE_fwc")
    );
    let limit = "echo 0 > /proc/sys/user/max_net_namespaces";
    let confined = |script: &str| match backend {
        Backend::Nft => ns.run("unshare", &["-Urn", "--", "sh", "-c", script], ""),
        Backend::Legacy => {
            let here = ns.path("");
            let outer = "mkdir -p root && mount --rbind / root && exec chroot root setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin -- sh -c \"cd $0 && $1\"";
            let arguments = [
                "-m",
                "--",
                "sh",
                "-c",
                outer,
                here.to_str().unwrap(),
                script,
            ];
            ns.run("unshare", &arguments, "")
        }
    };
    let inside = |arguments: &str, then: &str| match backend {
        Backend::Nft => confined(&format!("{limit} && {apply} {arguments} && {then}")),
        Backend::Legacy => confined(&format!("{apply} {arguments} && {then}")),
    };
    let possible = confined(match backend {
        Backend::Nft => limit,
        Backend::Legacy => "! unshare --net --user true",
    });
    if possible.code != Some(0) {
        return Err(format!("nobody can be confined here: {}", possible.err));
    }
    let refused = inside("", "true");
    assert_eq!(refused.code, Some(1), "{}{}", refused.out, refused.err);
    for words in ["cannot make a scratch network namespace", "--no-rehearse"] {
        assert!(refused.err.contains(words), "{words}: {}", refused.err);
    }
    let done = inside("--no-rehearse", &format!("iptables-{backend}-save")).expect(0);
    assert!(done.err.contains("were not tried first"), "{}", done.err);
    assert!(
        done.out.contains("-A INPUT -p tcp -m tcp --dport 22 "),
        "{}",
        done.out
    );
    // Where it is possible it is done, and nothing is said.
    let done = ns.apply("web.toml", &["--no-rehearse"]).expect(0);
    assert!(!done.err.contains("were not tried first"), "{}", done.err);
    Ok(())
}
