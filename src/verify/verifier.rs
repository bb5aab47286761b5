//! A policy with its specification in both families, built once for the proof and the lints.

use super::families::in_both;
use super::files::RenderedRules;
use super::lints;
use super::proof::Proof;
use super::prove;
use super::spec::{Spec, spec};
use crate::analysis::{GaveUp, Space};
use crate::diag::Sink;
use crate::net::Family;
use crate::policy::Policy;
use crate::resolve::Plan;

/// A policy and its specification: what it does with every packet, as packet sets.
///
/// The packet sets of a large policy take most of the time of a build, so the proof and the lints share them.
pub struct Verifier<'p> {
    policy: &'p Policy,
    plan: &'p Plan,
    families: [Specified; 2],
}

/// The specification of a policy in one family, with the space that its packet sets belong to.
pub(super) struct Specified {
    pub space: Space,
    pub spec: Result<Spec, GaveUp>,
}

impl Specified {
    pub fn of(plan: &Plan, family: Family) -> Self {
        let space = Space::new(family);
        let spec = spec(plan, &space);
        Self { space, spec }
    }

    /// Specifies a plan in both families.
    pub fn both(plan: &Plan) -> [Self; 2] {
        in_both(&mut Family::ALL.clone(), |family| Self::of(plan, *family))
    }
}

impl<'p> Verifier<'p> {
    /// Computes the specification of a policy. The plan must be that of the policy, without errors.
    pub fn new(policy: &'p Policy, plan: &'p Plan) -> Self {
        Self {
            policy,
            plan,
            families: Specified::both(plan),
        }
    }

    /// Compares the rules with the policy, for both families and every hook. The result proves that they match, or lists
    /// the differences.
    ///
    /// Verdicts and log lines are compared for all packets at once; chain policies, declared chains and tables that must be
    /// empty are compared by the text of the file. Packets over time are not modelled: two rates are the same if the kernel
    /// waits the same time from one packet to the next, with the same burst.
    ///
    /// ```
    /// use fwc::net::PerFamily;
    /// use fwc::internals::verify::{DisagreementKind, RenderedRules, Unread, Verifier};
    /// use fwc::{diag::Sink, files::Access, policy, source::SourceMap};
    /// use fwc::internals::resolve;
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
    /// let mut verifier = Verifier::new(&policy, &plan);
    /// assert!(verifier.prove(&rules("")?).holds());
    ///
    /// let proof = verifier.prove(&rules("-A INPUT -p tcp --dport 23 -j DROP\n")?);
    /// let DisagreementKind::Verdict(walked) = &proof.disagreements[0].what else { panic!() };
    /// assert_eq!(walked.packet.destination_port, Some(23));
    /// assert_eq!(walked.rules.rule.as_ref().unwrap().1, "-p tcp -m tcp --dport 23 -j DROP");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn prove(&mut self, rules: &RenderedRules) -> Proof {
        let (policy, plan) = (self.policy, self.plan);
        let proof = |family: &mut Specified| prove::family_proof(policy, plan, rules, family);
        let [v4, v6] = in_both(&mut self.families, proof);
        v4.and(v6)
    }

    /// Reports rules and entries that change nothing, defaults that nothing reaches and ports that are open to the world.
    ///
    /// # Errors
    ///
    /// If the packet sets become too large. Findings made before that are reported.
    pub fn lints(&mut self, sink: &mut Sink) -> Result<(), GaveUp> {
        lints::lints(self.policy, self.plan, &mut self.families, sink)
    }
}
