//! The packet engine against brute force, the plain walker and real rulesets.

mod corpus;
mod oxidd;
mod packets;
mod random;
mod rules;
mod sets;
mod walked;
