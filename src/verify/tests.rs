//! The `[[tests]]` of a policy, proven on its rules.

use super::both_sides::{BothSides, contradiction};
use super::condition::Condition;
use super::files::RenderedRules;
use super::proof::{Disagreement, DisagreementKind};
use super::routed::Routed;
use super::spec::matching::for_this_host;
use super::spec::matching::{arriving, ending, in_set};
use super::spec::spec;
use super::walkers::ComparedWalk;
use crate::analysis::{Behaviour, GaveUp, Path, Set, Space, TextError, Verdict};
use crate::iptables::{self, TableName};
use crate::net::{Family, Hook, SetEnds};
use crate::policy::{Expect, Policy};
use crate::resolve::{Plan, PlannedTest};

/// The outcome of a test.
#[derive(Clone, Debug)]
pub enum TestOutcome {
    /// Every packet that fits the test has the expected verdict.
    Holds,
    /// No packet fits the test.
    FitsNothing,
    /// This packet has another verdict; both walkers confirm it.
    Fails(Box<ComparedWalk>),
    /// Packet sets and walkers contradict each other: the rules do not match the policy, or it is an internal error of fwc.
    Unclear(Disagreement),
    /// The packet sets of a family became too large.
    GaveUp(Family, GaveUp),
}

/// Proves the tests of a plan on its rules. The outcomes are in the order of [`Plan::tests`].
///
/// A test follows packets from their arrival, or from this host. Its source, destination and service apply to the packet as
/// it is then; `to` applies to the end, after translation. A packet fits the test if
///
/// - it has the keys of the test,
/// - it can exist on a real host,
/// - it is in no set that the test assumes to be empty,
/// - it is not on `lo`, if `loopback` accepts that, and
/// - `antispoof` does not drop it, unless the test names sources.
///
/// Conditions that a packet alone does not answer (rates, times, sets that other programs fill, the addresses of this host)
/// may have any answer: the test must hold for all of them. There is one exception, for tests that expect `accept` and name a
/// destination: if it is only translated when it is an address of this host, then it is one, unless it is in a network of the
/// policy.
///
/// The plan must be that of the policy, and the rules those of the plan, as [`Verifier::prove`](super::Verifier::prove)
/// proves.
///
/// ```
/// use fwc::internals::expand::{Templates, expand};
/// use fwc::internals::verify::{TestOutcome, RenderedRules, test};
/// use fwc::{diag::Sink, files::Access, policy, source::SourceMap};
/// use fwc::internals::resolve;
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("fwc.toml");
/// std::fs::write(&path, r#"
///     version = 1
///     [[rules]]
///     service = "ssh"
///     source = "192.0.2.0/24"
///     [[tests]]
///     name = "ssh is closed to others"
///     source = "!192.0.2.0/24"
///     service = "ssh"
///     expect = "drop"
///     [[tests]]
///     name = "ssh is open to all"
///     service = "ssh"
///     scope = "ipv4"
///     expect = "accept"
/// "#)?;
/// let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
/// let policy = policy::load(&path, Access::Read, &mut sources, &mut sink).unwrap();
/// let plan = resolve::resolve(&policy, &mut sink).unwrap();
/// let rendered = expand(&plan, &Templates::built_in(&mut sink).ok_or("no templates")?)?;
/// let rules = RenderedRules::read(rendered.texts(), rendered.ipsets.as_deref())?;
///
/// let outcomes = test(&policy, &plan, &rules);
/// assert!(matches!(outcomes[0], TestOutcome::Holds));
/// let TestOutcome::Fails(walked) = &outcomes[1] else { panic!() };
/// assert_eq!(walked.packet.destination_port, Some(22));
/// assert_eq!(walked.rules.verdict, fwc::iptables::WalkVerdict::Drop);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn test(policy: &Policy, plan: &Plan, rules: &RenderedRules) -> Vec<TestOutcome> {
    let mut outcomes: Vec<_> = plan
        .tests
        .iter()
        .map(|_| TestOutcome::FitsNothing)
        .collect();
    if plan.tests.is_empty() {
        return outcomes;
    }
    for family in Family::ALL {
        let space = Space::new(family);
        let tested = spec(plan, &space)
            .map_err(TextError::from)
            .and_then(|spec| {
                let sides = BothSides::new(policy, plan, rules, &space, &spec)?;
                let text = sides.text.silent();
                for hook in Hook::ALL {
                    Tester::new(&sides, &text, hook)?.all(&mut outcomes)?;
                }
                Ok(())
            });
        let Err(error) = tested else {
            continue;
        };
        let failed = match error {
            TextError::GaveUp(gave_up) => TestOutcome::GaveUp(family, gave_up),
            error => TestOutcome::Unclear(Disagreement {
                family,
                what: DisagreementKind::Unreadable(error),
            }),
        };
        let open = outcomes.iter_mut().filter(|outcome| !outcome.is_bad());
        open.for_each(|outcome| *outcome = failed.clone());
    }
    outcomes
}

