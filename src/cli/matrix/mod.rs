//! `fwc matrix`

mod classes;
mod devices;
mod places;

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};
use serde::Serialize;

use super::budget::BudgetArgs;
use super::build::FamilyArg;
use super::compile::{CompileArgs, compile, policy_path};
use super::host::HostArgs;
use super::output::Document;
use super::rules::{Stop, live_texts};
use super::{Exit, Format, Output};
use crate::analysis::{Budget, DevicesBehind};
use crate::diag::Sink;
use crate::diff::{Operand, read_folder, read_rules};
use crate::files::Access;
use crate::iptables::{self, Extensions, Ruleset};
use crate::net::{Family, Hook, IntervalSet, PerFamily, PortRange, State};
use crate::policy::{self, Policy};
use crate::resolve::{self, Plan, PlannedRule, resolve};
use crate::source::{Located, SourceMap, Span};

/// Show who can reach whom, for one service
///
/// For a policy, the matrix has its zones and interfaces. For a rules file or the live rules it has address classes: the
/// fewest such that all addresses of a class behave alike. An edge means that some address of the first class may open the
/// connection to some address of the second, also if that depends on a rate, a set or a match that fwc does not know.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The policy file [default: ./fwc.toml, else /etc/fwc/fwc.toml]
    #[arg(value_name = "POLICY", conflicts_with_all = ["rules", "live"])]
    policy: Option<PathBuf>,
    /// Show the matrix of a rules file, or of a folder with rules.v4 and rules.v6, instead of a policy
    #[arg(long, value_name = "FILE", conflicts_with = "live")]
    rules: Option<String>,
    /// Show the matrix of the live rules of this network namespace
    #[arg(long)]
    live: bool,
    /// The service to reach, by name or as ports such as 22/tcp [default: any]
    #[arg(long, value_name = "SERVICE", value_delimiter = ',')]
    service: Vec<String>,
    /// The connection state: new, established, related, invalid or untracked
    #[arg(
        long,
        value_name = "STATE",
        default_value = "new",
        hide_possible_values = true
    )]
    state: StateArg,
    /// The source port, or a range such as 1024-65535 [default: any]
    #[arg(long, value_name = "PORT", value_parser = port)]
    source_port: Option<PortRange>,
    /// With --rules or --live: FORWARD (through this host), INPUT or OUTPUT [default: FORWARD]
    #[arg(
        long,
        value_name = "CHAIN",
        ignore_case = true,
        hide_possible_values = true
    )]
    chain: Option<ChainArg>,
    /// With --rules or --live: a file with the networks behind each device, in lines such as `eth1 = 10.0.0.0/8`
    #[arg(long, value_name = "FILE")]
    interfaces: Option<PathBuf>,
    /// ipv4 or ipv6 [default: those that have rules]
    #[arg(long, value_name = "FAMILY", hide_possible_values = true)]
    family: Option<FamilyArg>,
    #[command(flatten)]
    compile: CompileArgs,
    #[command(flatten)]
    budget: BudgetArgs,
    #[command(flatten)]
    host: HostArgs,
    /// The format of the matrix: text, json or markdown
    #[arg(
        long,
        value_parser = Format::parser([Format::Text, Format::Json, Format::Markdown]),
        default_value = "text",
        hide_possible_values = true,
        help_heading = "Output"
    )]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StateArg {
    New,
    Established,
    Related,
    Invalid,
    Untracked,
}

