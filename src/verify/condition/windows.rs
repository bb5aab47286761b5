//! Limits in sliding windows, read from the `recent` matches of a rule.

use std::net::IpAddr;

use super::rates::limit_named;
use super::{CountScope, Pace, RateLimit};
use crate::iptables::{Match, Module};
use crate::net::{Family, number_of};

impl RateLimit {
    /// Reads the limit that the first two of some matches are: `recent --set` records the packet, and `recent --rcheck` asks
    /// whether that many were recorded in the time. Also returns whether the second matches beyond the limit (without `!`).
    /// `None` for what no policy produces: other options, other lists, lists that do not belong to the family.
    pub(in crate::verify) fn of_window(matches: &[Match], family: Family) -> Option<(Self, bool)> {
        let [Match::Other(recorded), Match::Other(asked), ..] = matches else {
            return None;
        };
        let (record, same) = (List::of(recorded, family)?, List::of(asked, family)?);
        let is_plain = |module: &Module, known: &[&str]| {
            let mut settings = module.settings.iter();
            settings.all(|one| {
                let of_list = ["name", "mask", "rsource", "rdest"].contains(&one.name);
                of_list || known.contains(&one.name)
            })
        };
        let sets = recorded.setting("set").filter(|one| !one.negated);
        if record != same || sets.is_none() || !is_plain(recorded, &["set"]) {
            return None;
        }
        let check = asked.setting("rcheck")?;
        if !is_plain(asked, &["rcheck", "seconds", "hitcount"]) {
            return None;
        }
        let number = |name: &str| asked.setting(name)?.value.parse().ok();
        let limit = Self {
            pace: Pace::Window {
                hits: number("hitcount")?,
                seconds: number("seconds")?,
            },
            counted: record.counted,
            shared: limit_named(record.name, own_prefix(family)),
            forgotten_after: None,
        };
        Some((limit, !check.negated))
    }
}

/// A list of `recent` that belongs to fwc.
#[derive(PartialEq, Eq)]
struct List<'r> {
    name: &'r str,
    counted: CountScope,
}

impl<'r> List<'r> {
    fn of(module: &'r Module, family: Family) -> Option<Self> {
        let name = own_list(module)?;
        // Both families share the lists: a name in both would mix their addresses under the mask of one.
        if !name.starts_with(own_prefix(family)) {
            return None;
        }
        let mask: IpAddr = module.setting("mask")?.value.parse().ok()?;
        let bits = leading_bits(mask, family)?;
        let counted = match (module.setting("rsource"), module.setting("rdest")) {
            (Some(_), None) => CountScope::by_source(bits),
            (None, Some(_)) => CountScope {
                destination: Some(bits),
                ..CountScope::TOGETHER
            },
            _ => return None,
        };
        Some(Self { name, counted })
    }
}

/// Returns the prefix of the lists of a family.
fn own_prefix(family: Family) -> &'static str {
    match family {
        Family::V4 => "fwc4-",
        Family::V6 => "fwc6-",
    }
}

/// Returns the name of the list that a `recent` match uses, if it is one of fwc's own: no other rule may use such a name.
pub(in crate::verify) fn own_list(module: &Module) -> Option<&str> {
    let name = (module.name == "recent")
        .then(|| module.setting("name"))
        .flatten()?;
    let is_own = Family::ALL
        .iter()
        .any(|family| name.value.starts_with(own_prefix(*family)));
    is_own.then_some(&*name.value)
}

/// Returns the limit that the name of a table of `hashlimit` or `recent` shows, and the table, if several rules may count there.
pub(in crate::verify) fn shared_table(module: &Module, family: Family) -> Option<(String, &str)> {
    let (option, prefix) = match module.name {
        "hashlimit" => ("hashlimit-name", "fwc-"),
        "recent" => ("name", own_prefix(family)),
        _ => return None,
    };
    let table = &*module.setting(option)?.value;
    Some((limit_named(table, prefix)?, table))
}

/// Returns the number of leading ones of a mask; `None` if others follow, or if it is of another family.
fn leading_bits(mask: IpAddr, family: Family) -> Option<u8> {
    if Family::of(mask) != family {
        return None;
    }
    let unused = 128 - u32::from(family.bits());
    let number = number_of(mask) << unused;
    let ones = number.leading_ones();
    let is_mask = number.count_ones() == ones;
    u8::try_from(ones).ok().filter(|_| is_mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iptables::{Ruleset, TableName};

    fn read(options: &str, family: Family) -> Option<(RateLimit, bool)> {
        let text = format!("*filter\n-A INPUT {options} -j DROP\nCOMMIT\n");
        let ruleset = Ruleset::from_text(&text, family).unwrap();
        let chain = ruleset.table(TableName::Filter).unwrap().chain("INPUT");
        RateLimit::of_window(&chain.unwrap().rules[0].matches, family)
    }

    #[test]
    fn two_matches_are_a_window() {
        let window = |counted| RateLimit {
            pace: Pace::Window {
                hits: 6,
                seconds: 30,
            },
            counted,
            shared: None,
            forgotten_after: None,
        };
        let within = "-m recent --set --name fwc4-x -m recent ! --rcheck --seconds 30 --hitcount 6 --name fwc4-x";
        let by_source = window(CountScope::by_source(32));
        assert_eq!(read(within, Family::V4), Some((by_source.clone(), false)));
        assert_eq!(
            by_source.to_string(),
            "fewer than 6 packets in 30 s a source (/32)"
        );
        let beyond = within.replace("! ", "");
        assert_eq!(read(&beyond, Family::V4), Some((by_source, true)));
        let by_destination = "-m recent --set --name fwc6-x --mask ffff:ffff:ffff:ff00:: --rdest -m recent ! --rcheck --seconds 30 --hitcount 6 --name fwc6-x --mask ffff:ffff:ffff:ff00:: --rdest";
        let counted = CountScope {
            destination: Some(56),
            ..CountScope::TOGETHER
        };
        assert_eq!(
            read(by_destination, Family::V6),
            Some((window(counted), false))
        );
        for (from, to) in [
            ("--set", "! --set"),
            ("--set", "--update"),
            ("! --rcheck", "! --update"),
            (" --seconds 30", ""),
            (" --hitcount 6", ""),
            ("--hitcount 6", "--hitcount 6 --rttl"),
            ("6 --name fwc4-x", "6 --name fwc4-y"),
            ("6 --name fwc4-x", "6 --name fwc4-x --mask 255.255.255.0"),
            ("6 --name fwc4-x", "6 --name fwc4-x --rdest"),
        ] {
            assert_eq!(
                read(&within.replacen(from, to, 1), Family::V4),
                None,
                "{from}: {to}"
            );
        }
        for list in ["fwc6-x", "fwc-x", "x"] {
            assert_eq!(
                read(&within.replace("fwc4-x", list), Family::V4),
                None,
                "{list}"
            );
        }
        let odd = within.replace("fwc4-x", "fwc4-x --mask 255.0.255.0");
        assert_eq!(read(&odd, Family::V4), None);
    }
}
