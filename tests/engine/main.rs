//! The packet engine against brute force, the plain walker and real rulesets.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::print_stdout)]

mod boxes;
mod changes;
mod corpus;
mod explained;
mod matrix;
mod oxidd;
mod packets;
mod path;
mod random;
mod rules;
mod sets;
mod shadow;
mod walked;
mod ways;
