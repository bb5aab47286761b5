//! Every mistake of one token in a file, each behind a number.

use std::collections::BTreeSet;

use crate::variants::*;
use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::visit_mut::{self, VisitMut};
use syn::{
    Arm, BinOp, Block, Expr, ExprArray, ExprForLoop, ExprMatch, ExprPath, ExprStruct, File, Item,
    LitInt, Macro, Pat, Signature, Stmt, Token, Type, parse_quote,
};

/// A mistake, and where it is.
pub struct Mistake {
    pub number: u32,
    pub file: String,
    pub line: usize,
    pub way: &'static str,
    /// What was there, and what is there now.
    pub what: String,
}

pub struct Mutator<'a> {
    file: String,
    refused: &'a BTreeSet<u32>,
    pub found: Vec<Mistake>,
    /// Lists that become functions, so that they may be wrong.
    lists: BTreeSet<String>,
}

impl<'a> Mutator<'a> {
    pub fn new(file: &str, found: Vec<Mistake>, refused: &'a BTreeSet<u32>) -> Self {
        Self {
            file: file.to_owned(),
            refused,
            found,
            lists: BTreeSet::new(),
        }
    }

    pub fn file(&mut self, file: &mut File) {
        file.items.retain(|item| !is_test(item));
        for item in &file.items {
            if let Item::Const(list) = item
                && matches!(*list.ty, Type::Array(_))
            {
                self.lists.insert(list.ident.to_string());
            }
        }
        for item in &mut file.items {
            if let Item::Const(list) = item
                && self.lists.contains(&list.ident.to_string())
            {
                let (visibility, name, kind) = (&list.vis, &list.ident, &list.ty);
                let mut kind = (**kind).clone();
                Lasting.visit_type_mut(&mut kind);
                let mut value = (*list.expr).clone();
                self.visit_expr_mut(&mut value);
                // A constant lasts for ever, and so does what the function gives.
                *item = parse_quote! {
                    #[allow(non_snake_case)]
                    #visibility fn #name() -> &'static #kind { Box::leak(Box::new(#value)) }
                };
                continue;
            }
            self.visit_item_mut(item);
        }
    }

    /// A new mistake; its number where the compiler takes it.
    fn mistake(&mut self, way: &'static str, span: Span, what: String) -> Option<LitInt> {
        let number = u32::try_from(self.found.len()).unwrap_or(u32::MAX) + 1;
        self.found.push(Mistake {
            number,
            file: self.file.clone(),
            line: span.start().line,
            way,
            what: what.split_whitespace().collect::<Vec<_>>().join(" "),
        });
        (!self.refused.contains(&number))
            .then(|| LitInt::new(&number.to_string(), Span::call_site()))
    }

    /// What an expression may wrongly be.
    fn variants(&mut self, clean: &Expr) -> Vec<(&'static str, Expr)> {
        match clean {
            Expr::Lit(lit) => literal(&lit.lit),
            Expr::Binary(binary) => operators(binary),
            Expr::Call(call) => call_variants(call),
            Expr::MethodCall(call) => method_variants(call),
            Expr::Path(path) => path_variants(path),
            Expr::Reference(reference) => match &*reference.expr {
                Expr::Field(_) => opposite(&reference.expr)
                    .map(|other| {
                        let mut changed = reference.clone();
                        *changed.expr = other;
                        ("field exchanged", Expr::Reference(changed))
                    })
                    .into_iter()
                    .collect(),
                _ => Vec::new(),
            },
            Expr::Field(_) => opposite(clean)
                .map(|other| ("field exchanged", other))
                .into_iter()
                .collect(),
            Expr::Struct(one) => struct_variants(one),
            Expr::Array(array) => list_variants(array.elems.iter().cloned().collect())
                .into_iter()
                .filter(|(_, list)| list.len() == array.elems.len())
                .map(|(way, list)| {
                    let elems: Punctuated<Expr, Token![,]> = list.into_iter().collect();
                    let changed = ExprArray {
                        elems,
                        ..array.clone()
                    };
                    (way, Expr::Array(changed))
                })
                .collect(),
            Expr::Macro(one) => macro_variants(&one.mac),
            Expr::Assign(assign) => opposite(&assign.left)
                .map(|left| {
                    let mut changed = assign.clone();
                    *changed.left = left;
                    ("field exchanged", Expr::Assign(changed))
                })
                .into_iter()
                .collect(),
            _ => Vec::new(),
        }
    }

