//! Reads [`Condition`]s from the matches of a rule.

use super::{Condition, CountScope};
use crate::iptables::{Match, Module, ModuleOption};
use crate::net::SetEnds;

/// The conditions of a match, and whether each is negated; `None` if the match is no condition of a policy.
pub(in crate::verify) type Translated = Option<Vec<(Condition, bool)>>;

impl Condition {
    /// Returns the conditions of a match without a counter: `set`, `addrtype`, `owner`, `time`, `ah`, `policy`.
    pub fn of_match(condition: &Match) -> Translated {
        match condition {
            Match::Set(set) if set.settings.is_empty() => {
                let ends = SetEnds::new(&set.from_source)?;
                let name = set.name.to_string();
                Some(vec![(Self::InSet { name, ends }, set.negated)])
            }
            Match::AddressType(types) => {
                let local = types.destination.as_ref()?;
                let mut names = local.value.names();
                let is_local = names.next() == Some("LOCAL") && names.next().is_none();
                let alone = types.source.is_none() && types.limit.is_none();
                (is_local && alone).then(|| vec![(Self::ToThisHost, local.negated)])
            }
            Match::Other(module) => match module.name {
                "owner" => owner(module),
                "time" => time(module),
                // In IPv4 `-m ah` is only valid with `-p ah`, and adds nothing to it.
                "ah" if module.settings.is_empty() => Some(vec![(Self::AuthHeader, false)]),
                "policy" => ipsec(module),
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns the `every` of a `statistic --mode nth --packet 0` match, the only form that fwc generates.
    pub fn turn(condition: &Match) -> Option<u32> {
        let Match::Other(module) = condition else {
            return None;
        };
        let known = ["mode", "every", "packet"];
        let text = |name: &str| module.setting(name).map(|setting| &*setting.value);
        let is_known = module
            .settings
            .iter()
            .all(|setting| known.contains(&setting.name) && !setting.negated);
        let first_of_some = text("mode") == Some("nth") && text("packet") == Some("0");
        let is_turn = module.name == "statistic" && is_known && first_of_some;
        text("every")?.parse().ok().filter(|_| is_turn)
    }

    /// Returns the maximum of a `connlimit` match, the connections that it counts together, and whether it matches beyond the
    /// maximum (`--connlimit-above`).
    pub fn connections(condition: &Match) -> Option<(u32, CountScope, bool)> {
        let Match::Other(module) = condition else {
            return None;
        };
        if module.name != "connlimit" || module.setting("connlimit-saddr").is_none() {
            return None;
        }
        let beyond = module.setting("connlimit-above");
        let most = beyond.or(module.setting("connlimit-upto"))?;
        let bits = module.setting("connlimit-mask")?.value.parse().ok()?;
        let counted = match bits {
            0 => CountScope::TOGETHER,
            bits => CountScope::by_source(bits),
        };
        Some((most.value.parse().ok()?, counted, beyond.is_some()))
    }
}

/// Reads `-m policy --dir DIR --pol POL`. Without more options `none` matches exactly the packets that `ipsec` does not
/// (`policy_mt` of `xt_policy.c`).
fn ipsec(module: &Module) -> Translated {
    let [dir, pol] = &module.settings[..] else {
        return None;
    };
    if (dir.name, pol.name) != ("dir", "pol") || dir.negated || pol.negated {
        return None;
    }
    let condition = match &*dir.value {
        "in" => Condition::FromIpsec,
        "out" => Condition::IntoIpsec,
        _ => return None,
    };
    match &*pol.value {
        "ipsec" => Some(vec![(condition, false)]),
        "none" => Some(vec![(condition, true)]),
        _ => None,
    }
}

fn owner(module: &Module) -> Translated {
    let one = |setting: &ModuleOption| {
        let id = setting.value.parse().ok()?;
        let condition = match setting.name {
            "uid-owner" => Condition::User(id),
            "gid-owner" => Condition::Group(id),
            _ => return None,
        };
        Some((condition, setting.negated))
    };
    module.settings.iter().map(one).collect()
}

/// The latest time of a 32-bit clock. `iptables-save` prints it as `--datestop` for rules without an end date.
const LAST_MOMENT: &str = "2038-01-19T03:14:07";

fn time(module: &Module) -> Translated {
    let text = |name: &str| module.setting(name).map(|setting| &*setting.value);
    let known = [
        "timestart",
        "timestop",
        "weekdays",
        "datestop",
        "kerneltz",
        "contiguous",
    ];
    if !module
        .settings
        .iter()
        .all(|setting| known.contains(&setting.name))
    {
        return None;
    }
    let local = text("kerneltz").is_some();
    let mut all = Vec::new();
    let minutes = |time: &str| time.strip_suffix(":00").map(str::to_owned);
    let hours = match (text("timestart"), text("timestop")) {
        (None, None) => None,
        (start, stop) => Some((minutes(start?)?, minutes(stop?)?)),
    };
    let days = text("weekdays").map(str::to_owned);
    let crosses = hours.as_ref().is_some_and(|(from, until)| until < from);
    if crosses && days.is_some() && text("contiguous").is_none() {
        // Without `--contiguous` the kernel applies the days to each side of midnight separately; no policy means that.
        return None;
    }
    if days.is_some() || hours.is_some() {
        all.push((Condition::Time { days, hours, local }, false));
    }
    match text("datestop")? {
        LAST_MOMENT => {}
        // The kernel reads the date in the same timezone as the hours (`time_mt` of `xt_time.c`).
        stop => {
            let day = stop.strip_suffix("T23:59:59")?.to_owned();
            all.push((Condition::NotAfter { day, local }, false));
        }
    }
    Some(all)
}
