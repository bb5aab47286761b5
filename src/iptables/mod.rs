//! The iptables model: rulesets as `iptables-save` prints them and `iptables-restore` reads them.
//!
//! ```text
//! text ── parse ─▶ Ruleset ── to_text ─▶ the text that iptables-save 1.8.9 prints
//! ```
//!
//! What the tool does is measured with Debian 12's iptables 1.8.9; where its two backends (nf_tables, legacy) decide
//! differently, the reader warns.

mod alignment;
mod argument;
mod demands;
mod file;
mod finish;
mod lex;
mod matches;
mod model;
mod names;
mod normal;
mod options;
mod pattern;
mod print;
mod rates;
mod rule;
mod services;
mod spec;
mod special;
mod table;
mod targets;
mod time;
mod value;
mod walk;
mod words;
mod written;

pub use alignment::{Alignment, Hunk};
pub use file::{Extensions, Invalid, parse};
pub use lex::leaves_quote_open;
pub use model::*;
pub use print::Print;
pub use value::{Interface, MarkMask, Negatable, Network, PortRange};
pub use walk::{
    Asked, Choice, Connection, Journey, NoWalk, Oracle, RuleId, Step, Unknowns, Verdict, Walk,
    follow, walk, walk_marked,
};
pub use written::{HopChange, Tos};
