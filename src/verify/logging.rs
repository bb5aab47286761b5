//! Log lines, read independently from the policy, the plan and the rules, so that the three can be compared.

use super::condition::{CountScope, RateLimit};
use crate::iptables::{Match, Module, Rule, Target};
use crate::net::{Family, Rate};
use crate::policy::{self, Action, LogDestination, Logged, Policy};
use crate::resolve::{self, Plan, RuleAction};

/// A log line, by everything that a reader of the log can see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// The log that it is written to.
    pub to: LogTo,
    /// The prefix, in front of the fields of the packet.
    pub prefix: String,
    /// The rate limit of the line.
    pub limit: RateLimit,
}

/// The log that a line is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTo {
    /// The kernel log (`LOG`), with a syslog level from 0 to 7.
    Kernel(u8),
    /// A netlink group (`NFLOG`), for a daemon such as ulogd.
    Netlink(u16),
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
                LogDestination::Log => LogTo::Kernel(class.level),
                LogDestination::Nflog => LogTo::Netlink(class.group),
            },
            prefix: class.prefix.clone(),
            limit: match own {
                Some(limit) => RateLimit::of_limit(limit, family),
                None => RateLimit::of_policy(class.rate, class.burst, CountScope::Together),
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
            .map_or(Rate::TEN_A_MINUTE, |rate| rate.value);
        let burst = class.burst.as_ref().map_or(20, |burst| burst.value);
        let rule = logged.rule.and_then(|rule| policy.rules.get(rule));
        let only_logs = |rule: &&policy::PolicyRule| {
            rule.action
                .as_ref()
                .is_some_and(|action| action.value == Action::Log)
        };
        let own = rule.filter(only_logs).and_then(|rule| rule.limit.as_ref());
        Self {
            to: match target {
                LogDestination::Log => {
                    LogTo::Kernel(class.level.as_ref().map_or(4, |level| level.value))
                }
                LogDestination::Nflog => {
                    LogTo::Netlink(class.group.as_ref().map_or(0, |group| group.value))
                }
            },
            prefix: class
                .prefix
                .as_ref()
                .map_or(default_prefix, |prefix| prefix.value.clone()),
            limit: match own {
                Some(limit) => RateLimit::of_limit(
                    &resolve::Limit {
                        rate: limit.rate,
                        burst: limit.burst,
                        per: limit.per,
                        over: policy::Over::Continue,
                    },
                    family,
                ),
                None => RateLimit::of_policy(rate, burst, CountScope::Together),
            },
        }
    }

    /// Returns the line that a rule of a file logs; `None` if no policy produces it. Policies produce a `LOG` or `NFLOG` with
    /// exactly one limit.
    pub(super) fn of_rule(rule: &Rule, family: Family) -> Option<Self> {
        let (to, prefix) = match &rule.target {
            Target::Log(log) if log.flags == [false; 5] => {
                (LogTo::Kernel(log.level), log.prefix.to_string())
            }
            Target::Other(module) if module.name == "NFLOG" => nflog(module)?,
            _ => return None,
        };
        let mut limits = rule.matches.iter().filter(|condition| is_limit(condition));
        let limit = limits.next().filter(|_| limits.next().is_none())?;
        let (limit, beyond) = RateLimit::of_match(limit, family)?;
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
    matches!(condition, Match::Other(module) if ["limit", "hashlimit"].contains(&module.name))
}

fn nflog(module: &Module) -> Option<(LogTo, String)> {
    let (mut group, mut prefix) = (0, String::new());
    for setting in &module.settings {
        match setting.name {
            "nflog-group" => group = setting.value.parse().ok()?,
            "nflog-prefix" => prefix = unquoted(&setting.value),
            _ => return None,
        }
    }
    Some((LogTo::Netlink(group), prefix))
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

    fn line(rule: &str) -> Option<LogLine> {
        let text = format!("*filter\n-A INPUT {rule}\nCOMMIT\n");
        let ruleset = Ruleset::from_text(&text, Family::V4).unwrap();
        let chain = ruleset.table(TableName::Filter).unwrap().chain("INPUT");
        LogLine::of_rule(&chain.unwrap().rules[0], Family::V4)
    }

    fn rated(every: u64, burst: u32, counted: CountScope) -> RateLimit {
        RateLimit {
            every,
            burst,
            counted,
            forgotten_after: None,
        }
    }

    #[test]
    fn from_a_rule() {
        assert_eq!(
            line("-m limit --limit 60/min -j LOG --log-prefix \"a \\\"b\\\": \" --log-level info"),
            Some(LogLine {
                to: LogTo::Kernel(6),
                prefix: "a \"b\": ".to_owned(),
                limit: rated(1_000_000, 5, CountScope::Together),
            })
        );
        assert_eq!(
            line(
                "-m hashlimit --hashlimit-upto 2/sec --hashlimit-burst 9 --hashlimit-mode srcip --hashlimit-name x \
                 --hashlimit-htable-expire 4500 -j NFLOG --nflog-prefix \"a \\\"b\\\": \" --nflog-group 3"
            ),
            Some(LogLine {
                to: LogTo::Netlink(3),
                prefix: "a \"b\": ".to_owned(),
                limit: rated(500_000, 9, CountScope::BySource(32)),
            })
        );
        for no_class in [
            "-j LOG",
            "-m limit --limit 1/sec -j LOG --log-uid",
            "-m limit --limit 1/sec -j NFLOG --nflog-size 10",
            "-m limit --limit 1/sec -j ACCEPT",
        ] {
            assert_eq!(line(no_class), None, "{no_class}");
        }
    }
}
