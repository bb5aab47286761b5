//! `fwc diff`

mod groups;
pub(super) mod json;
mod limits;
mod sets;
mod side;
mod text;

use clap::Args as ClapArgs;

use super::budget::BudgetArgs;
use super::build::FamilyArg;
use super::compile::{CompileArgs, policy_path};
use super::host::HostArgs;
use super::rules::Stop;
use super::{Exit, Format, Output};
use crate::analysis::{Limits, Space, TextError, Vocabulary};
use crate::diag::{Style, harmless};
use crate::diff::{self, Incomparable, Operand, PacketChange, RulesDiff, SideName};
use crate::live::{Error, Real, owners};
use crate::net::{Family, PerFamily};
use crate::verify;
use side::{DiffSide, OperandReader};

/// Show which packets and which rules differ; exit status 2 if there is a difference
///
/// A ruleset is `live`, a policy (`*.toml`), a folder with rules.v4, rules.v6 and ipsets, a file in the format of
/// iptables-save (without sets), or an earlier version of one of these, `git:REVISION[:PATH]`. With no argument, compares live
/// with the policy; with one argument, compares live with it. Only `live` needs root.
///
/// Rules are compared by meaning: two rules that are only written differently are equal. If no packet changes, that is proven
/// for every packet.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The old ruleset, or with one argument the new one
    #[arg(value_name = "FROM")]
    first: Option<String>,
    /// The new ruleset
    #[arg(value_name = "TO")]
    second: Option<String>,
    /// Show which packets change verdict or effect; exit status 0 if none does
    #[arg(long)]
    packets: bool,
    /// Show the rules that were added, removed, moved or changed
    #[arg(long)]
    rules: bool,
    /// Show a unified diff of the rules as iptables-save prints them
    #[arg(long)]
    unified: bool,
    /// Compare only this family, ipv4 or ipv6; also the family of a rules file that does not show it
    #[arg(long, value_enum, value_name = "FAMILY", hide_possible_values = true)]
    family: Option<FamilyArg>,
    /// Show at most NUMBER kinds of packets for each change, and count the rest
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 12,
        hide_default_value = true
    )]
    most: usize,
    #[command(flatten)]
    compile: CompileArgs,
    #[command(flatten)]
    budget: BudgetArgs,
    #[command(flatten)]
    host: HostArgs,
    /// The format of the result
    #[arg(long, value_parser = Format::parser([Format::Text, Format::Json, Format::Markdown]), default_value = "text", help_heading = "Output")]
    format: Format,
}

/// The difference between two rulesets.
struct Difference<'a> {
    from: &'a DiffSide,
    to: &'a DiffSide,
    /// The families that both have.
    families: Vec<Family>,
    /// The packets that change, if they were asked for.
    packets: PerFamily<Vec<PacketChange>>,
    /// The families whose packet sets exceeded the budget, so that only their rules are compared.
    not_compared: Vec<Family>,
    /// The rules that differ.
    rules: PerFamily<Option<RulesDiff>>,
    /// The sets of both sides in the format of `ipset restore`; `None` if a side does not define sets.
    sets: Option<[String; 2]>,
}

/// The views to show.
#[derive(Clone, Copy)]
struct Shown {
    packets: bool,
    rules: bool,
    unified: bool,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Exit {
    args.compare(output)
        .unwrap_or_else(|stop| stop.report(output))
}

impl Args {
    fn compare(&self, output: &Output) -> Result<Exit, Stop> {
        let [from, to] = self.operands()?;
        let host = Real::open(self.host.backend());
        let reader = OperandReader {
            host: host.as_ref(),
            compile: &self.compile,
            family: self.family.map(Family::from),
            output,
        };
        let mut from = reader.read(&from, &to)?;
        let mut to = reader.read(&to, &from.operand)?;
        let difference = self.difference(&mut from, &mut to, host.as_ref(), output)?;
        let shown = self.shown();
        match self.format {
            Format::Json => output.json(&json::document(&difference, shown)),
            Format::Markdown => output.result(&text::markdown(&difference, shown)),
            _ => {
                let text = text::text(&difference, shown, output.style());
                output.result(&text);
            }
        }
        if difference.rules_are_equal() && self.format != Format::Json {
            output.message(&match self.family {
                Some(family) => format!("no difference in {}", Family::from(family)),
                None => "no difference".to_owned(),
            });
        }
        Ok(match difference.is_different(shown) {
            true => Exit::Different,
            false => Exit::Fine,
        })
    }

    fn shown(&self) -> Shown {
        let any = self.packets || self.rules || self.unified;
        Shown {
            packets: self.packets || !any,
            rules: self.rules || !any,
            unified: self.unified,
        }
    }

    fn operands(&self) -> Result<[Operand; 2], Stop> {
        let parse = |word: &String| {
            Operand::parse(word).map_err(|error| Stop::WrongUsage(error.to_string()))
        };
        Ok(match (&self.first, &self.second) {
            (Some(from), Some(to)) => [parse(from)?, parse(to)?],
            (Some(to), None) | (None, Some(to)) => [Operand::Live, parse(to)?],
            (None, None) => [Operand::Live, Operand::Policy(policy_path(None))],
        })
    }

