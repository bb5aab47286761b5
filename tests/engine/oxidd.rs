//! The same expressions in oxidd's binary diagrams: two sets are equal here exactly when they are there.

use fwc::analysis::Field;
use fwc::net::Family;
use oxidd::bdd::{BDDFunction, BDDManagerRef, new_manager};
use oxidd::{BooleanFunction, Manager, ManagerRef};
use proptest::prelude::*;

use crate::sets::{CLASSES, Expression as E, FIELDS, build, expression, space};

/// Bits for the classes of one field's values.
const BITS: u32 = 3;

fn classes(field: Field) -> Vec<u128> {
    let last = field.last(Family::V6);
    CLASSES.into_iter().filter(|value| *value <= last).collect()
}

/// Numbers beyond the last class mean the last class, so that every assignment is a point.
fn values(manager: &BDDManagerRef, field: usize, intervals: &[(u128, u128)]) -> BDDFunction {
    let classes = classes(FIELDS[field]);
    let first = BITS * field as u32;
    manager.with_manager_shared(|manager| {
        let mut set = BDDFunction::f(manager);
        for number in 0..1usize << BITS {
            let value = classes[number.min(classes.len() - 1)];
            if !intervals
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&value))
            {
                continue;
            }
            let mut cube = BDDFunction::t(manager);
            for bit in 0..BITS {
                let literal = match number >> bit & 1 {
                    1 => BDDFunction::var(manager, first + bit),
                    _ => BDDFunction::not_var(manager, first + bit),
                };
                cube = cube.and(&literal.unwrap()).unwrap();
            }
            set = set.or(&cube).unwrap();
        }
        set
    })
}

fn theirs(manager: &BDDManagerRef, expression: &E) -> BDDFunction {
    let theirs = |expression| theirs(manager, expression);
    match expression {
        E::Values(field, intervals) => values(manager, *field, intervals),
        E::Not(a) => theirs(a).not().unwrap(),
        E::And(a, b) => theirs(a).and(&theirs(b)).unwrap(),
        E::Or(a, b) => theirs(a).or(&theirs(b)).unwrap(),
        E::Minus(a, b) => theirs(a).and(&theirs(b).not().unwrap()).unwrap(),
        E::Ite(a, b, c) => theirs(a).ite(&theirs(b), &theirs(c)).unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn equal_here_is_equal_there(expressions in prop::collection::vec(expression(), 2..6)) {
        let space = space();
        let manager = new_manager(1 << 16, 1 << 12, 1);
        let count = BITS * FIELDS.len() as u32;
        manager.with_manager_exclusive(|manager| manager.add_vars(count));
        let both: Vec<_> = expressions
            .iter()
            .map(|expression| (build(&space, expression).unwrap(), theirs(&manager, expression)))
            .collect();
        for (one, their_one) in &both {
            for (two, their_two) in &both {
                prop_assert_eq!(one == two, their_one == their_two);
                let subset = space.is_subset(*one, *two).unwrap();
                let outside = their_one.and(&their_two.not().unwrap()).unwrap();
                prop_assert_eq!(subset, !outside.satisfiable());
            }
        }
    }
}
