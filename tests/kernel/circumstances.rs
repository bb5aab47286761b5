//! What a packet does not tell, and a probe says: who sends it, what sets it is in, what came before, what time it is.

use fwc::iptables::{Module, SetMatch};
use jiff::civil::DateTime;

/// The circumstances of one packet. Not said: nobody known sends it, it is in no set that others fill, limits are not
/// used up, and it is time.
#[derive(Clone, Debug, Default)]
pub struct Circumstances {
    /// The user of the process that sends it.
    pub user: Option<u32>,
    /// Its group.
    pub group: Option<u32>,
    /// The sets that others fill and that its source is in: dynamic ones by the policy's name, foreign ones by their own.
    pub member_of: Vec<String>,
    /// How many packets like it came before it.
    pub earlier: usize,
    /// Those were too many.
    pub beyond: bool,
    /// In UTC.
    pub at: Option<DateTime>,
    /// The extension header of IPv6 that stands before its protocol, by its number.
    pub extension_header: Option<u8>,
}

impl Circumstances {
    /// Whether the packet's source is in this set, which others fill.
    pub fn is_member(&self, set: &str) -> bool {
        self.member_of.iter().any(|name| name == set)
    }

    /// Whether an authentication header stands before its protocol.
    pub fn has_auth_header(&self) -> bool {
        self.extension_header == Some(51)
    }

    /// Whether a match of a rule holds that a packet alone does not decide, by the words of iptables-extensions(8).
    pub fn module_holds(&self, module: &Module) -> Option<bool> {
        let number = |name| module.setting(name)?.value.parse::<u32>().ok();
        match module.name {
            "limit" => Some(!self.beyond),
            "hashlimit" => {
                let above = module.setting("hashlimit-above").is_some();
                Some(self.beyond == above)
            }
            "connlimit" => {
                let above = module.setting("connlimit-above").is_some();
                Some(self.beyond == above)
            }
            "owner" => {
                let user = number("uid-owner").is_none_or(|id| self.user == Some(id));
                let group = number("gid-owner").is_none_or(|id| self.group == Some(id));
                Some(user && group)
            }
            "time" => Some(self.at.is_none_or(|at| time_holds(module, at))),
            "ah" if module.settings.is_empty() => Some(self.has_auth_header()),
            "policy" => Some(false),
            _ => None,
        }
    }

    /// Whether a match of a set that others fill holds.
    pub fn set_holds(&self, set: &SetMatch) -> bool {
        let name = ["fwc4-", "fwc6-"]
            .iter()
            .find_map(|prefix| set.name.strip_prefix(prefix))
            .unwrap_or(&set.name);
        (set.from_source[0] && self.is_member(name)) != set.negated
    }
}

fn time_holds(module: &Module, at: DateTime) -> bool {
    let text = |name| module.setting(name).map(|setting| &*setting.value);
    let now = at.time().to_string();
    let (start, stop) = (
        text("timestart").unwrap_or("00:00:00"),
        text("timestop").unwrap_or("23:59:59"),
    );
    let mut day = at.date();
    let is_hour = match start <= stop {
        true => (start..=stop).contains(&now.as_str()),
        false => now.as_str() >= start || now.as_str() <= stop,
    };
    if module.setting("contiguous").is_some() && stop < start && now.as_str() <= stop {
        day = day.yesterday().expect("a day before");
    }
    let day = &format!("{:?}", day.weekday())[..3];
    let is_day = text("weekdays").is_none_or(|days| days.split(',').any(|it| it == day));
    let is_before = text("datestop").is_none_or(|last| at.to_string().as_str() <= last);
    is_hour && is_day && is_before
}
