//! The speaker against others' daemons, in network namespaces: sessions, routes of both families
//! in both kernels, restarts, signatures, failure detection. Needs root and Debian's `bird2`,
//! `frr` and `gobgpd`.
#![expect(clippy::unwrap_used, reason = "a test can do nothing else")]

mod bird;
mod frr;
mod gobgp;
mod lan;
mod machine;
mod matrix;
mod peers;
