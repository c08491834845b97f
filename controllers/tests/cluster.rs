//! The controllers against an API server in the same process. There are no nodes: the tests
//! write what kubelets would.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster {
    pub(crate) mod apps;
    pub(crate) mod fixture;
    pub(crate) mod jobs;
    pub(crate) mod lifetime;
}
