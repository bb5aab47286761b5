//! Chooses the order of the fields for the rules at hand. The order never changes an answer, only what it costs.

use super::field::MacPlace;
use super::space::Space;
use crate::iptables::{Match, Rule, Ruleset};
use crate::net::Family;

impl Space {
    /// Creates a space whose field order suits these rules: fields that the rules name together are neighbours, which
    /// keeps the diagrams small. Whatever the rules, the answers are the same as those of [`Space::new`].
    ///
    /// ```
    /// # use fwc::analysis::{Behaviour, Reading, Space};
    /// # use fwc::iptables::Ruleset;
    /// # use fwc::net::Family;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let text = "*filter\n-A INPUT -m mac --mac-source 02:00:00:00:00:01 -j ACCEPT\nCOMMIT\n";
    /// let ruleset = Ruleset::from_text(text, Family::V4)?;
    /// let space = Space::for_rules(Family::V4, [&ruleset]);
    /// let behaviour = Behaviour::of(&space, &ruleset, &Reading::default())?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn for_rules<'r>(family: Family, rules: impl IntoIterator<Item = &'r Ruleset>) -> Self {
        Self::ordered(family, mac_place(rules))
    }
}

/// Chooses the position of MAC addresses: right behind the source if most rules that name a MAC address name a source
/// too.
///
/// Measured on two benchmarks: the wrong choice costs 8 times the edges for hosts listed by address and MAC, and 2.7
/// times the steps for MAC addresses listed with destinations (docs/internals/engine.md, "The order of the fields").
fn mac_place<'r>(rules: impl IntoIterator<Item = &'r Ruleset>) -> MacPlace {
    let tables = rules.into_iter().flat_map(|ruleset| &ruleset.tables);
    let rules = tables
        .flat_map(|table| &table.chains)
        .flat_map(|chain| &chain.rules);
    let has = |rule: &Rule, wanted: fn(&Match) -> bool| rule.matches.iter().any(wanted);
    let with_mac = rules.filter(|rule| has(rule, |one| matches!(one, Match::Mac(_))));
    let (mut with_source, mut without) = (0, 0);
    for rule in with_mac {
        match has(rule, |one| matches!(one, Match::Source(_))) {
            true => with_source += 1,
            false => without += 1,
        }
    }
    // Counting is enough: the order only changes the cost, and no answer.
    match without > with_source {
        true => MacPlace::Last,
        false => MacPlace::BehindSource,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::analysis::{Behaviour, Reading};

    fn ruleset(rules: &str) -> Ruleset {
        let text = format!("*filter\n:FORWARD DROP [0:0]\n:hosts - [0:0]\n{rules}COMMIT\n");
        Ruleset::from_text(&text, Family::V4).unwrap()
    }

    /// Hosts by address and MAC address, in front of services that some of them may use.
    fn hosts() -> Ruleset {
        let mut rules = "-A FORWARD -j hosts\n".to_owned();
        for host in 1..100 {
            let mac = format!("-m mac --mac-source 02:00:00:00:00:{host:02x}");
            let _ = writeln!(rules, "-A hosts -s 10.0.0.{host} {mac} -j RETURN");
        }
        rules += "-A hosts -j DROP\n";
        for number in 1..100 {
            let (source, port) = (number * 16 % 256, 1000 + number);
            let _ = writeln!(
                rules,
                "-A FORWARD -s 10.0.0.{source}/28 -d 10.1.{number}.0/24 -p tcp --dport {port} -j ACCEPT"
            );
        }
        ruleset(&rules)
    }

    /// Places that some MAC addresses may or may not go to, among rules by source.
    fn places() -> Ruleset {
        let mut rules = String::new();
        for number in 0..200 {
            let (mac, to, from) = (number % 64, number * 37 % 256, number * 59 % 256);
            let verdict = if number % 3 == 0 { "DROP" } else { "ACCEPT" };
            let _ = writeln!(
                rules,
                "-A FORWARD -d 10.1.{to}.0/24 -m mac --mac-source 02:00:00:00:00:{mac:02x} -j {verdict}\n\
                 -A FORWARD -s 172.16.{from}.0/22 -d 10.1.{from}.0/24 -j {verdict}"
            );
        }
        ruleset(&rules)
    }

    #[test]
    fn the_order_is_the_one_that_takes_less() {
        for (rules, place, other) in [
            (hosts(), MacPlace::BehindSource, MacPlace::Last),
            (places(), MacPlace::Last, MacPlace::BehindSource),
        ] {
            assert_eq!(mac_place([&rules]), place);
            let [best, worst] = [place, other].map(|place| {
                let space = Space::ordered(Family::V4, place);
                Behaviour::of(&space, &rules, &Reading::default()).unwrap();
                space.size().1
            });
            assert!(2 * best < worst, "{place:?}: {best}, {worst} edges");
        }
    }
}
