//! What the integration tests share.

pub mod namespace;
pub mod tools;
