//! Properties that hold for every rule.

use libtest_mimic::{Failed, Trial};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use fwc::diag::Sink;
use fwc::iptables::{Extensions, Print, Ruleset, parse};
use fwc::net::Family;
use fwc::source::SourceMap;

use crate::generate::{self, Rule, file};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "parse_after_print_is_identity",
            parse_after_print_is_identity,
        ),
        Trial::test(
            "normalising_again_changes_nothing",
            normalising_again_changes_nothing,
        ),
        Trial::test(
            "independent_options_may_change_places",
            independent_options_may_change_places,
        ),
        Trial::test(
            "no_text_makes_the_reader_panic",
            no_text_makes_the_reader_panic,
        ),
    ]
}

fn check<S: Strategy>(
    strategy: S,
    test: impl Fn(S::Value) -> Result<(), TestCaseError>,
) -> Result<(), Failed>
where
    S::Value: std::fmt::Debug,
{
    let config = Config {
        failure_persistence: None,
        ..Config::with_cases(500)
    };
    TestRunner::new(config)
        .run(&strategy, test)
        .map_err(|error| error.to_string().into())
}

fn any_family() -> impl Strategy<Value = (Family, Vec<Rule>)> {
    prop_oneof![Just(Family::V4), Just(Family::V6)].prop_flat_map(|family| {
        (
            Just(family),
            prop::collection::vec(generate::rule(family), 1..6),
        )
    })
}

fn read(rules: &[String], family: Family) -> Result<Ruleset, TestCaseError> {
    let text = file(rules);
    Ruleset::from_text(&text, family)
        .map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))
}

fn texts(rules: &[Rule]) -> Vec<String> {
    rules.iter().map(Rule::text).collect()
}

fn parse_after_print_is_identity() -> Result<(), Failed> {
    check(any_family(), |(family, rules)| {
        let ruleset = read(&texts(&rules), family)?;
        let text = ruleset.to_text(Print { counters: true });
        let again = Ruleset::from_text(&text, family)
            .map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        prop_assert_eq!(again.to_text(Print { counters: true }), text);
        prop_assert_eq!(again.normalised(), ruleset.normalised());
        Ok(())
    })
}

fn normalising_again_changes_nothing() -> Result<(), Failed> {
    check(any_family(), |(family, rules)| {
        let once = read(&texts(&rules), family)?.normalised();
        prop_assert_eq!(once.normalised(), once);
        Ok(())
    })
}

fn independent_options_may_change_places() -> Result<(), Failed> {
    let shuffled =
        any_family().prop_flat_map(|(family, rules)| (Just(family), Just(rules), any::<u64>()));
    check(shuffled, |(family, rules, seed)| {
        let other: Vec<_> = rules.iter().map(|rule| shuffle(rule, seed)).collect();
        let one = read(&texts(&rules), family)?;
        let two = read(&other, family)?;
        prop_assert!(one.is_same(&two), "{one}\n{two}");
        Ok(())
    })
}

/// The rule with its basic options anywhere between the modules, and each module's options in another order.
fn shuffle(rule: &Rule, mut seed: u64) -> String {
    let mut next = |below: usize| {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 33) as usize % below
    };
    let mut modules = rule.modules.clone();
    for module in &mut modules {
        for index in (1..module.options.len()).rev() {
            module.options.swap(index, next(index + 1));
        }
    }
    let mut words: Vec<_> = modules.iter().map(|module| module.text()).collect();
    for basic in &rule.basic {
        words.insert(next(words.len() + 1), basic.clone());
    }
    words.join(" ")
}

fn no_text_makes_the_reader_panic() -> Result<(), Failed> {
    let word = prop_oneof![
        5 => prop::sample::select(vec![
            "-A", "INPUT", "-j", "-m", "!", "-p", "tcp", "--dport", "-s", "1.2.3.4/", "comment", "--comment", "\"",
            "\\", ":", "*filter\n", "COMMIT\n", "\n", "[1:2]", "--", "-", "--hashlimit-upto", "hashlimit", "5b/s",
            "--u32", "u32", "policy", "--strict", "--next", "time", "--weekdays", "--tcp-flags", "--match-set", "set",
            "DNAT", "--to-destination", "[::]:", "-c", "-I", "-D", "-X", "-E", "string", "--hex-string", "|0",
        ]).prop_map(str::to_owned),
        2 => "[ -~]{0,8}",
        1 => any::<String>(),
    ];
    let text = prop::collection::vec(word, 0..40)
        .prop_map(|words| format!("*filter\n{}", words.join(" ")));
    check((text, any::<bool>()), |(text, v6)| {
        let mut sources = SourceMap::new();
        let file = sources.add("rules", text);
        let family = if v6 { Family::V6 } else { Family::V4 };
        for extensions in [Extensions::KnownOnly, Extensions::KeepUnknown] {
            let mut sink = Sink::new();
            let read = parse(file, &sources, family, extensions, &mut sink);
            prop_assert_eq!(read.is_none(), sink.has_errors());
        }
        Ok(())
    })
}
