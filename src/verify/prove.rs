//! spec = text: the policy's behaviour held against the rules'.

use super::logging::{LogLine, as_limit, is_log};
use super::matching::Matching;
use super::spec::{Spec, spec};
use super::walkers::Walked;
use crate::analysis::{BaseChain, Behaviour, Effect, GaveUp, Reading, Set, Space, TextError};
use crate::iptables::{self, Log, NoWalk, Ruleset, TableName, Target};
use crate::net::{Family, Hook, PerFamily};
use crate::policy::Policy;
use crate::resolve::Plan;

/// What was proven, and what not.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// How many rules the files have.
    pub rules: usize,
    /// How many packets went through both walkers besides.
    pub walked: usize,
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
}

/// One difference between policy and rules.
#[derive(Clone, Debug)]
pub struct Disagreement {
    /// The family.
    pub family: Family,
    /// What differs.
    pub what: Difference,
}

/// What differs.
#[derive(Clone, Debug)]
pub enum Difference {
    /// A packet's verdict; both walkers say so.
    Verdict(Box<Walked>),
    /// What is logged of a packet; both walkers say so.
    Logs(Box<Walked>),
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
        wanted: iptables::Policy,
        /// What it is.
        found: iptables::Policy,
    },
    /// A table that has to be there, with every base chain declared, is not in the file.
    Undeclared {
        /// The table.
        table: TableName,
        /// The base chain; `None`: the whole table.
        chain: Option<&'static str>,
    },
    /// A chain that no packet reaches, or one in a table that the policy leaves empty.
    IdleChain {
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
    /// The rules have no behaviour.
    Unreadable(TextError),
    /// The views contradict each other: a mistake of fwc's own, with the packet where there is one.
    Internal(Option<Box<Walked>>, String),
}

/// A rules file, and what was read from it.
#[derive(Clone, Debug)]
pub struct RulesFile {
    text: String,
    ruleset: Ruleset,
}

impl RulesFile {
    /// Reads a rules file of a family.
    pub fn read(text: &str, family: Family) -> Result<Self, iptables::Invalid> {
        Ok(Self {
            text: text.to_owned(),
            ruleset: Ruleset::from_text(text, family)?,
        })
    }

    /// What was read.
    pub fn ruleset(&self) -> &Ruleset {
        &self.ruleset
    }
}

/// Proves for both families and every hook that the rules do what the policy says, or says where they do not.
///
/// The plan must be that of the policy. Verdicts and log lines are compared for all packets at once, chain policies,
/// declared chains and the tables that have to be empty by what the file says. How many lines a rate lets through is
/// outside: rates are compared as they are written.
///
/// ```
/// use fwc::net::{Family, PerFamily};
/// use fwc::verify::{Difference, RulesFile, prove};
/// use fwc::{diag::Sink, files::Access, policy, resolve, source::SourceMap};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("fwc.toml");
/// std::fs::write(&path, "version = 1\n[defaults]\ninput = \"accept\"\nforward = \"accept\"\n")?;
/// let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
/// let policy = policy::load(&path, Access::Read, &mut sources, &mut sink).unwrap();
/// let plan = resolve::resolve(&policy, &mut sink).unwrap();
///
/// let rules = |extra: &str| -> Result<PerFamily<RulesFile>, fwc::iptables::Invalid> {
///     let tables = [
///         ("raw", "PREROUTING OUTPUT"),
///         ("mangle", "PREROUTING INPUT FORWARD OUTPUT POSTROUTING"),
///         ("nat", "PREROUTING INPUT OUTPUT POSTROUTING"),
///         ("filter", "INPUT FORWARD OUTPUT"),
///     ];
///     let mut text = String::new();
///     for (table, chains) in tables {
///         text += &format!("*{table}\n");
///         for chain in chains.split(' ') {
///             text += &format!(":{chain} ACCEPT [0:0]\n");
///         }
///         text += if table == "filter" { extra } else { "" };
///         text += "COMMIT\n";
///     }
///     Ok(PerFamily {
///         v4: RulesFile::read(&text, Family::V4)?,
///         v6: RulesFile::read(&text, Family::V6)?,
///     })
/// };
/// assert!(prove(&policy, &plan, &rules("")?).holds());
///
/// let proof = prove(&policy, &plan, &rules("-A INPUT -p tcp --dport 23 -j DROP\n")?);
/// let Difference::Verdict(walked) = &proof.disagreements[0].what else { panic!() };
/// assert_eq!(walked.packet.destination_port, Some(23));
/// assert_eq!(walked.rules.rule.as_ref().unwrap().1, "-p tcp -m tcp --dport 23 -j DROP");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn prove(policy: &Policy, plan: &Plan, rules: &PerFamily<RulesFile>) -> Proof {
    let mut proof = Proof::default();
    for (family, file) in rules.iter() {
        let tables = file.ruleset.tables.iter();
        let chains = tables.flat_map(|table| &table.chains);
        proof.rules += chains.map(|chain| chain.rules.len()).sum::<usize>();
        let space = Space::new(family);
        let mut prover = Prover {
            policy,
            plan,
            file,
            space: &space,
            proof: &mut proof,
        };
        if let Err(gave_up) = prover.family() {
            proof.gave_up.push((family, gave_up));
        }
    }
    proof
}

