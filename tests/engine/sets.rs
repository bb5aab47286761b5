//! Sets and verdicts against brute force over every value that makes a difference.

use std::collections::BTreeMap;

use fwc::analysis::{
    Budget, Field, Flow, GaveUp, RuleStep, Set, Space, Split, Translation, Verdict,
};
use fwc::iptables::{NatKind, NatTarget};
use fwc::net::{Family, IntervalSet};
use proptest::prelude::*;

/// Fields of each kind: in front, of bits, marks, opaque.
pub const FIELDS: [Field; 5] = [
    Field::Source,
    Field::DestinationPort,
    Field::TcpFlag(1),
    Field::Mark(3),
    Field::Opaque(0),
];
/// The ends of intervals, both ends of the number line among them.
const ENDS: [u128; 5] = [0, 1, 7, 0xffff, u128::MAX];
/// One value of every class that intervals with these ends can tell apart.
pub const CLASSES: [u128; 8] = [0, 1, 3, 7, 100, 0xffff, 0x1_0000, u128::MAX];

#[derive(Clone, Debug)]
pub enum Expression {
    Values(usize, Vec<(u128, u128)>),
    Not(Box<Expression>),
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
    Minus(Box<Expression>, Box<Expression>),
    Ite(Box<Expression>, Box<Expression>, Box<Expression>),
}
use Expression as E;

type Point = BTreeMap<Field, u128>;

fn points() -> Vec<Point> {
    let mut all = vec![Point::new()];
    for field in FIELDS {
        let last = field.last(Family::V6);
        let values: Vec<u128> = CLASSES.into_iter().filter(|value| *value <= last).collect();
        all = all
            .into_iter()
            .flat_map(|point| {
                values.iter().map(move |value| {
                    let mut point = point.clone();
                    point.insert(field, *value);
                    point
                })
            })
            .collect();
    }
    all
}

pub fn expression() -> impl Strategy<Value = Expression> {
    let point = || prop::sample::select(&ENDS[..]);
    let intervals = prop::collection::vec((point(), point()), 0..3);
    let leaf = (0..FIELDS.len(), intervals).prop_map(|(field, values)| E::Values(field, values));
    leaf.prop_recursive(5, 40, 3, |inner| {
        let one = || inner.clone().prop_map(Box::new);
        prop_oneof![
            one().prop_map(E::Not),
            (one(), one()).prop_map(|(a, b)| E::And(a, b)),
            (one(), one()).prop_map(|(a, b)| E::Or(a, b)),
            (one(), one()).prop_map(|(a, b)| E::Minus(a, b)),
            (one(), one(), one()).prop_map(|(a, b, c)| E::Ite(a, b, c)),
        ]
    })
}

pub fn build(space: &Space, expression: &Expression) -> Result<Set, GaveUp> {
    let build = |expression| build(space, expression);
    match expression {
        E::Values(field, values) => {
            let values = IntervalSet::from_intervals(values.iter().copied());
            space.values(FIELDS[*field], &values)
        }
        E::Not(a) => space.not(build(a)?),
        E::And(a, b) => space.and(build(a)?, build(b)?),
        E::Or(a, b) => space.or(build(a)?, build(b)?),
        E::Minus(a, b) => space.minus(build(a)?, build(b)?),
        E::Ite(a, b, c) => space.ite(build(a)?, build(b)?, build(c)?),
    }
}

fn holds(expression: &Expression, point: &Point) -> bool {
    match expression {
        E::Values(field, values) => {
            let value = point[&FIELDS[*field]];
            values
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&value))
        }
        E::Not(a) => !holds(a, point),
        E::And(a, b) => holds(a, point) && holds(b, point),
        E::Or(a, b) => holds(a, point) || holds(b, point),
        E::Minus(a, b) => holds(a, point) && !holds(b, point),
        E::Ite(a, b, c) => holds(if holds(a, point) { b } else { c }, point),
    }
}

pub fn space() -> Space {
    let space = Space::new(Family::V6);
    space.opaque("some condition").unwrap();
    space
}

