//! Real rulesets and the iptables project's own test lines, as measured with iptables 1.8.9.
//!
//! The files are found by the environment variable `FWC_CORPUS`; without it these tests are reported as ignored.
//! The figures are printed: they are the point.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::{Failed, Trial};

use fwc::diag::{self, Severity, Sink, Style};
use fwc::iptables::{Extensions, Print, Ruleset, parse};
use fwc::net::Family;
use fwc::source::SourceMap;

pub fn trials() -> Vec<Trial> {
    let trials = vec![
        Trial::test(
            "dumps_print_as_iptables_save_prints_them",
            dumps_print_as_iptables_save_prints_them,
        ),
        Trial::test(
            "lines_print_as_iptables_saves_them",
            lines_print_as_iptables_saves_them,
        ),
        Trial::test("changed_lines_make_no_panic", changed_lines_make_no_panic),
        Trial::test(
            "files_are_read_or_refused_as_by_the_tool",
            files_are_read_or_refused_as_by_the_tool,
        ),
    ];
    match std::env::var_os("FWC_CORPUS") {
        Some(_) => trials,
        None => crate::ignored(trials, "FWC_CORPUS is not set"),
    }
}

fn corpus() -> PathBuf {
    PathBuf::from(std::env::var_os("FWC_CORPUS").expect("FWC_CORPUS names the corpus"))
}

/// The ruleset, or the first error.
fn read(text: &str, family: Family) -> Result<Ruleset, String> {
    let mut sources = SourceMap::new();
    let file = sources.add("rules", text);
    let mut sink = Sink::new();
    let ruleset = parse(file, &sources, family, Extensions::KnownOnly, &mut sink);
    ruleset.ok_or_else(|| {
        let errors = sink.sorted();
        let first = errors
            .into_iter()
            .find(|one| one.severity == Severity::Error);
        diag::render(first.expect("an error is told"), &sources, Style::Plain)
    })
}

fn family_of(path: &Path) -> Family {
    match path.extension().is_some_and(|extension| extension == "v6") {
        true => Family::V6,
        false => Family::V4,
    }
}

fn dumps_print_as_iptables_save_prints_them() -> Result<(), Failed> {
    let root = corpus();
    let (mut files, mut rules, mut wrong, mut refused, mut wrongly) = (0, 0, 0, 0, Vec::new());
    let mut paths: Vec<_> = fs::read_dir(root.join("dumps"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        let saved = root.join("resaved").join(format!("{name}.nft"));
        let read = read(&text, family_of(&path));
        match (fs::read_to_string(&saved), read) {
            (Ok(saved), Ok(mut ruleset)) => {
                files += 1;
                // `*table` and `COMMIT` alone flush a table, which iptables-nft does not save then.
                ruleset.tables.retain(|table| {
                    let bare = table
                        .chains
                        .iter()
                        .all(|chain| chain.rules.is_empty() && chain.policy.is_some());
                    !bare || saved.contains(&format!("*{}\n", table.name.as_str()))
                });
                let printed = ruleset.to_text(Print::default());
                let saved: Vec<_> = saved
                    .lines()
                    .filter(|line| !line.starts_with('#'))
                    .collect();
                let printed: Vec<_> = printed.lines().collect();
                rules += saved.len();
                if saved != printed {
                    let differing = similar::TextDiff::from_slices(&saved, &printed);
                    for change in differing.iter_all_changes() {
                        if change.tag() != similar::ChangeTag::Equal {
                            wrong += usize::from(change.tag() == similar::ChangeTag::Delete);
                            println!("{name}: {}{}", change.tag(), change.value());
                        }
                    }
                }
            }
            (Ok(_), Err(error)) => wrongly.push(format!("{name} loads, but is refused:\n{error}")),
            (Err(_), Ok(_)) => wrongly.push(format!("{name} is refused by the tool, but is read")),
            (Err(_), Err(_)) => refused += 1,
        }
    }
    println!("{files} dumps, {rules} lines, {wrong} differ; {refused} refused as by the tool");
    assert_eq!(wrongly.join("\n"), "");
    assert!(wrong * 1000 < rules, "{wrong} of {rules} lines differ");
    Ok(())
}

/// One line of a round-trip file.
struct Probe {
    group: String,
    family: Family,
    text: String,
    saved: Vec<String>,
}

/// Takes the escapes of the tables out of a cell.
fn unescape(cell: &str) -> String {
    let mut out = String::new();
    let mut characters = cell.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some('x') => {
                    let digits: String = characters.by_ref().take(2).collect();
                    out.push(char::from(u8::from_str_radix(&digits, 16).unwrap()));
                }
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            other => out.push(other),
        }
    }
    out
}