/// At most so many rules are walked through besides the proof.
const MOST_WALKED: usize = 500;

/// One family on its way to a proof.
struct Prover<'a> {
    policy: &'a Policy,
    plan: &'a Plan,
    file: &'a RulesFile,
    space: &'a Space,
    proof: &'a mut Proof,
}

/// The log lines of the rules: each with an effect of its own.
struct TaggedLogs {
    ruleset: Ruleset,
    lines: Vec<(Effect, LogLine)>,
    strange: Vec<(u32, String)>,
}

impl Prover<'_> {
    fn family(&mut self) -> Result<(), GaveUp> {
        self.declarations();
        let spec = spec(self.plan, self.space)?;
        let tagged = tag_logs(&self.file.ruleset);
        for (line, text) in &tagged.strange {
            self.found(Difference::StrangeLog(*line, text.clone()));
        }
        let text = match Behaviour::of(self.space, &tagged.ruleset, &Reading::default()) {
            Ok(text) => text,
            Err(TextError::GaveUp(gave_up)) => return Err(gave_up),
            Err(error) => {
                self.found(Difference::Unreadable(error));
                return Ok(());
            }
        };
        self.structure(&spec, &text);
        self.verdicts(&spec.behaviour, &text)?;
        for hook in Hook::ALL {
            self.logs(hook, &spec, &text, &tagged)?;
        }
        if self.proof.disagreements.is_empty() {
            self.walk_rules()?;
        }
        Ok(())
    }

    fn found(&mut self, what: Difference) {
        let family = self.space.family();
        self.proof.disagreements.push(Disagreement { family, what });
    }

    /// Every base chain of every owned table is declared: an undeclared one keeps what it had on one backend and
    /// becomes empty on the other.
    fn declarations(&mut self) {
        for table in [
            TableName::Raw,
            TableName::Mangle,
            TableName::Nat,
            TableName::Filter,
        ] {
            let head = format!("*{}", table.as_str());
            let mut lines = self
                .file
                .text
                .lines()
                .skip_while(|line| **line != head)
                .skip(1);
            if self.file.ruleset.table(table).is_none() {
                self.found(Difference::Undeclared { table, chain: None });
                continue;
            }
            let declared: Vec<&str> = lines
                .by_ref()
                .take_while(|line| *line != "COMMIT")
                .filter_map(|line| line.strip_prefix(':')?.split(' ').next())
                .collect();
            for chain in table.base_chains() {
                if !declared.contains(chain) {
                    let chain = Some(*chain);
                    self.found(Difference::Undeclared { table, chain });
                }
            }
        }
        if self.file.ruleset.table(TableName::Security).is_some() {
            let (table, chain) = (TableName::Security, BaseChain::Input);
            self.found(Difference::ForeignTable { table, chain });
        }
    }

    fn structure(&mut self, spec: &Spec, text: &Behaviour) {
        for ((table, chain), found) in &text.structure.policies {
            let wanted = spec.behaviour.structure.policies.get(&(*table, *chain));
            let wanted = wanted.copied().unwrap_or(iptables::Policy::Accept);
            if wanted == *found {
                continue;
            }
            let hook = Hook::ALL
                .into_iter()
                .find(|hook| BaseChain::from(*hook) == *chain);
            self.found(match hook.filter(|_| *table == TableName::Filter) {
                Some(hook) => Difference::ChainPolicy {
                    hook,
                    wanted,
                    found: *found,
                },
                None => Difference::ForeignTable {
                    table: *table,
                    chain: *chain,
                },
            });
        }
        for (table, chain) in &text.structure.chains {
            if *table != TableName::Filter || !is_reached(&self.file.ruleset, chain) {
                let (table, chain) = (*table, chain.to_string());
                self.found(Difference::IdleChain { table, chain });
            }
        }
        for table in &self.file.ruleset.tables {
            let busy = table.chains.iter().find(|chain| !chain.rules.is_empty());
            if let Some(chain) = busy
                && table.name != TableName::Filter
                && let Some(chain) = BaseChain::from_name(&chain.name)
            {
                self.found(Difference::ForeignTable {
                    table: table.name,
                    chain,
                });
            }
        }
    }

    fn verdicts(&mut self, spec: &Behaviour, text: &Behaviour) -> Result<(), GaveUp> {
        for hook in Hook::ALL {
            let place = (TableName::Filter, BaseChain::from(hook));
            let says = spec.flow(self.space, place).verdicts;
            let does = text.flow(self.space, place).verdicts;
            if says == does {
                continue;
            }
            let packets = self.space.differ(says, does)?;
            let what = match self.walk(hook, packets)? {
                Ok(walked) if !walked.same_verdict() => Difference::Verdict(walked),
                other => contradiction(
                    other,
                    "the verdicts of a set of packets differ, those of one of them do not",
                ),
            };
            self.found(what);
        }
        Ok(())
    }

    /// Each log line by the policy is one line with one limit in the rules.
    fn logs(
        &mut self,
        hook: Hook,
        spec: &Spec,
        text: &Behaviour,
        tagged: &TaggedLogs,
    ) -> Result<(), GaveUp> {
        let place = (TableName::Filter, BaseChain::from(hook));
        let says = spec.behaviour.flow(self.space, place).effects;
        let does = text.flow(self.space, place).effects;
        let class = |effect: &Effect| {
            let class = spec
                .logs
                .get(effect)
                .and_then(|log| self.plan.log_classes.get(log.class));
            class.map(LogLine::of_class)
        };
        let mut wanted: Vec<(LogLine, Set)> = Vec::new();
        for (effect, set) in &says {
            wanted.extend(class(effect).map(|line| (line, *set)));
        }
        let mut found: Vec<(LogLine, Set)> = Vec::new();
        for (effect, set) in &does {
            let line = tagged.lines.iter().find(|(other, _)| other == effect);
            match line {
                Some((_, line)) => found.push((line.clone(), *set)),
                // A line that no class says was reported with its rule.
                None if tagged
                    .strange
                    .iter()
                    .any(|(_, text)| text.ends_with(&**effect)) => {}
                None => self.found(Difference::StrangeLog(0, effect.to_string())),
            }
        }
        remove_equal(&mut wanted, &mut found);
        while let Some((line, _)) = wanted.first().or(found.first()).cloned() {
            let of_line = |all: &mut Vec<(LogLine, Set)>| -> Vec<Set> {
                all.extract_if(.., |(other, _)| *other == line)
                    .map(|(_, set)| set)
                    .collect()
            };
            let (says, does) = (of_line(&mut wanted), of_line(&mut found));
            let all_says = self.space.any(says.iter().copied())?;
            let all_does = self.space.any(does.iter().copied())?;
            let only = self.space.or(
                self.space.minus(all_says, all_does)?,
                self.space.minus(all_does, all_says)?,
            )?;
            let what = if only == self.space.none() {
                let (wanted, found) = (says.len(), does.len());
                Difference::Buckets {
                    hook,
                    line,
                    wanted,
                    found,
                }
            } else {
                match self.walk(hook, only)? {
                    Ok(walked) if !walked.same_logs() => Difference::Logs(walked),
                    other => contradiction(
                        other,
                        "the logs of a set of packets differ, those of one of them do not",
                    ),
                }
            };
            self.found(what);
        }
        Ok(())
    }

    /// A packet of each rule, hook by hook, through both walkers: a view of its own beside the sets.
    fn walk_rules(&mut self) -> Result<(), GaveUp> {
        for hook in Hook::ALL {
            let matching = Matching {
                plan: self.plan,
                space: self.space,
                hook,
            };
            for rule in self.plan.rules.iter().take(MOST_WALKED) {
                let packets = matching.rule(rule)?;
                if packets == self.space.none() {
                    continue;
                }
                self.proof.walked += 1;
                match self.walk(hook, packets)? {
                    Ok(walked) if walked.same_verdict() && walked.same_logs() => {}
                    other => self.found(contradiction(
                        other,
                        "the walkers differ where the sets do not",
                    )),
                }
            }
        }
        Ok(())
    }

    /// A packet of the set, both ways.
    fn walk(&self, hook: Hook, packets: Set) -> Result<Result<Box<Walked>, NoWalk>, GaveUp> {
        let prefer = [self.between_interfaces(hook)?];
        let witness = self.space.witness(packets, hook.into(), &prefer)?;
        let Some(witness) = witness else {
            return Ok(Err(NoWalk::NoChain("no packet can be in the set".into())));
        };
        Ok(Walked::new(self.policy, &self.file.ruleset, witness.packet).map(Box::new))
    }

    /// Packets on devices that the policy names.
    fn between_interfaces(&self, hook: Hook) -> Result<Set, GaveUp> {
        let patterns = || {
            self.plan
                .interfaces
                .iter()
                .flat_map(|interface| &interface.devices)
        };
        let any = |devices: Result<Vec<Set>, GaveUp>| match devices? {
            devices if devices.is_empty() => Ok(self.space.all()),
            devices => self.space.any(devices),
        };
        let came = patterns().map(|device| self.space.in_device(device.as_str()));
        let leaves = patterns().map(|device| self.space.out_device(device.as_str()));
        let (came, leaves) = (any(came.collect())?, any(leaves.collect())?);
        match hook {
            Hook::Input => Ok(came),
            Hook::Output => Ok(leaves),
            Hook::Forward => self.space.and(came, leaves),
        }
    }
}