    fn difference<'a>(
        &self,
        from: &'a mut DiffSide,
        to: &'a mut DiffSide,
        host: Result<&Real, &Error>,
        output: &Output,
    ) -> Result<Difference<'a>, Stop> {
        from.drop_unmatched_families(to, output);
        to.drop_unmatched_families(from, output);
        from.check_parsed(output)?;
        to.check_parsed(output)?;
        match (&from.operand, &to.operand) {
            (Operand::Live, _) => to.put_into(from)?,
            (_, Operand::Live) => from.put_into(to)?,
            _ => {}
        }
        let both = |family: &Family| from.rules[*family].is_some() && to.rules[*family].is_some();
        let families: Vec<Family> = Family::ALL.into_iter().filter(both).collect();
        if families.is_empty() {
            return Err(Stop::Because(format!(
                "`{}` and `{}` have no family in common",
                from.name, to.name
            )));
        }
        // A policy cannot write the table `security`, so `apply` leaves it alone: it would show up as removed.
        if from.policy.is_some() || to.policy.is_some() {
            from.drop_security();
            to.drop_security();
        }
        let asked = self.family.map(Family::from);
        let sets = side::compare_sets(from, to, asked, host)?;
        let live = [&from.operand, &to.operand].contains(&&Operand::Live);
        let is_foreign = |_, chain: &str| live && owners::of_chain(chain).is_some();
        let rules = PerFamily::from_fn(|family| {
            let (from, to) = (from.rules[family].as_ref()?, to.rules[family].as_ref()?);
            Some(diff::rules(from, to, &is_foreign))
        });
        let (mut packets, mut not_compared) = (PerFamily::default(), Vec::new());
        let asked = families.iter().filter(|_| self.shown().packets);
        for &family in asked {
            match self.packets_of(family, from, to, rules[family].as_ref())? {
                Some(changes) => packets[family] = changes,
                None => {
                    // Without this message the list of rules would look like the whole difference.
                    output.message(&format!(
                        "partial answer: {family}: the sets of packets are too large to compare; only the rules are compared"
                    ));
                    not_compared.push(family);
                }
            }
        }
        Ok(Difference {
            from,
            to,
            families,
            packets,
            not_compared,
            rules,
            sets,
        })
    }

    /// Returns the packets that change; `None` if the comparison exceeded the budget and the rules are shown anyway.
    fn packets_of(
        &self,
        family: Family,
        from: &DiffSide,
        to: &DiffSide,
        changed: Option<&RulesDiff>,
    ) -> Result<Option<Vec<PacketChange>>, Stop> {
        let sides = (from.rules(family), to.rules(family), changed);
        let (Some(before), Some(after), Some(changed)) = sides else {
            return Ok(Some(Vec::new()));
        };
        let texts = [before, after].map(|side| diff::plain_text(side.ruleset));
        if texts[0] == texts[1] && before.members == after.members {
            return Ok(Some(Vec::new()));
        }
        let space = Space::for_rules(family, [before.ruleset, after.ruleset]);
        let space = space.within(self.budget.budget);
        let mut vocabulary = Vocabulary::new(&space);
        for side in [to, from] {
            if let Some(policy) = &side.policy {
                verify::add_words(&mut vocabulary, &space, &policy.plan, " before")?;
            }
        }
        let limits = Limits {
            shown: self.most,
            ..Limits::default()
        };
        let error = match diff::packets(&vocabulary, before, after, changed, limits) {
            Ok(changes) => return Ok(Some(changes)),
            Err(error) => error,
        };
        let gave_up = matches!(
            error,
            Incomparable::GaveUp(_) | Incomparable::Rules(_, TextError::GaveUp(_))
        );
        if gave_up && self.shown().rules {
            return Ok(None);
        }
        let name = match &error {
            Incomparable::Rules(SideName::Before, _) => &from.name,
            Incomparable::Rules(SideName::After, _) => &to.name,
            Incomparable::GaveUp(_) => return Err(Stop::Because(format!("{family}: {error}"))),
        };
        Err(Stop::Because(format!("`{name}`, {family}: {error}")))
    }
}

impl Difference<'_> {
    /// Returns `true` if there is a difference in what is shown. With packets alone the rules do not count.
    fn is_different(&self, shown: Shown) -> bool {
        let only_packets = shown.packets && !shown.rules && !shown.unified;
        self.changes().next().is_some() || (!only_packets && !self.rules_are_equal())
    }

    fn rules_are_equal(&self) -> bool {
        let equal = |(_, rules): (Family, &Option<RulesDiff>)| {
            rules.as_ref().is_none_or(RulesDiff::is_empty)
        };
        self.rules.iter().all(equal) && self.sets.as_ref().is_none_or(|[from, to]| from == to)
    }

    /// Iterates over the packet changes, with their family.
    fn changes(&self) -> impl Iterator<Item = (Family, &PacketChange)> {
        let families = self.packets.iter();
        families.flat_map(|(family, changes)| changes.iter().map(move |change| (family, change)))
    }

    /// Returns the unified diffs of sets, IPv4 and IPv6; `None` if the texts are equal.
    fn unified(&self, style: Style) -> [(&'static str, Option<String>); 3] {
        let names = |what: &str| [self.from, self.to].map(|side| format!("{} ({what})", side.name));
        let of = |what: &str, texts: [&str; 2]| {
            let [from, to] = &names(what);
            let side = |name, text| diff::TextSide { name, text };
            diff::unified(side(from, texts[0]), side(to, texts[1]), style)
        };
        let rules = |family: Family| {
            let text =
                |side: &DiffSide| Some(harmless(&diff::plain_text(side.rules[family].as_ref()?)));
            let (from, to) = (text(self.from)?, text(self.to)?);
            of(&family.to_string(), [&from, &to])
        };
        let sets = self.sets.as_ref();
        [
            ("sets", sets.and_then(|[from, to]| of("sets", [from, to]))),
            ("ipv4", rules(Family::V4)),
            ("ipv6", rules(Family::V6)),
        ]
    }
}
