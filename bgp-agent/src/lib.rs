//! bgp-agent
