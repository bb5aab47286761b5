//! Compares two rulesets: by packets, by rules, and as text.

mod operand;
mod packets;
mod rules;
mod text;

pub use operand::{
    IPSETS_FILE, Operand, OperandError, RulesFolder, read_folder, read_rules, rules_text,
};
pub use packets::{
    ChangeKind, ChangedBox, ComparedRules, Ending, Incomparable, OriginOf, PacketChange,
    PacketFate, Responsible, SideName, named_sets, packets,
};
pub use rules::{ChainDiff, PartChange, Presence, RuleChange, RulesDiff, rules};
pub use text::{TextSide, plain_text, unified};
