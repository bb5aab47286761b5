//! A router of 5,500 rules in 90 chains, with a MAC address for each host: an answer where hundreds of its rules change.

use std::collections::BTreeMap;

use fwc::analysis::{Limits, Space, Vocabulary};
use fwc::diff::{self, ComparedRules};
use fwc::iptables::Ruleset;
use fwc::net::Family;

use crate::shapes::office;

fn router(changed: usize) -> Ruleset {
    Ruleset::from_text(&office(changed), Family::V4).unwrap()
}

#[test]
fn many_changes_are_said() {
    let (one, two) = (router(0), router(300));
    let space = Space::for_rules(Family::V4, [&one, &two]);
    let nothing = BTreeMap::new();
    let side = |ruleset| ComparedRules {
        ruleset,
        members: &nothing,
        origin: None,
    };
    let changed = diff::rules(&one, &two, &|_, _| false);
    let vocabulary = Vocabulary::new(&space);
    let limits = Limits::default();
    let changes = diff::packets(&vocabulary, side(&one), side(&two), &changed, limits).unwrap();
    assert!(changes.len() > 10, "{}", changes.len());
    for change in &changes {
        let boxes = &change.boxes;
        assert!(!boxes.is_empty() && boxes.len() <= limits.shown);
        let is_said = |one: &diff::ChangedBox| !(one.before.is_empty() && one.after.is_empty());
        assert!(boxes.iter().all(is_said), "{change:#?}");
    }
}
