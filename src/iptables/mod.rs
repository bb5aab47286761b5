//! Reads, models, prints and walks iptables rulesets: what `iptables-save` prints and `iptables-restore` loads.
//!
//! ```text
//! text ── parse ─▶ Ruleset ── to_text ─▶ the text that iptables-save 1.8.9 prints
//!                     │
//!                     └── walk, follow ─▶ what happens to one packet, rule by rule
//! ```
//!
//! The reader accepts and refuses what `iptables-restore` of Debian 12 (iptables 1.8.9) does, as measured with that version.
//! A ruleset that was read prints as `iptables-save` prints it after loading, so that rules from fwc, from a file and from
//! the kernel can be compared as values. Where the two backends (nf_tables, legacy) treat a line differently, the reader
//! follows nf_tables and warns.
//!
//! `lex` splits a line into words; `options`, `spec`, `matches` and `targets` are the table of all options; `rule` and
//! `finish` make a rule of the words; `table` and `file` carry out the commands of a file; `walk` follows a packet.

mod alignment;
mod argument;
mod demands;
mod extensions;
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
pub use extensions::{Extensions, has_match, has_target};
pub use file::{ParseError, parse};
pub use lex::leaves_quote_open;
pub use model::*;
pub use print::Print;
pub use value::{Interface, MarkMask, Negatable, Network, PortMatch};
pub use walk::{
    Choice, ConnectionFacts, NoWalk, Oracle, RuleId, UndecidedCondition, Unknowns, Walk, WalkStep,
    WalkTrace, WalkVerdict, follow, walk, walk_marked,
};
pub use written::{HopChange, Tos};