    fn wrap(&mut self, clean: &Expr, mutated: Expr, variants: Vec<(&'static str, Expr)>) -> Expr {
        let mut arms: Vec<TokenStream> = Vec::new();
        for (way, variant) in variants {
            let what = format!("{} -> {}", short(clean), short(&variant));
            if let Some(number) = self.mistake(way, clean.span(), what) {
                arms.push(quote!(#number => #variant,));
            }
        }
        let mut all = mutated;
        if is_truth(clean)
            && let Some(number) = self.mistake("condition turned", clean.span(), short(clean))
        {
            all = parse_quote!((#all) != crate::mistake::is(#number));
            all = parse_quote!((#all));
        }
        match arms.is_empty() {
            true => all,
            false => parse_quote!((match crate::mistake::at() { #(#arms)* _ => #all })),
        }
    }

    /// A condition that may hold always.
    fn condition(&mut self, condition: &mut Expr) {
        match condition {
            Expr::Let(one) => self.visit_expr_mut(&mut one.expr),
            Expr::Binary(binary) if matches!(binary.op, BinOp::And(_)) && has_let(condition) => {
                let Expr::Binary(binary) = condition else {
                    return;
                };
                self.condition(&mut binary.left);
                self.condition(&mut binary.right);
            }
            _ => {
                let clean = condition.clone();
                self.visit_expr_mut(condition);
                let mut all = condition.clone();
                if !is_truth(&clean)
                    && let Some(number) =
                        self.mistake("condition turned", clean.span(), short(&clean))
                {
                    all = parse_quote!((#all) != crate::mistake::is(#number));
                    all = parse_quote!((#all));
                }
                if let Some(number) = self.mistake("condition lost", clean.span(), short(&clean)) {
                    all = parse_quote!((crate::mistake::is(#number) || #all));
                }
                *condition = all;
            }
        }
    }

    fn function(&mut self, signature: &Signature, block: &mut Block) {
        if signature.constness.is_some() {
            return;
        }
        self.visit_block_mut(block);
        if let syn::ReturnType::Type(_, kind) = &signature.output
            && !matches!(**kind, Type::ImplTrait(_))
            && let Some(number) = self.mistake(
                "nothing returned",
                signature.span(),
                signature.ident.to_string(),
            )
        {
            let early: Stmt =
                parse_quote!(if crate::mistake::is(#number) { return Default::default(); });
            block.stmts.insert(0, early);
        }
    }
}

impl VisitMut for Mutator<'_> {
    fn visit_expr_mut(&mut self, node: &mut Expr) {
        let clean = node.clone();
        match node {
            // What has a condition inside of it is no value of its own.
            Expr::Let(_) => return self.condition(node),
            Expr::Binary(_) if has_let(node) => return self.condition(node),
            Expr::Binary(binary) if is_assignment(binary.op) => {
                return self.visit_expr_mut(&mut binary.right);
            }
            Expr::Assign(assign) => self.visit_expr_mut(&mut assign.right),
            Expr::Field(field) => match &mut *field.base {
                Expr::Path(_) | Expr::Field(_) => {}
                other => self.visit_expr_mut(other),
            },
            Expr::Reference(reference) => match &mut *reference.expr {
                Expr::Path(path) if !self.is_list(path) => {}
                Expr::Field(_) => {}
                other => self.visit_expr_mut(other),
            },
            Expr::MethodCall(call) => {
                match &mut *call.receiver {
                    Expr::Path(path) if !self.is_list(path) => {}
                    Expr::Field(_) => {}
                    other => self.visit_expr_mut(other),
                }
                for argument in &mut call.args {
                    self.visit_expr_mut(argument);
                }
            }
            Expr::Call(call) => {
                for argument in &mut call.args {
                    self.visit_expr_mut(argument);
                }
            }
            Expr::Macro(one) => self.visit_macro_mut(&mut one.mac),
            Expr::If(_) | Expr::While(_) => visit_mut::visit_expr_mut(self, node),
            _ => visit_mut::visit_expr_mut(self, node),
        }
        if let Expr::Path(path) = node
            && self.is_list(path)
        {
            *node = parse_quote!((*#path()));
            return;
        }
        let variants = self.variants(&clean);
        let mut mutated = node.clone();
        if let Expr::MethodCall(call) = &clean {
            let name = call.method.to_string();
            if ["iter", "into_iter"].contains(&&*name)
                && call.args.is_empty()
                && let Some(number) = self.mistake("first lost", clean.span(), short(&clean))
            {
                mutated = parse_quote!(#mutated.skip(usize::from(crate::mistake::is(#number))));
            }
        }
        *node = self.wrap(&clean, mutated, variants);
    }

    fn visit_expr_if_mut(&mut self, node: &mut syn::ExprIf) {
        self.condition(&mut node.cond);
        self.visit_block_mut(&mut node.then_branch);
        if let Some((_, other)) = &mut node.else_branch {
            match &mut **other {
                Expr::If(chain) => self.visit_expr_if_mut(chain),
                Expr::Block(block) => self.visit_block_mut(&mut block.block),
                other => self.visit_expr_mut(other),
            }
        }
    }

    fn visit_expr_while_mut(&mut self, node: &mut syn::ExprWhile) {
        self.condition(&mut node.cond);
        self.visit_block_mut(&mut node.body);
    }

    fn visit_expr_for_loop_mut(&mut self, node: &mut ExprForLoop) {
        let clean = node.expr.clone();
        self.visit_expr_mut(&mut node.expr);
        let expr = &node.expr;
        if let Some(number) = self.mistake("first lost", clean.span(), short(&clean)) {
            *node.expr =
                parse_quote!((#expr).into_iter().skip(usize::from(crate::mistake::is(#number))));
        }
        self.visit_block_mut(&mut node.body);
    }

    fn visit_expr_match_mut(&mut self, node: &mut ExprMatch) {
        self.visit_expr_mut(&mut node.expr);
        let clean: Vec<Arm> = node.arms.clone();
        for (at, arm) in node.arms.iter_mut().enumerate() {
            if let Some((_, guard)) = &mut arm.guard {
                self.condition(guard);
            }
            self.visit_expr_mut(&mut arm.body);
            let mut wrong: Vec<TokenStream> = Vec::new();
            let near = [at.checked_sub(1), Some(at + 1)].into_iter().flatten();
            for other in near.filter_map(|near| clean.get(near)) {
                let (own, body) = (&clean[at], &other.body);
                if own.body.to_token_stream().to_string() == body.to_token_stream().to_string() {
                    continue;
                }
                let what = format!("{} => {}", short(&own.pat), short(body));
                if let Some(number) = self.mistake("arm exchanged", own.span(), what) {
                    wrong.push(quote!(#number => #body,));
                }
            }
            if !wrong.is_empty() {
                let right = &arm.body;
                *arm.body = parse_quote!((match crate::mistake::at() { #(#wrong)* _ => #right }));
            }
        }
    }

    fn visit_expr_struct_mut(&mut self, node: &mut ExprStruct) {
        for field in &mut node.fields {
            field.colon_token.get_or_insert_default();
            self.visit_expr_mut(&mut field.expr);
        }
        if let Some(rest) = &mut node.rest {
            self.visit_expr_mut(rest);
        }
    }

    fn visit_block_mut(&mut self, block: &mut Block) {
        let clean = block.stmts.clone();
        let last = clean.len().saturating_sub(1);
        let mut stmts: Vec<Stmt> = Vec::new();
        // The mistake of the pair before: this statement was done already.
        let mut swapped: Option<LitInt> = None;
        for (at, mut stmt) in block.stmts.drain(..).enumerate() {
            let acts = |stmt: &Stmt, at: usize| match stmt {
                Stmt::Expr(Expr::Return(_) | Expr::Continue(_) | Expr::Break(_), Some(_)) => false,
                Stmt::Expr(_, Some(_)) => true,
                Stmt::Expr(Expr::If(_) | Expr::ForLoop(_) | Expr::Match(_), None) => at != last,
                _ => false,
            };
            let (does, next) = (
                acts(&clean[at], at),
                clean.get(at + 1).filter(|next| acts(next, at + 1)),
            );
            self.visit_stmt_mut(&mut stmt);
            let mut before = swapped.take();
            if does && let Some(next) = next {
                let what = format!("{} | {}", short(&clean[at]), short(next));
                if let Some(number) = self.mistake("statements swapped", clean[at].span(), what) {
                    stmts.push(parse_quote!(if crate::mistake::is(#number) { #next }));
                    swapped = Some(number);
                }
            }
            let is_way = matches!(
                &clean[at],
                Stmt::Expr(
                    Expr::Return(_) | Expr::Continue(_) | Expr::Break(_),
                    Some(_)
                )
            );
            if does || is_way {
                if let Some(number) =
                    self.mistake("statement lost", clean[at].span(), short(&clean[at]))
                {
                    stmt = parse_quote!(if !crate::mistake::is(#number) { #stmt });
                }
                if let Some(number) = before.take() {
                    stmt = parse_quote!(if !crate::mistake::is(#number) { #stmt });
                }
            }
            stmts.push(stmt);
        }
        block.stmts = stmts;
    }

    fn visit_stmt_mut(&mut self, stmt: &mut Stmt) {
        match stmt {
            Stmt::Local(local) => {
                if let Some(init) = &mut local.init {
                    self.visit_expr_mut(&mut init.expr);
                    if let Some((_, other)) = &mut init.diverge {
                        self.visit_expr_mut(other);
                    }
                }
            }
            // A statement's value is nothing: what is in it is.
            Stmt::Expr(expr, _) => match expr {
                Expr::If(one) => self.visit_expr_if_mut(one),
                Expr::ForLoop(one) => self.visit_expr_for_loop_mut(one),
                other => self.visit_expr_mut(other),
            },
            Stmt::Item(Item::Fn(item)) => self.function(&item.sig, &mut item.block),
            Stmt::Item(_) | Stmt::Macro(_) => {}
        }
    }

    fn visit_item_fn_mut(&mut self, item: &mut syn::ItemFn) {
        self.function(&item.sig, &mut item.block);
    }

    fn visit_impl_item_fn_mut(&mut self, item: &mut syn::ImplItemFn) {
        self.function(&item.sig, &mut item.block);
    }

    fn visit_item_const_mut(&mut self, _: &mut syn::ItemConst) {}

    fn visit_impl_item_const_mut(&mut self, _: &mut syn::ImplItemConst) {}

    fn visit_item_static_mut(&mut self, _: &mut syn::ItemStatic) {}

    fn visit_pat_mut(&mut self, _: &mut Pat) {}

    fn visit_type_mut(&mut self, _: &mut Type) {}

    fn visit_attribute_mut(&mut self, _: &mut syn::Attribute) {}

    /// `vec!` has expressions; those of others are not looked at.
    fn visit_macro_mut(&mut self, one: &mut Macro) {
        if one.path.is_ident("vec")
            && let Ok(mut all) =
                one.parse_body_with(Punctuated::<Expr, Token![,]>::parse_terminated)
        {
            for element in &mut all {
                self.visit_expr_mut(element);
            }
            one.tokens = quote!(#all);
        }
    }
}

impl Mutator<'_> {
    fn is_list(&self, path: &ExprPath) -> bool {
        path.path
            .get_ident()
            .is_some_and(|name| self.lists.contains(&name.to_string()))
    }
}

/// What a constant borrows lasts for ever, which a function has to say.
struct Lasting;

impl VisitMut for Lasting {
    fn visit_type_reference_mut(&mut self, one: &mut syn::TypeReference) {
        one.lifetime.get_or_insert_with(|| parse_quote!('static));
        visit_mut::visit_type_reference_mut(self, one);
    }
}

fn is_test(item: &Item) -> bool {
    matches!(item, Item::Mod(one) if one.attrs.iter().any(|one| one.path().is_ident("cfg")))
}
