//! Every dump has its answer: no crash, nothing that gives up.

use std::fs;
use std::path::PathBuf;

use libtest_mimic::{Failed, Trial};

use crate::{dumps, fwc};

pub fn trials() -> Vec<Trial> {
    let trial = |name: &'static str, questions: &'static [&'static str]| {
        Trial::test(name, move || every(name, questions))
    };
    vec![
        trial(
            "every_dump_has_a_matrix",
            &["matrix --service ssh", "matrix --chain input"],
        ),
        trial(
            "every_dump_is_explained",
            &[
                "explain --hook forward --service https",
                "explain --hook input",
                "explain --hook output --source 192.0.2.7 --state any",
            ],
        ),
        trial("every_dump_is_checked", &["check"]),
    ]
}

fn every(name: &str, questions: &[&str]) -> Result<(), Failed> {
    let entries = fs::read_dir(dumps()).expect("the corpus has dumps");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a dump").path()).collect();
    paths.sort();
    let folder = tempfile::tempdir().expect("a folder");
    let (mut read, mut refused) = (0, 0);
    let mut failed = Vec::new();
    for path in paths {
        let file = match path.extension().and_then(|end| end.to_str()) {
            Some("v4") => "rules.v4",
            Some("v6") => "rules.v6",
            _ => continue,
        };
        let text = fs::read(&path).expect("a dump can be read");
        fs::write(folder.path().join(file), &text).expect("a file");
        for question in questions {
            // Sources of the other family have no packets here: that is said, and is no failure.
            let question = match file {
                "rules.v6" => question.replace("192.0.2.7", "2001:db8::7"),
                _ => (*question).to_owned(),
            };
            let words: Vec<&str> = question.split(' ').chain(["--rules", file]).collect();
            let (status, out, err) = fwc(folder.path(), &words);
            let is_refused = status == 1 && out.is_empty() && err.contains("error[bad-rules]");
            let is_answered = status == 0 && !(out + &err).contains("gave up");
            if !is_refused && !is_answered {
                failed.push(format!("{}: {question}: {status}: {err}", path.display()));
            }
            read += usize::from(is_answered);
            refused += usize::from(is_refused);
        }
    }
    println!("{name}: {read} answers, {refused} times refused as iptables-restore does");
    if !failed.is_empty() {
        return Err(failed.join("\n").into());
    }
    // A corpus that is not there shows nothing.
    match read > 150 * questions.len() {
        true => Ok(()),
        false => Err(format!("{read} answers").into()),
    }
}
