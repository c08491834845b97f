//! Persistent volumes: claims are bound to volumes, which are attached to the nodes of their pods;
//! neither goes while it is in use.

pub(crate) mod attach;
pub(crate) mod binder;
pub(crate) mod ephemeral;
pub(crate) mod expand;
mod matching;
pub(crate) mod protection;
