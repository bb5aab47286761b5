//! Two rulesets compared: packet by packet, rule by rule, and as text.

mod operand;
mod packets;
mod rules;
mod text;

pub use operand::{
    Folder, IPSETS_FILE, Operand, OperandError, read_folder, read_rules, rules_text,
};
pub use packets::{
    Change, ChangedBox, Ending, Fate, Incomparable, Kind, OriginOf, Responsible, Rules, SideName,
    named_sets, packets,
};
pub use rules::{ChainDiff, PartChange, Presence, RuleChange, RulesDiff, rules};
pub use text::{Side, plain_text, unified};
