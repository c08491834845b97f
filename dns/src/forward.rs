//! Names that are not the cluster's, asked of the node's own resolvers.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};

use crate::{Config, Error};

/// At most as many resolvers as the C library reads.
const MOST_UPSTREAMS: usize = 3;
/// Answers that are kept, so that a busy name is asked for once.
const CACHED_ANSWERS: u64 = 4096;

pub(crate) struct Forwarder {
    resolver: Option<TokioResolver>,
}

pub(crate) struct Forwarded {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
}

impl Forwarder {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let mut upstreams = config.upstreams.clone();
        if upstreams.is_empty() {
            let text = std::fs::read_to_string(&config.resolv_conf).unwrap_or_default();
            upstreams = nameservers(&text);
        }
        // Asking ourselves would never end.
        upstreams.retain(|address| !config.addresses.contains(address) || config.port != 53);
        upstreams.truncate(MOST_UPSTREAMS);
        if upstreams.is_empty() {
            tracing::warn!("no resolver is known for names outside the cluster");
            return Ok(Self { resolver: None });
        }
        let servers = upstreams
            .into_iter()
            .map(NameServerConfig::udp_and_tcp)
            .collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.cache_size = CACHED_ANSWERS;
        options.ndots = 0;
        options.preserve_intermediates = true;
        let resolver = builder.build().map_err(|error| Error::Upstreams {
            reason: error.to_string(),
        })?;
        Ok(Self {
            resolver: Some(resolver),
        })
    }

    pub(crate) async fn ask(&self, name: Name, kind: RecordType) -> Forwarded {
        let none = |code| Forwarded {
            code,
            answers: Vec::new(),
        };
        let Some(resolver) = &self.resolver else {
            return none(ResponseCode::ServFail);
        };
        match resolver.lookup(name, kind).await {
            Ok(lookup) => Forwarded {
                code: ResponseCode::NoError,
                answers: lookup.answers().to_vec(),
            },
            Err(NetError::Dns(DnsError::NoRecordsFound(found))) => none(found.response_code),
            Err(NetError::Dns(DnsError::ResponseCode(code))) => none(code),
            Err(error) => {
                tracing::debug!(%error, "a resolver did not answer");
                none(ResponseCode::ServFail)
            }
        }
    }
}

/// The `nameserver` lines of resolv.conf(5).
fn nameservers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let is_it = words.next() == Some("nameserver");
            let address = words.next()?.split('%').next()?;
            is_it.then(|| address.parse().ok()).flatten()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_are_read_and_the_rest_is_passed_over() {
        let text = "# c\nsearch a b\nnameserver 10.0.0.1\n nameserver  fe80::1%eth0\nnameserver x\nnameserver\n";
        let expected: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "fe80::1".parse().unwrap()];
        assert_eq!(nameservers(text), expected);
    }
}
