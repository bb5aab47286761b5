//! Compiles a policy file to rules: load, resolve, expand, prove, lint, test.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::diag::{Code, Diagnostic, Label, Level, Severity, Sink};
use crate::expand::{self, LineOrigin, Rendered, Templates, expand};
use crate::files::{Access, Disk, Files, Unfit, find_program};
use crate::net::Date;
use crate::policy::{self, Allow, Policy};
use crate::resolve::{self, Members, Plan, check_expiry, resolve};
use crate::source::{SourceMap, Span};
use crate::verify::{
    self, Disagreement, DisagreementKind, Proof, RenderedRules, TestOutcome, Verifier, test,
};

/// Options for [`compile`].
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Why the files are read: [`Access::Apply`] to run as root, which refuses files that others can write.
    pub access: Access,
    /// A folder of templates that replace the built-in ones of the same name.
    pub templates: Option<&'a Path>,
    /// Whether to prove that the rules match the policy and that its tests hold (`false`: `--no-verify`).
    pub verify: bool,
    /// Warnings and lints to treat as errors (`--deny`).
    pub deny: &'a Deny,
    /// The maximum number of lines for each family; `None`: [`MOST_LINES`](crate::expand::MOST_LINES), and no more than fit into
    /// 2 GiB.
    pub max_lines: Option<u64>,
    /// The current date (UTC), used to warn about rules that expire. It never changes the generated rules, so that builds are
    /// reproducible.
    pub today: Date,
}

/// Warnings and lints to treat as errors, whatever the policy sets (`--deny`).
#[derive(Clone, Debug, Default)]
pub struct Deny {
    /// Every warning.
    pub warnings: bool,
    /// These lints.
    pub codes: Vec<Code>,
}

impl Deny {
    /// Turns the denied findings into errors. For findings that belong to no policy, so that no `[lints]` can set their level.
    pub fn apply(&self, findings: &mut Sink) {
        findings.apply_levels(|finding| {
            let denied = self.denies(finding.code, finding.severity, None);
            denied.then_some(Level::Deny)
        });
    }

    /// Returns `true` if a finding is denied. `set` is the level that the policy sets for it, if it sets one: `warnings` means
    /// what is a warning then.
    fn denies(&self, code: Code, severity: Severity, set: Option<Level>) -> bool {
        let warns = match set {
            Some(level) => level == Level::Warn,
            None => severity == Severity::Warning,
        };
        self.codes.contains(&code) || (self.warnings && warns)
    }
}

/// The outcome of [`compile`]: the files that it read, its findings, and the rules unless there were errors.
#[derive(Debug)]
pub struct Compilation {
    /// The files that were read.
    pub sources: SourceMap,
    /// The findings about them.
    pub findings: Sink,
    /// The rules, or why there are none.
    pub result: Result<Compiled, CompilationStopped>,
}

/// A compiled policy.
#[derive(Debug)]
pub struct Compiled {
    /// The policy as written.
    pub policy: Policy,
    /// The policy with all names resolved.
    pub plan: Plan,
    /// The rules files.
    pub rendered: Rendered,
    /// The proof that they match the policy; `None` with [`Options::verify`] off, and the files are marked as unverified.
    pub proof: Option<Proven>,
}

/// A proof that holds.
#[derive(Debug)]
pub struct Proven {
    /// The proof itself.
    pub proof: Proof,
    /// How long it took.
    pub took: Duration,
    /// The names of sets that other programs fill. The proof holds for any members, but cannot tell which addresses they are.
    pub open_sets: Vec<String>,
}

/// Marker: compilation stopped because of errors in the policy, in a template, in the proof or in a test. The errors themselves
/// are in the findings, such as [`Compilation::findings`].
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the findings say why")]
pub struct CompilationStopped;

