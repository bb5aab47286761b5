//! Resolves `[[custom]]`: rules of iptables, read as iptables-restore reads them.

use std::collections::BTreeSet;
use std::path::Path;

use super::blocks;
use super::check;
use super::defaults;
use super::extensions::Declared;
use super::own_tables;
use super::plan::{Plan, PlannedCustom};
use crate::diag::{Code, Diagnostic, Severity, Sink};
use crate::iptables::{self, TableName, Target};
use crate::net::{Family, Hook, PerFamily};
use crate::policy::{self, CustomTable, Mode, Policy};
use crate::source::{Located, SourceMap};

/// The kernel's longest name of a chain (`XT_FUNCTION_MAXNAMELEN` less two).
const LONGEST_CHAIN: usize = 28;

/// The prefix of fwc's own chains in shared mode.
const OWN: &str = "FWC-";

/// Reads every rule. Disabled rules are checked too, but are not returned. `plan` has the blocks that custom rules stand in, and
/// `sound` tells which of its rules can be checked.
pub fn resolve(
    policy: &Policy,
    plan: &Plan,
    sound: &[bool],
    sink: &mut Sink,
) -> Vec<PlannedCustom> {
    let errors = sink.errors();
    let declared = Declared::new(policy);
    let mut customs = Vec::new();
    let mode = policy.ownership.mode.as_ref();
    let is_shared = mode.is_some_and(|mode| mode.value == Mode::Shared);
    let prefix = if is_shared { OWN } else { "" };
    for written in &policy.custom {
        let (Some(rule), Some(place)) = (&written.rule, Place::of(written, plan, sound)) else {
            continue;
        };
        let known = policy.custom.iter();
        let own = own_chains(known, table_of(written));
        let named = match &written.chain {
            Some(chain) => check_chain(written, chain, prefix, sink),
            None => true,
        };
        let plain = check_options(rule, sink);
        if !(named && plain) {
            continue;
        }
        let scope = defaults::scope(&policy.defaults, written.scope.as_ref());
        let mut families = place.families.clone();
        families.retain(|family| scope.is_none_or(|scope| scope.has(*family)));
        if let ([], [of_block], Some(block)) =
            (&families[..], &place.families[..], written.in_block)
        {
            let block = plan.rules[block].span;
            sink.report(blocks::without_packets(written.span, *of_block, block));
        }
        let mut rules = PerFamily::default();
        let mut refused: Option<Refusal> = None;
        for family in families {
            let texts = place.chains.iter().map(|chain| {
                let table = table_of(written);
                let text = read(table, chain, &rule.value, &own, prefix, family, &declared);
                text.map_err(|refusal| (*chain, refusal))
            });
            // Each chain gives the same text, or refuses it.
            let texts: Result<Vec<String>, _> = texts.collect();
            match texts {
                Ok(mut texts) => rules[family] = texts.pop(),
                // An error that both families have is reported once.
                Err((_, refusal)) if refused.as_ref() == Some(&refusal) => {}
                Err((chain, refusal)) => {
                    let unknown = undeclared(&rule.value, &declared, &own);
                    let diagnostic = refusal.diagnostic(written, rule, family, unknown);
                    sink.report(match &place.chains[..] {
                        [_] => diagnostic,
                        several => diagnostic
                            .with_note(format!(
                                "the block has packets in {}, and {chain} does not take the rule",
                                several.join(", ")
                            ))
                            .help("write a block for each of these chains"),
                    });
                    refused = Some(refusal);
                }
            }
        }
        // A disabled block disables all that is in it.
        let mut blocks = policy.blocks_around(written.in_block);
        if written.enabled && blocks.all(|block| block.enabled) {
            customs.push(PlannedCustom {
                span: written.span,
                label: match &written.name {
                    Some(name) => format!("custom \"{}\"", name.value),
                    None => "custom".to_owned(),
                },
                remark: written.comment.clone(),
                table: table_of(written),
                place: place.is_relative.then(|| written.position()),
                chain: match &written.chain {
                    Some(chain) if place.is_relative => chain.value.clone(),
                    Some(chain) => format!("{prefix}{}", chain.value),
                    None => String::new(),
                },
                rules,
            });
        }
    }
    if sink.errors() == errors {
        reached(policy, &customs, sink);
    }
    customs
}

