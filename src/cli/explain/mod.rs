//! `fwc explain`

pub(super) mod json;
mod packets;
mod text;

use std::path::PathBuf;

use clap::Args as ClapArgs;

use self::packets::{PacketArgs, PacketArgsError};
use super::budget::BudgetArgs;
use super::compile::{policy_path, subject};
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

/// Show what happens to packets, and which rules decide it
///
/// Follows one packet, or all matching packets, through every table and chain in the order of the kernel, including
/// translations and marks. An option that you leave out may have any value. If the packets end differently, they are split
/// by their end, the largest part first, each with the rules that decide it and the path of one of its packets.
///
/// Source, destination and service are those of the packet as it arrives. Without --from and --to the packet goes to this
/// host; with --in and --out it is forwarded; with --out alone it comes from this host.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The policy file [default: ./fwc.toml, else /etc/fwc/fwc.toml]
    #[arg(value_name = "POLICY", conflicts_with_all = ["rules", "live"])]
    policy: Option<PathBuf>,
    /// Explain a rules file, or a folder with rules.v4 and rules.v6, instead of a policy
    #[arg(long, value_name = "FILE", conflicts_with = "live")]
    rules: Option<PathBuf>,
    /// Explain the live rules of this network namespace
    #[arg(long)]
    live: bool,
    /// A folder of templates that replace the built-in ones of the same name
    #[arg(long, value_name = "DIR", conflicts_with_all = ["rules", "live"])]
    templates: Option<PathBuf>,
    #[command(flatten)]
    packets: PacketArgs,
    #[command(flatten)]
    budget: BudgetArgs,
    #[command(flatten)]
    host: HostArgs,
    /// The format of the result: text or json
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
        Err(stop) => stop.report(output),
    }
}

impl Args {
    fn explain(&self, output: &Output) -> Result<Exit, Stop> {
        if (self.live || self.rules.is_some()) && self.packets.names_zones() {
            let text = "rules without a policy have no zones: use --in and --out with devices, for example `--in eth0 --out eth1`, or --hook";
            return Err(Stop::WrongUsage(text.to_owned()));
        }
        let (subject, name) = self.subject(output)?;
        let question = match self.packets.question(&subject.policy, &subject.plan) {
            Ok(question) => question,
            Err(PacketArgsError::Usage(text)) => return Err(Stop::WrongUsage(text)),
            Err(PacketArgsError::Words(sources, sink)) => {
                output.diagnostics(&sink, &sources);
                if self.live || self.rules.is_some() {
                    output.message("without a policy, only the built-in services have names");
                }
                return Ok(Exit::Usage);
            }
        };
        let families = Family::ALL.into_iter();
        let families: Vec<Family> = families
            .filter(|family| question.has_family(*family) && subject.rules[*family].is_some())
            .collect();
        if families.is_empty() {
            let text = format!("`{name}` has no rules of that family");
            return Err(Stop::WrongUsage(text));
        }
        // Two spaces for each family: if the exact answer exceeds the budget of the first, the rough answer needs an empty one.
        let spaces: Vec<[Space; 2]> = families
            .iter()
            .map(|family| [(); 2].map(|()| subject.space(*family).within(self.budget.budget)))
            .collect();
        let mut document = json::ExplainDocument::new(&name);
        let mut shown = Vec::new();
        for [exactly, roughly] in &spaces {
            // Printing is part of the attempt: rendering an exact answer may exceed the budget, too.
            let mut print = |space, answering, is_partial| {
                let one = Explained::new(&subject, &question, space, answering, is_partial)?;
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

    /// Reads the rules to explain, and returns them with their name.
    fn subject(&self, output: &Output) -> Result<(Subject, String), Stop> {
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
                let subject = subject(&path, self.templates.as_deref(), output);
                return Ok((subject.ok_or(Stop::Reported)?, path.display().to_string()));
            }
        };
        let (Found { rules, members }, name) = found;
        // An empty policy always resolves.
        let plan = resolve(&Policy::default(), &mut Sink::new()).ok_or(Stop::Reported)?;
        Ok((Subject::of_rules(plan, rules, &members), name))
    }
}

/// The message for an answer of [`explain_roughly`], or of a matrix that is made the same way.
pub const PARTIAL: &str = "partial answer: these rules combine too many conditions that a packet alone does not decide, such as `string` or \
    `u32`; each rule's conditions are treated as independent of the others', so a part may include packets that cannot occur";

/// The message for answers about forwarded packets, if the kernel may drop some of them on its own.
pub const HOPS_END: &str = "a rule of PREROUTING lowers the hop limit; the kernel does not forward packets that then have 1 or 0, even if this answer accepts them";

/// How a question is answered: [`explain`] or [`explain_roughly`].
type Answering = fn(&Subject, &Space, &Question) -> Result<Vec<HookAnswer>, TextError>;

/// The answer for the packets of a family, and what is needed to render it.
struct Explained<'a> {
    subject: &'a Subject,
    rules: &'a FamilyRules,
    space: &'a Space,
    words: Vocabulary<'a>,
    answers: Vec<HookAnswer>,
    /// `true` if parts may include packets that cannot occur: see [`PARTIAL`].
    partial: bool,
}

impl<'a> Explained<'a> {
    /// Answers a question; `None` if there are no rules of the family.
    fn new(
        subject: &'a Subject,
        question: &Question,
        space: &'a Space,
        answering: Answering,
        partial: bool,
    ) -> Result<Option<Self>, TextError> {
        let Some(rules) = &subject.rules[space.family()] else {
            return Ok(None);
        };
        let mut words = verify::vocabulary(space, &subject.plan)?;
        let answers = answering(subject, space, question)?;
        for key in (0..).map_while(|number| space.opaque_key(number)) {
            let text = in_words(&key);
            words.condition(key, text);
        }
        Ok(Some(Self {
            subject,
            rules,
            space,
            words,
            answers,
            partial,
        }))
    }

    /// Describes packets. The words only have to tell them apart from the other packets of `among`, which keeps them short.
    fn boxes(&self, hook: Hook, packets: Set, among: Set) -> Result<Boxes, TextError> {
        let limits = match self.partial {
            // A partial answer has many boxes that differ only in combinations of conditions; four show the pattern.
            true => Limits {
                shown: 4,
                counted: 4,
            },
            false => Limits::default(),
        };
        let boxes = self.words.boxes_among(packets, among, hook.into(), limits);
        Ok(boxes?)
    }

    /// Returns `true` if the question matches any packet.
    fn has_packets(&self) -> bool {
        let mut answers = self.answers.iter();
        answers.any(|answer| answer.asked != self.space.none())
    }

    fn rule(&self, decider: &Decider) -> Result<MatchedRule, ByPolicy> {
        let (table, _) = decider.place;
        let matched = decider
            .rule
            .and_then(|id| self.subject.matched(self.rules, table, id));
        matched.ok_or_else(|| self.subject.by_policy(self.rules, decider.place))
    }
}

/// Renders the analysis' key of a condition that does not depend on the packet alone: in the policy's words, or as the rule
/// prints it.
fn in_words(key: &str) -> String {
    let words = verify::condition_words(key);
    match key.split_once(" of -") {
        // The rest is the rule that the condition belongs to, which keeps equal conditions of several rules apart.
        Some((condition, _)) if words == key => condition.to_owned(),
        _ => words,
    }
}
