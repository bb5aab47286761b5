//! What becomes of the packets of a batch by the text of the rules, and by the policy.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use fwc::internals::resolve::{Members, Plan};
use fwc::internals::verify::{TranslationEnd, new_end};
use fwc::iptables::{
    self, Match, Module, NatKind, NatTarget, NoWalk, RuleId, Ruleset, TableName, Target,
    UndecidedCondition, Unknowns, WalkTrace,
};
use fwc::net::{
    AddressRange, Date, Family, Hook, IntervalSet, Packet, PortRange, Protocol, State, number_of,
};
use fwc::policy::{
    self, BackendTurn, Chance, Circumstance, HostPrefix, LimitRate, NatChain, Policy,
    PolicySchedule, PolicyVerdict,
};
use jiff::civil::DateTime;

use super::bench::{Sent, Ways, own_addresses};
use super::buckets::{Buckets, Fill, Round, bucket_key, list_key, masked, per_second};
use super::packets::Flow;
use crate::circumstances::Circumstances;
use crate::generate;

/// A policy, its rules in one family, and what is so while its packets are sent.
pub struct Judge<'a> {
    pub policy: &'a Policy,
    pub plan: &'a Plan,
    pub ruleset: &'a Ruleset,
    pub ways: &'a Ways,
    pub flows: &'a [Flow],
    /// The members of each set by the kernel's name.
    pub members: &'a BTreeMap<String, IntervalSet>,
    pub now: DateTime,
}

/// The kernel's counters: of a rule, or of a chain's policy.
pub type Place = (TableName, usize, Option<RuleId>);

/// Why a packet or a batch is not judged.
#[derive(Debug)]
pub enum Unjudged {
    /// The kernel chooses what becomes of the packet.
    Packet,
    /// The clock does not tell whether a bucket was empty.
    TooSlow,
}

/// What one batch of rounds comes to.
pub struct Expected {
    pub counts: HashMap<Place, u64>,
    /// Where the policy and its rules disagree, packet by packet.
    pub disagreements: Vec<String>,
}

type BucketKey = (TableName, CountedBy, [u128; 3]);

/// What a bucket belongs to.
#[derive(PartialEq, Eq, Hash)]
enum CountedBy {
    Rule(RuleId),
    /// A table of `hashlimit` or `recent`, which rules may share.
    Table(String),
}

impl CountedBy {
    fn of(rule: RuleId, module: &Module) -> Self {
        let name = module.setting("hashlimit-name").or(module.setting("name"));
        name.map_or(Self::Rule(rule), |name| Self::Table(name.value.to_string()))
    }
}

struct Answers<'a, 'j> {
    judge: &'j Judge<'a>,
    sent: &'j Sent,
    round: usize,
    buckets: &'j mut Buckets<BucketKey>,
    turns: &'j mut HashMap<(TableName, RuleId), u32>,
    too_slow: bool,
}

