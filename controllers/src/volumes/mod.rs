//! Persistent volumes: claims are bound to volumes, and neither goes while it is in use.

pub(crate) mod binder;
pub(crate) mod ephemeral;
mod matching;
pub(crate) mod protection;