/// Where a custom rule stands.
struct Place<'p> {
    /// Its chain; in a block the base chain of each hook of the block.
    chains: Vec<&'p str>,
    /// The families that it may have; in a block those of the block.
    families: Vec<Family>,
    /// `true` if it has a position among rules of the policy, in a base chain or a block.
    is_relative: bool,
}

impl<'p> Place<'p> {
    /// Returns the place of a rule; `None` if it has none, which was reported.
    fn of(written: &'p policy::PolicyCustom, plan: &Plan, sound: &[bool]) -> Option<Self> {
        match (&written.chain, written.in_block) {
            (Some(chain), _) => Some(Self {
                chains: vec![chain.value.as_str()],
                families: Family::ALL.to_vec(),
                is_relative: is_base(table_of(written), &chain.value),
            }),
            (None, Some(block)) if sound.get(block) == Some(&true) => Some(Self {
                chains: check::hooks(&plan.rules[block])
                    .into_iter()
                    .map(Hook::chain)
                    .collect(),
                families: check::families(plan, &plan.rules[block]),
                is_relative: true,
            }),
            (None, _) => None,
        }
    }
}

fn table_of(written: &policy::PolicyCustom) -> CustomTable {
    let table = written.table.as_ref();
    table.map_or(CustomTable::Filter, |table| table.value)
}

fn name_of(table: CustomTable) -> TableName {
    match table {
        CustomTable::Raw => TableName::Raw,
        CustomTable::Mangle => TableName::Mangle,
        CustomTable::Nat => TableName::Nat,
        CustomTable::Filter => TableName::Filter,
    }
}

fn is_base(table: CustomTable, chain: &str) -> bool {
    name_of(table).base_chains().contains(&chain)
}

/// Returns the chains of a table that custom rules create.
fn own_chains<'p>(
    customs: impl Iterator<Item = &'p policy::PolicyCustom>,
    table: CustomTable,
) -> BTreeSet<&'p str> {
    let of_table = customs.filter(|custom| table_of(custom) == table);
    let names = of_table.filter_map(|custom| custom.chain.as_ref());
    let names = names.map(|chain| chain.value.as_str());
    names.filter(|name| !is_base(table, name)).collect()
}

/// Reports a chain that does not exist in its table, or whose name fwc or the kernel would not take. Returns `true` if it
/// is right.
fn check_chain(
    written: &policy::PolicyCustom,
    chain: &Located<String>,
    prefix: &str,
    sink: &mut Sink,
) -> bool {
    let (table, name) = (table_of(written), chain.value.as_str());
    let error = |message: String| Diagnostic::error(Code::CustomChain, chain.span, message);
    let bases = name_of(table).base_chains();
    if bases.contains(&name) {
        return true;
    }
    let other = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
    let word = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let finding = if other.contains(&name.to_ascii_uppercase().as_str()) {
        let message = format!("the table {} has no base chain `{name}`", table.as_str());
        error(message).with_note(format!("it has {}", bases.join(", ")))
    } else if name.starts_with(OWN) {
        error("chains whose names begin with `FWC-` are fwc's own".to_owned())
            .help("give it another name")
    } else if name.is_empty() || name.starts_with('-') || !name.chars().all(word) {
        error(format!(
            "`{}` is not a valid chain name",
            name.escape_debug()
        ))
        .with_note("letters, digits, `_`, `.` and `-`, as in `ssh-knock`")
    } else if prefix.len() + name.len() > LONGEST_CHAIN {
        let most = LONGEST_CHAIN - prefix.len();
        let finding = error(format!("a chain's name has {most} characters at most"));
        match prefix {
            "" => finding,
            _ => finding.with_note(format!("in shared mode it is called `{prefix}{name}`")),
        }
    } else if let Some(place) = &written.place {
        let message = format!("`place` does not apply to `{name}`, which is a chain of your own");
        Diagnostic::error(Code::Conflict, place.span, message)
            .with_note("the rules of such a chain keep the order of the policy")
            .help("leave it out")
    } else {
        return true;
    };
    sink.report(finding);
    false
}

/// Reports commands of iptables such as `-A` or `-t` in a rule. A rule is only what follows `-A CHAIN`: its table and
/// place are keys of the policy. Returns `true` if there is none.
fn check_options(rule: &Located<String>, sink: &mut Sink) -> bool {
    let words = words_of(&rule.value);
    let Some(found) = command_in(&words) else {
        return true;
    };
    let message = format!("`{}` is not allowed in a custom rule", found.escape_debug());
    sink.report(
        Diagnostic::error(Code::CustomOption, rule.span, message)
            .help("write what follows `-A CHAIN`; the keys `table`, `chain` and `place` say where"),
    );
    false
}

