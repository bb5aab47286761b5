//! Every TOML block of the README and the docs is a policy without a finding.
//! A block that is no whole policy is marked ```` ```toml,fragment ````, a wrong one ```` ```toml,wrong ````.
//! Every code has a page with a wrong policy that gives this code and nothing else.

use std::path::{Path, PathBuf};

use fwc::compile::{Compilation, Deny, Options, compile};
use fwc::diag::{Code, Diagnostic, Style, render};
use fwc::files::Access;
use fwc::internals::lints::Lint;
use fwc::net::Date;

/// The page that says which files a change touches.
const ARCHITECTURE: &str = "docs/internals/architecture.md";

/// The day on which the pages are read.
const TODAY: Date = Date::constant(2026, 6, 1);

/// The README, and all pages below docs.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md")];
    let mut open = vec![root.join("docs")];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).expect("the docs exist") {
            let path = entry.expect("the docs can be listed").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|it| it == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    pages
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut broken = Vec::new();
    let mut count = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).expect("a page");
        let folder = page.parent().expect("a folder");
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") || path.contains(' ') {
                continue;
            }
            count += 1;
            if !folder.join(path).exists() {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(count > 100, "{count}");
}

/// The blocks fenced as `fence`, each with the number of its first line.
fn blocks(text: &str, fence: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in (1..).zip(text.lines()) {
        match &mut open {
            Some(_) if line.starts_with("```") => found.extend(open.take()),
            Some((_, block)) => {
                block.push_str(line);
                block.push('\n');
            }
            None if line == format!("```{fence}") => open = Some((number + 1, String::new())),
            None => {}
        }
    }
    assert!(open.is_none(), "a block has no end");
    found
}

/// What becomes of a policy on the day of the pages.
fn compiled(path: &Path) -> Compilation {
    let options = Options {
        access: Access::Read,
        templates: None,
        verify: true,
        deny: &Deny::default(),
        max_lines: None,
        today: TODAY,
    };
    compile(path, options)
}

/// What fwc has to say about a policy.
fn findings(text: &str) -> Vec<Diagnostic> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fwc.toml");
    std::fs::write(&path, text).expect("a file");
    let findings = compiled(&path).findings;
    findings.sorted().into_iter().cloned().collect()
}

#[test]
fn every_policy_in_the_docs_is_right() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    for page in pages() {
        let text = std::fs::read_to_string(&page).expect("a page");
        for (line, policy) in blocks(&text, "toml") {
            seen += 1;
            let place = format!("{}:{line}", page.display());
            wrong.extend(
                findings(&policy)
                    .into_iter()
                    .map(|found| (place.clone(), found)),
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen >= 15, "only {seen} policies were found");
}

#[test]
fn a_wrong_policy_would_be_found() {
    let wrong = findings("version = 1\nrulez = 1\n");
    assert_eq!(wrong.len(), 1, "{wrong:?}");
}

/// Codes that no policy alone can cause.
const NOT_BY_A_POLICY: &[Code] = &[
    Code::UnsafeFile,
    Code::HookProgram,
    Code::ProofFailed,
    Code::AnalysisGaveUp,
    Code::BadTemplate,
    Code::BadRules,
    Code::BackendsDiffer,
    Code::UnclosedQuote,
    Code::TextCut,
];

#[test]
fn every_code_is_in_the_index() {
    let index = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/errors/README.md");
    let text = std::fs::read_to_string(index).expect("an index");
    let links: Vec<_> = text.lines().filter(|line| line.starts_with("- ")).collect();
    let line = |code: &Code| {
        let lint = Lint::of(*code).map(|lint| format!(" (lint: {})", lint.severity.keyword()));
        let (code, lint) = (code.as_str(), lint.unwrap_or_default());
        format!("- [{code}]({code}.md){lint}")
    };
    let wanted: Vec<_> = Code::ALL.iter().map(line).collect();
    assert_eq!(links, wanted);
    let pages = pages();
    let pages = pages
        .iter()
        .filter(|page| page.parent().is_some_and(|it| it.ends_with("errors")));
    assert_eq!(pages.count(), Code::ALL.len() + 1, "a page without a code");
}

#[test]
fn every_page_of_a_code_has_a_wrong_and_a_right_policy() {
    for code in Code::ALL {
        let page = code.page();
        assert!(page.starts_with(&format!("# {}\n\n", code.as_str())));
        let (wrong, right) = (blocks(page, "toml,wrong"), blocks(page, "toml"));
        if NOT_BY_A_POLICY.contains(code) {
            assert!(wrong.is_empty() && page.contains("*Caused by "), "{code:?}");
            continue;
        }
        assert!(
            wrong.len() == 1 && right.len() == 1,
            "{code:?}: one of each"
        );
        let found: Vec<_> = findings(&wrong[0].1)
            .iter()
            .map(|found| found.code)
            .collect();
        assert_eq!(found, [*code], "the wrong example of {code:?}");
        assert_ne!(wrong[0].1, right[0].1);
    }
}

/// What the README shows of a policy's rules is what comes out of it.
#[test]
fn the_readme_shows_what_comes_out() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(readme).expect("a README");
    let (_, policy) = blocks(&text, "toml").remove(0);
    let shown = blocks(&text, "text");
    let (_, chain) = shown
        .iter()
        .find(|(_, block)| block.starts_with(":INPUT"))
        .expect("the INPUT chain");

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fwc.toml");
    std::fs::write(&path, policy).expect("a file");
    let compiled = compiled(&path).result.expect("a policy");
    let rules = compiled.rendered.rules.v4.text();
    let (_, rules) = rules.split_once("*filter").expect("the filter table");
    let is_input = |line: &&str| line.starts_with(":INPUT") || line.starts_with("-A INPUT");
    let came_out: Vec<_> = rules.lines().filter(is_input).collect();
    assert_eq!(chain.lines().filter(is_input).collect::<Vec<_>>(), came_out);
}