/// Reads, checks and expands a policy.
///
/// ```
/// use fwc::compile::{Deny, Options, compile};
/// use fwc::files::Access;
/// use fwc::net::{Date, Family};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("fwc.toml");
/// std::fs::write(&path, "version = 1\n[[rules]]\nservice = [\"ssh\", \"http\"]\n")?;
/// let today = Date::constant(2026, 1, 1);
/// let deny = Deny::default();
/// let options = Options { access: Access::Read, templates: None, verify: true, deny: &deny, max_lines: None, today };
/// let compiled = compile(&path, options).result?;
/// let rules = compiled.rendered.rules[Family::V4].text();
/// assert!(compiled.proof.is_some());
/// assert!(rules.contains("-A INPUT -p tcp -m multiport --dports 22,80 -j ACCEPT\n"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn compile(path: &Path, options: Options<'_>) -> Compilation {
    compile_from(&Disk, path, options)
}

/// Like [`compile`], with files from another source than the disk, such as a git revision.
pub fn compile_from(files: &dyn Files, path: &Path, options: Options<'_>) -> Compilation {
    let (mut sources, mut findings) = (SourceMap::new(), Sink::new());
    let loaded = policy::load_from(files, path, options.access, &mut sources, &mut findings);
    let result = match loaded {
        Some(policy) => rules(policy, options, &mut sources, &mut findings),
        None => Err(CompilationStopped),
    };
    Compilation {
        sources,
        findings,
        result,
    }
}

/// The outcome of [`test_policy`].
#[derive(Debug)]
pub struct Tested {
    /// The files that were read.
    pub sources: SourceMap,
    /// The findings about them; each test that does not hold is an error.
    pub findings: Sink,
    /// The tests with their outcomes, in the order of the policy; an error if the policy did not compile.
    pub result: Result<Vec<(resolve::PlannedTest, TestOutcome)>, CompilationStopped>,
}

impl Tested {
    /// Returns `true` if the policy compiles and every test holds.
    pub fn holds(&self) -> bool {
        self.result.is_ok() && !self.findings.has_errors()
    }
}

/// Compiles a policy and proves its tests, for `fwc test`. The rules are not proven against the policy, whatever the options say.
pub fn test_policy(path: &Path, options: Options<'_>) -> Tested {
    let (mut sources, mut findings) = (SourceMap::new(), Sink::new());
    let result = match policy::load(path, options.access, &mut sources, &mut findings) {
        Some(policy) => outcomes(&policy, options, &mut sources, &mut findings),
        None => Err(CompilationStopped),
    };
    Tested {
        sources,
        findings,
        result,
    }
}

/// The outcome of [`open_policy`].
#[derive(Debug)]
pub struct OpenedPolicy {
    /// The files that were read.
    pub sources: SourceMap,
    /// The findings about them.
    pub findings: Sink,
    /// The policy and its rules; an error if the policy did not compile.
    pub result: Result<PolicyParts, CompilationStopped>,
}

/// A policy and its rules, without a proof.
#[derive(Debug)]
pub struct PolicyParts {
    /// The policy as written.
    pub policy: Policy,
    /// The policy with all names resolved.
    pub plan: Plan,
    /// The rules files.
    pub rendered: Rendered,
    /// The same rules, parsed back as iptables would parse them.
    pub read: RenderedRules,
}

/// Compiles a policy without a proof, whatever the options say, for `fwc explain`.
pub fn open_policy(path: &Path, options: Options<'_>) -> OpenedPolicy {
    let (mut sources, mut findings) = (SourceMap::new(), Sink::new());
    let result = match policy::load(path, options.access, &mut sources, &mut findings) {
        Some(policy) => parts(policy, options, &mut sources, &mut findings),
        None => Err(CompilationStopped),
    };
    OpenedPolicy {
        sources,
        findings,
        result,
    }
}

fn parts(
    policy: Policy,
    options: Options<'_>,
    sources: &mut SourceMap,
    findings: &mut Sink,
) -> Result<PolicyParts, CompilationStopped> {
    let Expanded { plan, rendered, .. } = expanded(&policy, options, sources, findings)?;
    let read = read_back(&rendered, findings).ok_or(CompilationStopped)?;
    Ok(PolicyParts {
        policy,
        plan,
        rendered,
        read,
    })
}

fn outcomes(
    policy: &Policy,
    options: Options<'_>,
    sources: &mut SourceMap,
    findings: &mut Sink,
) -> Result<Vec<(resolve::PlannedTest, TestOutcome)>, CompilationStopped> {
    let Expanded { plan, rendered, .. } = expanded(policy, options, sources, findings)?;
    let read = read_back(&rendered, findings).ok_or(CompilationStopped)?;
    let outcomes = run_tests(policy, &plan, &read, findings);
    Ok(plan.tests.into_iter().zip(outcomes).collect())
}