fn contradiction(walked: Result<Box<Walked>, NoWalk>, how: &str) -> Difference {
    match walked {
        Ok(walked) => Difference::Internal(Some(walked), how.to_owned()),
        Err(error) => Difference::Internal(None, error.to_string()),
    }
}

/// Takes out what is on both sides, each as often as on the other.
fn remove_equal(left: &mut Vec<(LogLine, Set)>, right: &mut Vec<(LogLine, Set)>) {
    left.retain(|one| match right.iter().position(|other| other == one) {
        Some(at) => {
            right.swap_remove(at);
            false
        }
        None => true,
    });
}

/// The ruleset with every log rule made an effect of its own, its limit taken as part of the line: a limit in front of
/// a log decides nothing else.
fn tag_logs(ruleset: &Ruleset) -> TaggedLogs {
    let mut tagged = TaggedLogs {
        ruleset: ruleset.clone(),
        lines: Vec::new(),
        strange: Vec::new(),
    };
    let tables = tagged.ruleset.tables.iter_mut();
    for table in tables.filter(|table| table.name == TableName::Filter) {
        for rule in table.chains.iter_mut().flat_map(|chain| &mut chain.rules) {
            if !is_log(&rule.target) {
                continue;
            }
            let Some(line) = LogLine::of_rule(rule) else {
                tagged
                    .strange
                    .push((rule.line, rule.to_text(ruleset.family)));
                continue;
            };
            rule.matches
                .retain(|condition| as_limit(condition).is_none());
            rule.target = Target::Log(Box::new(Log {
                prefix: format!("line-{}", tagged.lines.len()).into(),
                level: Log::DEFAULT_LEVEL,
                flags: [false; 5],
            }));
            let text = rule.target.to_text();
            let effect = text.strip_prefix("-j ").unwrap_or(&text);
            tagged.lines.push((effect.into(), line));
        }
    }
    tagged
}

/// Whether a chain of the filter table is reached from a base chain.
fn is_reached(ruleset: &Ruleset, name: &str) -> bool {
    let Some(table) = ruleset.table(TableName::Filter) else {
        return false;
    };
    let base = table.chains.iter().filter(|chain| chain.policy.is_some());
    let mut reached: Vec<&str> = base.map(|chain| &*chain.name).collect();
    let mut at = 0;
    while let Some(chain) = reached.get(at).and_then(|name| table.chain(name)) {
        for rule in &chain.rules {
            if let Target::Jump(to) | Target::Goto(to) = &rule.target
                && !reached.contains(&&**to)
            {
                reached.push(to);
            }
        }
        at += 1;
    }
    reached.contains(&name)
}
