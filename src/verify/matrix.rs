//! The reachability matrix of a policy: which packets pass from one zone or interface to another.

use std::collections::{BTreeMap, BTreeSet};

use super::both_sides::is_left_to_others;
use super::condition::Condition;
use super::routed::Routed;
use super::spec::matching::{arriving, ending, hooks};
use super::spec::spec;
use crate::analysis::{BaseChain, Behaviour, Field, GaveUp, Path, Set, Space, Verdict};
use crate::iptables::TableName;
use crate::net::{Family, Hook, IntervalSet};
use crate::resolve::{Endpoint, Plan, PlannedRule};

/// How many of the packets that were asked about pass from one endpoint to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opens {
    /// No packet passes.
    Nothing,
    /// Some packets pass; it depends on an address, or on a condition that the packet alone does not answer.
    Some,
    /// Every packet passes.
    All,
    /// The policy accepts no packet, but leaves some or all of them to the rules of other programs.
    Others,
    /// No such packet exists: from this host to itself, or in a family that one of the endpoints does not have.
    NoPacket,
}

/// One cell of the matrix: the packets from one endpoint to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The origin of the packets.
    pub from: Endpoint,
    /// The destination of the packets.
    pub to: Endpoint,
    /// The family.
    pub family: Family,
    /// How many of the packets pass.
    pub opens: Opens,
    /// `true` if the policy, in shared mode, leaves some of the packets to the rules of other programs.
    pub others: bool,
    /// The conditions that decide and that the packet alone does not answer (rates, times, sets), in words.
    pub depends_on: BTreeSet<String>,
}

/// The endpoints of a policy and their names, in the order of rows and columns: everywhere, interfaces, zones, this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places(pub Vec<(Endpoint, String)>);

impl Places {
    /// Lists the endpoints of a plan.
    pub fn of(plan: &Plan) -> Self {
        let interfaces = (0..).zip(&plan.interfaces);
        let interfaces = interfaces.map(|(at, it)| (Endpoint::Interface(at), it.name.clone()));
        let zones = (0..).zip(&plan.zones);
        let zones = zones.map(|(at, it)| (Endpoint::Zone(at), it.name.clone()));
        let mut all = vec![(Endpoint::Any, "any".to_owned())];
        all.extend(interfaces.chain(zones));
        all.push((Endpoint::Host, "host".to_owned()));
        Self(all)
    }
}

/// Computes which packets of `asked` the policy accepts between each pair of its endpoints, in the families of `spaces`. The
/// `from` and `to` of `asked` are ignored. Packets are as they arrive; `to` is where they end after translation.
///
/// A single `state` of `asked` is narrowed as [`Space::as_state`] describes. Only real packets count, not on `lo`, with
/// sources that antispoof accepts.
///
/// # Errors
///
/// If the packet sets become too large.
///
/// ```
/// use fwc::net::Family;
/// use fwc::analysis::Space;
/// use fwc::internals::verify::{Opens, matrix};
/// use fwc::{diag::Sink, files::Access, policy, source::SourceMap};
/// use fwc::internals::resolve;
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("fwc.toml");
/// std::fs::write(&path, "version = 1\n[interfaces]\nlan = \"eth1\"\n[[rules]]\nfrom = \"lan\"\nservice = \"ssh\"\nstate = \"new\"\n")?;
/// let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
/// let policy = policy::load(&path, Access::Read, &mut sources, &mut sink).unwrap();
/// let plan = resolve::resolve(&policy, &mut sink).unwrap();
///
/// let cells = matrix(&plan, &plan.rules[0], None, &[Space::new(Family::V4)])?;
/// let opens = |from, to| {
///     cells.iter().find(|cell| (cell.from, cell.to) == (from, to)).unwrap().opens
/// };
/// use fwc::internals::resolve::Endpoint;
/// assert_eq!(opens(Endpoint::Interface(0), Endpoint::Host), Opens::All);
/// assert_eq!(opens(Endpoint::Any, Endpoint::Host), Opens::Some);
/// assert_eq!(opens(Endpoint::Interface(0), Endpoint::Any), Opens::Nothing);
/// assert_eq!(opens(Endpoint::Host, Endpoint::Interface(0)), Opens::All);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn matrix(
    plan: &Plan,
    asked: &PlannedRule,
    source_ports: Option<&IntervalSet>,
    spaces: &[Space],
) -> Result<Vec<Cell>, GaveUp> {
    let places = Places::of(plan);
    let mut cells = Vec::new();
    for space in spaces {
        let spec = spec(plan, space)?;
        let mut asked = Asked {
            plan,
            space,
            behaviour: spec.behaviour.silent(),
            asked: asked.clone(),
            source_ports,
            outcomes: BTreeMap::new(),
        };
        for (from, _) in &places.0 {
            for (to, _) in &places.0 {
                cells.push(asked.cell(*from, *to)?);
            }
        }
    }
    Ok(cells)
}

