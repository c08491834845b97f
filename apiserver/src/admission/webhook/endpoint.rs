//! Where a webhook's server is reached: its address, and the name that its certificate has.

use std::net::IpAddr;

use http::Uri;

use super::config::{Place, Server};
use crate::outbound::ready_endpoint;
use crate::registry::Registry;

/// A place to dial and the URL that is asked for there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Host name or address.
    pub(super) host: String,
    pub(super) port: u16,
    /// The name in the URL, which the certificate has to be for.
    pub(super) server_name: String,
    pub(super) url: String,
}

impl Endpoint {
    /// Picks an endpoint that is ready. On failure also tells the URL, for the message.
    pub(super) fn of(
        server: &Server,
        registry: &Registry,
        timeout: u64,
    ) -> Result<Self, (String, String)> {
        match &server.place {
            Place::Url(url) => from_url(url, timeout),
            Place::Service {
                namespace,
                name,
                port,
                path,
            } => {
                let host = format!("{name}.{namespace}.svc");
                let slash = if path.starts_with('/') { "" } else { "/" };
                let url = format!("https://{host}:{port}{slash}{path}?timeout={timeout}s");
                match find(registry, namespace, name, *port) {
                    Ok((address, target)) => Ok(Endpoint {
                        host: address,
                        port: target,
                        server_name: host,
                        url,
                    }),
                    Err(why) => Err((url, why)),
                }
            }
        }
    }
}

fn from_url(url: &str, timeout: u64) -> Result<Endpoint, (String, String)> {
    let joint = if url.contains('?') { '&' } else { '?' };
    let whole = format!("{url}{joint}timeout={timeout}s");
    let parsed: Uri = match whole.parse() {
        Ok(parsed) => parsed,
        Err(error) => return Err((whole, format!("invalid URL: {error}"))),
    };
    if parsed.scheme_str() != Some("https") {
        return Err((whole, "the URL's scheme must be https".into()));
    }
    let Some(host) = parsed.host() else {
        return Err((whole, "the URL has no host".into()));
    };
    let host = host.trim_matches(['[', ']']).to_owned();
    Ok(Endpoint {
        port: parsed.port_u16().unwrap_or(443),
        server_name: host.clone(),
        host,
        url: whole,
    })
}

fn find(
    registry: &Registry,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<(String, u16), String> {
    let service = registry
        .lookup("", "services", namespace, name)
        .ok_or_else(|| format!("service {name:?} not found"))?
        .value();
    let spec = &service["spec"];
    if spec["type"] == "ExternalName" {
        let host = spec["externalName"].as_str().unwrap_or_default();
        return Ok((host.to_owned(), port));
    }
    let mut ports = spec["ports"].as_array().into_iter().flatten();
    let chosen = ports
        .find(|p| p["port"].as_u64() == Some(port.into()))
        .ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    if let Some((address, target)) = ready_endpoint(&registry.cacher, namespace, name, chosen) {
        return Ok((address.to_string(), target));
    }
    Err(format!("no endpoints available for service {name:?}"))
}

/// `host:port` as it stands in messages.
pub(super) fn authority(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_carry_the_timeout() {
        let endpoint = from_url("https://hooks.example:8443/a?b=c", 3).unwrap();
        assert_eq!(endpoint.url, "https://hooks.example:8443/a?b=c&timeout=3s");
        assert_eq!(
            (endpoint.host.as_str(), endpoint.port),
            ("hooks.example", 8443)
        );
        let endpoint = from_url("https://[::1]/x", 10).unwrap();
        assert_eq!((endpoint.host.as_str(), endpoint.port), ("::1", 443));
        assert!(from_url("http://plain.example", 1).is_err());
        assert!(from_url("https://", 1).is_err());
    }
}
