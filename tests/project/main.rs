//! The project itself: arrows between modules, pages and the examples on them, the built-in services.

#![allow(clippy::expect_used, clippy::panic)] // in the helpers: a broken page fails the test that reads it

mod architecture;
mod catalog;
mod docs;
