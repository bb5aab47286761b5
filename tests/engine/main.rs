//! The packet engine against brute force, the plain walker and real rulesets.

mod corpus;
mod packets;
mod random;
mod sets;
mod walked;
