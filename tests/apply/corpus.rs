//! Real rulesets of Docker, Kubernetes, Calico and libvirt, found through FWC_CORPUS.

use std::env;
use std::fs;
use std::path::Path;

use super::Test;
use super::namespace::{Backend, Namespace};

pub const TESTS: &[(&str, Test)] = &[(
    "refuses_real_rulesets_of_others",
    refuses_real_rulesets_of_others,
)];

/// What marks a ruleset as one of a tool that fwc must know.
const MARKS: [&str; 7] = [
    ":DOCKER",
    ":f2b-",
    ":KUBE-",
    ":cali-",
    ":LIBVIRT_",
    ":ts-",
    ":NETAVARK",
];

fn refuses_real_rulesets_of_others(backend: Backend) -> Result<(), String> {
    let corpus = env::var_os("FWC_CORPUS").ok_or("FWC_CORPUS is not set")?;
    let mut paths: Vec<_> = fs::read_dir(Path::new(&corpus).join("dumps"))
        .map_err(|error| format!("FWC_CORPUS has no dumps: {error}"))?
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let mut seen = 0;
    for path in paths {
        // Some are no UTF-8, and none of those is wanted.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        if !MARKS.iter().any(|mark| text.contains(mark)) {
            continue;
        }
        let tool = if path.extension().is_some_and(|end| end == "v6") {
            "ip6tables"
        } else {
            "iptables"
        };
        let ns = Namespace::new(backend);
        // Some are cut out of documents, or need sets that are not here.
        if ns.restore(tool, &text).code != Some(0) {
            continue;
        }
        let before = ns.saved();
        let refused = ns.apply("web.toml", &[]).expect(1);
        let name = path.display();
        assert!(
            refused.err.contains("rules that fwc did not make"),
            "{name}: {}",
            refused.err
        );
        let known = [
            "Docker:",
            "Kubernetes:",
            "Calico:",
            "libvirt:",
            "fail2ban:",
            "netavark",
        ];
        assert!(
            known.iter().any(|owner| refused.err.contains(owner)),
            "{name}: {}",
            refused.err
        );
        assert_eq!(ns.saved(), before, "{name}");
        assert!(ns.rules_files().is_empty(), "{name}");
        seen += 1;
    }
    assert!(seen >= 10, "only {seen} rulesets loaded");
    Ok(())
}
