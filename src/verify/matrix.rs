//! Who can reach whom by a policy, place by place.

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

/// How much of what was asked about passes from one place to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opens {
    /// No packet.
    Nothing,
    /// Some: by address, or by what a packet does not tell.
    Some,
    /// Every packet.
    All,
    /// No packet by the policy's own rules; about some of them, or all, others' rules decide.
    Others,
    /// There is no such packet: this host to itself, or a family that one of the places lacks.
    NoPacket,
}

/// What passes from one place to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Where it comes from.
    pub from: Endpoint,
    /// Where it goes.
    pub to: Endpoint,
    /// The family.
    pub family: Family,
    /// How much passes.
    pub opens: Opens,
    /// Whether others' rules decide about some packets: the policy has them beside its own, and leaves these to them.
    pub others: bool,
    /// What it depends on that a packet does not tell, in words.
    pub depends_on: BTreeSet<String>,
}

/// The places of a policy in the order of a table: everywhere, the interfaces, the zones, this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places(pub Vec<(Endpoint, String)>);

impl Places {
    /// Those of a plan.
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

/// What of the packets of `asked` the policy lets pass between its places, whatever `from` and `to` it has: packets as they
/// arrive, by the place where they end.
///
/// What opens a connection is asked about as [`Space::as_state`] says it, and only packets that a kernel can show, off lo
/// and from sources that antispoof believes.
///
/// ```
/// use fwc::net::Family;
/// use fwc::analysis::Space;
/// use fwc::internals::verify::{Opens, matrix};
/// use fwc::{diag::Sink, files::Access, policy, resolve, source::SourceMap};
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
/// use fwc::internals::resolve::Place;
/// assert_eq!(opens(Place::Interface(0), Place::Host), Opens::All);
/// assert_eq!(opens(Place::Any, Place::Host), Opens::Some);
/// assert_eq!(opens(Place::Interface(0), Place::Any), Opens::Nothing);
/// assert_eq!(opens(Place::Host, Place::Interface(0)), Opens::All);
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
            ways: BTreeMap::new(),
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
    /// What becomes of all packets of a hook.
    ways: BTreeMap<Hook, Way>,
}

/// What becomes of the packets of a hook.
struct Way {
    path: Path,
    /// Those that may pass.
    passes: Set,
    /// Those that may be stopped, or handed to a program.
    stops: Set,
    /// Those that may be left to others' rules.
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
            let way = self.way(hook)?;
            let arriving = arriving(plan, &asked, space, hook)?;
            let going = way.path.going(space, ending(plan, &asked, space, hook)?)?;
            fits = space.and(arriving, going)?;
            fits = Routed::new(plan, space, &way.path, &asked).possible(fits)?;
            passes = space.and(way.passes, fits)?;
            stops = space.and(way.stops, fits)?;
            others = space.and(way.others, fits)?;
        }
        let is_left = others != space.none();
        let opens = match passes {
            _ if fits == space.none() => Opens::NoPacket,
            passes if passes == space.none() && is_left => Opens::Others,
            passes if passes == space.none() => Opens::Nothing,
            _ if stops == space.none() && !is_left => Opens::All,
            _ => Opens::Some,
        };
        // Where all pass it depends on nothing.
        let opaque = match opens {
            Opens::All => Vec::new(),
            _ => space.support(passes),
        };
        let mut keys = Vec::new();
        for field in opaque {
            let Field::Opaque(number) = field else {
                continue;
            };
            // What says only where a packet can be decides nothing.
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

    fn way(&mut self, hook: Hook) -> Result<&Way, GaveUp> {
        let way = match self.ways.remove(&hook) {
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
                Way {
                    path,
                    passes,
                    stops,
                    others,
                }
            }
        };
        Ok(self.ways.entry(hook).or_insert(way))
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
        if hook != Hook::Output {
            let place = (TableName::Raw, BaseChain::Prerouting);
            let raw = self.behaviour.flow(space, place).verdicts;
            let mut honest = space.decided(raw, &Verdict::Accept)?;
            for field in space.support(Condition::FromIpsec.set(space)?) {
                honest = space.with(honest, field, 0)?;
            }
            possible = space.and(possible, honest)?;
        }
        Ok(possible)
    }
}