struct Asked<'a> {
    plan: &'a Plan,
    space: &'a Space,
    behaviour: Behaviour,
    asked: PlannedRule,
    source_ports: Option<&'a IntervalSet>,
    /// The outcome for all packets of a hook, once it was needed: each hook serves many cells.
    outcomes: BTreeMap<Hook, HookOutcome>,
}

/// The outcome for all packets of a hook. A packet is in several sets if it depends on a choice of the kernel.
struct HookOutcome {
    path: Path,
    /// Packets that may pass.
    passes: Set,
    /// Packets that may be dropped or rejected, or handed to a program.
    stops: Set,
    /// Packets that may be left to the rules of other programs.
    others: Set,
}

impl Asked<'_> {
    fn cell(&mut self, from: Endpoint, to: Endpoint) -> Result<Cell, GaveUp> {
        let (plan, space) = (self.plan, self.space);
        self.asked.from = Some(vec![from]);
        self.asked.to = Some(vec![to]);
        let (mut fits, mut passes, mut stops) = (space.none(), space.none(), space.none());
        let mut others = space.none();
        if let [hook] = hooks(&self.asked)[..] {
            let asked = self.asked.clone();
            let honest = match hook {
                Hook::Output => space.all(),
                Hook::Input | Hook::Forward => self.honest(from)?,
            };
            let outcome = self.outcome(hook)?;
            let arriving = arriving(plan, &asked, space, hook)?;
            let going = outcome
                .path
                .going(space, ending(plan, &asked, space, hook)?)?;
            fits = space.every([arriving, going, honest])?;
            fits = Routed::new(plan, space, &outcome.path, &asked).possible(fits)?;
            passes = space.and(outcome.passes, fits)?;
            stops = space.and(outcome.stops, fits)?;
            others = space.and(outcome.others, fits)?;
        }
        let is_left = others != space.none();
        let opens = match passes {
            _ if fits == space.none() => Opens::NoPacket,
            passes if passes == space.none() && is_left => Opens::Others,
            passes if passes == space.none() => Opens::Nothing,
            _ if stops == space.none() && !is_left => Opens::All,
            _ => Opens::Some,
        };
        // If all packets pass, nothing decides.
        let opaque = match opens {
            Opens::All => Vec::new(),
            _ => space.support(passes),
        };
        let mut keys = Vec::new();
        for field in opaque {
            let Field::Opaque(number) = field else {
                continue;
            };
            // A condition that only restricts which packets can be at the hook decides nothing.
            let either = space.or(space.with(passes, field, 1)?, space.with(passes, field, 0)?)?;
            if space.and(either, fits)? != passes {
                keys.extend(space.opaque_key(number));
            }
        }
        Ok(Cell {
            from,
            to,
            family: space.family(),
            opens,
            others: is_left,
            depends_on: keys.iter().map(|key| Condition::words(key)).collect(),
        })
    }

    fn outcome(&mut self, hook: Hook) -> Result<&HookOutcome, GaveUp> {
        let outcome = match self.outcomes.remove(&hook) {
            Some(known) => known,
            None => {
                let possible = self.possible(hook)?;
                let path = Path::of(self.space, &self.behaviour, hook, possible)?;
                let of = |wanted: &dyn Fn(&Verdict) -> bool| {
                    let ends = path.ends.iter().filter(|end| wanted(&end.verdict));
                    self.space.any(ends.map(|end| end.packets))
                };
                let accepts = |verdict: &Verdict| *verdict == Verdict::Accept;
                let stops = of(&|verdict| !accepts(verdict) && !is_left_to_others(verdict))?;
                let (passes, others) = (of(&accepts)?, of(&is_left_to_others)?);
                HookOutcome {
                    path,
                    passes,
                    stops,
                    others,
                }
            }
        };
        Ok(self.outcomes.entry(hook).or_insert(outcome))
    }

    fn possible(&self, hook: Hook) -> Result<Set, GaveUp> {
        let space = self.space;
        let lo = space.or(space.in_device("lo")?, space.out_device("lo")?)?;
        let mut possible = space.minus(space.valid(hook.into())?, lo)?;
        if let [state] = self.asked.state.iter().flatten().collect::<Vec<_>>()[..] {
            possible = space.and(possible, space.as_state(*state)?)?;
        }
        if let Some(ports) = self.source_ports {
            possible = space.and(possible, space.values(Field::SourcePort, ports)?)?;
        }
        Ok(possible)
    }

    /// Returns the packets from a place that antispoof lets through. It exempts what came by IPsec, which counts only for a
    /// zone that asks for it: otherwise every source would depend on IPsec.
    fn honest(&self, from: Endpoint) -> Result<Set, GaveUp> {
        let space = self.space;
        let place = (TableName::Raw, BaseChain::Prerouting);
        let raw = self.behaviour.flow(space, place).verdicts;
        let mut honest = space.decided(raw, &Verdict::Accept)?;
        if !self.plan.asks_ipsec(from, true) {
            for field in space.support(Condition::FromIpsec.set(space)?) {
                honest = space.with(honest, field, 0)?;
            }
        }
        Ok(honest)
    }
}