impl From<StateArg> for State {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::New => Self::New,
            StateArg::Established => Self::Established,
            StateArg::Related => Self::Related,
            StateArg::Invalid => Self::Invalid,
            StateArg::Untracked => Self::Untracked,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ChainArg {
    Input,
    Forward,
    Output,
}

impl From<ChainArg> for Hook {
    fn from(chain: ChainArg) -> Self {
        match chain {
            ChainArg::Input => Self::Input,
            ChainArg::Forward => Self::Forward,
            ChainArg::Output => Self::Output,
        }
    }
}

fn port(text: &str) -> Result<PortRange, String> {
    let wanted = "use a port from 1 to 65535, or a range such as 1024-65535";
    PortRange::parse(text).map_err(|_| wanted.to_owned())
}

/// Who can reach whom.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MatrixDocument {
    /// Of rules: the base chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    chain: Option<&'static str>,
    /// The service; `null` for any.
    service: Option<String>,
    /// The state of the connection.
    state: String,
    /// Of rules: whether the analysis treated conditions as independent of each other, so that an edge may have no real packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    partial: Option<bool>,
    /// Of a policy: its interfaces and zones, one name each. Of rules: address classes, as prefixes and ranges.
    classes: Vec<Vec<String>>,
    /// Of rules: the family of each class.
    #[serde(skip_serializing_if = "Option::is_none")]
    families: Option<Vec<&'static str>>,
    /// Of rules: the masks that divide each class, so that an edge may hold for a part of its addresses only.
    #[serde(skip_serializing_if = "Option::is_none")]
    divided_by: Option<Vec<BTreeSet<String>>>,
    /// Pairs of indices of `classes`: some host of the first may open the connection to some host of the second.
    edges: Vec<[Option<usize>; 2]>,
    /// Of a policy: how much passes from class to class, for pairs between which a packet can occur.
    #[serde(skip_serializing_if = "Option::is_none")]
    cells: Option<Vec<JsonCell>>,
}

impl Document for MatrixDocument {
    const SCHEMA: &'static str = "fwc.matrix/1";
}

/// How much passes from one class to another.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct JsonCell {
    /// `ipv4` or `ipv6`.
    family: &'static str,
    /// The class that the connection comes from.
    from: Option<String>,
    /// The class that it goes to.
    to: Option<String>,
    /// `nothing`, `some`, `all`, or `others` if rules of other programs decide.
    opens: &'static str,
    /// Whether rules of other programs decide some of the packets.
    others: bool,
    /// The conditions that do not depend on the packet alone, such as rates and sets.
    depends_on: BTreeSet<String>,
}

/// The question of the command line, and where to print the answer.
struct Asked<'a> {
    /// The services as given, such as `ssh,22/tcp`; `None` for any.
    service: Option<String>,
    state: State,
    source_ports: Option<IntervalSet>,
    source_port: Option<PortRange>,
    hook: Hook,
    budget: Budget,
    format: Format,
    output: &'a Output,
}

/// Runs the command.
pub fn run(args: &Args, output: &mut Output) -> Exit {
    match args.run(output) {
        Ok(()) => Exit::Fine,
        Err(stop) => stop.report(output),
    }
}

impl Args {
    fn run(&self, output: &Output) -> Result<(), Stop> {
        let asked = Asked {
            service: (!self.service.is_empty()).then(|| self.service.join(",")),
            state: self.state.into(),
            source_ports: self.source_port.map(|ports| {
                IntervalSet::from_intervals([(ports.first.into(), ports.last.into())])
            }),
            source_port: self.source_port,
            hook: self.hook(),
            budget: self.budget.budget,
            format: self.format,
            output,
        };
        let families: Vec<Family> = match self.family {
            Some(family) => vec![family.into()],
            None => Family::ALL.to_vec(),
        };
        if self.rules.is_none() && !self.live {
            if self.interfaces.is_some() || self.chain.is_some() {
                let text =
                    "`--interfaces` and `--chain` need `--rules` or `--live`: a policy has zones";
                return Err(Stop::WrongUsage(text.to_owned()));
            }
            let path = policy_path(self.policy.as_deref());
            let compiled = compile(&path, &self.compile, Access::Read, output);
            let compiled = compiled.ok_or(Stop::Reported)?;
            let rule = self.packets(&compiled.policy, &compiled.plan, output)?;
            return places::show(&compiled.plan, &rule, &families, &asked);
        }
        let behind = match &self.interfaces {
            None => DevicesBehind::unknown(),
            Some(path) => devices::read(path)?,
        };
        let mut nothing = Sink::new();
        let policy = Policy::default();
        let plan = resolve(&policy, &mut nothing).ok_or(Stop::Reported)?;
        let rule = self.packets(&policy, &plan, output)?;
        let rulesets = self.rulesets(output)?;
        classes::show(&rulesets, &plan, &rule, &behind, &asked)
    }

