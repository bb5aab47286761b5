//! Every mistake of one token that a template can have.

use std::collections::BTreeSet;
use std::ops::Range;

/// A template with one mistake.
pub struct Mistake {
    pub way: &'static str,
    /// The line of the mistake, from 1, as it was.
    pub line: usize,
    pub before: String,
    pub after: String,
    pub text: String,
}

/// Words that take each other's place.
const KINDS: [&[&str]; 37] = [
    &["-s", "-d"],
    &["-i", "-o"],
    &["-j", "-g"],
    &["--sport", "--dport"],
    &["--sports", "--dports"],
    &["--src-range", "--dst-range"],
    &["--dst-type", "--src-type"],
    &["ACCEPT", "DROP", "RETURN"],
    &[
        "RELATED,ESTABLISHED",
        "RELATED",
        "ESTABLISHED",
        "NEW,RELATED,ESTABLISHED",
    ],
    &["INVALID", "NEW", "UNTRACKED"],
    &["RELATED", "RELATED,NEW", "ESTABLISHED"],
    &["tcp", "udp"],
    &["udp", "tcp", "udplite"],
    &["icmp", "icmp6", "ipv6-icmp", "igmp"],
    &["icmp6", "icmp"],
    &["ipv6-icmp", "icmp"],
    &["igmp", "icmp"],
    &["--icmp-type", "--icmpv6-type"],
    &["--icmpv6-type", "--icmp-type"],
    &["--uid-owner", "--gid-owner"],
    &["--connlimit-above", "--connlimit-upto"],
    &["--connlimit-saddr", "--connlimit-daddr"],
    &["--hashlimit-upto", "--hashlimit-above"],
    &["--set", "--update"],
    &["--rcheck", "--update"],
    &["--hashlimit-srcmask", "--hashlimit-dstmask"],
    &["--hashlimit-dstmask", "--hashlimit-srcmask"],
    &["--timestart", "--timestop"],
    &["--datestop", "--datestart"],
    &["--weekdays", "--monthdays"],
    &["--hl-eq", "--hl-lt", "--hl-gt"],
    &["--to-source", "--to-destination"],
    &["PREROUTING", "INPUT", "FORWARD", "OUTPUT"],
    &["*raw", "*mangle", "*nat", "*filter"],
    &["lo", "eth0"],
    &["in", "out"],
    &["ipsec", "none"],
];

/// All mistakes of a template, each text once.
pub fn mistakes(text: &str) -> Vec<Mistake> {
    let mut found = Found {
        text,
        seen: BTreeSet::from([text.to_owned()]),
        mistakes: Vec::new(),
    };
    found.lines();
    let tokens = tokens(text);
    found.words(&tokens);
    found.tags(&tokens);
    found.mistakes
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// Of what is printed.
    Word,
    /// `{{ ... }}` or `{% ... %}`, from the first brace to the last.
    Tag,
}

#[derive(Clone, Debug)]
struct Token {
    kind: Kind,
    at: Range<usize>,
}

/// Words and tags, in order.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let tag = [("{{", "}}"), ("{%", "%}")];
        let tag = tag.into_iter().find(|(open, _)| rest.starts_with(open));
        if let Some((_, close)) = tag {
            let end = at + rest.find(close).unwrap() + 2;
            tokens.push(Token {
                kind: Kind::Tag,
                at: at..end,
            });
            at = end;
        } else if rest.starts_with(char::is_whitespace) {
            at += 1;
        } else {
            let ends = [
                rest.find(char::is_whitespace),
                rest.find("{{"),
                rest.find("{%"),
            ];
            let length = ends.into_iter().flatten().min().unwrap_or(rest.len());
            tokens.push(Token {
                kind: Kind::Word,
                at: at..at + length,
            });
            at += length;
        }
    }
    tokens
}

struct Found<'a> {
    text: &'a str,
    seen: BTreeSet<String>,
    mistakes: Vec<Mistake>,
}

