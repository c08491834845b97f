//! From API objects to packets: random policies, judged by an evaluator of the API's words, by
//! the tracer, by the planned rules and by real packets. Needs root.
#![expect(clippy::unwrap_used, reason = "a test can do nothing else")]

mod ends;
mod ipvs;
mod log;
mod node;
mod oracle;
mod packets;
mod random;
mod simulated;
