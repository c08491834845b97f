//! Benchmarks: load generators and what turns their output into `RESULTS.md`.

pub mod apiload;