impl Judge<'_> {
    /// Takes all packets through the rules and the policy, in their order.
    pub fn expect(&self, rounds: &[Vec<Sent>], times: &[Round]) -> Result<Expected, Unjudged> {
        let mut tokens = Tokens {
            rules: Buckets::new(times),
            turns: HashMap::new(),
            policy: Buckets::new(times),
        };
        let mut expected = Expected {
            counts: HashMap::new(),
            disagreements: Vec::new(),
        };
        for (round, packets) in rounds.iter().enumerate() {
            // What comes in is sent first.
            let (own, foreign): (Vec<&Sent>, Vec<&Sent>) = packets
                .iter()
                .partition(|sent| sent.packet.hook == Hook::Output);
            for sent in foreign.into_iter().chain(own) {
                let mark = sent.flow.map_or(0, |flow| self.flows[flow].mark);
                let end = self.one(sent, mark, round, &mut tokens, &mut expected)?;
                if let Some((mut back, mark)) = comes_back(&end) {
                    // A connection that was there before is translated as it was then.
                    let flow = sent.flow.map(|flow| &self.flows[flow]);
                    if let Some(from) = flow.and_then(|flow| flow.from)
                        && back.state == State::Established
                    {
                        back.source = from;
                    }
                    let sent = Sent {
                        packet: back,
                        ..sent.clone()
                    };
                    self.one(&sent, mark, round, &mut tokens, &mut expected)?;
                }
            }
        }
        Ok(expected)
    }

    /// Takes one packet through the rules and the policy.
    fn one(
        &self,
        sent: &Sent,
        mark: u32,
        round: usize,
        tokens: &mut Tokens,
        expected: &mut Expected,
    ) -> Result<WalkTrace, Unjudged> {
        let mut answers = Answers {
            judge: self,
            sent,
            round,
            buckets: &mut tokens.rules,
            turns: &mut tokens.turns,
            too_slow: false,
        };
        let journey = iptables::follow(self.ruleset, &sent.packet, mark, &mut answers);
        if answers.too_slow {
            return Err(Unjudged::TooSlow);
        }
        let journey = journey.map_err(|_| Unjudged::Packet)?;
        self.count(&journey, &mut expected.counts);
        let difference = self.by_policy(sent, mark, &journey, round, &mut tokens.policy)?;
        expected.disagreements.extend(difference);
        Ok(journey)
    }

    /// The packets that no clock and no choice of the kernel makes doubtful.
    pub fn judged(&self, rounds: Vec<Vec<Sent>>) -> Vec<Vec<Sent>> {
        let keep = |sent: &Sent| {
            // A bucket that is full and a turn that is the first: what a packet asks of others, not what they answer.
            let (mut buckets, mut turns) = (Buckets::new(&[Round::default()]), HashMap::new());
            let mut answers = Answers {
                judge: self,
                sent,
                round: 0,
                buckets: &mut buckets,
                turns: &mut turns,
                too_slow: false,
            };
            let mark = sent.flow.map_or(0, |flow| self.flows[flow].mark);
            match iptables::follow(self.ruleset, &sent.packet, mark, &mut answers) {
                Ok(journey) => !self.is_lost(&journey),
                Err(NoWalk::Undecided { .. } | NoWalk::Choice(_)) => false,
                Err(_) => true,
            }
        };
        let rounds = rounds.into_iter();
        rounds
            .map(|packets| packets.into_iter().filter(keep).collect())
            .collect()
    }

    /// What a proxy has cannot be forwarded (`ip_forward` of `net/ipv4/ip_forward.c`): a real host routes it to itself. And
    /// nobody says which address a packet has that comes back translated.
    fn is_lost(&self, journey: &WalkTrace) -> bool {
        let is_translated = |step: &iptables::WalkStep| {
            step.chain == "POSTROUTING"
                && matches!(step.walk.verdict, iptables::WalkVerdict::Other(_))
        };
        if comes_back(journey).is_some() && journey.steps.iter().any(is_translated) {
            return true;
        }
        let is_proxied = |step: &iptables::WalkStep| match &step.walk.verdict {
            iptables::WalkVerdict::Other(target) => {
                matches!(&**target, Target::Other(module) if module.name == "TPROXY")
            }
            _ => false,
        };
        journey.packet.hook == Hook::Forward && journey.steps.iter().any(is_proxied)
    }

    fn count(&self, journey: &WalkTrace, counts: &mut HashMap<Place, u64>) {
        for step in &journey.steps {
            let Some(table) = self.ruleset.table(step.table) else {
                continue;
            };
            for id in &step.walk.counted {
                *counts.entry((step.table, id.chain, Some(*id))).or_default() += 1;
            }
            let mut chains = table.chains.iter();
            let base = chains.position(|chain| &*chain.name == step.chain);
            if let (None, Some(base)) = (step.walk.decided, base)
                && table.chains[base].policy.is_some()
            {
                *counts.entry((step.table, base, None)).or_default() += 1;
            }
        }
    }

    /// Whether a set has these ends of a packet. Sets of others are of `hash:net`, which compares the first end alone.
    fn is_member(&self, set: &str, ends: &[bool], packet: &Packet) -> bool {
        let address = match ends[0] {
            true => packet.source,
            false => packet.destination,
        };
        let members = self.members.get(set);
        let has_address = members.is_some_and(|members| members.contains(number_of(address)));
        has_address
            && (!has_ports(self.plan, set) || {
                let port = match ends[1] {
                    true => packet.source_port,
                    false => packet.destination_port,
                };
                MEMBER_PORTS.contains(&(packet.protocol, port.unwrap_or_default()))
            })
    }

    /// Where a flow goes that was translated before.
    fn goes(&self, sent: &Sent, packet: &Packet) -> (IpAddr, Option<u16>) {
        let flow = sent.flow.map(|flow| &self.flows[flow]);
        let to = flow.and_then(|flow| flow.to);
        (to.unwrap_or(packet.destination), packet.destination_port)
    }

    /// What the policy says, where it is something else than what the rules do.
    fn by_policy(
        &self,
        sent: &Sent,
        mark: u32,
        walked: &WalkTrace,
        round: usize,
        said: &mut PolicyBuckets,
    ) -> Result<Option<String>, Unjudged> {
        let chance = OfPolicy {
            judge: self,
            sent,
            walked,
            round,
            asked: RefCell::new(HashMap::new()),
            said: RefCell::new(said),
            too_slow: RefCell::new(false),
        };
        let journey = policy::follow(self.policy, &sent.packet, mark, &chance);
        if *chance.too_slow.borrow() {
            return Err(Unjudged::TooSlow);
        }
        let filter = walked
            .steps
            .iter()
            .find(|step| step.table == TableName::Filter);
        let verdict = filter.map_or(&walked.verdict, |step| &step.walk.verdict);
        let rules = match verdict {
            iptables::WalkVerdict::Accept => PolicyVerdict::Accept,
            iptables::WalkVerdict::Drop => PolicyVerdict::Drop,
            iptables::WalkVerdict::Reject(_) => {
                PolicyVerdict::Reject(policy::RejectAnswer::TcpReset)
            }
            iptables::WalkVerdict::Other(_) => PolicyVerdict::Custom,
        };
        let policy = match journey.decision.verdict {
            // In shared mode the base chains have no rules of others here, and accept.
            PolicyVerdict::Continue => PolicyVerdict::Accept,
            PolicyVerdict::Reject(_) => PolicyVerdict::Reject(policy::RejectAnswer::TcpReset),
            verdict => verdict,
        };
        let end = |packet: &Packet| (packet.destination, packet.destination_port, packet.mark);
        let at_filter = filter.map(|step| end(&step.packet));
        let differs = policy != rules
            || at_filter.is_some_and(|at| at != end(&journey.packet))
            || self.leaves_otherwise(sent, walked, &chance);
        if *chance.too_slow.borrow() {
            return Err(Unjudged::TooSlow);
        }
        Ok(differs.then(|| {
            format!(
                "{sent:?}\npolicy {:?} {:?}\nrules {rules:?} {at_filter:?}\n{walked:?}",
                journey.decision,
                end(&journey.packet)
            )
        }))
    }

    /// Whether the policy gives a packet that leaves another source than the rules.
    fn leaves_otherwise(&self, sent: &Sent, walked: &WalkTrace, chance: &OfPolicy<'_, '_>) -> bool {
        let Some(at) = walked
            .steps
            .iter()
            .position(|step| step.table == TableName::Nat && step.chain == "POSTROUTING")
        else {
            return false;
        };
        let before = match at {
            0 => &sent.packet,
            at => &walked.steps[at - 1].packet,
        };
        let asked = Packet {
            hook: Hook::Output,
            in_device: None,
            ..before.clone()
        };
        let holds = |one: Circumstance<'_>| chance.holds(one, &asked);
        let said = policy::translate_when(self.policy, &asked, NatChain::Postrouting, &holds);
        let made = match &walked.steps[at].walk.verdict {
            iptables::WalkVerdict::Other(target) => {
                new_end(target, &asked, fwc::analysis::BaseChain::Postrouting)
            }
            _ => None,
        };
        said.map(TranslationEnd::from) != made
    }
}

