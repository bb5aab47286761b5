//! The size of the tables in which limits with `hits` keep addresses.

use std::fs;

use super::concern::Concern;
use super::{LiveRule, LiveRuleset};
use crate::diag::ConcernName;
use crate::net::PerFamily;

/// The kernel's parameter for the number of addresses in each table. Without the module there is none.
const PARAMETER: &str = "/sys/module/xt_recent/parameters/ip_list_tot";

/// The kernel's default number of addresses in a table.
const DEFAULT_SIZE: u32 = 100;

/// Returns the concern about small tables, if the wanted rules have a limit with `hits`.
pub(super) fn look(wanted: &PerFamily<LiveRuleset>) -> Option<Concern> {
    let text = fs::read_to_string(PARAMETER).ok();
    small(text.as_deref(), wanted)
}

fn small(parameter: Option<&str>, wanted: &PerFamily<LiveRuleset>) -> Option<Concern> {
    let size: u32 = parameter?.trim().parse().ok()?;
    let mut chains = wanted.iter().flat_map(|(_, dump)| dump.all_chains());
    let is_counted = chains.any(|(_, _, chain)| chain.rules.iter().any(has_window));
    (size <= DEFAULT_SIZE && is_counted).then(|| Concern {
        name: ConcernName::LimitTable,
        what: format!(
            "the kernel keeps {size} addresses for each limit with `hits`, and forgets the oldest for a new one"
        ),
        advice: "write `options xt_recent ip_list_tot=10000` to /etc/modprobe.d/xt_recent.conf, and restart the host or load the module again"
            .to_owned(),
    })
}

/// Returns `true` if a rule counts in a table of `recent` that is fwc's own.
fn has_window(rule: &LiveRule) -> bool {
    let words: Vec<_> = rule.options().collect();
    let is_own = |name: &str| name.starts_with("fwc4-") || name.starts_with("fwc6-");
    words.contains(&"recent")
        && words
            .windows(2)
            .any(|pair| pair[0] == "--name" && is_own(pair[1]))
}

#[cfg(test)]
mod tests {
    use super::small;
    use crate::live::LiveRuleset;
    use crate::net::PerFamily;

    #[test]
    fn small_tables_matter_where_a_rule_counts_in_one() {
        let dump = |name: &str| {
            let rule = format!("-A INPUT -m recent --set --name {name} --rsource -j ACCEPT");
            let text = format!("*filter\n{rule}\nCOMMIT\n");
            PerFamily::from_fn(|_| LiveRuleset::parse(&text).unwrap())
        };
        let own = dump("fwc4-0011aabb");
        let what = |parameter| small(parameter, &own).map(|concern| concern.what);
        assert!(what(Some("100\n")).is_some_and(|what| what.contains("keeps 100 addresses")));
        assert_eq!(what(Some("10000\n")), None);
        assert_eq!(what(None), None);
        assert_eq!(small(Some("100"), &dump("knock")), None);
    }
}
