//! Which mistakes the compiler complains about.

use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::fs;
use std::path::Path;

use proc_macro2::LineColumn;
use serde_json::Value;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Arm, Expr, ExprCall, ExprMatch, File, ImplItemFn, ItemFn, Stmt};

/// Reads cargo's messages, and the files that they speak of.
pub fn refused(copy: &Path, messages: &str) -> Result<BTreeSet<u32>, Box<dyn Error>> {
    let mut found = BTreeSet::new();
    let mut strange = Vec::new();
    let mut files: HashMap<String, Option<File>> = HashMap::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line)?;
        let message = &message["message"];
        if message["level"] != "error" {
            continue;
        }
        let spans = message["spans"].as_array().map_or(&[][..], Vec::as_slice);
        for span in spans.iter().filter(|span| span["is_primary"] == true) {
            // In a macro of the standard library: where it is called.
            let mut span = span;
            let is_elsewhere =
                |name: &str| Path::new(name).is_absolute() || !copy.join(name).exists();
            while is_elsewhere(name_of(span)) && span["expansion"].is_object() {
                span = &span["expansion"]["span"];
            }
            let file = name_of(span);
            let number = |key: &str| span[key].as_u64().unwrap_or_default() as usize;
            let at = LineColumn {
                line: number("line_start"),
                column: number("column_start") - 1,
            };
            let end = LineColumn {
                line: number("line_end"),
                column: number("column_end") - 1,
            };
            let parsed = files.entry(file.to_owned()).or_insert_with(|| {
                let text = fs::read_to_string(copy.join(file)).ok()?;
                syn::parse_file(&text).ok()
            });
            let Some(parsed) = parsed else {
                strange.push(message["rendered"].as_str().unwrap_or_default().to_owned());
                continue;
            };
            let mut place = Place {
                at,
                end,
                smallest: None,
            };
            place.visit_file(parsed);
            match place.smallest {
                Some((_, numbers)) => found.extend(numbers),
                // In a macro there are no expressions: what its line has.
                None if !on_lines(copy, file, at.line, end.line)?.is_empty() => {
                    found.extend(on_lines(copy, file, at.line, end.line)?);
                }
                None => strange.push(message["rendered"].as_str().unwrap_or_default().to_owned()),
            }
        }
    }
    if found.is_empty() {
        for message in strange {
            eprintln!("{message}");
        }
    }
    Ok(found)
}

fn name_of(span: &Value) -> &str {
    span["file_name"].as_str().unwrap_or_default()
}

/// The numbers on some lines of a file.
fn on_lines(
    copy: &Path,
    file: &str,
    first: usize,
    last: usize,
) -> Result<BTreeSet<u32>, Box<dyn Error>> {
    let text = fs::read_to_string(copy.join(file))?;
    let lines: Vec<&str> = text.lines().take(last).collect();
    let found: BTreeSet<u32> = lines[first - 1..]
        .iter()
        .flat_map(|line| on_line(line))
        .collect();
    if !found.is_empty() {
        return Ok(found);
    }
    // The arm with the number stands above.
    let above = lines[..first - 1].iter().rev().take(12);
    let mut above = above.map(|line| on_line(line));
    Ok(above.find(|found| !found.is_empty()).unwrap_or_default())
}

fn on_line(line: &str) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    for (at, _) in line.match_indices(" =>") {
        let before = &line[..at];
        let digits = before
            .rfind(|c: char| !c.is_ascii_digit())
            .map_or(0, |at| at + 1);
        found.extend(before[digits..].parse::<u32>().ok());
    }
    for part in line.split("mistake::is(").skip(1) {
        let digits = part.split(')').next().unwrap_or_default();
        found.extend(digits.trim().parse::<u32>().ok());
    }
    found
}

/// The smallest part of a file around a place that has mistakes.
struct Place {
    at: LineColumn,
    end: LineColumn,
    smallest: Option<(usize, BTreeSet<u32>)>,
}

impl Place {
    fn covers(&self, node: &impl Spanned) -> bool {
        let span = node.span();
        let key = |place: LineColumn| (place.line, place.column);
        key(span.start()) <= key(self.at) && key(self.end) <= key(span.end())
    }

    fn take(&mut self, node: &impl Spanned, numbers: BTreeSet<u32>) {
        if numbers.is_empty() || !self.covers(node) {
            return;
        }
        let size = node.span().byte_range().len();
        if self
            .smallest
            .as_ref()
            .is_none_or(|(least, _)| size <= *least)
        {
            self.smallest = Some((size, numbers));
        }
    }
}

/// The number of an arm of a mistake.
fn number(arm: &Arm) -> Option<u32> {
    match &arm.pat {
        syn::Pat::Lit(lit) => match &lit.lit {
            syn::Lit::Int(number) => number.base10_parse().ok(),
            _ => None,
        },
        _ => None,
    }
}

fn is_switch(node: &ExprMatch) -> bool {
    let Expr::Call(call) = &*node.expr else {
        return false;
    };
    let text = quote::quote!(#call).to_string();
    text == "crate :: mistake :: at ()"
}

/// `crate::mistake::is(NUMBER)`
fn asked(call: &ExprCall) -> Option<u32> {
    let path = &call.func;
    if quote::quote!(#path).to_string() != "crate :: mistake :: is" {
        return None;
    }
    match call.args.first()? {
        Expr::Lit(lit) => match &lit.lit {
            syn::Lit::Int(number) => number.base10_parse().ok(),
            _ => None,
        },
        _ => None,
    }
}

/// All numbers in a part.
#[derive(Default)]
struct Numbers(BTreeSet<u32>);

impl<'a> Visit<'a> for Numbers {
    fn visit_expr_call(&mut self, call: &'a ExprCall) {
        self.0.extend(asked(call));
        visit::visit_expr_call(self, call);
    }

    fn visit_arm(&mut self, arm: &'a Arm) {
        self.0.extend(number(arm));
        visit::visit_arm(self, arm);
    }
}

impl<'a> Visit<'a> for Place {
    fn visit_expr(&mut self, node: &'a Expr) {
        if !self.covers(node) {
            return;
        }
        let mut numbers = Numbers::default();
        numbers.visit_expr(node);
        self.take(node, numbers.0);
        visit::visit_expr(self, node);
    }

    fn visit_expr_match(&mut self, node: &'a ExprMatch) {
        if is_switch(node) {
            let inside = node.arms.iter().find(|arm| self.covers(&arm.body));
            let numbers = match inside.and_then(number) {
                Some(number) => BTreeSet::from([number]),
                None => node.arms.iter().filter_map(number).collect(),
            };
            self.take(node, numbers);
        }
        visit::visit_expr_match(self, node);
    }

    fn visit_stmt(&mut self, node: &'a Stmt) {
        if !self.covers(node) {
            return;
        }
        let mut numbers = Numbers::default();
        numbers.visit_stmt(node);
        self.take(node, numbers.0);
        visit::visit_stmt(self, node);
    }

    fn visit_item_fn(&mut self, node: &'a ItemFn) {
        if self.covers(node) {
            let mut numbers = Numbers::default();
            numbers.visit_block(&node.block);
            self.take(node, numbers.0);
            visit::visit_item_fn(self, node);
        }
    }

    fn visit_impl_item_fn(&mut self, node: &'a ImplItemFn) {
        if self.covers(node) {
            let mut numbers = Numbers::default();
            numbers.visit_block(&node.block);
            self.take(node, numbers.0);
            visit::visit_impl_item_fn(self, node);
        }
    }
}
