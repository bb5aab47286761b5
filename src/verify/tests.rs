//! `[[tests]]`: what a policy promises, proven on what its rules do.

use super::condition::Condition;
use super::files::RenderedRules;
use super::matching::{Matching, in_set};
use super::prove::{Difference, Disagreement};
use super::views::{Views, contradiction};
use super::walkers::Walked;
use crate::analysis::{BaseChain, GaveUp, Set, Space, TextError, Verdict, Verdicts};
use crate::iptables::{self, TableName};
use crate::net::{Family, Hook};
use crate::policy::{Expect, Policy};
use crate::resolve::{Plan, Test};

/// What became of a test.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// What it expects becomes of every packet that fits.
    Holds,
    /// No packet fits.
    FitsNothing,
    /// Something else becomes of this packet; both walkers say so.
    Fails(Box<Walked>),
    /// The views contradict each other: the rules do not do what the policy says, or fwc is wrong.
    Unclear(Disagreement),
    /// Nobody knows.
    GaveUp(Family, GaveUp),
}

/// Proves the tests of a plan on the behaviour of its rules; the outcomes stand in the order of [`Plan::tests`].
///
/// A packet fits when a rule with the test's keys would have it, a kernel can show it, no set has it that the test takes
/// to be empty, it is not on lo where `loopback` lets it pass, and, unless the test names sources, `antispoof` does not
/// take its source for a lie. What packets do not tell (rates, times, sets that others fill) may be anything: the test
/// has to hold whatever it is.
///
/// The plan must be that of the policy, and the rules those of the plan, as [`prove`](super::prove) shows.
///
/// ```
/// use fwc::expand::{Templates, expand};
/// use fwc::verify::{Outcome, RenderedRules, test};
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
pub fn test(policy: &Policy, plan: &Plan, rules: &RenderedRules) -> Vec<Outcome> {
    let mut outcomes: Vec<_> = plan.tests.iter().map(|_| Outcome::FitsNothing).collect();
    if plan.tests.is_empty() {
        return outcomes;
    }
    for family in Family::ALL {
        let space = Space::new(family);
        let tested = Views::new(policy, plan, rules, &space).and_then(|views| {
            for hook in Hook::ALL {
                Tester::new(&views, hook)?.all(&mut outcomes)?;
            }
            Ok(())
        });
        let Err(error) = tested else {
            continue;
        };
        let nobody_knows = match error {
            TextError::GaveUp(gave_up) => Outcome::GaveUp(family, gave_up),
            error => Outcome::Unclear(Disagreement {
                family,
                what: Difference::Unreadable(error),
            }),
        };
        let open = outcomes.iter_mut().filter(|outcome| !outcome.is_bad());
        open.for_each(|outcome| *outcome = nobody_knows.clone());
    }
    outcomes
}

impl Outcome {
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
    views: &'a Views<'a>,
    hook: Hook,
    /// Packets that a kernel can show here, but those on lo that no rule is asked about.
    possible: Set,
    /// Those that `antispoof` takes for a lie, whether it looks at them or not.
    lies: Set,
    /// Those that come as far as the filter table.
    arrive: Set,
}

impl<'a> Tester<'a> {
    fn new(views: &'a Views<'a>, hook: Hook) -> Result<Self, GaveUp> {
        let space = views.space;
        let (mut arrive, mut lies) = (space.all(), space.none());
        if hook != Hook::Output {
            let raw = views.raw();
            arrive = space.decided(raw, &Verdict::Accept)?;
            let mut believed = arrive;
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
            possible,
            lies,
            arrive,
        })
    }

    fn all(&self, outcomes: &mut [Outcome]) -> Result<(), GaveUp> {
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
    fn outcome(&self, test: &Test) -> Result<Option<Outcome>, GaveUp> {
        let space = self.views.space;
        let fits = self.fits(test)?;
        if fits == space.none() {
            return Ok(None);
        }
        let wrong = space.minus(fits, self.as_expected(test.expect)?)?;
        let wrong = self.assumed(test, wrong)?;
        if wrong == space.none() {
            return Ok(Some(Outcome::Holds));
        }
        let what = match self.views.walk(self.hook, wrong)? {
            Ok(walked) if !walked.same_verdict() => Difference::Verdict(walked),
            Ok(walked) if !walked.is_as_expected(test.expect) => {
                return Ok(Some(Outcome::Fails(walked)));
            }
            other => contradiction(
                other,
                "a test fails for a set of packets, but not for one of them",
            ),
        };
        let family = space.family();
        Ok(Some(Outcome::Unclear(Disagreement { family, what })))
    }

    fn fits(&self, test: &Test) -> Result<Set, GaveUp> {
        let space = self.views.space;
        let matching = Matching {
            plan: self.views.plan,
            space,
            hook: self.hook,
        };
        let mut fits = space.and(matching.rule(&test.packets)?, self.possible)?;
        let names_sources = test.packets.source.as_ref();
        if names_sources.is_none_or(|source| source.negated) {
            fits = space.minus(fits, self.lies)?;
        }
        self.assumed(test, fits)
    }

    /// The packets of a set when the sets are empty that the test takes to be so.
    fn assumed(&self, test: &Test, mut set: Set) -> Result<Set, GaveUp> {
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

    /// The packets of which it becomes what is expected.
    fn as_expected(&self, expect: Expect) -> Result<Set, GaveUp> {
        let space = self.views.space;
        let place = (TableName::Filter, BaseChain::from(self.hook));
        let filter = self.views.text.flow(space, place).verdicts;
        let arriving = space.and(self.arrive, self.decided_so(filter, expect)?)?;
        let earlier = space.minus(self.decided_so(self.views.raw(), expect)?, self.arrive)?;
        space.or(arriving, earlier)
    }

    fn decided_so(&self, verdicts: Verdicts, expect: Expect) -> Result<Set, GaveUp> {
        let parts = self.views.space.parts(verdicts)?.into_iter();
        let so = parts.filter(|(verdict, _)| match verdict {
            Some(Verdict::Accept) => expect == Expect::Accept,
            Some(Verdict::Drop) => matches!(expect, Expect::Drop | Expect::Deny),
            Some(Verdict::Reject(_)) => matches!(expect, Expect::Reject | Expect::Deny),
            Some(Verdict::Nat(_) | Verdict::Target(_)) | None => false,
        });
        self.views.space.any(so.map(|(_, set)| set))
    }
}

impl Walked {
    /// Whether the rules do with the packet what is expected.
    fn is_as_expected(&self, expect: Expect) -> bool {
        match self.rules.verdict {
            iptables::Verdict::Accept => expect == Expect::Accept,
            iptables::Verdict::Drop => matches!(expect, Expect::Drop | Expect::Deny),
            iptables::Verdict::Reject(_) => matches!(expect, Expect::Reject | Expect::Deny),
            iptables::Verdict::Other(_) => false,
        }
    }
}
