//! The API server: storage, machinery, authentication, authorization, admission.
//!
//! The walk of a request: the listener authenticates it and puts an
//! [`authn::SharedUser`] into its extensions; [`ApiServer::handle`] parses the path
//! ([`request`]), asks the [`authz::Authorizer`], finds the resource in the catalog and hands a
//! [`registry::Call`] to the verb. Reads come from the watch cache as shared bytes; writes are
//! decoded, defaulted, admitted, validated and committed to the store, whose commits feed the
//! cache and through it every watcher.

pub mod admission;
pub mod aggregation;
mod answers;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod cel;
mod config;
mod documents;
pub mod encryption;
mod event_expiry;
mod flowcontrol;
mod identity;
pub mod metrics;
mod openapi;
pub mod outbound;
pub mod pki;
pub mod registry;
mod remote;
pub mod request;
pub mod response;
mod reviews;
pub mod server;
mod service;
pub mod subresources;

pub use config::{Config, EtcdConfig, StorageKind};
pub use registry::Registry;
pub use remote::RemoteError;
pub use server::{RunningServer, StartError, start};
pub use service::{ApiServer, MAX_BODY, read_body};
