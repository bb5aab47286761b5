//! fwc broken on purpose: the proof must see it, or the rules must do the same with every packet at the borders.

mod judge;
mod made;
mod makes;
mod many;
mod policies;
mod rules;
mod templates;
mod tokens;

use libtest_mimic::Trial;

/// The tests.
pub fn all() -> Vec<Trial> {
    let mut tests = rules::all();
    tests.extend(templates::all());
    tests.extend(made::all());
    tests
}