impl Found<'_> {
    /// Puts something in the place of a part.
    fn put(&mut self, way: &'static str, at: Range<usize>, instead: &str) {
        let text = [&self.text[..at.start], instead, &self.text[at.end..]].concat();
        if self.seen.insert(text.clone()) {
            self.mistakes.push(Mistake {
                way,
                line: self.text[..at.start].matches('\n').count() + 1,
                before: self.text[at].to_owned(),
                after: instead.to_owned(),
                text,
            });
        }
    }

    fn lines(&mut self) {
        let text = self.text;
        let mut starts: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).collect();
        starts.insert(0, 0);
        starts.retain(|at| *at < text.len());
        starts.push(text.len());
        for window in starts.windows(2) {
            let line = &text[window[0]..window[1]];
            self.put("line lost", window[0]..window[1], "");
            self.put(
                "line twice",
                window[0]..window[1],
                &format!("{}\n{line}", line.trim_end()),
            );
        }
        for window in starts.windows(3) {
            let [first, second] = [&text[window[0]..window[1]], &text[window[1]..window[2]]];
            let swapped = format!("{}\n{first}", second.trim_end());
            self.put("lines swapped", window[0]..window[2], &swapped);
        }
    }

    fn words(&mut self, tokens: &[Token]) {
        let text = self.text;
        for (number, token) in tokens.iter().enumerate() {
            if token.kind != Kind::Word {
                continue;
            }
            let word = &text[token.at.clone()];
            self.put("word lost", token.at.clone(), "");
            for kind in KINDS
                .iter()
                .filter(|kind| kind[0] == word || (kind.len() == 2 && kind[1] == word))
            {
                for other in kind.iter().filter(|other| **other != word) {
                    self.put("word exchanged", token.at.clone(), other);
                }
            }
            let others = KINDS
                .iter()
                .filter(|kind| kind.len() > 2 && kind[1..].contains(&word));
            for kind in others {
                self.put("word exchanged", token.at.clone(), kind[0]);
            }
            let option = word
                .strip_prefix('-')
                .map(|rest| rest.trim_start_matches('-'));
            let is_option =
                option.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic()));
            if is_option && word != "-A" {
                self.put("negation added", token.at.start..token.at.start, "! ");
            }
            self.numbers(&token.at);
            if let Some(next) = tokens
                .get(number + 1)
                .filter(|next| next.kind == Kind::Word)
            {
                let between = &text[token.at.end..next.at.start];
                if !between.is_empty() && !between.contains('\n') {
                    let swapped = format!("{}{between}{word}", &text[next.at.clone()]);
                    self.put("words swapped", token.at.start..next.at.end, &swapped);
                }
            }
        }
    }

    /// Numbers, one more and one less.
    fn numbers(&mut self, within: &Range<usize>) {
        let text = self.text;
        let word = &text[within.clone()];
        let digit = |c: char| c.is_ascii_digit();
        let mut from = 0;
        while let Some(start) = word[from..].find(digit).map(|at| from + at) {
            let end = word[start..]
                .find(|c| !digit(c))
                .map_or(word.len(), |at| start + at);
            let number: u32 = word[start..end].parse().unwrap();
            let at = within.start + start..within.start + end;
            self.put("number off by one", at.clone(), &(number + 1).to_string());
            if let Some(less) = number.checked_sub(1) {
                self.put("number off by one", at, &less.to_string());
            }
            from = end;
        }
    }

    fn tags(&mut self, tokens: &[Token]) {
        let text = self.text;
        let tags: Vec<&Token> = tokens
            .iter()
            .filter(|token| token.kind == Kind::Tag)
            .collect();
        let mut fields: Vec<&str> = Vec::new();
        let mut strings: Vec<&str> = Vec::new();
        for tag in &tags {
            for at in names(text, &tag.at) {
                let name = &text[at];
                if name.contains('.') && !fields.contains(&name) {
                    fields.push(name);
                }
            }
            for at in quoted(text, &tag.at) {
                if !strings.contains(&&text[at.clone()]) {
                    strings.push(&text[at]);
                }
            }
        }
        for tag in tags {
            self.tag(tag, &fields, &strings);
        }
    }

    fn tag(&mut self, tag: &Token, fields: &[&str], strings: &[&str]) {
        let text = self.text;
        let all = &text[tag.at.clone()];
        self.put("tag lost", tag.at.clone(), "");
        if all[2..].starts_with('-') {
            self.put("trim lost", tag.at.start + 2..tag.at.start + 3, "");
        }
        if all[..all.len() - 2].ends_with('-') {
            self.put("trim lost", tag.at.end - 3..tag.at.end - 2, "");
        }
        for (name, at) in names(text, &tag.at).map(|at| (&text[at.clone()], at)) {
            self.name(name, at, fields);
        }
        for at in quoted(text, &tag.at) {
            let others = strings.iter().filter(|other| **other != &text[at.clone()]);
            for other in others {
                self.put("text exchanged", at.clone(), other);
            }
        }
        for (from, to) in [(" or ", " and "), (" == ", " != "), ("|quoted", "")] {
            for (found, _) in all.match_indices(from) {
                let at = tag.at.start + found;
                self.put("operator exchanged", at..at + from.len(), to);
            }
        }
        let inner = all.trim_matches(['{', '}', '%', '-']).trim();
        let at = tag.at.start + all.find(inner).unwrap();
        let of = |word: &str| {
            inner
                .strip_prefix(word)
                .map(|rest| (at + word.len()..at + inner.len(), rest))
        };
        for word in ["if ", "elif "] {
            if let Some((range, condition)) = of(word) {
                self.put(
                    "condition turned",
                    range.clone(),
                    &format!("not ({condition})"),
                );
                self.put("condition lost", range, "true");
            }
        }
        if inner.starts_with("for ") {
            self.put("first lost", at + inner.len()..at + inner.len(), "[1:]");
            self.put("last lost", at + inner.len()..at + inner.len(), "[:-1]");
            self.put("only the last", at + inner.len()..at + inner.len(), "[-1:]");
        }
    }

    /// The fields of the same thing that stand next to a field in the template, and its opposite.
    fn name(&mut self, name: &str, at: Range<usize>, fields: &[&str]) {
        let Some((thing, _)) = name.split_once('.') else {
            return;
        };
        if name == "chain.name" || name == "jump.from" {
            for chain in ["INPUT", "FORWARD", "OUTPUT"] {
                self.put("wrong chain", at.clone(), &format!("\"{chain}\""));
            }
        }
        if name.ends_with(".not") {
            self.put("negation always", at.clone(), "\"! \"");
        }
        let of_thing: Vec<&&str> = fields
            .iter()
            .filter(|field| field.split('.').next() == Some(thing))
            .collect();
        let own = of_thing.iter().position(|field| **field == name).unwrap();
        let near = [own.checked_sub(1), Some(own + 1)].into_iter().flatten();
        for other in near.filter_map(|near| of_thing.get(near)) {
            self.put("field exchanged", at.clone(), other);
        }
        for (one, two) in [
            ("source", "destination"),
            ("in_device", "out_device"),
            ("uid", "gid"),
            ("from", "until"),
            ("rate", "burst"),
            (".from", ".to"),
        ] {
            for (from, to) in [(one, two), (two, one)] {
                let opposite = name.replacen(from, to, 1);
                if fields.contains(&&*opposite) {
                    self.put("field exchanged", at.clone(), &opposite);
                }
            }
        }
    }
}

/// Names in a tag, with what follows them by points; texts are none.
fn names<'a>(text: &'a str, tag: &Range<usize>) -> impl Iterator<Item = Range<usize>> + 'a {
    let texts: Vec<_> = quoted(text, tag).collect();
    let (start, end) = (tag.start, tag.end);
    let mut at = start;
    std::iter::from_fn(move || {
        loop {
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            let first = at + text[at..end].find(|c: char| c.is_ascii_alphabetic())?;
            let last = first + text[first..end].find(|c| !is_name(c))?;
            at = last;
            if !texts.iter().any(|range| range.contains(&first)) {
                return Some(first..last);
            }
        }
    })
}

/// Texts in a tag, with their quotes.
fn quoted<'a>(text: &'a str, tag: &Range<usize>) -> impl Iterator<Item = Range<usize>> + 'a {
    let (start, end) = (tag.start, tag.end);
    let mut at = start;
    std::iter::from_fn(move || {
        let first = at + text[at..end].find('"')?;
        let last = first + 1 + text[first + 1..end].find('"')? + 1;
        at = last;
        Some(first..last)
    })
}
