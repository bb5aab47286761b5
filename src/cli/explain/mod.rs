//! `fwc explain`

pub(super) mod json;
mod packets;
mod text;

use std::path::PathBuf;

use clap::Args as ClapArgs;

use self::packets::{PacketArgs, PacketArgsError};
use super::budget::BudgetArgs;
use super::compile::{ground, policy_path};
use super::host::HostArgs;
use super::rules::{self, Found, Stop};
use super::{Exit, Format, Output};
use crate::analysis::{Boxes, Limits, Set, Space, TextError, Vocabulary};
use crate::diag::Sink;
use crate::explain::{
    ByPolicy, Decider, FamilyRules, HookAnswer, MatchedRule, Question, Subject, explain,
    explain_roughly,
};
use crate::net::{Family, Hook};
use crate::policy::Policy;
use crate::resolve::resolve;
use crate::verify;

/// Show what becomes of packets, and which rules decide it
///
/// Follows one packet, or all packets that fit, through every table and chain in the kernel's order, translated and marked
/// on the way. What is left out may be anything: then the packets are split by what becomes of them, the largest part
/// first, each with the rules that decide it and the way of one of its packets.
///
/// Source, destination and service are those of a packet as it arrives. Without --from and --to a packet is to this host;
/// with --in and --out it passes through; with --out alone it comes from this host.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The policy's file [default: ./fwc.toml, else /etc/fwc/fwc.toml]
    #[arg(value_name = "POLICY", conflicts_with_all = ["rules", "live"])]
    policy: Option<PathBuf>,
    /// Explain a rules file, or a folder with rules.v4 and rules.v6, instead of a policy
    #[arg(long, value_name = "FILE", conflicts_with = "live")]
    rules: Option<PathBuf>,
    /// Explain the rules of the running firewall
    #[arg(long)]
    live: bool,
    /// A folder of templates that take the place of the built-in ones of the same name
    #[arg(long, value_name = "DIR", conflicts_with_all = ["rules", "live"])]
    templates: Option<PathBuf>,
    #[command(flatten)]
    packets: PacketArgs,
    #[command(flatten)]
    budget: BudgetArgs,
    #[command(flatten)]
    host: HostArgs,
    /// The form of the result: text or json
    #[arg(
        long,
        value_parser = Format::parser([Format::Text, Format::Json]),
        default_value = "text",
        hide_possible_values = true,
        help_heading = "Output"
    )]
    format: Format,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Exit {
    match args.explain(output) {
        Ok(exit) => exit,
        Err(stop) => stop.say(output),
    }
}

impl Args {
    fn explain(&self, output: &Output) -> Result<Exit, Stop> {
        if (self.live || self.rules.is_some()) && self.packets.names_zones() {
            let text = "zones are names of a policy, and these rules have none: name devices, --in eth0 --out eth1, or say --hook";
            return Err(Stop::WrongUsage(text.to_owned()));
        }
        let (ground, name) = self.ground(output)?;
        let question = match self.packets.question(&ground.policy, &ground.plan) {
            Ok(question) => question,
            Err(PacketArgsError::Usage(text)) => return Err(Stop::WrongUsage(text)),
            Err(PacketArgsError::Words(sources, sink)) => {
                output.diagnostics(&sink, &sources);
                if self.live || self.rules.is_some() {
                    output.message("without a policy only the services of the catalog have names");
                }
                return Ok(Exit::Usage);
            }
        };
        let families = Family::ALL.into_iter();
        let families: Vec<Family> = families
            .filter(|family| question.has_family(*family) && ground.rules[*family].is_some())
            .collect();
        if families.is_empty() {
            let text = format!("`{name}` has no rules of that family");
            return Err(Stop::WrongUsage(text));
        }
        // A second space for each, in case the first one does not hold the exact answer.
        let spaces: Vec<[Space; 2]> = families
            .iter()
            .map(|family| [(); 2].map(|()| ground.space(*family).within(self.budget.budget)))
            .collect();
        let mut document = json::ExplainDocument::new(&name);
        let mut shown = Vec::new();
        for [exactly, roughly] in &spaces {
            // An answer may be found, and be too large to be put into words.
            let mut print = |space, answering, is_partial| {
                let one = Explained::new(&ground, &question, space, answering, is_partial)?;
                let Some(one) = one.filter(Explained::has_packets) else {
                    return Ok(None);
                };
                let text = match self.format {
                    Format::Json => document.add(&one).map(|()| String::new())?,
                    _ => text::print(&one, output.style())?,
                };
                let forwards = one
                    .answers
                    .iter()
                    .any(|answer| answer.hook == Hook::Forward);
                if forwards && one.rules.asked.may_end_hops() {
                    output.message(&format!("{}: {HOPS_END}", one.space.family()));
                }
                Ok(Some(text))
            };
            let one = match print(exactly, explain as Answering, false) {
                Err(TextError::GaveUp(_)) => {
                    output.message(PARTIAL);
                    print(roughly, explain_roughly, true)?
                }
                result => result?,
            };
            shown.extend(one);
        }
        if shown.is_empty() {
            output.message("no real packet can match: there is nothing to explain");
        }
        match self.format {
            Format::Json => output.json(&document),
            _ => shown.iter().for_each(|text| output.result(text)),
        }
        Ok(Exit::Fine)
    }

