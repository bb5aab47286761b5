//! Helpers of the integration tests: namespaces, networks, tools and schemas.

pub mod namespace;
pub mod network;
pub mod tools;