    fn hook(&self) -> Hook {
        self.chain.map_or(Hook::Forward, Hook::from)
    }

    /// Resolves the packets of the question, by the code that resolves a policy's rule. For its findings the options are joined to
    /// a command line, which serves as the source file.
    fn packets(&self, policy: &Policy, plan: &Plan, output: &Output) -> Result<PlannedRule, Stop> {
        let mut line = String::from("fwc matrix");
        let (from, to) = match self.hook() {
            Hook::Input => ("any", "host"),
            Hook::Output => ("host", "any"),
            Hook::Forward => ("any", "any"),
        };
        // The user did not write these two, so their position is the command itself.
        let whole = 0..line.len();
        let mut places = vec![("from", from, whole.clone()), ("to", to, whole)];
        let state = State::from(self.state).keyword().to_lowercase();
        let mut words = vec![("state", state.as_str())];
        words.extend(self.service.iter().map(|word| ("service", word.as_str())));
        for (key, word) in words {
            line.push_str(&format!(" --{key} "));
            let start = line.len();
            line.push_str(word);
            places.push((key, word, start..line.len()));
        }
        let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
        let whole = 0..line.len();
        let file = sources.add("the command line", line);
        let words = places.into_iter();
        let words = words.map(|(key, word, at)| (key, Located::new(word, Span::new(file, at))));
        let words: Vec<_> = words.collect();
        let written = policy::question(&words, Span::new(file, whole), &mut sink);
        resolve::question(policy, plan, &written, &mut sink).ok_or_else(|| {
            output.diagnostics(&sink, &sources);
            Stop::Reported
        })
    }

    /// Reads the rules of each family that has some.
    fn rulesets(&self, output: &Output) -> Result<PerFamily<Option<Ruleset>>, Stop> {
        let asked = self.family.map(Family::from);
        let (texts, name) = match &self.rules {
            None => {
                let (_, texts) = live_texts(self.host.backend(), "matrix --live", output)?;
                let [v4, v6] = [texts.v4, texts.v6].map(Some);
                (PerFamily { v4, v6 }, "live".to_owned())
            }
            Some(word) => {
                let texts = match Operand::parse(word)? {
                    Operand::Folder(folder) => read_folder(&folder)?.rules,
                    Operand::Policy(_) => {
                        let text = format!("`{word}` is a policy: leave --rules out");
                        return Err(Stop::WrongUsage(text));
                    }
                    Operand::Revision { .. } => {
                        let text =
                            format!("`{word}` is a git revision: --rules takes a file or a folder");
                        return Err(Stop::WrongUsage(text));
                    }
                    Operand::Live | Operand::Rules(_) => read_rules(word.as_ref(), asked)?,
                };
                (texts, word.clone())
            }
        };
        let mut rulesets = PerFamily::default();
        for (family, text) in texts.iter() {
            let Some(text) = text
                .as_ref()
                .filter(|_| asked.is_none_or(|it| it == family))
            else {
                continue;
            };
            let mut sources = SourceMap::new();
            let file = sources.add(&name, text);
            let mut sink = Sink::new();
            let read = iptables::parse(file, &sources, family, Extensions::KeepUnknown, &mut sink);
            output.diagnostics(&sink, &sources);
            rulesets[family] = Some(read.ok_or(Stop::Reported)?);
        }
        if rulesets.iter().all(|(_, rules)| rules.is_none()) {
            let family = asked.map_or(String::new(), |family| format!(" for {family}"));
            return Err(Stop::Because(format!("`{name}` has no rules{family}")));
        }
        Ok(rulesets)
    }
}

impl Asked<'_> {
    /// Returns the state as policies write it: `new`.
    fn state_word(&self) -> String {
        self.state.keyword().to_lowercase()
    }

    /// Describes the question: `ssh, state new, from port 1024-65535`.
    fn words(&self) -> String {
        let service = self.service.as_deref().unwrap_or("any service");
        let mut words = format!("{service}, state {}", self.state_word());
        if let Some(ports) = self.source_port {
            words.push_str(&format!(", from port {ports}"));
        }
        words
    }
}