/// Proves the tests, and reports those that do not hold.
fn run_tests(
    policy: &Policy,
    plan: &Plan,
    read: &RenderedRules,
    findings: &mut Sink,
) -> Vec<TestOutcome> {
    let outcomes = test(policy, plan, read);
    for (test, outcome) in plan.tests.iter().zip(&outcomes) {
        if let Some(finding) = outcome.diagnostic(test, policy) {
            findings.report(finding);
        }
    }
    outcomes
}

fn rules(
    policy: Policy,
    options: Options<'_>,
    sources: &mut SourceMap,
    findings: &mut Sink,
) -> Result<Compiled, CompilationStopped> {
    let expanded = expanded(&policy, options, sources, findings)?;
    if !options.verify {
        let Expanded { plan, rendered, .. } = expanded;
        return Ok(Compiled {
            policy,
            plan,
            rendered: rendered.unproven(),
            proof: None,
        });
    }
    let proof = proven(&policy, &expanded, findings);
    let (proof, verifier) = proof.ok_or(CompilationStopped)?;
    if !linted(&policy, verifier, options, findings) {
        return Err(CompilationStopped);
    }
    let Expanded { plan, rendered, .. } = expanded;
    Ok(Compiled {
        policy,
        plan,
        rendered,
        proof: Some(proof),
    })
}

/// The plan and its rules, before the proof.
struct Expanded {
    plan: Plan,
    templates: Templates,
    rendered: Rendered,
}

/// Resolves and expands a policy.
fn expanded(
    policy: &Policy,
    options: Options<'_>,
    sources: &mut SourceMap,
    findings: &mut Sink,
) -> Result<Expanded, CompilationStopped> {
    check_expiry(policy, options.today, findings);
    let plan = resolve(policy, findings);
    if let Some(plan) = &plan
        && let Err(gave_up) = verify::check(policy, plan, findings)
    {
        findings.report(Diagnostic::error_without_place(
            Code::AnalysisGaveUp,
            gave_up.to_string(),
        ));
    }
    if options.access == Access::Apply {
        check_hooks(policy, findings);
    }
    apply_levels(policy, options, findings);
    let plan = plan
        .filter(|_| !findings.has_errors())
        .ok_or(CompilationStopped)?;
    // Counted before anything is rendered: products of long lists can exceed the memory.
    if let Err(error) = expand::bound(&plan, options.max_lines) {
        findings.report(too_large(&plan, &error));
        return Err(CompilationStopped);
    }
    let templates = match options.templates {
        Some(folder) => Templates::with_folder(folder, options.access, sources, findings),
        None => Templates::built_in(findings),
    };
    let templates = templates.ok_or(CompilationStopped)?;
    match expand(&plan, &templates) {
        Ok(rendered) => Ok(Expanded {
            plan,
            templates,
            rendered,
        }),
        Err(error) => {
            findings.report(error.diagnostic(&templates, Some(&plan), sources));
            Err(CompilationStopped)
        }
    }
}

fn too_large(plan: &Plan, error: &expand::TooLarge) -> Diagnostic {
    let written = error.origin.written(plan);
    let message = error.to_string();
    let finding = match written {
        Some((_, span)) => {
            let message = format!("{message}; {} of them come from here", error.of_origin);
            Diagnostic::error(Code::TooLarge, span, message)
        }
        None => Diagnostic::error_without_place(Code::TooLarge, message),
    };
    finding.help(
        "a set counts as one address (`set = true`); `--max-lines` allows more lines of one family",
    )
}

/// Reports hook programs that this host does not have, or that someone other than root can change.
pub fn check_hooks(policy: &Policy, findings: &mut Sink) {
    let commands = policy.hooks.after_apply.iter().flat_map(|all| &all.value);
    for command in commands {
        let program = command.value.program();
        let Err(unfit) = find_program(program) else {
            continue;
        };
        let message = format!("the hook's program `{program}` cannot be run here: {unfit}");
        let help = match unfit {
            Unfit::Unsafe(_) => {
                "fwc runs it as root: make root the owner of it and of the folders above it (`chown root`), and let nobody else write them (`chmod go-w`)"
            }
            _ => "install it, or name another program; the policy may also be for another host",
        };
        findings.report(Diagnostic::error(Code::HookProgram, command.span, message).help(help));
    }
}

