//! Rehearsals without a scratch network namespace, if none can be made and the user insists (`--no-rehearse`).

use super::error::Error;
use super::rulesets::parse_file;
use crate::iptables::Ruleset;
use crate::live::{Payload, Rehearsed};
use crate::net::Family;

/// Returns the rules in the kernel's form as fwc predicts it. Whether the kernel agrees shows after the commit, when they are read
/// back.
pub(super) fn printed(payload: &Payload) -> Result<Rehearsed, Error> {
    let mut printed = Rehearsed {
        sets: payload.sets.clone(),
        ..Rehearsed::default()
    };
    for family in Family::ALL {
        let Some(text) = &payload.rules[family] else {
            continue;
        };
        let read = Ruleset::from_text(text, family);
        let text = match read {
            Ok(ruleset) => ruleset.to_string(),
            Err(invalid) => return Err(Error::Unrehearsed(invalid.to_string())),
        };
        printed.rules[family] = Some(parse_file(family, &text)?);
    }
    Ok(printed)
}
