//! Two rulesets compared: as text so far.

mod operand;
mod text;

pub use operand::{Operand, OperandError, read_folder, read_rules};
pub use text::{Side, unified};
