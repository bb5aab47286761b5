//! The rendered files, read back for the comparison with the policy.

use std::collections::BTreeMap;

use crate::iptables::{ParseError, Ruleset};
use crate::net::{AddressRange, Family, IntervalSet, PerFamily, SetType};

/// Rendered rules files and ipsets, parsed.
#[derive(Clone, Debug)]
pub struct RenderedRules {
    pub(super) texts: PerFamily<String>,
    pub(super) rulesets: PerFamily<Ruleset>,
    pub(super) sets: BTreeMap<String, KernelSet>,
}

/// An error in a rendered file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// A rules file is not valid.
    #[error("the {0} rules, {1}")]
    Rules(Family, ParseError),
    /// A line (from 1) of the ipsets file is not valid.
    #[error("the ipsets file, line {0}: expected `create NAME TYPE ...` or `add NAME ADDRESS`")]
    Sets(usize),
}

/// An ipset as its file creates it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KernelSet {
    /// What its members are.
    pub kind: SetType,
    /// The family of its members.
    pub family: Family,
    /// The timeout of a member in seconds; `None` if members do not expire.
    pub timeout: Option<u32>,
    /// The maximum number of members.
    pub size: u32,
    /// The kernel counts the packets of each member.
    pub counters: bool,
    /// A member may have a comment.
    pub comments: bool,
    /// The members that the file adds.
    pub members: IntervalSet,
}

impl RenderedRules {
    /// Parses the texts of `rules.v4`, `rules.v6` and `ipsets`; the last is `None` if the policy has no sets.
    pub fn read(texts: PerFamily<String>, sets: Option<&str>) -> Result<Self, Unread> {
        let read = |family: Family| {
            let text = &texts[family];
            Ruleset::from_text(text, family).map_err(|invalid| Unread::Rules(family, invalid))
        };
        Ok(Self {
            rulesets: PerFamily {
                v4: read(Family::V4)?,
                v6: read(Family::V6)?,
            },
            sets: read_sets(sets.unwrap_or_default())?,
            texts,
        })
    }

    /// Returns the rules of a family.
    pub fn ruleset(&self, family: Family) -> &Ruleset {
        &self.rulesets[family]
    }
}

/// Parses the `create` and `add` lines of `ipset save` for sets of the types that fwc creates. Only `hash:net` has members.
fn read_sets(text: &str) -> Result<BTreeMap<String, KernelSet>, Unread> {
    let mut sets: BTreeMap<String, KernelSet> = BTreeMap::new();
    let mut added: BTreeMap<String, Vec<(u128, u128)>> = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split(' ').collect();
        let read = match words[..] {
            ["create", name, kind, ref options @ ..] => {
                let set = type_of(kind).and_then(|kind| created(kind, options));
                set.filter(|_| !sets.contains_key(name))
                    .map(|set| drop(sets.insert(name.to_owned(), set)))
            }
            ["add", name, member] => sets.get(name).and_then(|set: &KernelSet| {
                let range = AddressRange::parse(member).ok();
                let range = range.filter(|range| range.family == set.family)?;
                added
                    .entry(name.to_owned())
                    .or_default()
                    .push((range.first, range.last));
                Some(())
            }),
            _ => None,
        };
        read.ok_or(Unread::Sets(number))?;
    }
    for (name, members) in added {
        if let Some(set) = sets.get_mut(&name) {
            set.members = IntervalSet::from_intervals(members);
        }
    }
    Ok(sets)
}

fn type_of(word: &str) -> Option<SetType> {
    Some(match word {
        "hash:net" => SetType::Net,
        "hash:ip" => SetType::Address,
        "hash:net,port" => SetType::NetPort,
        "hash:ip,port" => SetType::AddressPort,
        _ => return None,
    })
}

/// Parses the options of a `create` line; `None` if one is unknown, because it could change what the set matches.
fn created(kind: SetType, options: &[&str]) -> Option<KernelSet> {
    /// `IPSET_DEFAULT_MAXELEM` of the kernel's `ip_set.h`.
    const DEFAULT_SIZE: u32 = 65_536;
    let (mut family, mut timeout, mut size) = (None, None, DEFAULT_SIZE);
    let (mut counters, mut comments) = (false, false);
    let mut options = options;
    while !options.is_empty() {
        options = match *options {
            ["family", "inet", ref rest @ ..] => {
                family = Some(Family::V4);
                rest
            }
            ["family", "inet6", ref rest @ ..] => {
                family = Some(Family::V6);
                rest
            }
            ["timeout", seconds, ref rest @ ..] => {
                timeout = Some(seconds.parse().ok()?);
                rest
            }
            ["maxelem", most, ref rest @ ..] => {
                size = most.parse().ok()?;
                rest
            }
            ["hashsize", _, ref rest @ ..] => rest,
            ["counters", ref rest @ ..] => {
                counters = true;
                rest
            }
            ["comment", ref rest @ ..] => {
                comments = true;
                rest
            }
            _ => return None,
        };
    }
    Some(KernelSet {
        kind,
        family: family?,
        timeout,
        size,
        counters,
        comments,
        members: IntervalSet::empty(),
    })
}
