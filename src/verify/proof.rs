//! The outcome of a proof.

use std::collections::BTreeSet;

use super::logging::LogLine;
use super::translated::ComparedTranslation;
use super::walkers::{ComparedEffects, ComparedWalk};
use crate::analysis::{BaseChain, GaveUp, TextError};
use crate::iptables::{self, TableName};
use crate::net::{Family, Hook};

/// The outcome of a proof: what was compared, and every difference.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// The number of rules in the files.
    pub rules: usize,
    /// The number of example packets that went through both walkers, beside the comparison of packet sets.
    pub walked: usize,
    /// The conditions that a packet alone does not answer, in words: rates, times, sets that other programs fill. The proof
    /// covers both answers to each of them.
    pub whatever: BTreeSet<String>,
    /// The differences between policy and rules; empty if they match for every packet.
    pub disagreements: Vec<Disagreement>,
    /// The families whose packet sets became too large to compare, and where.
    pub gave_up: Vec<(Family, GaveUp)>,
}

impl Proof {
    /// Returns `true` if the rules match the policy for every packet, in both families.
    pub fn holds(&self) -> bool {
        self.disagreements.is_empty() && self.gave_up.is_empty()
    }

    /// Joins the proofs of two families.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.rules += other.rules;
        self.walked += other.walked;
        self.whatever.extend(other.whatever);
        self.disagreements.extend(other.disagreements);
        self.gave_up.extend(other.gave_up);
        self
    }
}

/// One difference between policy and rules.
#[derive(Clone, Debug)]
pub struct Disagreement {
    /// The family.
    pub family: Family,
    /// The kind of difference, with its evidence.
    pub what: DisagreementKind,
}

/// The kinds of differences between policy and rules.
#[derive(Clone, Debug)]
pub enum DisagreementKind {
    /// A packet has another verdict; both walkers confirm it.
    Verdict(Box<ComparedWalk>),
    /// The source or destination of a connection is translated differently; both walkers confirm it.
    Translation(Box<ComparedTranslation>),
    /// Other log lines are written for a packet; both walkers confirm it.
    Logs(Box<ComparedWalk>),
    /// A packet is changed, marked or tracked differently in the raw or mangle table; both walkers confirm it.
    Treatment(Box<ComparedEffects>),
    /// The custom rules of a chain are not at their positions among the entries.
    CustomPlace {
        /// The table.
        table: TableName,
        /// The base chain.
        chain: BaseChain,
    },
    /// The number of limits for a log line differs. Each limit has a bucket of its own, so two of them allow twice the rate.
    Buckets {
        /// The table.
        table: TableName,
        /// The base chain.
        chain: BaseChain,
        /// The log line.
        line: LogLine,
        /// The number of limits in the policy.
        wanted: usize,
        /// The number of limits in the rules.
        found: usize,
    },
    /// A log rule that no log class of a policy produces: its line in the file (0 if unknown) and its text.
    UnexpectedLog(u32, String),
    /// The rules that only count (`action = "continue"`) do not count the packets of the policy's rule.
    Counted {
        /// The hook.
        hook: Hook,
        /// The comment of the rule; `None` for all rules without a comment.
        comment: Option<String>,
    },
    /// A base chain of the filter table has another chain policy.
    ChainPolicy {
        /// The hook.
        hook: Hook,
        /// The policy that it must have.
        wanted: iptables::ChainPolicy,
        /// The policy in the file.
        found: iptables::ChainPolicy,
    },
    /// A chain that is not a base chain has a policy; its name.
    PolicyOnUserChain(String),
    /// A table, or a base chain of a table, is not declared in the file.
    Undeclared {
        /// The table.
        table: TableName,
        /// The base chain; `None` if the whole table is missing.
        chain: Option<&'static str>,
    },
    /// In shared mode the file changes something that belongs to other programs; a message.
    TouchesOtherRules(String),
    /// A chain that no base chain leads to.
    UnreachableChain {
        /// The table.
        table: TableName,
        /// The chain.
        chain: String,
    },
    /// A packet can pass a chain with a limit, a count of connections or a log line twice.
    CountedTwice {
        /// The table.
        table: TableName,
        /// The chain.
        chain: String,
    },
    /// A base chain that the policy does not use has rules or a chain policy.
    UnusedBaseChain {
        /// The table.
        table: TableName,
        /// The base chain.
        chain: BaseChain,
    },
    /// An ipset is missing, is not in the policy, or differs from it in members, timeout, size or family; its name.
    IpSet(String),
    /// The rules have no meaning in the analysis.
    Unreadable(TextError),
    /// The difference is only in packets that cannot occur, for example ports of a protocol without ports.
    ImpossiblePackets(BaseChain),
    /// The filter table of a hook differs only for packets that the raw table drops before.
    DroppedBefore(BaseChain),
    /// The packet sets and the walkers contradict each other, which is an error of fwc; the packet if there is one, and what
    /// contradicts what.
    Internal(Option<Box<ComparedWalk>>, String),
}
