//! What an expression may wrongly be.

use std::collections::BTreeSet;

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::punctuated::Punctuated;
use syn::{
    BinOp, Expr, ExprBinary, ExprCall, ExprMethodCall, ExprPath, ExprStruct, Lit, LitInt, Macro,
    Member, Token, UnOp, parse_quote,
};

/// What is easily taken for the other: fields, variables and functions.
const OPPOSITES: [(&str, &str); 20] = [
    ("source", "destination"),
    ("sources", "destinations"),
    ("source_port", "destination_port"),
    ("source_ports", "destination_ports"),
    ("source_range", "destination_range"),
    ("in_device", "out_device"),
    ("input", "output"),
    ("uid", "gid"),
    ("user", "group"),
    ("from", "to"),
    ("early", "main"),
    ("main", "translated"),
    ("v4", "v6"),
    ("icmp", "icmpv6"),
    ("first", "last"),
    ("over_limit", "over_connections"),
    ("client", "server"),
    ("answers", "questions"),
    ("prefix", "range"),
    ("groups", "early"),
];

/// Values of one kind.
const KINDS: [(&str, &[&str]); 14] = [
    ("Family", &["V4", "V6"]),
    ("Hook", &["Input", "Forward", "Output"]),
    ("Stage", &["Early", "Main"]),
    ("Protocol", &["TCP", "UDP", "ICMP", "ICMPV6"]),
    (
        "RejectWith",
        &["Default", "TcpReset", "PortUnreachable", "AdminProhibited"],
    ),
    ("CustomTable", &["Raw", "Mangle", "Nat", "Filter"]),
    ("CustomPlace", &["Before", "After"]),
    ("NatChain", &["Prerouting", "Output", "Postrouting"]),
    (
        "State",
        &["New", "Established", "Related", "Invalid", "Untracked"],
    ),
    ("Place", &["Any", "Host"]),
    ("Over", &["Drop", "Reject", "Continue"]),
    ("Per", &["Rule", "Source"]),
    ("DefaultAction", &["Accept", "Drop", "Reject", "Continue"]),
    ("RuleAction", &["Accept", "Drop", "Log"]),
];

/// Words of rules that take each other's place.
const WORDS: [(&str, &str); 26] = [
    ("-i", "-o"),
    ("-o", "-i"),
    ("src", "dst"),
    ("dst", "src"),
    ("DROP", "ACCEPT"),
    ("ACCEPT", "DROP"),
    ("RETURN", "DROP"),
    ("MASQUERADE", "ACCEPT"),
    ("SNAT", "DNAT"),
    ("DNAT", "SNAT"),
    ("REDIRECT", "DNAT"),
    ("NETMAP", "DNAT"),
    ("LOG", "NFLOG"),
    ("NFLOG", "LOG"),
    ("icmp", "igmp"),
    ("igmp", "icmp"),
    ("ipv6-icmp", "icmp"),
    ("PREROUTING", "OUTPUT"),
    ("OUTPUT", "PREROUTING"),
    ("POSTROUTING", "OUTPUT"),
    ("INPUT", "FORWARD"),
    ("FORWARD", "INPUT"),
    ("save", "restore"),
    ("restore", "save"),
    ("! ", ""),
    ("", "! "),
];

/// Methods and what is easily taken for them.
const METHODS: [(&str, &str); 12] = [
    ("any", "all"),
    ("all", "any"),
    ("min", "max"),
    ("max", "min"),
    ("is_some_and", "is_none_or"),
    ("is_none_or", "is_some_and"),
    ("first", "last"),
    ("last", "first"),
    ("find", "rfind"),
    ("take", "skip"),
    ("skip", "take"),
    ("or", "and"),
];

/// Methods that give a truth.
const TRUTHS: [&str; 17] = [
    "is_some",
    "is_none",
    "is_empty",
    "contains",
    "contains_key",
    "any",
    "all",
    "has",
    "starts_with",
    "ends_with",
    "is_shared",
    "is_some_and",
    "is_none_or",
    "is_ok",
    "insert",
    "named",
    "may_go_on",
];

pub fn short(node: &impl ToTokens) -> String {
    let text = node.to_token_stream().to_string();
    let short: String = text.chars().take(70).collect();
    match short.len() < text.len() {
        true => format!("{short}..."),
        false => short,
    }
}

pub fn has_let(node: &Expr) -> bool {
    match node {
        Expr::Let(_) => true,
        Expr::Binary(binary) if matches!(binary.op, BinOp::And(_)) => {
            has_let(&binary.left) || has_let(&binary.right)
        }
        _ => false,
    }
}

pub fn is_assignment(op: BinOp) -> bool {
    matches!(
        op,
        BinOp::AddAssign(_)
            | BinOp::SubAssign(_)
            | BinOp::BitOrAssign(_)
            | BinOp::BitAndAssign(_)
            | BinOp::MulAssign(_)
    )
}

