//! Log lines, read independently from the policy, the plan and the rules, so that the three can be compared.

use std::collections::BTreeSet;

use super::condition::{CountScope, RateLimit, own_list};
use crate::iptables::{Match, Module, Rule, Target};
use crate::net::{Family, Rate};
use crate::policy::{self, Action, LogDestination, LogOption, Logged, Policy, RuleLimit};
use crate::resolve::{self, Plan, RuleAction};
use crate::source::Located;

/// A log line, by everything that a reader of the log can see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// The log that it is written to.
    pub to: LogTo,
    /// The prefix, in front of the fields of the packet.
    pub prefix: String,
    /// The rate limit of the line; `None` if every packet is logged.
    pub limit: Option<RateLimit>,
}

/// The log that a line is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTo {
    /// The kernel log (`LOG`).
    Kernel {
        /// The syslog level, 0 to 7.
        level: u8,
        /// The fields that each line has beside the usual ones.
        options: BTreeSet<LogOption>,
    },
    /// A netlink group (`NFLOG`), for a daemon such as ulogd.
    Netlink {
        /// The group.
        group: u16,
        /// The number of bytes of each packet that are copied, at most; `None` for all.
        size: Option<u16>,
        /// The number of packets that the kernel collects for the daemon; `None` for the daemon's own setting.
        threshold: Option<u16>,
    },
}

impl LogLine {
    /// Returns the line of a log class of the plan (by index), for a rule (by index) or the default action. A rule with
    /// `action = "log"` has its own limit instead of that of the class.
    pub(super) fn of_plan(
        plan: &Plan,
        class: usize,
        rule: Option<usize>,
        family: Family,
    ) -> Option<Self> {
        let class = plan.log_classes.get(class)?;
        let rule = rule.and_then(|rule| plan.rules.get(rule));
        let own = rule.filter(|rule| rule.action == RuleAction::Log);
        let own = own.and_then(|rule| rule.limit.as_ref());
        Some(Self {
            to: match class.target {
                LogDestination::Log => LogTo::Kernel {
                    level: class.level,
                    options: class.options.clone(),
                },
                LogDestination::Nflog => LogTo::Netlink {
                    group: class.group,
                    size: class.size,
                    threshold: class.threshold,
                },
            },
            prefix: class.prefix.clone(),
            limit: match (own, class.limit) {
                (Some(limit), _) => Some(RateLimit::of_limit(limit, family)),
                (None, Some(limit)) => Some(RateLimit::of_policy(
                    limit.rate,
                    limit.burst,
                    CountScope::TOGETHER,
                )),
                (None, None) => None,
            },
        })
    }

    /// Returns the line that a rule or default logs, by the policy as it is written. It works out defaults itself, so that a
    /// mistake in the plan is found.
    pub(super) fn of_policy(policy: &Policy, logged: &Logged, family: Family) -> Self {
        let unset = policy::PolicyLogClass::default();
        let class = policy.log_classes.get(&logged.class);
        let class = class.map_or(&unset, |class| &class.value);
        let target = class
            .target
            .as_ref()
            .map_or(LogDestination::Log, |to| to.value);
        let default_prefix = match logged.class.as_str() {
            "default" => "fwc: ".to_owned(),
            name => {
                let whole = format!("fwc {name}: ");
                whole.chars().take(target.longest_prefix()).collect()
            }
        };
        let rate = class
            .rate
            .as_ref()
            .map_or(Some(Rate::TEN_A_MINUTE), |rate| rate.value);
        let burst = class.burst.as_ref().map_or(20, |burst| burst.value);
        let rule = logged.rule.and_then(|rule| policy.rules.get(rule));
        let only_logs = |rule: &&policy::PolicyRule| {
            rule.action
                .as_ref()
                .is_some_and(|action| action.value == Action::Log)
        };
        let own = rule.filter(only_logs).and_then(|rule| rule.limit.as_ref());
        let own = own.and_then(|limit| match limit {
            RuleLimit::Own(limit) => Some((limit, None)),
            RuleLimit::Named(name) => {
                let named = policy.limits.get(&name.value)?;
                Some((&named.value, Some(name.value.clone())))
            }
        });
        let number = |key: &Option<Located<u16>>| key.as_ref().map(|number| number.value);
        Self {
            to: match target {
                LogDestination::Log => LogTo::Kernel {
                    level: class.level.as_ref().map_or(4, |level| level.value),
                    options: class
                        .options
                        .iter()
                        .flatten()
                        .map(|one| one.value)
                        .collect(),
                },
                LogDestination::Nflog => LogTo::Netlink {
                    group: number(&class.group).unwrap_or(0),
                    size: number(&class.size),
                    threshold: number(&class.threshold),
                },
            },
            prefix: class
                .prefix
                .as_ref()
                .map_or(default_prefix, |prefix| prefix.value.clone()),
            limit: match own {
                Some((limit, shared)) => Some(RateLimit::of_limit(
                    &resolve::Limit {
                        shared,
                        rate: limit.rate,
                        per: limit.per,
                        over: policy::Over::Continue,
                    },
                    family,
                )),
                None => rate.map(|rate| RateLimit::of_policy(rate, burst, CountScope::TOGETHER)),
            },
        }
    }

