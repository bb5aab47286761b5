//! What a log line is, from each side: the policy's words, the plan, a rule.

use crate::iptables::{Match, Module, Rule, Target};
use crate::net::Rate;
use crate::policy::{self, LogTarget, Policy};
use crate::resolve;

/// A log line, as whoever reads the log can tell it from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Who writes it.
    pub to: LogTo,
    /// What stands before the packet.
    pub prefix: String,
    /// At most this often.
    pub rate: Rate,
    /// So many at once.
    pub burst: u32,
}

/// Who writes a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTo {
    /// The kernel's log, with a syslog level.
    Kernel(u8),
    /// A netlink group.
    Netlink(u16),
}

impl LogLine {
    /// The line of a class of the plan.
    pub(super) fn of_class(class: &resolve::LogClass) -> Self {
        Self {
            to: match class.target {
                LogTarget::Log => LogTo::Kernel(class.level),
                LogTarget::Nflog => LogTo::Netlink(class.group),
            },
            prefix: class.prefix.clone(),
            rate: class.rate,
            burst: class.burst,
        }
    }

    /// The line of a class by its name, from what the policy says of it.
    pub(super) fn of_name(policy: &Policy, name: &str) -> Self {
        let silent = policy::LogClass::default();
        let class = policy.log_classes.get(name);
        let class = class.map_or(&silent, |class| &class.value);
        let target = class.target.as_ref().map_or(LogTarget::Log, |to| to.value);
        let otherwise = match (name, target) {
            ("default", _) => "fwc: ".to_owned(),
            (name, target) => {
                let whole = format!("fwc {name}: ");
                whole.chars().take(target.longest_prefix()).collect()
            }
        };
        Self {
            to: match target {
                LogTarget::Log => {
                    LogTo::Kernel(class.level.as_ref().map_or(4, |level| level.value))
                }
                LogTarget::Nflog => {
                    LogTo::Netlink(class.group.as_ref().map_or(0, |group| group.value))
                }
            },
            prefix: class
                .prefix
                .as_ref()
                .map_or(otherwise, |prefix| prefix.value.clone()),
            rate: class
                .rate
                .as_ref()
                .map_or(Rate::TEN_A_MINUTE, |rate| rate.value),
            burst: class.burst.as_ref().map_or(20, |burst| burst.value),
        }
    }

    /// The line that a rule logs, if it is one that a class can say: a `LOG` or `NFLOG` with a `limit`.
    pub(super) fn of_rule(rule: &Rule) -> Option<Self> {
        let (to, prefix) = match &rule.target {
            Target::Log(log) if log.flags == [false; 5] => {
                (LogTo::Kernel(log.level), log.prefix.to_string())
            }
            Target::Other(module) if module.name == "NFLOG" => nflog(module)?,
            _ => return None,
        };
        let mut limits = rule.matches.iter().filter_map(as_limit);
        let limit = limits.next().filter(|_| limits.next().is_none())?;
        let burst = match limit.setting("limit-burst") {
            Some(burst) => burst.value.parse().ok()?,
            // xt_limit.h: what the tool does not print.
            None => 5,
        };
        let rate = Rate::parse(&limit.setting("limit")?.value).ok()?;
        Some(Self {
            to,
            prefix,
            rate,
            burst,
        })
    }
}

/// Whether a target writes a log line.
pub(super) fn is_log(target: &Target) -> bool {
    match target {
        Target::Log(_) => true,
        Target::Other(module) => module.name == "NFLOG",
        _ => false,
    }
}

/// The `limit` that a condition is.
pub(super) fn as_limit(condition: &Match) -> Option<&Module> {
    match condition {
        Match::Other(module) if module.name == "limit" => Some(module),
        _ => None,
    }
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

/// A value as it was before `iptables-save` put quotes round it.
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
        LogLine::of_rule(&chain.unwrap().rules[0])
    }

    #[test]
    fn from_a_rule() {
        let rate = |text| Rate::parse(text).unwrap();
        assert_eq!(
            line("-m limit --limit 60/min -j LOG --log-prefix \"a \\\"b\\\": \" --log-level info"),
            Some(LogLine {
                to: LogTo::Kernel(6),
                prefix: "a \"b\": ".to_owned(),
                rate: rate("1/second"),
                burst: 5,
            })
        );
        assert_eq!(
            line(
                "-m limit --limit 2/sec --limit-burst 9 -j NFLOG --nflog-prefix \"a \\\"b\\\": \" --nflog-group 3"
            ),
            Some(LogLine {
                to: LogTo::Netlink(3),
                prefix: "a \"b\": ".to_owned(),
                rate: rate("2/second"),
                burst: 9,
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
