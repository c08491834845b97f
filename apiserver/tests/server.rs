//! A whole API server on loopback: who gets in, what he may, and how it starts and ends.

mod server {
    pub(crate) mod access;
    pub(crate) mod fixture;
    pub(crate) mod lifecycle;
    pub(crate) mod tokens;
}