impl TestOutcome {
    /// Returns `true` if the test holds.
    pub fn holds(&self) -> bool {
        matches!(self, Self::Holds)
    }

    /// Returns `true` if the outcome is final: another hook or family cannot change it.
    fn is_bad(&self) -> bool {
        !matches!(self, Self::Holds | Self::FitsNothing)
    }
}

/// The tests at one hook.
struct Tester<'a> {
    sides: &'a BothSides<'a>,
    hook: Hook,
    /// What the rules do, without log lines.
    text: &'a Behaviour,
    /// The packets that can exist at the hook, without those on `lo` if `loopback` accepts them.
    possible: Set,
    /// The packets that `antispoof` drops, unless they came by IPsec.
    spoofed: Set,
    /// The packets that `antispoof` drops.
    dropped: Set,
}

impl<'a> Tester<'a> {
    fn new(sides: &'a BothSides<'a>, text: &'a Behaviour, hook: Hook) -> Result<Self, GaveUp> {
        let space = sides.space;
        let (mut spoofed, mut dropped) = (space.none(), space.none());
        if hook != Hook::Output {
            dropped = super::spec::spoofed(sides.plan, space)?;
            spoofed = dropped;
            for field in space.support(Condition::FromIpsec.set(space)?) {
                spoofed = space.with(spoofed, field, 0)?;
            }
        }
        let mut possible = space.valid(hook.into())?;
        let loopback = &sides.plan.defaults[space.family()].loopback;
        // Nothing is forwarded from or to `lo`.
        if hook == Hook::Forward || loopback[hook] {
            let on_loopback = space.or(space.in_device("lo")?, space.out_device("lo")?)?;
            possible = space.minus(possible, on_loopback)?;
        }
        Ok(Self {
            sides,
            hook,
            text,
            possible,
            spoofed,
            dropped,
        })
    }

    fn all(&self, outcomes: &mut [TestOutcome]) -> Result<(), GaveUp> {
        for (test, outcome) in self.sides.plan.tests.iter().zip(outcomes) {
            if !outcome.is_bad()
                && let Some(here) = self.outcome(test)?
            {
                *outcome = here;
            }
        }
        Ok(())
    }

