//! What a proof found.

use std::collections::BTreeSet;

use super::logging::LogLine;
use super::translated::ComparedTranslation;
use super::walkers::{ComparedEffects, ComparedWalk};
use crate::analysis::{BaseChain, GaveUp, TextError};
use crate::iptables::{self, TableName};
use crate::net::{Family, Hook};

/// What was proven, and what not.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// How many rules the files have.
    pub rules: usize,
    /// How many packets went through both walkers besides.
    pub walked: usize,
    /// What packets do not tell, in words: rates, times, sets that others fill. It was proven whatever holds of these.
    pub whatever: BTreeSet<String>,
    /// Where policy and rules differ; empty when they are the same for every packet.
    pub disagreements: Vec<Disagreement>,
    /// Why a family has no proof.
    pub gave_up: Vec<(Family, GaveUp)>,
}

impl Proof {
    /// Whether the rules do for every packet what the policy says.
    pub fn holds(&self) -> bool {
        self.disagreements.is_empty() && self.gave_up.is_empty()
    }

    /// Both proofs as one.
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
    /// What differs.
    pub what: DisagreementKind,
}

/// What differs.
#[derive(Clone, Debug)]
pub enum DisagreementKind {
    /// A packet's verdict; both walkers say so.
    Verdict(Box<ComparedWalk>),
    /// What an end of a packet's connection becomes; both walkers say so.
    Translation(Box<ComparedTranslation>),
    /// What is logged of a packet; both walkers say so.
    Logs(Box<ComparedWalk>),
    /// What is done to a packet besides its verdict; both walkers say so.
    Treatment(Box<ComparedEffects>),
    /// Custom rules and entries of a chain do not stand as the policy says.
    CustomPlace {
        /// The table.
        table: TableName,
        /// The base chain.
        chain: BaseChain,
    },
    /// The log lines of a hook are kept down by other limits than the policy has: a bucket each.
    Buckets {
        /// The hook.
        hook: Hook,
        /// The line.
        line: LogLine,
        /// How many limits there are by the policy.
        wanted: usize,
        /// How many there are.
        found: usize,
    },
    /// A log line that no class can say: the rule's line and text.
    StrangeLog(u32, String),
    /// A base chain's policy.
    ChainPolicy {
        /// The chain.
        hook: Hook,
        /// What it has to be.
        wanted: iptables::ChainPolicy,
        /// What it is.
        found: iptables::ChainPolicy,
    },
    /// A policy of a chain that is no base chain.
    OwnPolicy(String),
    /// A table that has to be there, with every base chain declared, is not in the file.
    Undeclared {
        /// The table.
        table: TableName,
        /// The base chain; `None`: the whole table.
        chain: Option<&'static str>,
    },
    /// Shared mode: something that is not fwc's is touched.
    NotShared(String),
    /// A chain that no packet reaches, or one in a table that the policy leaves empty.
    IdleChain {
        /// The table.
        table: TableName,
        /// The chain.
        chain: String,
    },
    /// A packet may come twice to a chain with a limit, a count of connections or a log line.
    CountedTwice {
        /// The table.
        table: TableName,
        /// The chain.
        chain: String,
    },
    /// A table that the policy does not use does something.
    ForeignTable {
        /// The table.
        table: TableName,
        /// Where.
        chain: BaseChain,
    },
    /// An ipset is not there, is nobody's, or is not what the policy says: members, timeout, family.
    IpSet(String),
    /// The rules have no behaviour.
    Unreadable(TextError),
    /// Only packets that no kernel shows are treated differently, ports of a protocol without ports for example.
    Unseen(BaseChain),
    /// The views contradict each other: a mistake of fwc's own, with the packet where there is one.
    Internal(Option<Box<ComparedWalk>>, String),
}
