//! The packet engine against brute force, the plain walker and real rulesets.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::print_stdout)]

mod boxes;
mod changes;
mod corpus;
mod explained;
mod large;
mod limits;
mod matrix;
mod oxidd;
mod packets;
mod path;
mod random;
mod rules;
mod sets;
mod shadow;
/// The rulesets of the benchmark, which has use for all of them.
#[path = "../../benches/engine/rules.rs"]
#[allow(dead_code)]
mod shapes;
mod walked;
mod ways;
mod written;