fn probes(file: &str) -> Vec<Probe> {
    let text = fs::read_to_string(corpus().join("roundtrip").join(file)).unwrap();
    let mut lines = text.lines();
    let header: Vec<_> = lines.next().unwrap().split('\t').collect();
    let column = |name: &str| header.iter().position(|one| *one == name);
    let group = column("ext_file").or_else(|| column("group")).unwrap();
    let [family, table, chain, input] =
        ["family", "table", "chain", "input"].map(|name| column(name).unwrap());
    let declared = column("chain_decl");
    let results = ["nft189_saved", "legacy189_saved"].map(|name| column(name).unwrap());
    // The iptables project's lines are as they are; the probes' cells are escaped.
    let plain = |cell: &str| {
        if declared.is_some() {
            unescape(cell)
        } else {
            cell.to_owned()
        }
    };
    lines
        .map(|line| {
            let cells: Vec<_> = line.split('\t').collect();
            let mut text = format!("*{}\n", cells[table]);
            if let Some(declaration) = declared
                .map(|index| plain(cells[index]))
                .filter(|one| !one.is_empty())
            {
                text += &format!("{declaration}\n");
            }
            text += &format!("-A {} {}\nCOMMIT\n", cells[chain], plain(cells[input]));
            Probe {
                group: cells[group].to_owned(),
                family: if cells[family] == "v6" {
                    Family::V6
                } else {
                    Family::V4
                },
                text,
                saved: results.iter().map(|&index| plain(cells[index])).collect(),
            }
        })
        .collect()
}

fn lines_print_as_iptables_saves_them() -> Result<(), Failed> {
    let (mut loads, mut same, mut refused, mut accepted) = (0, 0, 0, 0);
    let mut failures: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in ["v4.tsv", "v6.tsv", "probes.tsv"] {
        for probe in probes(file) {
            let read = read(&probe.text, probe.family);
            let printed = read.as_ref().map(|ruleset| {
                let text = ruleset.to_text(Print::default());
                let rules = text.split_once("\n-A ").map_or("", |(_, rules)| rules);
                let rules = rules.trim_end_matches("\nCOMMIT\n");
                if rules.is_empty() {
                    String::new()
                } else {
                    format!("-A {rules}")
                }
            });
            let expected = |saved: &String| {
                let saved = saved
                    .split("   [stderr:")
                    .next()
                    .unwrap_or_default()
                    .trim_end_matches(' ');
                if saved == "(no rule saved)" {
                    String::new()
                } else {
                    saved.to_owned()
                }
            };
            let (errors, saved): (Vec<_>, Vec<_>) =
                probe.saved.iter().partition(|one| one.starts_with("ERROR"));
            let saved: Vec<_> = saved.into_iter().map(expected).collect();
            let failed = match (&printed, saved.is_empty()) {
                (Ok(printed), false) => {
                    loads += 1;
                    let fits = saved.contains(printed);
                    same += usize::from(fits);
                    (!fits).then(|| {
                        format!(
                            "{}\n    saved   {}\n    printed {printed}",
                            probe.text.lines().nth(1).unwrap(),
                            saved[0]
                        )
                    })
                }
                (Err(error), false) => {
                    loads += 1;
                    Some(format!("loads as {}:\n{error}", saved[0]))
                }
                (Ok(printed), true) => {
                    refused += 1;
                    accepted += 1;
                    Some(format!("refused ({}), but read as {printed}", errors[0]))
                }
                (Err(_), true) => {
                    refused += 1;
                    None
                }
            };
            if let Some(failed) = failed {
                failures.entry(probe.group).or_default().push(failed);
            }
        }
    }
    for (group, failed) in &failures {
        for failed in failed {
            println!("{group}: {failed}");
        }
    }
    println!(
        "{same} of {loads} lines that load print as saved; {} of {refused} that are refused are refused",
        refused - accepted
    );
    assert!(same * 1000 >= loads * 995, "{same} of {loads}");
    assert!(
        (refused - accepted) * 100 >= refused * 95,
        "{accepted} of {refused} are read"
    );
    Ok(())
}

