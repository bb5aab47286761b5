//! Real packets, real netfilter.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod counters;
mod frame;
mod lab;
mod probes;
#[path = "../support/mod.rs"]
mod support;

use fwc::net::PerFamily;
use std::collections::BTreeSet;
use support::tools::Backend;

fn main() {
    let root = std::path::PathBuf::from(std::env::var("FWC_PROBES").unwrap());
    let mut cases = vec![];
    for e in std::fs::read_dir(&root).unwrap() {
        let p = e.unwrap().path().join("probes.toml");
        if p.exists() {
            cases.push((p.clone(), probes::Case::read(&p).unwrap()));
        }
    }
    cases.sort_by_key(|c| c.0.clone());
    let devices: BTreeSet<String> = cases.iter().flat_map(|c| c.1.devices().cloned()).collect();
    std::thread::scope(|scope| {
        for backend in Backend::ALL {
            let (cases, devices) = (&cases, &devices);
            scope.spawn(move || {
                let t = std::time::Instant::now();
                let mut lab = lab::Lab::new(backend, devices).unwrap();
                println!("{backend} lab {:?}", t.elapsed());
                let text = std::fs::read_to_string("/tmp/scratch-kernel/smallest").unwrap();
                let text6 = std::fs::read_to_string("/tmp/scratch-kernel/smallest6").unwrap();
                for (path, case) in cases {
                    lab.load(&PerFamily { v4: text.clone(), v6: text6.clone() }).unwrap();
                    let small = path.display().to_string().contains("smallest-policy");
                    for probe in &case.probes {
                        let packet = probe.packet().unwrap();
                        match lab.judge(&packet) {
                            Ok(j) if small => println!("{} {} {}", probe.expect == j.verdict, j.verdict, j.matched.join(" | ")),
                            Ok(_) => {}
                            Err(e) => println!("{backend} {} {packet:?}: {e}", path.display()),
                        }
                    }
                }
                println!("{backend} done {:?}", t.elapsed());
            });
        }
    });
}
