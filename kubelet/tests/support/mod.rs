//! A node for tests: a private containerd and an API in memory, in namespaces of their own.

#![expect(dead_code, reason = "each test file uses a part")]

pub mod api;
pub mod image;
pub mod inside;
pub mod node;
