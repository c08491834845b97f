//! Benchmarks: load generators and what turns their output into `RESULTS.md`.

pub mod apiload;
pub mod cluster;
pub mod programs;
pub mod results;
pub mod server;