/// Returns the words of a rule. A word with a quoted part begins with a quote where the part begins.
pub(super) fn words_of(rule: &str) -> Vec<String> {
    let mut quote = None;
    let mut words = vec![String::new()];
    for c in rule.chars() {
        match quote {
            Some(end) if c == end => quote = None,
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                // A quoted word is a value, as in `--comment "-A"`: the quote keeps it from looking like a command.
                if let Some(word) = words.last_mut() {
                    word.push('"');
                }
            }
            None if c.is_whitespace() => words.push(String::new()),
            _ => {
                if let Some(word) = words.last_mut() {
                    word.push(c);
                }
            }
        }
    }
    words
}

/// Returns the first word that is a command of iptables.
pub(super) fn command_in(words: &[String]) -> Option<&String> {
    const LONG: [&str; 14] = [
        "--append",
        "--insert",
        "--table",
        "--delete",
        "--replace",
        "--policy",
        "--new-chain",
        "--new",
        "--delete-chain",
        "--flush",
        "--zero",
        "--rename-chain",
        "--check",
        "--list",
    ];
    let is_command = |word: &&String| {
        let short = [
            "-A", "-I", "-t", "-D", "-R", "-P", "-N", "-X", "-F", "-Z", "-E", "-C", "-L", "-S",
        ];
        let attached = !word.starts_with("--") && short.iter().any(|one| word.starts_with(one));
        attached || LONG.contains(&word.split('=').next().unwrap_or_default())
    };
    words.iter().find(is_command)
}

/// Returns the first match or target of a rule that is neither known nor declared under `[extensions]`.
fn undeclared(
    rule: &str,
    declared: &Declared<'_>,
    chains: &BTreeSet<&str>,
) -> Option<(&'static str, String)> {
    let words = words_of(rule);
    let pairs = words.iter().zip(words.iter().skip(1));
    let mut found = pairs.filter_map(|(option, name)| match option.as_str() {
        "-m" | "--match" if declared.lacks_match(name) => Some(("match", name.clone())),
        "-j" | "--jump" if !chains.contains(&**name) && declared.lacks_target(name) => {
            Some(("target", name.clone()))
        }
        _ => None,
    });
    found.next()
}

