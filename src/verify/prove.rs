//! spec = text: the policy's behaviour held against the rules'.

use std::panic::resume_unwind;
use std::thread;

use super::condition::Condition;
use super::custom::Customs;
use super::files::RenderedRules;
use super::logging::LogLine;
use super::mangle;
use super::matching::{Matching, set_name};
use super::nat;
use super::proof::{Difference, Disagreement, Proof};
use super::raw;
use super::views::{NoWitness, Views, contradiction};
use crate::analysis::{BaseChain, Effect, GaveUp, Set, Space, TextError, is_opaque_mask};
use crate::iptables::{self, Match, Ruleset, TableName, Target};
use crate::net::{Family, Hook, IntervalSet};
use crate::policy::{NatChain, Policy};
use crate::resolve::{Members, Plan};

/// Proves for both families and every hook that the rules do what the policy says, or says where they do not.
///
/// The plan must be that of the policy. Verdicts and log lines are compared for all packets at once, chain policies,
/// declared chains and the tables that have to be empty by what the file says. How many lines a rate lets through is
/// outside: rates are compared as they are written.
///
/// ```
/// use fwc::net::PerFamily;
/// use fwc::verify::{Difference, RenderedRules, Unread, prove};
/// use fwc::{diag::Sink, files::Access, policy, resolve, source::SourceMap};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("fwc.toml");
/// std::fs::write(&path, "version = 1\n[defaults]\ninput = \"accept\"\nforward = \"accept\"\n")?;
/// let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
/// let policy = policy::load(&path, Access::Read, &mut sources, &mut sink).unwrap();
/// let plan = resolve::resolve(&policy, &mut sink).unwrap();
///
/// let rules = |extra: &str| -> Result<RenderedRules, Unread> {
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
///     RenderedRules::read(PerFamily { v4: text.clone(), v6: text }, None)
/// };
/// assert!(prove(&policy, &plan, &rules("")?).holds());
///
/// let proof = prove(&policy, &plan, &rules("-A INPUT -p tcp --dport 23 -j DROP\n")?);
/// let Difference::Verdict(walked) = &proof.disagreements[0].what else { panic!() };
/// assert_eq!(walked.packet.destination_port, Some(23));
/// assert_eq!(walked.rules.rule.as_ref().unwrap().1, "-p tcp -m tcp --dport 23 -j DROP");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn prove(policy: &Policy, plan: &Plan, rules: &RenderedRules) -> Proof {
    // The families have nothing in common, and take as long.
    let [v4, v6] = thread::scope(|scope| {
        Family::ALL
            .map(|family| scope.spawn(move || family_proof(policy, plan, rules, family)))
            .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    v4.and(v6)
}

fn family_proof(policy: &Policy, plan: &Plan, rules: &RenderedRules, family: Family) -> Proof {
    let ruleset = rules.ruleset(family);
    let chains = ruleset.tables.iter().flat_map(|table| &table.chains);
    let mut proof = Proof {
        rules: chains.map(|chain| chain.rules.len()).sum(),
        ..Proof::default()
    };
    let space = Space::new(family);
    let mut prover = Prover {
        policy,
        plan,
        rules,
        ruleset,
        space: &space,
        proof: &mut proof,
    };
    if let Err(gave_up) = prover.family() {
        proof.gave_up.push((family, gave_up));
    }
    let keys = (0..).map_while(|number| space.opaque_key(number));
    proof
        .whatever
        .extend(keys.map(|key| Condition::words(&key)));
    proof
}

/// How chains begin that are fwc's where others have rules too.
const OWN: &str = "FWC-";

/// At most about so many packets of rules are walked in a family besides the proof.
const MOST_WALKED: usize = 250;

/// At most about so many rules of the policy are met on their ways.
const MOST_MET: usize = 1_000_000;

/// One family on its way to a proof.
struct Prover<'a> {
    policy: &'a Policy,
    plan: &'a Plan,
    rules: &'a RenderedRules,
    ruleset: &'a Ruleset,
    space: &'a Space,
    proof: &'a mut Proof,
}

