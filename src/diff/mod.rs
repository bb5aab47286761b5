//! Two rulesets compared: as text so far.

mod text;

pub use text::{Side, unified};