/// Why a rule is refused.
#[derive(PartialEq, Eq)]
enum Refusal {
    /// iptables-restore would refuse it, for this reason.
    Tool(String),
    /// It leaves its base chain, by this target: RETURN there goes straight to the chain's policy, and so does a chain
    /// that was entered by `-g`.
    Leaves(String),
    /// It counts in a table that is fwc's own: the option and the name.
    OwnTable(&'static str, String),
}

impl Refusal {
    fn diagnostic(
        &self,
        written: &policy::PolicyCustom,
        rule: &Located<String>,
        family: Family,
        unknown: Option<(&str, String)>,
    ) -> Diagnostic {
        match self {
            Self::Tool(reason) => {
                let tool = match family {
                    Family::V4 => "iptables-restore",
                    Family::V6 => "ip6tables-restore",
                };
                let message = format!("{tool} would refuse this: {reason}");
                let diagnostic = Diagnostic::error(Code::CustomRule, rule.span, message);
                if let Some((what, name)) = unknown {
                    let name = name.escape_debug();
                    let diagnostic = match what {
                        "target" => diagnostic.help(format!(
                            "a chain of your own exists if a custom rule has `chain = \"{name}\"`"
                        )),
                        _ => diagnostic,
                    };
                    return diagnostic.help(format!(
                        "if the iptables of the host has the {what}, declare it: `{what}{} = [\"{name}\"]` under [extensions]",
                        if what == "match" { "es" } else { "s" },
                    ));
                }
                // In a block the chain may be what refuses it.
                if written.scope.is_some() || written.in_block.is_some() {
                    return diagnostic;
                }
                diagnostic
                    .with_note("a custom rule is for both families")
                    .help("set `scope` for one of them")
            }
            Self::OwnTable(option, name) => own_tables::reserved(rule.span, (option, name)),
            Self::Leaves(how) => {
                let message = match written.in_block {
                    None => format!(
                        "`{how}` leaves the base chain before the policy's rules and default decide"
                    ),
                    Some(_) => {
                        format!("`{how}` leaves the block before its other rules decide")
                    }
                };
                Diagnostic::error(Code::CustomReturn, rule.span, message).help(
                    "jump with `-j` to a chain of your own: from there packets return to the policy's rules",
                )
            }
        }
    }
}

/// Returns the rule as `iptables-save` prints it. A jump to one of `chains` gets the prefix that these have in shared mode.
///
/// The rule is read inside a file that declares the chains, since `-j` means a chain only if there is one of the name.
fn read(
    table: CustomTable,
    chain: &str,
    rule: &str,
    chains: &BTreeSet<&str>,
    prefix: &str,
    family: Family,
    declared: &Declared<'_>,
) -> Result<String, Refusal> {
    let table = name_of(table);
    let mut text = format!("*{}\n", table.as_str());
    for base in table.base_chains() {
        text += &format!(":{base} ACCEPT [0:0]\n");
    }
    for own in chains {
        text += &format!(":{own} - [0:0]\n");
    }
    text += &format!("-A {chain} {rule}\nCOMMIT\n");
    let (mut sources, mut findings) = (SourceMap::new(), Sink::new());
    let file = sources.add(Path::new("rule"), text);
    let parsed = iptables::parse(file, &sources, family, declared.extensions(), &mut findings);
    let rules = parsed
        .as_ref()
        .and_then(|ruleset| ruleset.table(table)?.chain(chain))
        .map(|chain| chain.rules.as_slice());
    match rules {
        Some([rule]) => {
            let mut rule = rule.clone();
            if let Some((option, name)) = own_tables::used(&rule.matches) {
                return Err(Refusal::OwnTable(option, name));
            }
            if let Some(how) = leaves(&rule.target)
                && table.base_chains().contains(&chain)
            {
                return Err(Refusal::Leaves(how));
            }
            if let Target::Jump(to) | Target::Goto(to) = &mut rule.target
                && chains.contains(&**to)
            {
                *to = format!("{prefix}{to}").into();
            }
            Ok(rule.to_text(family))
        }
        Some(_) => Err(Refusal::Tool("it is not one rule".to_owned())),
        None => {
            let all = findings.sorted();
            let first = all.iter().find(|one| one.severity == Severity::Error);
            let reason = first.map_or_else(String::new, |one| one.message.clone());
            Err(Refusal::Tool(reason))
        }
    }
}

/// Returns the target by which a rule ends its chain without a verdict.
fn leaves(target: &Target) -> Option<String> {
    match target {
        Target::Return => Some("-j RETURN".to_owned()),
        Target::Goto(to) => Some(format!("-g {to}")),
        _ => None,
    }
}

/// Reports chains with rules that no rule of a base chain leads to.
fn reached(policy: &Policy, customs: &[PlannedCustom], sink: &mut Sink) {
    for custom in customs.iter().filter(|custom| custom.place.is_none()) {
        for family in Family::ALL {
            if custom.rules[family].is_none()
                || reach(customs, custom.table, family).contains(&custom.chain)
            {
                continue;
            }
            let chain = policy.custom.iter().find(|one| one.span == custom.span);
            let span = chain.and_then(|one| Some(one.chain.as_ref()?.span));
            let message = format!("no packet of {family} reaches the chain `{}`", custom.chain);
            sink.report(
                Diagnostic::error(Code::CustomChain, span.unwrap_or(custom.span), message).help(
                    format!(
                        "jump to it from a base chain: `rule = \"-p tcp -j {}\"`",
                        custom.chain
                    ),
                ),
            );
            break;
        }
    }
}

/// Returns the custom chains that packets of a family reach, directly or through other custom chains.
fn reach(customs: &[PlannedCustom], table: CustomTable, family: Family) -> BTreeSet<String> {
    let mut reached: BTreeSet<String> = BTreeSet::new();
    loop {
        let before = reached.len();
        for custom in customs.iter().filter(|custom| custom.table == table) {
            if custom.place.is_none() && !reached.contains(&custom.chain) {
                continue;
            }
            let text = custom.rules[family].as_deref().unwrap_or_default();
            let mut words = text.split(' ').rev();
            if let (Some(to), Some("-j" | "-g")) = (words.next(), words.next()) {
                reached.insert(to.to_owned());
            }
        }
        if reached.len() == before {
            return reached;
        }
    }
}
