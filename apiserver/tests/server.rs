//! A whole API server on loopback: who gets in, what he may, and how it starts and ends.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod server {
    pub(crate) mod access;
    pub(crate) mod aggregation;
    pub(crate) mod backend;
    pub(crate) mod custom;
    pub(crate) mod encodings;
    pub(crate) mod fixture;
    pub(crate) mod hostile;
    pub(crate) mod https;
    pub(crate) mod identity;
    pub(crate) mod intruders;
    pub(crate) mod lifecycle;
    pub(crate) mod plugins;
    pub(crate) mod policies;
    pub(crate) mod reading;
    pub(crate) mod tokens;
    pub(crate) mod webhooks;
}