impl Unknowns for Answers<'_, '_> {
    fn holds(&mut self, asked: UndecidedCondition<'_>) -> Option<bool> {
        let (judge, packet) = (self.judge, asked.packet);
        match asked.condition {
            Match::Set(set) => {
                Some(judge.is_member(&set.name, &set.from_source, packet) != set.negated)
            }
            Match::AddressType(types) => {
                let types = types.destination.as_ref()?;
                let is_local = judge.ways.is_local(packet);
                Some(types.holds(|types| types.names().any(|name| name == "LOCAL") == is_local))
            }
            Match::Other(module) => match module.name {
                "limit" | "hashlimit" => {
                    let fill = Fill::of_module(module)?;
                    let by = match module.name {
                        "limit" => [0; 3],
                        _ => bucket_key(module, packet),
                    };
                    let key = (asked.table, CountedBy::of(asked.rule, module), by);
                    let has = self.buckets.take(key, fill, self.round);
                    self.too_slow |= has.is_none();
                    let above = module.setting("hashlimit-above").is_some();
                    Some(has.unwrap_or(false) != above)
                }
                "recent" if module.setting("set").is_some() => Some(true),
                "recent" => {
                    let counted_by = CountedBy::of(asked.rule, module);
                    let key = (asked.table, counted_by, list_key(module, packet)?);
                    let fill = Fill::of_module(module)?;
                    let has = self.buckets.take(key, fill, self.round);
                    self.too_slow |= has.is_none();
                    let is_within = has.unwrap_or(false);
                    Some(is_within == module.setting("rcheck")?.negated)
                }
                "statistic" => {
                    let every: u32 = module.setting("every")?.value.parse().ok()?;
                    let turn = self.turns.entry((asked.table, asked.rule)).or_default();
                    *turn += 1;
                    Some((*turn - 1).is_multiple_of(every))
                }
                "time" | "owner" | "policy" => {
                    let circumstances = Circumstances {
                        user: Some(self.sent.user.0),
                        group: Some(self.sent.user.1),
                        at: Some(judge.now),
                        ..Circumstances::default()
                    };
                    circumstances.module_holds(module, packet)
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn address(&mut self, nat: &NatTarget, packet: &Packet) -> Option<IpAddr> {
        match nat.kind {
            NatKind::Redirect => own_address(packet.family, packet.in_device.as_deref()),
            _ => None,
        }
    }

    fn port(&mut self, nat: &NatTarget, packet: &Packet) -> Option<u16> {
        let ports = nat.ports?;
        match nat.base_port {
            // Port for port (`NF_NAT_RANGE_PROTO_OFFSET`).
            Some(base) => {
                let offset = packet.destination_port?.checked_sub(base)?;
                ports.first.checked_add(offset)
            }
            None if nat.random && ports.first < ports.last => None,
            None => kept((ports.first, ports.last), packet),
        }
    }

    fn destination(&mut self, packet: &Packet) -> Option<(IpAddr, Option<u16>)> {
        Some(self.judge.goes(self.sent, packet))
    }

    fn is_first(&mut self, _: &Packet) -> Option<bool> {
        Some(false)
    }
}

/// A port that is in the range stays (`nf_nat_l4proto_unique_tuple` of `nf_nat_core.c`); else the kernel chooses.
fn kept((first, last): (u16, u16), packet: &Packet) -> Option<u16> {
    let port = packet.destination_port;
    port.filter(|port| (first..=last).contains(port))
}

fn own_address(family: Family, device: Option<&str>) -> Option<IpAddr> {
    let number = super::bench::DEVICES
        .iter()
        .position(|name| Some(*name) == device)?;
    own_addresses(family).get(number).copied()
}

/// The policy's own buckets.
type PolicyBuckets = Buckets<(BucketOwner, [u128; 3])>;

/// A limit has one bucket a rule, hook and family; a limit with a name one a family.
#[derive(PartialEq, Eq, Hash)]
enum BucketOwner {
    Rule(usize, Hook),
    Limit(String),
}

/// What rules and policy count while a batch goes through them.
struct Tokens {
    rules: Buckets<BucketKey>,
    turns: HashMap<(TableName, RuleId), u32>,
    policy: PolicyBuckets,
}

/// The packet that comes back on `lo` after this host sent it, and its connection's mark.
fn comes_back(sent: &WalkTrace) -> Option<(Packet, u32)> {
    let end = &sent.packet;
    let comes = end.hook == Hook::Output
        && sent.verdict == iptables::WalkVerdict::Accept
        && end.out_device.as_deref() == Some("lo");
    comes.then(|| {
        let back = Packet {
            hook: Hook::Input,
            in_device: end.out_device.clone(),
            out_device: None,
            ..end.clone()
        };
        (back, sent.connection_mark)
    })
}

/// What is so while a packet is sent, in the policy's words.
struct OfPolicy<'a, 'j> {
    judge: &'j Judge<'a>,
    sent: &'j Sent,
    walked: &'j WalkTrace,
    round: usize,
    /// A packet takes one token of a rule's bucket, however often the policy asks.
    asked: RefCell<HashMap<usize, bool>>,
    said: RefCell<&'j mut PolicyBuckets>,
    too_slow: RefCell<bool>,
}

impl OfPolicy<'_, '_> {
    fn is_within(&self, rule: usize, packet: &Packet) -> bool {
        if let Some(known) = self.asked.borrow().get(&rule) {
            return *known;
        }
        let Some(limit) = self.judge.plan.rules[rule].limit.as_ref() else {
            return true;
        };
        let policy::LimitPer {
            source,
            destination,
            destination_port,
        } = limit.per;
        let part = |prefix: Option<HostPrefix>, address, hosts: [u32; 2]| {
            let bits = match prefix? {
                HostPrefix::Host => hosts[packet.family as usize],
                HostPrefix::Only(bits) => bits.into(),
                HostPrefix::Each(bits) => bits[packet.family].into(),
            };
            Some(masked(packet.family, address, bits))
        };
        let by = [
            part(source, packet.source, [32, 64]).unwrap_or(0),
            part(destination, packet.destination, [32, 128]).unwrap_or(0),
            match destination_port {
                true => packet.destination_port.unwrap_or(0).into(),
                false => 0,
            },
        ];
        let fill = match limit.rate {
            LimitRate::Packets(rate, burst) => {
                let text = match limit.per == policy::LimitPer::default() && limit.shared.is_none()
                {
                    true => rate.of_limit(),
                    false => rate.of_hashlimit(),
                };
                Fill {
                    per_second: per_second(&text).unwrap_or(0.0),
                    burst: burst.into(),
                }
            }
            LimitRate::Bytes(_) => Fill::ENDLESS,
            LimitRate::Window(window) => Fill::of_window(window.hits),
        };
        let owner = match &limit.shared {
            Some(name) => BucketOwner::Limit(name.clone()),
            None => BucketOwner::Rule(rule, packet.hook),
        };
        let key = (owner, by);
        let has = self.said.borrow_mut().take(key, fill, self.round);
        if has.is_none() {
            *self.too_slow.borrow_mut() = true;
        }
        let has = has.unwrap_or(false);
        self.asked.borrow_mut().insert(rule, has);
        has
    }

    fn is_turn(&self, turn: BackendTurn, packet: &Packet) -> bool {
        let Some(nat) = self.judge.plan.nat.get(turn.entry) else {
            return false;
        };
        let fwc::internals::resolve::PlannedTranslation::Dnat { backends, .. } = &nat.translation
        else {
            return false;
        };
        let mut backends = backends
            .iter()
            .filter(|end| end.addresses.family == packet.family);
        let Some(end) = backends.nth(turn.backend) else {
            return false;
        };
        // Whose turn it was the rules count; here it is seen by where the packet went.
        let goes = &self.walked.packet;
        let port = end.ports.filter(|ports| ports.first == ports.last);
        end.addresses.first == number_of(goes.destination)
            && port.is_none_or(|port| Some(port.first) == goes.destination_port)
    }
}

impl Chance for OfPolicy<'_, '_> {
    fn holds(&self, asked: Circumstance<'_>, packet: &Packet) -> bool {
        let judge = self.judge;
        let prefix = match packet.family {
            Family::V4 => "fwc4-",
            Family::V6 => "fwc6-",
        };
        match asked {
            Circumstance::WithinLimit(rule) => self.is_within(rule, packet),
            Circumstance::WithinConnections(_) => true,
            Circumstance::User(user) => packet.hook == Hook::Output && self.sent.user.0 == user,
            Circumstance::Group(group) => packet.hook == Hook::Output && self.sent.user.1 == group,
            Circumstance::Time(schedule) => is_time(schedule, judge.now),
            Circumstance::NotAfter(day) => not_after(day, judge.now),
            Circumstance::InSet { name, ends } => {
                judge.is_member(&format!("{prefix}{name}"), ends.from_source(), packet)
            }
            Circumstance::InForeignSet { name, ends } => {
                judge.is_member(name, ends.from_source(), packet)
            }
            Circumstance::FromIpsec | Circumstance::IntoIpsec | Circumstance::Custom(_) => false,
            Circumstance::AuthHeader => packet.protocol == Protocol::AH.0,
            Circumstance::ToThisHost => judge.ways.is_local(packet),
            // The random policies ask for the original destination of NEW packets only.
            Circumstance::OriginalDirection => true,
            Circumstance::OriginalDestination(range) => {
                let number = number_of(self.sent.packet.destination);
                (range.first..=range.last).contains(&number)
            }
            Circumstance::OriginalPort { protocol, ports } => {
                let port = self.sent.packet.destination_port;
                protocol.0 == self.sent.packet.protocol
                    && port.is_some_and(|port| (ports.first..=ports.last).contains(&port))
            }
            Circumstance::Matches(text) => generate::matches_hold(&text.value, packet),
            Circumstance::Turn(turn) => self.is_turn(turn, packet),
        }
    }

    fn address(&self, of: Option<AddressRange>, packet: &Packet) -> IpAddr {
        match of {
            None => own_address(packet.family, packet.in_device.as_deref()),
            Some(_) => None,
        }
        .unwrap_or(packet.destination)
    }

    fn port(&self, of: PortRange, packet: &Packet) -> u16 {
        kept((of.first, of.last), packet).unwrap_or(of.first)
    }

    fn destination(&self, packet: &Packet) -> (IpAddr, Option<u16>) {
        self.judge.goes(self.sent, packet)
    }

    fn is_first(&self, _: &Packet) -> bool {
        false
    }
}

/// Whether it is the time of a schedule, by the words of the language. The kernel's timezone is UTC.
fn is_time(schedule: &PolicySchedule, now: DateTime) -> bool {
    let text = now.time().to_string();
    let mut day = now.date();
    if let Some((from, until)) = schedule.hours {
        let (from, until) = (from.to_string(), until.to_string());
        let minute = &text[..5];
        let across = until <= from;
        let inside = match across {
            false => (from.as_str()..until.as_str()).contains(&minute),
            true => minute >= from.as_str() || minute < until.as_str(),
        };
        if !inside {
            return false;
        }
        if across && minute < until.as_str() {
            day = day.yesterday().expect("a day before");
        }
    }
    let name = format!("{:?}", day.weekday());
    let days = schedule.days.as_ref();
    days.is_none_or(|days| days.iter().any(|day| format!("{day:?}") == name))
}

fn not_after(day: Date, now: DateTime) -> bool {
    now.date() <= day
}

/// The ports that each address has in a set with ports, each with its protocol.
pub const MEMBER_PORTS: [(u8, u16); 6] =
    [(6, 22), (6, 80), (6, 8080), (17, 53), (17, 67), (132, 500)];

/// Whether the members of a set of a policy have ports, by the kernel's name of the set.
pub fn has_ports(plan: &Plan, name: &str) -> bool {
    let own = ["fwc4-", "fwc6-"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix));
    let mut sets = plan.sets.iter();
    sets.any(|set| Some(&*set.name) == own && set.kind().has_ports())
}

/// The members of the sets that a policy fills, and of those that others do.
pub fn members(
    plan: &Plan,
    family: Family,
    others: &[(String, Vec<IpAddr>)],
) -> BTreeMap<String, IntervalSet> {
    let prefix = match family {
        Family::V4 => "fwc4-",
        Family::V6 => "fwc6-",
    };
    let mut all = BTreeMap::new();
    for set in &plan.sets {
        if let Members::Static(members) = &set.members {
            all.insert(
                format!("{prefix}{}", set.name),
                members.family(family).clone(),
            );
        }
    }
    for (name, members) in others {
        let numbers = members.iter().map(|address| number_of(*address));
        let single = numbers.map(|number| (number, number));
        all.insert(name.clone(), IntervalSet::from_intervals(single));
    }
    all
}