/// All boxes of a set, from its splits.
fn boxes(space: &Space, set: Set, at: &Point) -> bool {
    match space.split(set) {
        Split::None => false,
        Split::All => true,
        Split::By(field, runs) => {
            let inside =
                |(first, last, _): &&(u128, u128, Set)| (*first..=*last).contains(&at[&field]);
            let run = runs.iter().find(inside).expect("runs are all values");
            boxes(space, run.2, at)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sets_are_what_their_expressions_say(one in expression(), two in expression()) {
        let space = space();
        let (first, second) = (build(&space, &one).unwrap(), build(&space, &two).unwrap());
        let mut same = true;
        let points = points();
        for point in &points {
            let wanted = holds(&one, point);
            prop_assert_eq!(space.contains(first, |field| point[&field]), wanted);
            prop_assert_eq!(boxes(&space, first, point), wanted);
            same &= wanted == holds(&two, point);
        }
        prop_assert_eq!(first == second, same);
        for (field, value) in points[points.len() / 2].iter() {
            let fixed = space.with(first, *field, *value).unwrap();
            prop_assert!(!space.support(fixed).contains(field));
            for point in &points {
                let mut moved = point.clone();
                moved.insert(*field, *value);
                prop_assert_eq!(
                    space.contains(fixed, |field| point[&field]),
                    holds(&one, &moved)
                );
            }
        }
    }

    #[test]
    fn laws_of_sets(one in expression(), two in expression()) {
        let space = space();
        let (one, two) = (build(&space, &one).unwrap(), build(&space, &two).unwrap());
        let not = space.not(one).unwrap();
        prop_assert_eq!(space.not(not).unwrap(), one);
        prop_assert_eq!(space.or(one, not).unwrap(), space.all());
        prop_assert_eq!(space.and(one, not).unwrap(), space.none());
        let common = space.and(one, two).unwrap();
        prop_assert!(space.is_subset(common, one).unwrap());
        prop_assert_eq!(space.or(common, space.minus(one, two).unwrap()).unwrap(), one);
        prop_assert_eq!(space.every([one, two]).unwrap(), common);
        prop_assert_eq!(space.any([one, two]).unwrap(), space.or(one, two).unwrap());
    }

    /// First match decides, marks change on the way, effects are seen by who gets there.
    #[test]
    fn flows_are_read_rule_by_rule(
        rules in prop::collection::vec((expression(), 0..8usize, 0..16u32, 0..16u32), 0..8)
    ) {
        let space = space();
        let verdicts = [Verdict::Accept, Verdict::Drop, Verdict::Nat(Translation::of(&NatTarget::new(NatKind::Redirect)))];
        let steps = rules.iter().map(|(expression, does, value, mask)| {
            let when = build(&space, expression).unwrap();
            match does {
                0..3 => RuleStep::verdict(when, verdicts[*does].clone()),
                3 => RuleStep::returns(when),
                4 | 5 => RuleStep::effect(when, if *does == 4 { "LOG a" } else { "LOG b" }),
                _ => RuleStep::set_mark(when, *value, *mask),
            }
        });
        let flow = Flow::from_rules(&space, steps.collect::<Vec<_>>()).unwrap();
        let ended = flow.with_policy(&space, Verdict::Drop).unwrap();
        for start in points() {
            let mut point = start.clone();
            for bit in 0..32 {
                point.entry(Field::Mark(bit)).or_insert(0);
            }
            let mark = |point: &Point| {
                (0..32).fold(0, |mark, bit| mark | (point[&Field::Mark(bit)] as u32) << bit)
            };
            let at = point.clone();
            let mut wanted = None;
            let mut returned = false;
            let mut effects = Vec::new();
            for (expression, does, value, mask) in &rules {
                if !holds(expression, &point) {
                    continue;
                }
                match does {
                    0..3 => wanted = Some(verdicts[*does].clone()),
                    3 => returned = true,
                    4 => effects.push("LOG a"),
                    5 => effects.push("LOG b"),
                    _ => {
                        let new = (mark(&point) & !mask) ^ value;
                        for bit in 0..32 {
                            point.insert(Field::Mark(bit), (new >> bit & 1).into());
                        }
                    }
                }
                if wanted.is_some() || returned {
                    break;
                }
            }
            let value = |field| at.get(&field).copied().unwrap_or(0);
            let (verdict, new) = space.verdict_of(flow.verdicts, value);
            prop_assert_eq!(&verdict, &wanted);
            if wanted != Some(Verdict::Drop) {
                prop_assert_eq!(new, mark(&point));
            }
            let end = space.verdict_of(ended.verdicts, value).0;
            prop_assert_eq!(end, Some(wanted.unwrap_or(Verdict::Drop)));
            for effect in ["LOG a", "LOG b"] {
                let set = flow.effects.get(effect).copied().unwrap_or(space.none());
                prop_assert_eq!(space.contains(set, value), effects.contains(&effect));
            }
        }
    }
}

#[test]
fn a_used_up_budget_is_an_error() {
    let odd = IntervalSet::from_intervals((0..500).map(|number| (2 * number, 2 * number)));
    let space = Space::with_budget(
        Family::V4,
        Budget {
            edges: 100,
            ..Budget::default()
        },
    );
    assert_eq!(space.sources(&odd), Err(GaveUp::TooLarge));
    let space = Space::with_budget(
        Family::V4,
        Budget {
            steps: 100,
            ..Budget::default()
        },
    );
    let both = space.sources(&odd).and_then(|set| space.not(set));
    assert_eq!(both, Err(GaveUp::TooLong));
}

#[test]
fn opaque_conditions_may_be_many() {
    // One under the other, as first-match makes them: deeper than any stack.
    let space = Space::new(Family::V4);
    let steps: Vec<RuleStep> = (0..20_000)
        .map(|number| space.opaque(&format!("limit {number}")).unwrap())
        .map(|when| RuleStep::verdict(when, Verdict::Accept))
        .collect();
    let flow = Flow::from_rules(&space, steps).unwrap();
    let accepted = space.decided(flow.verdicts, &Verdict::Accept).unwrap();
    assert_eq!(space.support(accepted).len(), 20_000);
}
