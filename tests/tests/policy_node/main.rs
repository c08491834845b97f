//! The policy agent and the CNI plugin of one node, as processes of their own: a server, a host and
//! pods in network namespaces. Needs root.
#![expect(clippy::unwrap_used, reason = "a test can do nothing else")]

mod node;
mod race;
mod trouble;