    fn ground(&self, output: &Output) -> Result<(Subject, String), Stop> {
        let found = match &self.rules {
            Some(path) => {
                let family = self.packets.family();
                (
                    rules::of_path(path, family, output)?,
                    path.display().to_string(),
                )
            }
            None if self.live => (
                rules::live(self.host.backend(), "explain --live", output)?,
                "live".to_owned(),
            ),
            None => {
                let path = policy_path(self.policy.as_deref());
                let ground = ground(&path, self.templates.as_deref(), output);
                return Ok((ground.ok_or(Stop::Reported)?, path.display().to_string()));
            }
        };
        let (Found { rules, members }, name) = found;
        // A policy that says nothing is sound.
        let plan = resolve(&Policy::default(), &mut Sink::new()).ok_or(Stop::Reported)?;
        Ok((Subject::of_rules(plan, rules, &members), name))
    }
}

/// The message for an answer of [`explain_roughly`], or of a matrix that is made the same way.
pub const PARTIAL: &str = "partial answer: these rules combine too many conditions that a packet alone does not decide, such as `string` or \
    `u32`; each rule's conditions are treated as independent of the others', so a part may include packets that cannot occur";

/// The message for answers about forwarded packets of which the kernel may forward fewer.
pub const HOPS_END: &str = "a rule of PREROUTING lowers the hop limit; the kernel does not forward packets that it leaves with 1 or 0, whatever is said here";

/// How a question is answered: [`explain`] or [`explain_roughly`].
type Answering = fn(&Subject, &Space, &Question) -> Result<Vec<HookAnswer>, TextError>;

/// What becomes of the packets of a family, and the words for it.
struct Explained<'a> {
    ground: &'a Subject,
    rules: &'a FamilyRules,
    space: &'a Space,
    words: Vocabulary<'a>,
    answers: Vec<HookAnswer>,
    /// Parts may have packets that do not exist: see [`PARTIAL`].
    partial: bool,
}

impl<'a> Explained<'a> {
    /// `None` where there are no rules of the family.
    fn new(
        ground: &'a Subject,
        question: &Question,
        space: &'a Space,
        answering: Answering,
        partial: bool,
    ) -> Result<Option<Self>, TextError> {
        let Some(rules) = &ground.rules[space.family()] else {
            return Ok(None);
        };
        let mut words = verify::vocabulary(space, &ground.plan)?;
        let answers = answering(ground, space, question)?;
        for key in (0..).map_while(|number| space.opaque_key(number)) {
            let said = in_words(&key);
            words.condition(key, said);
        }
        Ok(Some(Self {
            ground,
            rules,
            space,
            words,
            answers,
            partial,
        }))
    }

    /// Packets in words; only those `among` others are spoken of.
    fn boxes(&self, hook: Hook, packets: Set, among: Set) -> Result<Boxes, TextError> {
        let limits = match self.partial {
            // Most of what is left out of a partial answer would be combinations of conditions.
            true => Limits {
                shown: 4,
                counted: 4,
            },
            false => Limits::default(),
        };
        let boxes = self.words.boxes_among(packets, among, hook.into(), limits);
        Ok(boxes?)
    }

    /// Whether there is any packet that was asked about.
    fn has_packets(&self) -> bool {
        let mut answers = self.answers.iter();
        answers.any(|answer| answer.asked != self.space.none())
    }

    fn rule(&self, decider: &Decider) -> Result<MatchedRule, ByPolicy> {
        let (table, _) = decider.place;
        let matched = decider
            .rule
            .and_then(|id| self.ground.matched(self.rules, table, id));
        matched.ok_or_else(|| self.ground.by_policy(self.rules, decider.place))
    }
}

/// A condition that a packet does not answer, from what the analysis calls it: in the policy's words, or as the rule has it.
fn in_words(key: &str) -> String {
    let said = verify::condition_words(key);
    match key.split_once(" of -") {
        // What it belongs to.
        Some((condition, _)) if said == key => condition.to_owned(),
        _ => said,
    }
}
