//! How long a proof of many rules takes: printed, with `FWC_SCALE` set to the number of rules.

use std::fmt::Write as _;
use std::time::Instant;

use fwc::internals::verify::{RenderedRules, Verifier};
use libtest_mimic::{Completion, Trial};

use crate::views::{compile, number};

/// The measurement.
pub fn all() -> Vec<Trial> {
    let rules = number("FWC_SCALE", 0);
    vec![Trial::ignorable_test("scale::proof", move || {
        if rules == 0 {
            return Ok(Completion::ignored_with(
                "FWC_SCALE does not say how many rules",
            ));
        }
        let mut text = String::from("version = 1\n");
        for rule in 0..rules {
            let (a, b, c) = (10 + rule / 65536 % 100, rule / 256 % 256, rule % 256);
            let port = 1024 + rule * 7 % 60000;
            let _ = write!(
                text,
                "[[rules]]\nsource = [\"{a}.{b}.{c}.0/25\", \"2001:db8:{rule:x}::/48\"]\nservice = \"{port}/tcp\"\n"
            );
        }
        let compiled = compile(&text).expect("a policy");
        let start = Instant::now();
        let read = RenderedRules::read(compiled.text.clone(), None).expect("rules");
        let parsed = start.elapsed();
        let proof = Verifier::new(&compiled.policy, &compiled.plan).prove(&read);
        let all = start.elapsed();
        println!(
            "{rules} rules of the policy, {} of iptables: read in {parsed:.2?}, proven in {all:.2?}, {} walked",
            proof.rules, proof.walked
        );
        assert!(proof.holds());
        Ok(Completion::Completed)
    })]
}