pub fn is_truth(node: &Expr) -> bool {
    match node {
        Expr::Binary(binary) => matches!(
            binary.op,
            BinOp::Eq(_)
                | BinOp::Ne(_)
                | BinOp::Lt(_)
                | BinOp::Le(_)
                | BinOp::Gt(_)
                | BinOp::Ge(_)
                | BinOp::And(_)
                | BinOp::Or(_)
        ),
        Expr::Unary(unary) => matches!(unary.op, UnOp::Not(_)),
        Expr::MethodCall(call) => TRUTHS.contains(&&*call.method.to_string()),
        Expr::Macro(one) => one.mac.path.is_ident("matches"),
        Expr::Lit(lit) => matches!(lit.lit, Lit::Bool(_)),
        _ => false,
    }
}

pub fn literal(lit: &Lit) -> Vec<(&'static str, Expr)> {
    match lit {
        Lit::Int(number) => {
            let Ok(value) = number.base10_parse::<u64>() else {
                return Vec::new();
            };
            let near = [value.checked_add(1), value.checked_sub(1)]
                .into_iter()
                .flatten();
            near.map(|value| {
                let text = format!("{value}{}", number.suffix());
                let other = LitInt::new(&text, Span::call_site());
                ("number off by one", parse_quote!(#other))
            })
            .collect()
        }
        Lit::Str(text) => {
            let text = text.value();
            let mut all: Vec<String> = WORDS
                .iter()
                .filter(|(from, _)| *from == text)
                .map(|(_, to)| (*to).to_owned())
                .collect();
            if all.is_empty() {
                all.push(format!("{text}x"));
            }
            all.iter()
                .map(|other| ("word exchanged", parse_quote!(#other)))
                .collect()
        }
        _ => Vec::new(),
    }
}

pub fn operators(binary: &ExprBinary) -> Vec<(&'static str, Expr)> {
    let other: BinOp = match binary.op {
        BinOp::And(_) => BinOp::Or(Default::default()),
        BinOp::Or(_) => BinOp::And(Default::default()),
        BinOp::Lt(_) => BinOp::Le(Default::default()),
        BinOp::Le(_) => BinOp::Lt(Default::default()),
        BinOp::Gt(_) => BinOp::Ge(Default::default()),
        BinOp::Ge(_) => BinOp::Gt(Default::default()),
        BinOp::Add(_) => BinOp::Sub(Default::default()),
        BinOp::Sub(_) => BinOp::Add(Default::default()),
        BinOp::Mul(_) => BinOp::Add(Default::default()),
        _ => return Vec::new(),
    };
    let changed = ExprBinary {
        op: other,
        ..binary.clone()
    };
    vec![("operator exchanged", parse_quote!((#changed)))]
}

pub fn call_variants(call: &ExprCall) -> Vec<(&'static str, Expr)> {
    let mut all = Vec::new();
    if matches!(&*call.func, Expr::Path(path) if path.path.is_ident("Some")) {
        all.push(("value lost", parse_quote!(None)));
        return all;
    }
    for arguments in swapped(&call.args) {
        let changed = ExprCall {
            args: arguments,
            ..call.clone()
        };
        all.push(("arguments swapped", Expr::Call(changed)));
    }
    if let Some(func) = opposite(&call.func) {
        let changed = ExprCall {
            func: Box::new(func),
            ..call.clone()
        };
        all.push(("function exchanged", Expr::Call(changed)));
    }
    all
}

pub fn method_variants(call: &ExprMethodCall) -> Vec<(&'static str, Expr)> {
    let mut all = Vec::new();
    for arguments in swapped(&call.args) {
        let changed = ExprMethodCall {
            args: arguments,
            ..call.clone()
        };
        all.push(("arguments swapped", Expr::MethodCall(changed)));
    }
    if let Some(receiver) = opposite(&call.receiver) {
        let changed = ExprMethodCall {
            receiver: Box::new(receiver),
            ..call.clone()
        };
        all.push(("field exchanged", Expr::MethodCall(changed)));
    }
    let name = call.method.to_string();
    for (_, other) in METHODS.iter().filter(|(from, _)| *from == name) {
        let changed = ExprMethodCall {
            method: syn::Ident::new(other, Span::call_site()),
            ..call.clone()
        };
        all.push(("method exchanged", Expr::MethodCall(changed)));
    }
    if name == "filter" || name == "chain" || name == "rev" {
        // Of one type only where an option is filtered; else the compiler refuses it.
        all.push(("method lost", (*call.receiver).clone()));
    }
    all
}

pub fn path_variants(path: &ExprPath) -> Vec<(&'static str, Expr)> {
    let names: Vec<String> = path
        .path
        .segments
        .iter()
        .map(|one| one.ident.to_string())
        .collect();
    if let [.., kind, value] = &names[..] {
        for (_, values) in KINDS.iter().filter(|(name, _)| name == kind) {
            if !values.contains(&&**value) {
                continue;
            }
            let others = values.iter().filter(|other| *other != value);
            return others
                .map(|other| {
                    let mut changed = path.clone();
                    if let Some(last) = changed.path.segments.last_mut() {
                        last.ident = syn::Ident::new(other, Span::call_site());
                    }
                    ("value exchanged", Expr::Path(changed))
                })
                .collect();
        }
    }
    let own = Expr::Path(path.clone());
    opposite(&own)
        .map(|other| ("name exchanged", other))
        .into_iter()
        .collect()
}

/// The same of the other side.
pub fn opposite(node: &Expr) -> Option<Expr> {
    let other = |name: &str| {
        OPPOSITES.iter().find_map(|(one, two)| match name {
            _ if name == *one => Some(*two),
            _ if name == *two => Some(*one),
            _ => None,
        })
    };
    match node {
        Expr::Field(field) => {
            let Member::Named(name) = &field.member else {
                return None;
            };
            let name = syn::Ident::new(other(&name.to_string())?, Span::call_site());
            let mut changed = field.clone();
            changed.member = Member::Named(name);
            Some(Expr::Field(changed))
        }
        Expr::Path(path) => {
            let last = path.path.segments.last()?;
            let name = syn::Ident::new(other(&last.ident.to_string())?, Span::call_site());
            let mut changed = path.clone();
            changed.path.segments.last_mut()?.ident = name;
            Some(Expr::Path(changed))
        }
        _ => None,
    }
}

fn swapped(arguments: &Punctuated<Expr, Token![,]>) -> Vec<Punctuated<Expr, Token![,]>> {
    let all: Vec<Expr> = arguments.iter().cloned().collect();
    (1..all.len())
        .map(|at| {
            let mut changed = all.clone();
            changed.swap(at - 1, at);
            changed.into_iter().collect()
        })
        .collect()
}

pub fn struct_variants(node: &ExprStruct) -> Vec<(&'static str, Expr)> {
    let mut all = Vec::new();
    for at in 0..node.fields.len() {
        let mut changed = node.clone();
        changed.fields[at].colon_token.get_or_insert_default();
        changed.fields[at].expr = parse_quote!(Default::default());
        all.push(("field lost", Expr::Struct(changed)));
        if at > 0 {
            let mut changed = node.clone();
            for field in &mut changed.fields {
                field.colon_token.get_or_insert_default();
            }
            let (one, two) = (
                node.fields[at - 1].expr.clone(),
                node.fields[at].expr.clone(),
            );
            changed.fields[at - 1].expr = two;
            changed.fields[at].expr = one;
            all.push(("fields swapped", Expr::Struct(changed)));
        }
    }
    if node
        .rest
        .as_ref()
        .is_some_and(|rest| !rest.to_token_stream().to_string().contains("default"))
    {
        let mut changed = node.clone();
        changed.rest = Some(Box::new(parse_quote!(Default::default())));
        all.push(("rest lost", Expr::Struct(changed)));
    }
    all
}

pub fn list_variants(all: Vec<Expr>) -> Vec<(&'static str, Vec<Expr>)> {
    let mut found = Vec::new();
    for at in 0..all.len() {
        let mut lost = all.clone();
        lost.remove(at);
        found.push(("element lost", lost));
        if at > 0 {
            let mut swapped = all.clone();
            swapped.swap(at - 1, at);
            found.push(("elements swapped", swapped));
            // A list of a fixed length loses an element by saying another twice.
            let mut twice = all.clone();
            twice[at] = all[at - 1].clone();
            found.push(("element exchanged", twice));
            let mut twice = all.clone();
            twice[at - 1] = all[at].clone();
            found.push(("element exchanged", twice));
        }
    }
    found
}

pub fn macro_variants(one: &Macro) -> Vec<(&'static str, Expr)> {
    if one.path.is_ident("vec")
        && let Ok(all) = one.parse_body_with(Punctuated::<Expr, Token![,]>::parse_terminated)
    {
        return list_variants(all.into_iter().collect())
            .into_iter()
            .filter(|(way, _)| *way != "element exchanged")
            .map(|(way, list)| (way, parse_quote!(vec![#(#list),*])))
            .collect();
    }
    if !one.path.is_ident("format") {
        return Vec::new();
    }
    let mut tokens = one.tokens.clone().into_iter();
    let Some(TokenTree::Literal(first)) = tokens.next() else {
        return Vec::new();
    };
    let Ok(text) = syn::parse_str::<syn::LitStr>(&first.to_string()) else {
        return Vec::new();
    };
    let rest: TokenStream = tokens.collect();
    let text = text.value();
    let mut all: Vec<String> = vec![format!("{text}0")];
    let parts: Vec<(usize, usize)> = text
        .match_indices('{')
        .filter_map(|(at, _)| Some((at, at + text[at..].find('}')? + 1)))
        .collect();
    for pair in parts.windows(2) {
        let [(a, b), (c, d)] = [pair[0], pair[1]];
        all.push(
            [
                &text[..a],
                &text[c..d],
                &text[b..c],
                &text[a..b],
                &text[d..],
            ]
            .concat(),
        );
    }
    for (at, c) in text.char_indices().filter(|(_, c)| "-:/,[]!".contains(*c)) {
        all.push([&text[..at], &text[at + c.len_utf8()..]].concat());
    }
    let variants: BTreeSet<String> = all.into_iter().collect();
    variants
        .into_iter()
        .filter(|other| *other != text)
        .map(|other| ("text changed", parse_quote!(format!(#other #rest))))
        .collect()
}