impl Prover<'_> {
    fn family(&mut self) -> Result<(), GaveUp> {
        self.declarations();
        self.sets();
        let (policy, plan, space) = (self.policy, self.plan, self.space);
        let views = match Views::new(policy, plan, self.rules, space) {
            Ok(views) => views,
            Err(TextError::GaveUp(gave_up)) => return Err(gave_up),
            Err(error) => {
                self.found(Difference::Unreadable(error));
                return Ok(());
            }
        };
        for (line, text) in &views.tagged.strange {
            self.found(Difference::StrangeLog(*line, text.clone()));
        }
        if self.masks(&views.customs) {
            return Ok(());
        }
        self.structure(&views);
        self.sources(&views)?;
        for chain in CHAINS {
            self.translations(&views, chain)?;
        }
        for chain in BaseChain::ALL {
            self.treatments(&views, (TableName::Raw, chain))?;
            if views.customs.any_in(TableName::Nat) {
                self.treatments(&views, (TableName::Nat, chain))?;
            }
            self.treatments(&views, (TableName::Mangle, chain))?;
        }
        for hook in Hook::ALL {
            self.verdicts(&views, hook)?;
            self.logs(&views, hook)?;
        }
        self.twice(&views)?;
        if self.proof.disagreements.is_empty() {
            self.walk_rules(&views)?;
        }
        Ok(())
    }

    /// Whether a rule has a mask whose addresses are not known; custom rules may, as they stand on both sides.
    fn masks(&mut self, customs: &Customs) -> bool {
        let family = self.space.family();
        let is_opaque = |condition: &Match| match condition {
            Match::Source(network) | Match::Destination(network) => {
                is_opaque_mask(&network.value, family)
            }
            _ => false,
        };
        let count = self.proof.disagreements.len();
        for table in &self.ruleset.tables {
            for chain in &table.chains {
                for rule in &chain.rules {
                    if rule.matches.iter().any(is_opaque)
                        && !customs.has(table.name, &chain.name, rule, family)
                    {
                        self.found(Difference::OpaqueMask(rule.line, rule.to_text(family)));
                    }
                }
            }
        }
        self.proof.disagreements.len() > count
    }

    /// Nothing that counts is met twice.
    fn twice(&mut self, views: &Views<'_>) -> Result<(), GaveUp> {
        for twice in views.twice()? {
            let hook = Hook::ALL
                .into_iter()
                .find(|hook| BaseChain::from(*hook) == twice.base);
            let hook = hook.filter(|_| twice.table == TableName::Filter);
            let walked = hook
                .map(|hook| views.walk(hook, twice.packets))
                .transpose()?;
            self.found(match walked {
                Some(Ok(walked)) if !walked.same_logs() => Difference::Logs(walked),
                _ => Difference::CountedTwice {
                    table: twice.table,
                    chain: twice.chain,
                },
            });
        }
        Ok(())
    }

    /// Each set that the policy fills has to be as the policy says.
    fn sets(&mut self) {
        let family = self.space.family();
        let mut wanted = Vec::new();
        for set in &self.plan.sets {
            let name = set_name(&set.name, family);
            let (timeout, own) = match &set.members {
                Members::Static(all) => (None, all.family(family).clone()),
                Members::Dynamic { timeout } => (*timeout, IntervalSet::empty()),
            };
            let found = self.rules.sets.get(&name);
            let is_static = matches!(set.members, Members::Static(_));
            let same = match found {
                // A set that would be empty for good need not be made.
                None => is_static && own.is_empty(),
                Some(found) => {
                    (found.family, found.timeout, &found.members) == (family, timeout, &own)
                }
            };
            if !same {
                self.found(Difference::IpSet(name.clone()));
            }
            wanted.push(name);
        }
        let sets = self.rules.sets.iter();
        let others = sets.filter(|(name, set)| set.family == family && !wanted.contains(name));
        for (name, _) in others {
            self.found(Difference::IpSet(name.clone()));
        }
    }

    fn found(&mut self, what: Difference) {
        let family = self.space.family();
        self.proof.disagreements.push(Disagreement { family, what });
    }

    /// Every base chain of every owned table is declared: an undeclared one keeps what it had on one backend and
    /// becomes empty on the other. Where others have rules too none is, and nothing but fwc's own chains is written to.
    fn declarations(&mut self) {
        if self.plan.is_shared() {
            return self.only_own_chains();
        }
        for table in [
            TableName::Raw,
            TableName::Mangle,
            TableName::Nat,
            TableName::Filter,
        ] {
            let head = format!("*{}", table.as_str());
            let mut lines = self.rules.texts[self.space.family()]
                .lines()
                .skip_while(|line| **line != head)
                .skip(1);
            if self.ruleset.table(table).is_none() {
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
        if self.ruleset.table(TableName::Security).is_some() {
            let (table, chain) = (TableName::Security, BaseChain::Input);
            self.found(Difference::ForeignTable { table, chain });
        }
    }

    /// No base chain is declared, each has nothing but jumps to `FWC-*`, and every other chain is named so.
    fn only_own_chains(&mut self) {
        let lines = self.rules.texts[self.space.family()].lines();
        let declared = lines.filter_map(|line| line.strip_prefix(':')?.split(' ').next());
        for chain in declared.filter(|chain| !chain.starts_with(OWN)) {
            let what = format!("{chain} is declared");
            self.found(Difference::NotShared(what));
        }
        let own = |to: &str| to.starts_with(OWN);
        for table in &self.ruleset.tables {
            let base = table.chains.iter().filter(|chain| chain.policy.is_some());
            for rule in base.flat_map(|chain| &chain.rules) {
                if !matches!(&rule.target, Target::Jump(to) if own(to)) {
                    let what = format!(
                        "line {} is in a base chain and no jump to {OWN}*",
                        rule.line
                    );
                    self.found(Difference::NotShared(what));
                }
            }
        }
    }

    fn structure(&mut self, views: &Views<'_>) {
        for ((table, chain), found) in &views.text.structure.policies {
            let policies = &views.spec.behaviour.structure.policies;
            let wanted = policies.get(&(*table, *chain)).copied();
            let wanted = wanted.unwrap_or(iptables::Policy::Accept);
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
        for (table, chain) in &views.text.structure.chains {
            if !is_reached(self.ruleset, *table, chain) {
                let (table, chain) = (*table, chain.to_string());
                self.found(Difference::IdleChain { table, chain });
            }
        }
        let ruleset = self.ruleset;
        for table in ruleset
            .tables
            .iter()
            .filter(|table| table.name != TableName::Filter)
        {
            for chain in table.chains.iter().filter(|chain| !chain.rules.is_empty()) {
                let Some(base) = BaseChain::from_name(&chain.name) else {
                    continue;
                };
                let place = (table.name, base);
                if !views.spec.behaviour.flows.contains_key(&place) {
                    let (table, chain) = place;
                    self.found(Difference::ForeignTable { table, chain });
                }
            }
        }
    }

    /// Which sources are dropped before anything else.
    fn sources(&mut self, views: &Views<'_>) -> Result<(), GaveUp> {
        let place = (TableName::Raw, BaseChain::Prerouting);
        let says = views.spec.behaviour.flow(self.space, place);
        let does = views.text.flow(self.space, place);
        if !views.spec.behaviour.flows.contains_key(&place) {
            return Ok(());
        }
        let packets = self.space.differ(says.verdicts, does.verdicts)?;
        if packets == self.space.none() {
            return Ok(());
        }
        let what = match views.walk(Hook::Input, packets)? {
            Ok(walked) if !walked.same_source() => Difference::Verdict(walked),
            // Nobody but iptables can read what custom rules do with one packet.
            Ok(_) if views.customs.any_in(TableName::Raw) => {
                let (table, chain) = place;
                Difference::CustomPlace { table, chain }
            }
            other => contradiction(
                other,
                "the raw table differs for a set of packets, but not for one of them",
            ),
        };
        self.found(what);
        Ok(())
    }

    /// What is done to packets in the raw and the mangle table.
    fn treatments(
        &mut self,
        views: &Views<'_>,
        place: (TableName, BaseChain),
    ) -> Result<(), GaveUp> {
        let (spec, text) = (&views.spec.behaviour, &views.text);
        // Rules of a chain for which the policy has no entry were found already.
        if !spec.flows.contains_key(&place)
            || spec.flow(self.space, place) == text.flow(self.space, place)
        {
            return Ok(());
        }
        let (says, does) = (spec.flow(self.space, place), text.flow(self.space, place));
        let sources = place == (TableName::Raw, BaseChain::Prerouting);
        if sources && self.space.differ(says.verdicts, does.verdicts)? != self.space.none() {
            // What is dropped here was compared before: nothing else happens to it.
            return Ok(());
        }
        let packets = self.differing(views, place)?;
        if packets != self.space.none() && views.customs.any_in(place.0) {
            // Nobody but iptables can read what custom rules do with one packet.
            let (table, chain) = place;
            self.found(Difference::CustomPlace { table, chain });
            return Ok(());
        }
        if packets != self.space.none() {
            let what = match views.treat(place, packets)? {
                Ok(treated) if !treated.same() => Difference::Treatment(treated),
                Ok(treated) => Difference::Internal(
                    None,
                    format!(
                        "a set of packets is changed otherwise, {} is not",
                        treated.packet
                    ),
                ),
                Err(NoWitness::Unseen(chain)) => Difference::Unseen(chain),
                Err(NoWitness::NoWalk(error)) => Difference::Internal(None, error.to_string()),
            };
            self.found(what);
        }
        Ok(())
    }

    /// The packets with which policy and rules do not do the same at a base chain.
    fn differing(&self, views: &Views<'_>, place: (TableName, BaseChain)) -> Result<Set, GaveUp> {
        let all = views.spec.behaviour.differences(self.space, &views.text)?;
        let here = all
            .into_iter()
            .filter(|difference| (difference.table, difference.chain) == place);
        self.space.any(here.map(|difference| difference.packets))
    }

    fn verdicts(&mut self, views: &Views<'_>, hook: Hook) -> Result<(), GaveUp> {
        let place = (TableName::Filter, BaseChain::from(hook));
        let says = views.spec.behaviour.flow(self.space, place).verdicts;
        let does = views.text.flow(self.space, place).verdicts;
        if says == does {
            return Ok(());
        }
        let packets = self.space.differ(says, does)?;
        let what = match views.walk(hook, packets)? {
            Ok(walked) if !walked.same_verdict() => Difference::Verdict(walked),
            other => contradiction(
                other,
                "the verdicts of a set of packets differ, those of one of them do not",
            ),
        };
        self.found(what);
        Ok(())
    }

    /// What each chain of the nat table makes of every packet.
    fn translations(&mut self, views: &Views<'_>, chain: NatChain) -> Result<(), GaveUp> {
        let place = (TableName::Nat, nat::base_chain(chain));
        let says = views.spec.behaviour.flow(self.space, place);
        let does = views.text.flow(self.space, place);
        if says == does {
            return Ok(());
        }
        if views.customs.any_in(TableName::Nat) {
            // Compared as the other tables are: nobody but iptables can read what custom rules do with one packet.
            return Ok(());
        }
        let packets = self.space.differ(says.verdicts, does.verdicts)?;
        let how = "a chain of the nat table differs for a set of packets, but not for one of them";
        let what = match views.translate(chain, packets)? {
            Ok(translated) if !translated.same_end() => Difference::Translation(translated),
            Ok(_) => Difference::Internal(None, how.to_owned()),
            Err(NoWitness::Unseen(chain)) => Difference::Unseen(chain),
            Err(NoWitness::NoWalk(error)) => Difference::Internal(None, error.to_string()),
        };
        self.found(what);
        Ok(())
    }

    /// Each log line by the policy is one line with one limit in the rules.
    fn logs(&mut self, views: &Views<'_>, hook: Hook) -> Result<(), GaveUp> {
        let family = self.space.family();
        let place = (TableName::Filter, BaseChain::from(hook));
        let says = views.spec.behaviour.flow(self.space, place);
        let does = views.text.flow(self.space, place);
        // Where the verdict is wrong the log is too, and that was said.
        let wrong = self.space.differ(says.verdicts, does.verdicts)?;
        let (says, does) = (says.effects, does.effects);
        let mut wanted: Vec<(LogLine, Set)> = Vec::new();
        for (effect, set) in &says {
            let logging = views.spec.logs.get(effect);
            let line = logging.and_then(|logging| {
                LogLine::of_plan(self.plan, logging.class, logging.rule, family)
            });
            wanted.extend(line.map(|line| (line, *set)));
        }
        let custom = says
            .iter()
            .filter(|(effect, _)| !views.spec.logs.contains_key(*effect));
        for (effect, set) in custom {
            if does.get(effect) != Some(set) {
                self.found(Difference::StrangeLog(0, effect.to_string()));
            }
        }
        let mut found: Vec<(&Effect, LogLine, Set)> = Vec::new();
        for (effect, set) in &does {
            match views.tagged.logs.get(effect) {
                Some(line) => {
                    found.push((effect, line.clone(), *set));
                }
                // What a custom rule does is the same on both sides, or it stands elsewhere.
                None if says.get(effect) == Some(set) => {}
                // A line that no policy asks for was reported with its rule; other effects are nobody's.
                None => {
                    let strange = views.tagged.strange.iter();
                    if !strange
                        .into_iter()
                        .any(|(_, text)| text.ends_with(&**effect))
                    {
                        self.found(Difference::StrangeLog(0, effect.to_string()));
                    }
                }
            }
        }
        self.log_order(views, hook, &wanted, &found)?;
        let mut found: Vec<_> = found
            .into_iter()
            .map(|(_, line, set)| (line, set))
            .collect();
        remove_equal(&mut wanted, &mut found);
        while let Some((line, _)) = wanted.first().or(found.first()).cloned() {
            let of_line = |all: &mut Vec<(LogLine, Set)>| -> Vec<Set> {
                let own = all.extract_if(.., |(other, _)| *other == line);
                own.map(|(_, set)| set).collect()
            };
            let (says, does) = (of_line(&mut wanted), of_line(&mut found));
            let all_says = self.space.any(says.iter().copied())?;
            let all_does = self.space.any(does.iter().copied())?;
            let only = self.space.or(
                self.space.minus(all_says, all_does)?,
                self.space.minus(all_does, all_says)?,
            )?;
            let unsaid = self.space.minus(only, wrong)?;
            let what = if only == self.space.none() {
                Difference::Buckets {
                    hook,
                    line,
                    wanted: says.len(),
                    found: does.len(),
                }
            } else if unsaid == self.space.none() {
                continue;
            } else {
                match views.walk(hook, unsaid)? {
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

    /// A packet of an entry through both walkers.
    fn walk_entry(
        &mut self,
        views: &Views<'_>,
        place: (TableName, BaseChain),
        packets: Set,
    ) -> Result<(), GaveUp> {
        if packets == self.space.none() || views.customs.any_in(place.0) {
            return Ok(());
        }
        self.proof.walked += 1;
        match views.treat(place, packets)? {
            Ok(treated) if treated.same() => {}
            // Two entries may do the same to a packet, which a set does not show.
            Ok(treated) => self.found(Difference::Treatment(treated)),
            Err(NoWitness::Unseen(_)) => {}
            Err(NoWitness::NoWalk(error)) => {
                self.found(Difference::Internal(None, error.to_string()));
            }
        }
        Ok(())
    }

    /// Two lines that one packet may have both of stand in the order of the policy. Both lists are in their orders, as far as
    /// packets come to a line by one way only.
    fn log_order(
        &mut self,
        views: &Views<'_>,
        hook: Hook,
        wanted: &[(LogLine, Set)],
        found: &[(&Effect, LogLine, Set)],
    ) -> Result<(), GaveUp> {
        let mut left: Vec<_> = wanted.iter().map(Some).collect();
        let mut placed: Vec<(usize, &Effect, Set)> = Vec::new();
        for (effect, line, set) in found {
            let same = |other: &(LogLine, Set)| other.0 == *line && other.1 == *set;
            let Some(place) = left.iter().position(|other| other.is_some_and(same)) else {
                continue;
            };
            left[place] = None;
            for (other_place, other, other_set) in &placed {
                let several_ways = |effect: &Effect| views.tagged.unordered.contains(effect);
                if *other_place < place && !several_ways(effect) && !several_ways(other) {
                    continue;
                }
                let both = self.space.and(*set, *other_set)?;
                if both == self.space.none() {
                    continue;
                }
                let (first, last) = match *other_place < place {
                    true => (*other, *effect),
                    false => (*effect, *other),
                };
                let early = views.logged_before(hook, first, last)?;
                let late = self.space.minus(both, early)?;
                if late != self.space.none() {
                    let what = match views.walk(hook, late)? {
                        Ok(walked) if !walked.same_logs() => Difference::Logs(walked),
                        other => contradiction(other, "two lines are logged in another order"),
                    };
                    self.found(what);
                    return Ok(());
                }
            }
            placed.push((place, effect, *set));
        }
        Ok(())
    }

    /// A packet of each rule and nat entry through both walkers, of many rules of some: a view of its own beside the sets.
    fn walk_rules(&mut self, views: &Views<'_>) -> Result<(), GaveUp> {
        let how = "the walkers differ where the sets do not";
        let apart = views.spec.translated.len().div_ceil(MOST_WALKED).max(1);
        let readable = !views.customs.any_in(TableName::Nat);
        let entries = views.spec.translated.iter().filter(|_| readable);
        for (chain, _, packets) in entries.step_by(apart) {
            self.proof.walked += 1;
            match views.translate(*chain, *packets)? {
                Ok(translated) if translated.same_end() => {}
                Err(NoWitness::Unseen(_)) => {}
                Ok(_) => self.found(Difference::Internal(None, how.to_owned())),
                Err(NoWitness::NoWalk(error)) => {
                    self.found(Difference::Internal(None, error.to_string()));
                }
            }
        }
        for chain in BaseChain::ALL {
            for entry in &self.plan.raw {
                let packets = raw::packets(self.plan, self.space, entry, chain)?;
                self.walk_entry(views, (TableName::Raw, chain), packets)?;
            }
            for entry in &self.plan.mangle {
                let packets = mangle::packets(self.plan, self.space, entry, chain)?;
                self.walk_entry(views, (TableName::Mangle, chain), packets)?;
            }
        }
        let rules = self.plan.rules.len();
        let most = (MOST_MET / rules.max(1)).clamp(1, MOST_WALKED);
        let apart = rules.div_ceil(most).max(1);
        for (index, rule) in self.plan.rules.iter().enumerate().step_by(apart) {
            for hook in Hook::ALL {
                let matching = Matching {
                    plan: self.plan,
                    space: self.space,
                    hook,
                };
                let mut packets = matching.rule(rule)?;
                if packets == self.space.none() {
                    continue;
                }
                // Where the rule logs, a packet that comes so far.
                let logged = views.spec.logged(self.space, hook, index);
                packets = logged.unwrap_or(packets);
                self.proof.walked += 1;
                match views.walk(hook, packets)? {
                    Ok(walked) if walked.same_verdict() && walked.same_logs() => {}
                    // A packet that comes by a log line twice is in its set once.
                    Ok(walked) if walked.same_verdict() => self.found(Difference::Logs(walked)),
                    Err(NoWitness::Unseen(_)) => {}
                    other => self.found(contradiction(other, how)),
                }
            }
        }
        Ok(())
    }
}

/// The chains of the nat table where policies translate.
const CHAINS: [NatChain; 3] = [
    NatChain::Prerouting,
    NatChain::Output,
    NatChain::Postrouting,
];

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

/// Whether a chain is reached from a base chain.
fn is_reached(ruleset: &Ruleset, table: TableName, name: &str) -> bool {
    let Some(table) = ruleset.table(table) else {
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
