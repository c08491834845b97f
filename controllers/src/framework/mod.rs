//! What all controllers stand on: queue, runtime, expectations, events.

pub mod act;
pub mod discovery;
pub mod disruption;
pub mod ended;
pub mod error;
pub mod expectations;
pub mod hash;
pub mod history;
pub mod metrics;
pub mod owners;
pub mod pods;
pub mod queue;
pub mod related;
pub mod runtime;

pub use ::events::{EventType, Recorder};
pub use ended::Ended;
pub use error::{During, Error, Tolerate};
pub use expectations::Expectations;
pub use runtime::{Context, Outcome, Reconciler, follow};