/// Sets the level of each finding: from an `allow` comment at its place, else from the policy's `[lints]`, else its own.
/// `--deny` comes last and beats them all.
fn apply_levels(policy: &Policy, options: Options<'_>, findings: &mut Sink) {
    findings.apply_levels(|finding| {
        let in_place = policy.allows.iter().any(|allow| allow.silences(finding));
        let set = match in_place {
            true => Some(Level::Allow),
            false => policy.lints.get(&finding.code).map(|level| level.value),
        };
        let denied = options.deny.denies(finding.code, finding.severity, set);
        if denied { Some(Level::Deny) } else { set }
    });
}

/// Runs the lints that need packet sets, and returns `true` unless one of them is an error.
fn linted(
    policy: &Policy,
    mut verifier: Verifier<'_>,
    options: Options<'_>,
    findings: &mut Sink,
) -> bool {
    let mut found = Sink::new();
    let complete = verifier.lints(&mut found);
    if let Err(gave_up) = &complete {
        // A warning only: the rules are proven, and only advice is missing.
        let message = format!("some lints were not checked: {gave_up}");
        findings.report(Diagnostic {
            severity: Severity::Warning,
            ..Diagnostic::error_without_place(Code::AnalysisGaveUp, message)
        });
    }
    apply_levels(policy, options, &mut found);
    // An `allow` comment is unused only if every lint ran: one that was skipped might have needed it.
    let mut unused = Sink::new();
    let allows = policy.allows.iter().filter(|_| complete.is_ok());
    for finding in allows.filter_map(Allow::unused) {
        unused.report(finding);
    }
    apply_levels(policy, options, &mut unused);
    for finding in found.iter().chain(unused.iter()) {
        findings.report(finding.clone());
    }
    !findings.has_errors()
}

/// Parses the rendered rules as iptables would. The proof is about these, not about what the expander meant to write.
fn read_back(rendered: &Rendered, findings: &mut Sink) -> Option<RenderedRules> {
    match RenderedRules::read(rendered.texts(), rendered.ipsets.as_deref()) {
        Ok(read) => Some(read),
        Err(error) => {
            let message = format!("the generated rules cannot be parsed: {error}");
            findings.report(Diagnostic::error_without_place(Code::ProofFailed, message));
            None
        }
    }
}

/// Proves the rules and the tests of the policy. Returns `None` after reporting what does not hold.
fn proven<'p>(
    policy: &'p Policy,
    expanded: &'p Expanded,
    findings: &mut Sink,
) -> Option<(Proven, Verifier<'p>)> {
    let Expanded {
        plan,
        templates,
        rendered,
    } = expanded;
    let begun = Instant::now();
    let read = read_back(rendered, findings)?;
    let mut verifier = Verifier::new(policy, plan);
    let proof = verifier.prove(&read);
    let disagreements = proof.disagreements.iter();
    let mut differences: Vec<_> = disagreements.map(|one| one.diagnostic(policy)).collect();
    differences.extend(rules_without_a_line(plan, rendered));
    let holds = differences.is_empty() && proof.holds();
    if !differences.is_empty() {
        let is_internal = |one: &Disagreement| matches!(one.what, DisagreementKind::Internal(..));
        let is_internal = proof.disagreements.iter().any(is_internal);
        findings.report(proof_failed(differences, templates, is_internal));
    }
    for (family, reason) in &proof.gave_up {
        let message = format!("{family}: {reason}");
        findings.report(Diagnostic::error_without_place(
            Code::AnalysisGaveUp,
            message,
        ));
    }
    // If the rules do not match the policy, test results would only distract from that error.
    let holds = holds
        && run_tests(policy, plan, &read, findings)
            .iter()
            .all(TestOutcome::holds);
    let proven = Proven {
        proof,
        took: begun.elapsed(),
        open_sets: open_sets(plan),
    };
    holds.then_some((proven, verifier))
}