    /// Returns the line that a rule of a file logs; `None` if no policy produces it. Policies produce a `LOG` or `NFLOG` with
    /// at most one limit.
    pub(super) fn of_rule(rule: &Rule, family: Family) -> Option<Self> {
        let (to, prefix) = match &rule.target {
            Target::Log(log) => {
                let level = log.level;
                let options = flagged(log.flags);
                (LogTo::Kernel { level, options }, log.prefix.to_string())
            }
            Target::Other(module) if module.name == "NFLOG" => nflog(module)?,
            _ => return None,
        };
        let limits = rule.matches.iter().filter(|condition| is_limit(condition));
        let limits: Vec<Match> = limits.cloned().collect();
        let (limit, beyond) = match limits.as_slice() {
            [] => {
                let limit = None;
                return Some(Self { to, prefix, limit });
            }
            [limit] => RateLimit::of_match(limit, family)?,
            [_, _] => RateLimit::of_window(&limits, family)?,
            _ => return None,
        };
        let limit = Some(limit);
        (!beyond).then_some(Self { to, prefix, limit })
    }
}

/// Returns `true` for targets that write a log line.
pub(super) fn is_log(target: &Target) -> bool {
    match target {
        Target::Log(_) => true,
        Target::Other(module) => module.name == "NFLOG",
        _ => false,
    }
}

/// Returns `true` for conditions that limit a rate.
pub(super) fn is_limit(condition: &Match) -> bool {
    let Match::Other(module) = condition else {
        return false;
    };
    ["limit", "hashlimit"].contains(&module.name) || own_list(module).is_some()
}

fn nflog(module: &Module) -> Option<(LogTo, String)> {
    let (mut group, mut prefix) = (0, String::new());
    let (mut size, mut threshold) = (None, None);
    for setting in &module.settings {
        match setting.name {
            "nflog-group" => group = setting.value.parse().ok()?,
            "nflog-prefix" => prefix = unquoted(&setting.value),
            "nflog-size" => size = Some(setting.value.parse().ok()?),
            "nflog-threshold" => threshold = Some(setting.value.parse().ok()?),
            _ => return None,
        }
    }
    let to = LogTo::Netlink {
        group,
        size,
        threshold,
    };
    Some((to, prefix))
}

/// Returns the options of `LOG` that are set, in the order of the flags of [`Target::Log`].
fn flagged(flags: [bool; 5]) -> BTreeSet<LogOption> {
    let all = [
        LogOption::TcpSequence,
        LogOption::TcpOptions,
        LogOption::IpOptions,
        LogOption::Uid,
        LogOption::MacDecode,
    ];
    let set = all.into_iter().zip(flags).filter(|(_, set)| *set);
    set.map(|(option, _)| option).collect()
}

/// Removes the quotes and escapes that `iptables-save` adds to a value.
fn unquoted(value: &str) -> String {
    let Some(inner) = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    else {
        return value.to_owned();
    };
    let mut text = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        text.push(match character {
            '\\' => characters.next().unwrap_or('\\'),
            other => other,
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iptables::{Ruleset, TableName};
    use crate::net::Family;
    use crate::verify::condition::Pace;

    fn line(rule: &str) -> Option<LogLine> {
        let text = format!("*filter\n-A INPUT {rule}\nCOMMIT\n");
        let ruleset = Ruleset::from_text(&text, Family::V4).unwrap();
        let chain = ruleset.table(TableName::Filter).unwrap().chain("INPUT");
        LogLine::of_rule(&chain.unwrap().rules[0], Family::V4)
    }

    fn kernel<const N: usize>(level: u8, options: [LogOption; N]) -> LogTo {
        let options = options.into();
        LogTo::Kernel { level, options }
    }

    fn rated(every: u64, burst: u32, counted: CountScope) -> RateLimit {
        RateLimit {
            pace: Pace::Packets { every, burst },
            counted,
            shared: None,
            forgotten_after: None,
        }
    }

    #[test]
    fn from_a_rule() {
        assert_eq!(
            line("-m limit --limit 60/min -j LOG --log-prefix \"a \\\"b\\\": \" --log-level info"),
            Some(LogLine {
                to: kernel(6, []),
                prefix: "a \"b\": ".to_owned(),
                limit: Some(rated(1_000_000, 5, CountScope::TOGETHER)),
            })
        );
        assert_eq!(
            line("-j LOG --log-uid --log-tcp-sequence"),
            Some(LogLine {
                to: kernel(4, [LogOption::TcpSequence, LogOption::Uid]),
                prefix: String::new(),
                limit: None,
            })
        );
        assert_eq!(
            line("-j NFLOG --nflog-size 80 --nflog-threshold 9"),
            Some(LogLine {
                to: LogTo::Netlink {
                    group: 0,
                    size: Some(80),
                    threshold: Some(9),
                },
                prefix: String::new(),
                limit: None,
            })
        );
        assert_eq!(
            line(
                "-m hashlimit --hashlimit-upto 2/sec --hashlimit-burst 9 --hashlimit-mode srcip --hashlimit-name x \
                 --hashlimit-htable-expire 4500 -j NFLOG --nflog-prefix \"a \\\"b\\\": \" --nflog-group 3"
            ),
            Some(LogLine {
                to: LogTo::Netlink {
                    group: 3,
                    size: None,
                    threshold: None,
                },
                prefix: "a \"b\": ".to_owned(),
                limit: Some(rated(500_000, 9, CountScope::by_source(32))),
            })
        );
        for no_class in [
            "-m limit --limit 1/sec -m limit --limit 2/sec -j LOG",
            "-j NFLOG --nflog-size 100000",
            "-m recent --set --name fwc4-x -j LOG",
            "-m recent --set --name fwc4-x -m recent --rcheck --seconds 9 --hitcount 6 --name fwc4-x -j LOG",
            "-m limit --limit 1/sec -j ACCEPT",
        ] {
            assert_eq!(line(no_class), None, "{no_class}");
        }
    }
}
