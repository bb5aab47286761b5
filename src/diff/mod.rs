//! Two rulesets compared: as text so far.

mod operand;
mod text;

pub use operand::{Folder, IPSETS_FILE, Operand, OperandError, read_folder, read_rules};
pub use text::{Side, unified};
