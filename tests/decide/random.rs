//! scratch
use crate::generate::{Random, sample};
use fwc::diag::{Severity, Sink};
use fwc::files::Access;
use fwc::net::*;
use fwc::policy;
use fwc::resolve::resolve;
use fwc::source::SourceMap;
use libtest_mimic::Trial;
use std::collections::BTreeMap;

pub fn all() -> Vec<Trial> {
    vec![Trial::test("random::dump", || {
        dump();
        Ok(())
    })]
}

fn dump() {
    let n: u64 = std::env::var("N")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(200);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fwc.toml");
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    let mut out =
        std::io::BufWriter::new(std::fs::File::create("/tmp/scratch-decide/dump.jsonl").unwrap());
    let templates = fwc::expand::Templates::built_in().unwrap();
    for seed in 0..n {
        let mut random = Random(seed);
        let s = sample(&mut random);
        std::fs::write(&path, &s.text).unwrap();
        let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
        let p = policy::load(&path, Access::Read, &mut sources, &mut sink);
        let Some(plan) = p.as_ref().and_then(|p| resolve(p, &mut sink)) else {
            let first = sink
                .sorted()
                .into_iter()
                .find(|d| d.severity == Severity::Error)
                .unwrap();
            *refused
                .entry(format!(
                    "{} {}",
                    first.code.as_str(),
                    if first.code.as_str() == "conflict" || first.code.as_str() == "bad-service" {
                        first.message.clone()
                    } else {
                        String::new()
                    }
                ))
                .or_default() += 1;
            continue;
        };
        let p = p.unwrap();
        let rendered = fwc::expand::expand(&plan, &templates).unwrap();
        use std::io::Write;
        let packets: Vec<_> = (0..300).map(|_| s.packet(&mut random)).map(|q| {
            let d = policy::decide(&p, &q);
            serde_json::json!({"family": q.family.keyword(), "hook": q.hook.chain(), "in": q.in_device, "out": q.out_device, "source": q.source.to_string(), "destination": q.destination.to_string(), "protocol": q.protocol, "sport": q.source_port, "dport": q.destination_port, "icmp": q.icmp, "flags": q.tcp_flags.map(|f| f.0), "state": q.state.keyword(), "hl": q.hop_limit, "mark": q.mark,
             "verdict": format!("{:?}", d.verdict), "by": format!("{:?}", d.by), "logs": d.logs})
        }).collect();
        writeln!(out, "{}", serde_json::json!({"seed": seed, "text": s.text, "v4": rendered.0[Family::V4].text(), "v6": rendered.0[Family::V6].text(), "packets": packets})).unwrap();
    }
    println!("{refused:?}");
}
