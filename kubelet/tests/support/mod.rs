//! A node for tests: a private containerd and an API in memory, in namespaces of their own.

#![expect(dead_code, reason = "each test file uses a part")]

pub(crate) mod api;
pub(crate) mod image;
pub(crate) mod inside;
pub(crate) mod node;
