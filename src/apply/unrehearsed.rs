//! Doing without a scratch namespace, where none can be made and the user insists.

use super::error::Error;
use crate::iptables::Ruleset;
use crate::live::{LiveRuleset, Payload, Rehearsed};
use crate::net::Family;

/// What the rules are as fwc itself writes them in the kernel's form: where nothing can be rehearsed. What the kernel makes of
/// them is seen when they are read back.
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
        let dump = LiveRuleset::parse(&text).map_err(|source| Error::Payload { family, source })?;
        printed.rules[family] = Some(dump);
    }
    Ok(printed)
}