/// The message that the README shows is the real one.
#[test]
fn the_readme_shows_a_real_message() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(readme).expect("a README");
    let shown = blocks(&text, "text");
    let (_, message) = shown
        .iter()
        .find(|(_, block)| block.starts_with("error["))
        .expect("a message");

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("web.toml");
    let before = "version = 1\n[[rules]]\n".to_owned() + &"\n".repeat(11);
    std::fs::write(&path, before + "service = [\"htps\", \"ssh\"]\n").expect("a file");
    let compilation = compiled(&path);
    let finding = compilation.findings.sorted()[0];
    let rendered = render(finding, &compilation.sources, Style::Plain);
    let place = path.display().to_string();
    assert_eq!(rendered.replace(&place, "roles/web.toml") + "\n", *message);
}

/// The tests that `tests/README.md` names are there.
#[test]
fn the_table_of_tests_names_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("tests/README.md")).expect("a page");
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| ") && line.matches('|').count() == 4);
    let mut named = 0;
    for cell in rows.filter_map(|row| row.split('|').nth(3)) {
        for name in cell.split('`').skip(1).step_by(2) {
            named += 1;
            assert!(is_there(root, name), "`{name}` is no test");
        }
    }
    assert!(named > 40, "only {named} names");
}

/// The names in the tests of `apply` that begin so.
fn apply_tests(start: &str) -> Vec<String> {
    let pattern = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/apply/**/*.rs");
    let paths = glob::glob(pattern).expect("a pattern").flatten();
    let texts = paths.map(|path| std::fs::read_to_string(path).expect("a file"));
    let mut names: Vec<_> = texts
        .flat_map(|text| {
            let strings = text.split('"').skip(1).step_by(2);
            let found = strings.filter(|string| string.starts_with(start));
            found.map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    names.sort();
    names
}

/// What is promised of `apply` is tested by what the page names.
#[test]
fn every_promise_names_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/reference/safety.md")).expect("a page");
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let (mut named, mut promises) = (0, 0);
    for cell in rows.skip(1).filter_map(|row| row.split('|').nth(2)) {
        promises += 1;
        let words = cell.split('`').skip(1).step_by(2);
        let mut tests = words.filter(|word| word.contains(' ') || word.starts_with("src/"));
        let count = tests.clone().count();
        assert!(count > 0 || cell.contains("facts.md"), "no test: {cell}");
        named += count;
        let missing = tests.find(|name| !name.starts_with("systemd-") && !is_there(root, name));
        assert_eq!(missing, None, "is no test");
    }
    assert!(
        promises > 25 && named > 60,
        "{promises} promises, {named} names"
    );
}

/// Whether a function of the library's own tests is called so.
fn is_lib_test(name: &str) -> bool {
    let pattern = concat!(env!("CARGO_MANIFEST_DIR"), "/src/**/*.rs");
    let mut paths = glob::glob(pattern).expect("a pattern").flatten();
    let function = format!("fn {name}(");
    paths.any(|path| std::fs::read_to_string(path).is_ok_and(|text| text.contains(&function)))
}

/// What `apply` stands on is a list of tests, and the list has all of them.
#[test]
fn every_fact_is_a_test() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/internals/facts.md");
    let text = std::fs::read_to_string(page).expect("a page");
    let names = text.split('`').filter(|word| word.starts_with("fact_"));
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    assert!(names.len() > 30, "only {} facts", names.len());
    assert_eq!(names, apply_tests("fact_"));
}

/// The facts about packets on the same page name tests of the kernel.
#[test]
fn every_fact_about_packets_is_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/internals/facts.md")).expect("a page");
    let names = text.split('`').filter(|word| word.starts_with("kernel "));
    let names: Vec<_> = names.collect();
    assert!(names.len() > 5, "only {} facts", names.len());
    let missing = names.iter().find(|name| !is_there(root, name));
    assert_eq!(missing, None, "is no test");
}

