//! Compares ipsets by their members.

use std::collections::{BTreeMap, BTreeSet};

use super::Difference;

/// A set that differs.
pub struct SetDiff {
    pub name: String,
    /// `added`, `removed`, `changed`, or `made anew` if its type or options differ: ipset cannot change these of a set that exists.
    pub change: &'static str,
    /// Type and options before and after, if they differ.
    pub header: Option<[String; 2]>,
    pub added: Vec<String>,
    pub removed: Vec<String>,
}

/// Returns the sets that differ, by name.
pub fn sets(difference: &Difference<'_>) -> Vec<SetDiff> {
    let Some([from, to]) = &difference.sets else {
        return Vec::new();
    };
    let (from, to) = (read_sets(from), read_sets(to));
    let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let one = |name: &String| {
        let (before, after) = (from.get(name), to.get(name));
        let change = match (before, after) {
            (None, _) => "added",
            (_, None) => "removed",
            (Some(before), Some(after)) if before.0 != after.0 => "made anew",
            _ => "changed",
        };
        let header = match (before, after) {
            (Some(before), Some(after)) if before.0 != after.0 => {
                Some([before.0.clone(), after.0.clone()])
            }
            _ => None,
        };
        let members = |side: Option<&Members>| side.map(|side| side.1.clone()).unwrap_or_default();
        let (before, after) = (members(before), members(after));
        let list = |one: &BTreeSet<String>, other: &BTreeSet<String>| -> Vec<String> {
            one.difference(other).cloned().collect()
        };
        SetDiff {
            name: name.clone(),
            change,
            header,
            added: list(&after, &before),
            removed: list(&before, &after),
        }
    };
    let differs = |name: &&String| from.get(*name) != to.get(*name);
    names.into_iter().filter(differs).map(one).collect()
}

/// The header (type and options) and the members of a set.
type Members = (String, BTreeSet<String>);

/// Parses text in the format of `ipset restore` that fwc itself has written.
fn read_sets(text: &str) -> BTreeMap<String, Members> {
    let mut sets: BTreeMap<String, Members> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.splitn(3, ' ');
        let (verb, name, rest) = (words.next(), words.next(), words.next());
        match (verb, name, rest) {
            (Some("create"), Some(name), Some(header)) => {
                sets.insert(name.to_owned(), (header.to_owned(), BTreeSet::new()));
            }
            (Some("add"), Some(name), Some(member)) => {
                if let Some((_, members)) = sets.get_mut(name) {
                    members.insert(member.to_owned());
                }
            }
            _ => {}
        }
    }
    sets
}