/// Describes a failed proof in one finding, with a note for each difference.
///
/// Its place is where the user's own templates differ from the built-in ones, because only they can have caused it. Without such
/// templates it is the rule that the first difference is about.
fn proof_failed(
    differences: Vec<Diagnostic>,
    templates: &Templates,
    is_internal: bool,
) -> Diagnostic {
    const MOST: usize = 8;
    let message = "the generated rules do not match the policy";
    let mut finding = Diagnostic::error_without_place(Code::ProofFailed, message);
    let changes = templates.changes().iter().map(|span| Label {
        span: *span,
        text: "this differs from the built-in template".to_owned(),
    });
    let mut labels: Vec<Label> = changes.take(MOST).collect();
    let more = differences.len().saturating_sub(MOST);
    for difference in differences.into_iter().take(MOST) {
        for label in difference.primary.into_iter().chain(difference.secondary) {
            if !labels.contains(&label) {
                labels.push(label);
            }
        }
        let lines = [vec![difference.message], difference.notes].concat();
        finding = finding.with_note(lines.join("\n"));
    }
    if more > 0 {
        finding = finding.with_note(format!("... and {more} more differences"));
    }
    let mut labels = labels.into_iter();
    finding.primary = labels.next();
    finding.secondary = labels.collect();
    if is_internal || templates.changes().is_empty() {
        return finding.help(verify::INTERNAL);
    }
    finding
        .with_note("a template may word the rules differently, but it must not change what they do; nothing was written")
        .help("change what the rules do in the policy, or with [[custom]] rules")
}

/// Finds the enabled rules and entries that no line of the rules files comes from. The proof cannot notice such a rule if other
/// rules decide the same packets in the same way, but a rule that silently vanishes is a mistake.
fn rules_without_a_line(plan: &Plan, rendered: &Rendered) -> Vec<Diagnostic> {
    let files = rendered.rules.iter();
    let owners: HashSet<LineOrigin> = files.flat_map(|(_, file)| file.origins()).collect();
    let rules = (0..).zip(&plan.rules);
    let rules = rules.map(|(index, rule)| (LineOrigin::Rule(index), rule, "rule"));
    let nat = (0..).zip(&plan.nat);
    let nat = nat.map(|(index, entry)| (LineOrigin::Nat(index), &entry.packets, "nat entry"));
    let mangle = (0..).zip(&plan.mangle);
    let mangle =
        mangle.map(|(index, entry)| (LineOrigin::Mangle(index), &entry.packets, "mangle entry"));
    let raw = (0..).zip(&plan.raw);
    let raw = raw.map(|(index, entry)| (LineOrigin::Raw(index), &entry.packets, "raw entry"));
    let enabled = rules.chain(nat).chain(mangle).chain(raw);
    let enabled = enabled.filter(|(_, rule, _)| rule.enabled);
    let enabled = enabled.map(|(origin, rule, what)| (origin, rule.span, what));
    let custom = (0..).zip(&plan.custom);
    let custom =
        custom.map(|(index, custom)| (LineOrigin::Custom(index), custom.span, "custom rule"));
    let missing = enabled
        .chain(custom)
        .filter(|(origin, ..)| !owners.contains(origin));
    let finding = |(_, span, what): (LineOrigin, Span, &str)| {
        let message = format!("no line of the rules files comes from a {what}");
        Diagnostic::error(Code::ProofFailed, span, message)
            .label(format!("no line comes from this {what}"))
            .with_note("every line that a template makes ends with the mark `line.origin`")
    };
    missing.map(finding).collect()
}

/// Returns the names of sets whose members fwc does not know: dynamic ones, and those of other programs.
fn open_sets(plan: &Plan) -> Vec<String> {
    let dynamic = plan.sets.iter().filter_map(|set| match set.members {
        Members::Dynamic { .. } => Some(set.name.clone()),
        Members::Static(_) => None,
    });
    let foreign = plan.rules.iter();
    let foreign = foreign.filter_map(|rule| Some(rule.ipset.as_ref()?.name.clone()));
    let mut names: Vec<_> = dynamic.chain(foreign).collect();
    names.sort();
    names.dedup();
    names
}