/// Whether a file or a test is there; `*` is any text.
fn is_there(root: &Path, name: &str) -> bool {
    let some = |pattern: String| {
        let pattern = root.join(pattern).display().to_string();
        glob::glob(&pattern).is_ok_and(|mut paths| paths.next().is_some())
    };
    match name.split_once(' ') {
        Some(("cli", test)) => {
            let (module, function) = test.split_once("::").unwrap_or_default();
            let code = std::fs::read_to_string(root.join(format!("tests/cli/{module}.rs")));
            code.is_ok_and(|code| code.contains(&format!("fn {function}()")))
        }
        Some(("corpus" | "decide" | "kernel", test)) => {
            let (module, rest) = test.split_once("::").unwrap_or_default();
            let case = rest.split("::").next().unwrap_or_default();
            let target = name.split(' ').next().unwrap_or_default();
            let code = some(format!("tests/{target}/{module}.rs"))
                || some(format!("tests/{target}/{module}/mod.rs"));
            let case = rest.contains('*')
                || rest.starts_with("every-string")
                || some(format!("tests/probes/{case}"))
                || some(format!("tests/cases/{case}"))
                || some(format!("examples/{case}"))
                || [format!("{module}.rs"), format!("{module}/mod.rs")]
                    .iter()
                    .map(|file| root.join(format!("tests/{target}/{file}")))
                    .any(|path| {
                        std::fs::read_to_string(path).is_ok_and(|code| code.contains(rest))
                    });
            code && case
        }
        Some(("lib", test)) => is_lib_test(test),
        Some(("apply", test)) => apply_tests(test).iter().any(|name| name == test),
        Some(("cargo", bench)) => some(format!(
            "benches/{}.rs",
            bench.rsplit(' ').next().unwrap_or_default()
        )),
        // Each lane is a script of its own.
        Some(("scripts/integrations", lane)) => some(format!("scripts/integration/{lane}")),
        Some(_) => false,
        None if name.starts_with("wrong/") => some(format!("tests/{name}.toml")),
        None if name.contains('/') => some(name.to_owned()),
        None => name.contains('*') || !name.contains("::"),
    }
}

/// The words between single backticks of a text, outside fenced blocks.
fn code_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut is_fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_fenced = !is_fenced;
        } else if !is_fenced {
            words.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    words
}

#[test]
fn paths_of_the_architecture_page_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join(ARCHITECTURE)).expect("the page");
    let folders = ["src/", "tests/", "docs/", "templates/", "scripts/"];
    let words = code_words(&text);
    let paths = words.iter().filter(|word| {
        let is_path = folders.iter().any(|folder| word.starts_with(folder));
        is_path && !word.contains("CODE")
    });
    let paths: Vec<_> = paths.collect();
    let missing = paths.iter().filter(|path| !root.join(path).exists());
    let missing: Vec<_> = missing.collect();
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(paths.len() > 50, "{paths:#?}");
    // Where a row names a function of a file, the file has it.
    for line in text
        .lines()
        .filter(|line| line.trim_start().starts_with("| `src/"))
    {
        let cell = line.split('|').nth(1).unwrap_or_default();
        let words = code_words(cell);
        let [path, function] = &words[..] else {
            continue;
        };
        if function.contains('/') {
            continue; // a row of several files
        }
        let name = function.rsplit("::").next().unwrap_or(function);
        let code = std::fs::read_to_string(root.join(path)).expect("a file of the crate");
        assert!(
            code.contains(&format!("fn {name}(")) || code.contains(&format!("fn {name}<")),
            "{line}"
        );
    }
}

#[test]
fn each_word_of_the_glossary_is_one_type() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join(ARCHITECTURE)).expect("the page");
    let glossary = text.split("## Glossary").nth(1).expect("a glossary");
    let glossary = glossary.split("\n## ").next().unwrap_or_default();
    let types = code_words(glossary)
        .into_iter()
        .filter(|word| word.contains("::"));
    let types: Vec<_> = types.collect();
    assert!(types.len() > 20, "{types:#?}");
    for name in types {
        let (module, name) = name.split_once("::").expect("a module and a type");
        let mut open = vec![root.join("src").join(module)];
        let mut places = Vec::new();
        while let Some(path) = open.pop() {
            if path.is_dir() {
                let entries = std::fs::read_dir(&path).expect("a folder of the crate");
                open.extend(entries.map(|entry| entry.expect("an entry").path()));
                continue;
            }
            let code = std::fs::read_to_string(&path).expect("a file of the crate");
            let defines = |kind: &str| {
                [" ", "<", "("]
                    .iter()
                    .any(|end| code.contains(&format!("pub {kind} {name}{end}")))
            };
            if ["struct", "enum", "trait", "type"]
                .iter()
                .any(|kind| defines(kind))
            {
                places.push(path);
            }
        }
        assert_eq!(places.len(), 1, "{module}::{name}: {places:?}");
    }
}
