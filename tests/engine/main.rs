//! The packet engine against brute force, the plain walker and real rulesets.

mod sets;
