//! The proxy in a node of network namespaces: real packets through every backend, and the proxy
//! as a whole with an API server in memory. The tests need root; those of IPVS bring the kernel
//! that they need.

mod api;
mod checks;
mod driver;
mod ipvs;
mod packets;
mod running;
mod schedulers;
mod world;
