//! The API server: storage, machinery, authentication, authorization, admission.

pub mod authn;
pub mod authz;
mod config;

pub use config::{Config, EtcdConfig, StorageKind};
