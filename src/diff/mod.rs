//! Two rulesets compared: rule by rule, and as text.

mod operand;
mod rules;
mod text;

pub use operand::{Folder, IPSETS_FILE, Operand, OperandError, read_folder, read_rules};
pub use rules::{ChainDiff, PartChange, Presence, RuleChange, RulesDiff, rules};
pub use text::{Side, unified};
