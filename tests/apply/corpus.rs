//! Real rulesets of Docker, Kubernetes, Calico and libvirt, found through FWC_CORPUS.

use std::env;
use std::fs;
use std::path::Path;

use super::Test;
use super::namespace::{Backend, Namespace};

pub const TESTS: &[(&str, Test)] = &[
    (
        "refuses_real_rulesets_of_others",
        refuses_real_rulesets_of_others,
    ),
    (
        "keeps_real_rulesets_of_others",
        keeps_real_rulesets_of_others,
    ),
];

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

/// Each of these rulesets, live in a namespace of its own.
fn live(backend: Backend) -> Result<Vec<(String, Namespace)>, String> {
    let corpus = env::var_os("FWC_CORPUS").ok_or("FWC_CORPUS is not set")?;
    let mut paths: Vec<_> = fs::read_dir(Path::new(&corpus).join("dumps"))
        .map_err(|error| format!("FWC_CORPUS has no dumps: {error}"))?
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let mut found = Vec::new();
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
        if ns.restore(tool, &text).code == Some(0) {
            found.push((path.display().to_string(), ns));
        }
    }
    assert!(found.len() >= 10, "only {} rulesets loaded", found.len());
    Ok(found)
}

fn refuses_real_rulesets_of_others(backend: Backend) -> Result<(), String> {
    for (name, ns) in live(backend)? {
        let before = ns.saved();
        let refused = ns.apply("web.toml", &[]).expect(1);
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
    }
    Ok(())
}

/// In shared mode not a byte of theirs changes, counters and order included.
fn keeps_real_rulesets_of_others(backend: Backend) -> Result<(), String> {
    let shared = "version = 1\n\n[ownership]\nmode = \"shared\"\n\n[[rules]]\nservice = \"ssh\"\n";
    for (name, ns) in live(backend)? {
        fs::write(ns.path("shared.toml"), shared).unwrap();
        let others = || -> Vec<String> {
            let families = super::namespace::TOOLS.map(|tool| {
                let saved = ns.saved_family(tool);
                let lines = saved.lines().filter(|line| !line.contains("FWC-"));
                let text: String = lines.flat_map(|line| [line, "\n"]).collect();
                let mut tables: Vec<_> = text.split("COMMIT\n").map(str::to_owned).collect();
                // A table that a load merely made says nothing.
                tables.retain(|table| table.contains("-A ") || table.contains(" - ["));
                tables.sort();
                tables
            });
            families.into_iter().flatten().collect()
        };
        let ours = || ns.saved().matches("FWC-").count();
        let before = others();
        for (arguments, is_ours) in [
            (&["apply", "shared.toml", "--confirm"][..], true),
            (&["recover"], true),
            (&["rollback"], false),
            (&["apply", "shared.toml", "--yes"], true),
            (&["recover", "--boot"], true),
            (&["rollback", "--yes"], false),
        ] {
            let ended = ns.kept(arguments);
            assert_eq!(ended.code, Some(0), "{name}: {arguments:?}: {}", ended.err);
            assert_eq!(ours() > 0, is_ours, "{name}: {arguments:?}");
            assert_eq!(others(), before, "{name}: {arguments:?}");
        }
    }
    Ok(())
}
