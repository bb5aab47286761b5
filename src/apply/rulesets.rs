//! The rules of both families at once: read from the kernel, parsed from files, compared as texts.

use super::error::Error;
use crate::live::{self, Host, LiveRuleset};
use crate::net::{Family, PerFamily};

/// Reads the live rules.
pub(super) fn save(host: &dyn Host) -> Result<PerFamily<LiveRuleset>, Error> {
    let read = |family| host.save(family).map_err(Error::Live);
    Ok(PerFamily {
        v4: read(Family::V4)?,
        v6: read(Family::V6)?,
    })
}

/// Parses rules files.
pub(super) fn parse(files: &PerFamily<String>) -> Result<PerFamily<LiveRuleset>, Error> {
    Ok(PerFamily {
        v4: parse_file(Family::V4, &files.v4)?,
        v6: parse_file(Family::V6, &files.v6)?,
    })
}

/// Parses the rules file of a family.
pub(super) fn parse_file(family: Family, text: &str) -> Result<LiveRuleset, Error> {
    LiveRuleset::parse(text).map_err(|source| Error::Payload { family, source })
}

/// Parses rules in the kernel's form.
pub(super) fn parse_live(family: Family, text: &str) -> Result<LiveRuleset, live::Error> {
    LiveRuleset::parse(text).map_err(|source| live::Error::Unreadable { family, source })
}

/// Returns the rules as texts without counters, which are equal if the rules are.
pub(super) fn normal(rulesets: &PerFamily<LiveRuleset>) -> PerFamily<String> {
    PerFamily::from_fn(|family| rulesets[family].normal())
}