fn files_are_read_or_refused_as_by_the_tool() -> Result<(), Failed> {
    let text = fs::read_to_string(corpus().join("roundtrip/format_probes.tsv")).unwrap();
    let mut by_input: BTreeMap<String, Vec<(String, bool)>> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let cells: Vec<_> = line.split('\t').collect();
        by_input
            .entry(cells[1].to_owned())
            .or_default()
            .push((cells[2].to_owned(), cells[3] == "0"));
    }
    let mut wrong = Vec::new();
    for (input, results) in &by_input {
        let input_text = match input.strip_prefix("\\xef\\xbb\\xbf") {
            Some(rest) => format!("\u{feff}{}", unescape(rest)),
            None => unescape(input),
        };
        let loads = results.iter().any(|(_, loads)| *loads);
        match (read(&input_text, Family::V4), loads) {
            (Ok(_), true) | (Err(_), false) => {}
            (Ok(_), false) => wrong.push(format!("{input}: refused by the tool, but read")),
            (Err(error), true) => wrong.push(format!("{input}: loads, but refused:\n{error}")),
        }
    }
    println!("{} files, {} wrong", by_input.len(), wrong.len());
    assert_eq!(wrong.join("\n"), "");
    Ok(())
}

/// Lines of the corpus with words lost, doubled, exchanged and broken: nothing panics, and what is read prints as
/// something that reads as the same.
fn changed_lines_make_no_panic() -> Result<(), Failed> {
    let mut seed = 1u64;
    let mut next = move |below: usize| {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 33) as usize % below.max(1)
    };
    let probes: Vec<Probe> = ["v4.tsv", "v6.tsv", "probes.tsv"]
        .into_iter()
        .flat_map(probes)
        .collect();
    let vocabulary: Vec<&str> = probes
        .iter()
        .flat_map(|probe| probe.text.split(' '))
        .collect();
    let (mut tried, mut loaded) = (0, 0);
    for round in 0..10 * probes.len() {
        let probe = &probes[round % probes.len()];
        let mut words: Vec<String> = probe.text.split(' ').map(str::to_owned).collect();
        for _ in 0..=next(2) {
            let at = next(words.len());
            match next(6) {
                0 if words.len() > 3 => drop(words.remove(at)),
                1 => words.insert(at, words[next(words.len())].clone()),
                2 => words.insert(at, vocabulary[next(vocabulary.len())].to_owned()),
                3 => words[at] = vocabulary[next(vocabulary.len())].to_owned(),
                4 => words[at] = words[at].chars().take(next(6)).collect(),
                _ => words[at].push(['0', ':', ',', '"', '\\', '!', '-', '/', 'ü', '='][next(10)]),
            }
        }
        let text = words.join(" ");
        tried += 1;
        if let Ok(ruleset) = read(&text, probe.family) {
            loaded += 1;
            let printed = ruleset.to_text(Print { counters: true });
            // A quote that is not closed takes the line's end into a value, and so does iptables-save print it: no
            // tool reads that again.
            if !printed
                .lines()
                .all(|line| line.starts_with(['*', ':', '[', 'C']))
            {
                continue;
            }
            let again = Ruleset::from_text(&printed, probe.family)
                .map_err(|error| format!("{error}\n{text}\n{printed}"))?;
            assert_eq!(again.to_text(Print { counters: true }), printed, "{text}");
        }
    }
    println!("{tried} changed lines, {loaded} still load");
    Ok(())
}