    /// Returns the outcome of a test at the hook; `None` if no packet fits.
    fn outcome(&self, test: &PlannedTest) -> Result<Option<TestOutcome>, GaveUp> {
        let space = self.sides.space;
        let arriving = self.arriving(test)?;
        if arriving == space.none() {
            return Ok(None);
        }
        let path = Path::of(space, self.text, self.hook, arriving)?;
        let ending = ending(self.sides.plan, &test.packets, space, self.hook)?;
        let fits = path.going(space, ending)?;
        let routed = Routed::new(self.sides.plan, space, &path, &test.packets);
        let fits = self.assumed(test, routed.possible(fits)?)?;
        if fits == space.none() {
            return Ok(None);
        }
        let fits = match test.expect {
            Expect::Accept => routed.meant(fits)?,
            Expect::Drop | Expect::Reject | Expect::Deny => fits,
        };
        let ends = path.ends.iter();
        let wrong = ends.filter(|end| !is_so(&end.verdict, test.expect));
        let wrong = space.any(wrong.map(|end| end.packets))?;
        let wrong = self.assumed(test, space.and(wrong, fits)?)?;
        if wrong == space.none() {
            return Ok(Some(TestOutcome::Holds));
        }
        let what = match self.sides.walk_from_arrival(self.hook, wrong)? {
            Ok(walked) if !walked.same_verdict() && !walked.ends_in_early_custom() => {
                DisagreementKind::Verdict(walked)
            }
            Ok(walked) if walked.same_path && !walked.is_as_expected(test.expect) => {
                return Ok(Some(TestOutcome::Fails(walked)));
            }
            other => contradiction(
                other,
                "a test fails for a set of packets, but not for one of them",
            ),
        };
        let family = space.family();
        Ok(Some(TestOutcome::Unclear(Disagreement { family, what })))
    }

    /// Returns the packets that fit the test as they arrive, without regard to `to`.
    fn arriving(&self, test: &PlannedTest) -> Result<Set, GaveUp> {
        let space = self.sides.space;
        let keys = arriving(self.sides.plan, &test.packets, space, self.hook)?;
        let mut fits = space.and(keys, self.possible)?;
        if test.for_this_host {
            fits = space.and(fits, for_this_host(space)?)?;
        }
        let names_sources = test.packets.source.as_ref();
        if names_sources.is_none_or(|source| source.negated) {
            // IPsec exempts packets from antispoof. Of a zone behind it each source counts.
            let mut from = test.packets.from.iter().flatten();
            let left_out = match from.any(|place| self.sides.plan.asks_ipsec(*place, true)) {
                true => self.dropped,
                false => self.spoofed,
            };
            fits = space.minus(fits, left_out)?;
        }
        self.assumed(test, fits)
    }

    /// Restricts a set of packets to the case that the sets are empty which the test assumes to be.
    fn assumed(&self, test: &PlannedTest, mut set: Set) -> Result<Set, GaveUp> {
        let space = self.sides.space;
        for name in &test.empty_sets {
            let sets = &self.sides.plan.sets;
            let named = sets.iter().find(|set| set.name == *name);
            for ends in named.map_or_else(Vec::new, |set| SetEnds::all(set.kind())) {
                let members = in_set(name, ends, space.family()).set(space)?;
                for field in space.support(members) {
                    set = space.with(set, field, 0)?;
                }
            }
        }
        Ok(set)
    }
}

fn is_so(verdict: &Verdict, expect: Expect) -> bool {
    match verdict {
        Verdict::Accept => expect == Expect::Accept,
        Verdict::Drop => matches!(expect, Expect::Drop | Expect::Deny),
        Verdict::Reject(_) => matches!(expect, Expect::Reject | Expect::Deny),
        Verdict::Nat(_) | Verdict::Target(_) => false,
    }
}

impl ComparedWalk {
    /// Returns `true` if a custom rule of a table in front of filter decides the packet. The interpreter of the policy does
    /// not read those rules, so its verdict does not count then.
    fn ends_in_early_custom(&self) -> bool {
        self.rules.custom && self.rules.table != TableName::Filter
    }

    /// Returns `true` if the verdict of the rules is the expected one.
    fn is_as_expected(&self, expect: Expect) -> bool {
        match self.rules.verdict {
            iptables::WalkVerdict::Accept => expect == Expect::Accept,
            iptables::WalkVerdict::Drop => matches!(expect, Expect::Drop | Expect::Deny),
            iptables::WalkVerdict::Reject(_) => matches!(expect, Expect::Reject | Expect::Deny),
            iptables::WalkVerdict::Other(_) => false,
        }
    }
}
