//! What the integration tests share.

pub mod namespace;
pub mod network;
pub mod tools;
