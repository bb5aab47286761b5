//! `[[tests]]`: what a policy promises, proven on what its rules do.

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
use crate::net::{Family, Hook};
use crate::policy::{Expect, Policy};
use crate::resolve::{Plan, PlannedTest};

/// What became of a test.
#[derive(Clone, Debug)]
pub enum TestOutcome {
    /// What it expects becomes of every packet that fits.
    Holds,
    /// No packet fits.
    FitsNothing,
    /// Something else becomes of this packet; both walkers say so.
    Fails(Box<ComparedWalk>),
    /// The views contradict each other: the rules do not do what the policy says, or it is an internal error of fwc.
    Unclear(Disagreement),
    /// Nobody knows.
    GaveUp(Family, GaveUp),
}

/// Proves the tests of a plan on the behaviour of its rules; the outcomes stand in the order of [`Plan::tests`].
///
/// Packets are followed from their arrival, or from this host: source, destination and service are those that they have
/// then, `to` is where they end, translated or not. A packet fits when it has the test's keys, a kernel can show it, no set
/// has it that the test takes to be empty, it is not on lo where `loopback` lets it pass, and, unless the test names
/// sources, `antispoof` does not take its source for a lie. What packets do not tell (rates, times, sets that others fill,
/// which addresses are this host's) may be anything: the test has to hold whatever it is. But a destination that a test
/// which expects `accept` names is one of this host's where only then it is translated, unless a network of the policy has
/// it.
///
/// The plan must be that of the policy, and the rules those of the plan, as [`prove`](super::prove) shows.
///
/// ```
/// use fwc::internals::expand::{Templates, expand};
/// use fwc::internals::verify::{Outcome, RenderedRules, test};
/// use fwc::{diag::Sink, files::Access, policy, resolve, source::SourceMap};
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
/// assert!(matches!(outcomes[0], Outcome::Holds));
/// let Outcome::Fails(walked) = &outcomes[1] else { panic!() };
/// assert_eq!(walked.packet.destination_port, Some(22));
/// assert_eq!(walked.rules.verdict, fwc::iptables::Verdict::Drop);
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
                let views = BothSides::new(policy, plan, rules, &space, &spec)?;
                let text = views.text.silent();
                for hook in Hook::ALL {
                    Tester::new(&views, &text, hook)?.all(&mut outcomes)?;
                }
                Ok(())
            });
        let Err(error) = tested else {
            continue;
        };
        let nobody_knows = match error {
            TextError::GaveUp(gave_up) => TestOutcome::GaveUp(family, gave_up),
            error => TestOutcome::Unclear(Disagreement {
                family,
                what: DisagreementKind::Unreadable(error),
            }),
        };
        let open = outcomes.iter_mut().filter(|outcome| !outcome.is_bad());
        open.for_each(|outcome| *outcome = nobody_knows.clone());
    }
    outcomes
}

impl TestOutcome {
    /// Whether the test holds.
    pub fn holds(&self) -> bool {
        matches!(self, Self::Holds)
    }

    /// Whether nothing that is still to be seen can make it hold.
    fn is_bad(&self) -> bool {
        !matches!(self, Self::Holds | Self::FitsNothing)
    }
}

/// The tests at one hook.
struct Tester<'a> {
    views: &'a BothSides<'a>,
    hook: Hook,
    /// What the rules do, but for what is logged.
    text: &'a Behaviour,
    /// Packets that a kernel can show here, but those on lo that no rule is asked about.
    possible: Set,
    /// Those that `antispoof` takes for a lie, whether it looks at them or not.
    lies: Set,
}

impl<'a> Tester<'a> {
    fn new(views: &'a BothSides<'a>, text: &'a Behaviour, hook: Hook) -> Result<Self, GaveUp> {
        let space = views.space;
        let mut lies = space.none();
        if hook != Hook::Output {
            let mut believed = space.decided(views.raw(), &Verdict::Accept)?;
            for field in space.support(Condition::FromIpsec.set(space)?) {
                believed = space.with(believed, field, 0)?;
            }
            lies = space.not(believed)?;
        }
        let mut possible = space.valid(hook.into())?;
        if views.plan.defaults.loopback {
            let on_loopback = space.or(space.in_device("lo")?, space.out_device("lo")?)?;
            possible = space.minus(possible, on_loopback)?;
        }
        Ok(Self {
            views,
            hook,
            text,
            possible,
            lies,
        })
    }

    fn all(&self, outcomes: &mut [TestOutcome]) -> Result<(), GaveUp> {
        for (test, outcome) in self.views.plan.tests.iter().zip(outcomes) {
            if !outcome.is_bad()
                && let Some(here) = self.outcome(test)?
            {
                *outcome = here;
            }
        }
        Ok(())
    }

    /// What becomes of a test here; `None` where no packet fits.
    fn outcome(&self, test: &PlannedTest) -> Result<Option<TestOutcome>, GaveUp> {
        let space = self.views.space;
        let arriving = self.arriving(test)?;
        if arriving == space.none() {
            return Ok(None);
        }
        let path = Path::of(space, self.text, self.hook, arriving)?;
        let ending = ending(self.views.plan, &test.packets, space, self.hook)?;
        let fits = path.going(space, ending)?;
        let routed = Routed::new(self.views.plan, space, &path, &test.packets);
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
        let what = match self.views.arrive(self.hook, wrong)? {
            Ok(walked) if !walked.same_verdict() && !walked.ends_in_early_custom() => {
                DisagreementKind::Verdict(walked)
            }
            Ok(walked) if walked.same_way && !walked.is_as_expected(test.expect) => {
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

    /// The packets that fit as they arrive, wherever they go.
    fn arriving(&self, test: &PlannedTest) -> Result<Set, GaveUp> {
        let space = self.views.space;
        let keys = arriving(self.views.plan, &test.packets, space, self.hook)?;
        let mut fits = space.and(keys, self.possible)?;
        if test.for_this_host {
            fits = space.and(fits, for_this_host(space)?)?;
        }
        let names_sources = test.packets.source.as_ref();
        if names_sources.is_none_or(|source| source.negated) {
            fits = space.minus(fits, self.lies)?;
        }
        self.assumed(test, fits)
    }

    /// The packets of a set when the sets are empty that the test takes to be so.
    fn assumed(&self, test: &PlannedTest, mut set: Set) -> Result<Set, GaveUp> {
        let space = self.views.space;
        for name in &test.empty_sets {
            for source in [true, false] {
                let members = in_set(name, source, space.family()).set(space)?;
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
    /// Whether a custom rule of a table in front of filter ends the packet's way. Only iptables reads those rules, so what the
    /// policy's interpreter says of the packet does not count.
    fn ends_in_early_custom(&self) -> bool {
        self.rules.custom && self.rules.table != TableName::Filter
    }

    /// Whether the rules do with the packet what is expected.
    fn is_as_expected(&self, expect: Expect) -> bool {
        match self.rules.verdict {
            iptables::WalkVerdict::Accept => expect == Expect::Accept,
            iptables::WalkVerdict::Drop => matches!(expect, Expect::Drop | Expect::Deny),
            iptables::WalkVerdict::Reject(_) => matches!(expect, Expect::Reject | Expect::Deny),
            iptables::WalkVerdict::Other(_) => false,
        }
    }
}
