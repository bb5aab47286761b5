//! What the kernel counted: the judge of every packet.

use std::fmt;

use fwc::net::Hook;

/// What became of a packet in the filter table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Accept,
    Drop,
    Reject,
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Accept => "accept",
            Self::Drop => "drop",
            Self::Reject => "reject",
        })
    }
}

/// One counter: of a rule, or of a base chain's policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    pub table: String,
    pub chain: String,
    /// The rule without `-A CHAIN`; the policy's word for a policy.
    pub text: String,
    pub is_policy: bool,
    pub packets: u64,
}

impl Counter {
    fn verdict(&self) -> Option<Verdict> {
        let word = if self.is_policy {
            self.text.as_str()
        } else {
            let mut words = self.text.split(' ');
            words.find(|&word| word == "-j")?;
            words.next()?
        };
        match word {
            "ACCEPT" => Some(Verdict::Accept),
            "DROP" => Some(Verdict::Drop),
            "REJECT" => Some(Verdict::Reject),
            _ => None,
        }
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_policy {
            write!(out, "policy of {}: {}", self.chain, self.text)
        } else {
            write!(out, "-A {} {}", self.chain, self.text)
        }
    }
}

/// All counters of an `iptables-save -c`, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(pub Vec<Counter>);

impl Counters {
    /// Reads what `iptables-save -c` prints.
    pub fn parse(saved: &str) -> Self {
        let mut table = String::new();
        let mut counters = Vec::new();
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name.to_owned();
            } else if let Some(rest) = line.strip_prefix(':') {
                let mut words = rest.split(' ');
                let (chain, policy) = (words.next(), words.next());
                let packets = words.next().and_then(packets);
                if let (Some(chain), Some(policy), Some(packets)) = (chain, policy, packets)
                    && policy != "-"
                {
                    counters.push(Counter {
                        table: table.clone(),
                        chain: chain.to_owned(),
                        text: policy.to_owned(),
                        is_policy: true,
                        packets,
                    });
                }
            } else if let Some((count, rule)) = line.split_once(" -A ")
                && let Some(packets) = packets(count)
            {
                let (chain, text) = rule.split_once(' ').unwrap_or((rule, ""));
                counters.push(Counter {
                    table: table.clone(),
                    chain: chain.to_owned(),
                    text: text.to_owned(),
                    is_policy: false,
                    packets,
                });
            }
        }
        Self(counters)
    }

    /// What was counted between `before` and now; an error when the rules are not the same.
    pub fn since(&self, before: &Self) -> Result<Vec<Counter>, String> {
        let same = self.0.len() == before.0.len()
            && self.0.iter().zip(&before.0).all(|(now, then)| {
                (&now.table, &now.chain, &now.text) == (&then.table, &then.chain, &then.text)
            });
        if !same {
            return Err("the rules changed while a packet was judged".to_owned());
        }
        Ok(self
            .0
            .iter()
            .zip(&before.0)
            .filter(|(now, then)| now.packets != then.packets)
            .map(|(now, then)| Counter {
                packets: now.packets.wrapping_sub(then.packets),
                ..now.clone()
            })
            .collect())
    }
}

/// The rules of the raw table on the way to a drop there, if there was one. The lab's own don't count.
pub fn dropped_early(counted: &[Counter]) -> Option<Vec<String>> {
    let raw: Vec<&Counter> = counted
        .iter()
        .filter(|counter| counter.table == "raw" && !counter.is_policy)
        .filter(|counter| !counter.chain.starts_with("TEST-") && !counter.text.contains("TEST-"))
        .collect();
    let dropped = raw
        .iter()
        .any(|counter| counter.verdict() == Some(Verdict::Drop));
    dropped.then(|| raw.iter().map(|counter| counter.to_string()).collect())
}

/// The rules of the filter table that a packet matched in `hook`, and what the last of them decided.
///
/// `None` when nothing was decided (yet); an error when more than one packet was counted.
pub fn decision(hook: Hook, counted: &[Counter]) -> Result<Option<(Verdict, Vec<String>)>, String> {
    let elsewhere = |chain: &str| {
        Hook::ALL
            .iter()
            .any(|other| *other != hook && other.chain() == chain)
    };
    let mut verdicts = Vec::new();
    let mut matched = Vec::new();
    // A policy decides last, and stands first in what iptables-save prints.
    let (policies, rules): (Vec<_>, Vec<_>) = counted.iter().partition(|counter| counter.is_policy);
    for counter in rules.into_iter().chain(policies) {
        if counter.table == "filter" && !elsewhere(&counter.chain) {
            matched.push(counter.to_string());
            if let Some(verdict) = counter.verdict() {
                verdicts.extend(std::iter::repeat_n(verdict, counter.packets as usize));
            }
        }
    }
    match verdicts[..] {
        [] => Ok(None),
        [verdict] => Ok(Some((verdict, matched))),
        _ => Err(format!("more than one packet was counted: {counted:?}")),
    }
}

fn packets(field: &str) -> Option<u64> {
    field
        .trim_start_matches('[')
        .split_once(':')?
        .0
        .parse()
        .ok()
}
