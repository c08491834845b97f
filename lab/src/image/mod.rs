//! Images without a registry: archives made of Debian packages and of this project's own static
//! programs, and their import into a runtime.
//!
//! [`catalog::build`] writes one docker archive per image. [`import::load`] hands an archive to
//! containerd. Nothing here talks to a registry or a daemon while building.

pub mod archive;
pub mod catalog;
pub mod debian;
pub mod import;
