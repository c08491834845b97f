//! What the node answers: logs, commands, forwarded ports, and everything behind a proxy.
//!
//! This file finds out where a request has to go and refuses what may not; a [`NodeConnector`]
//! carries it there, upgrades included.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use http::Uri;
use http::request::Parts;
use serde_json::{Value, json};

use super::proxied::Proxied;
use crate::admission::Operation;
use crate::outbound::{Place, ready_endpoint};
use crate::registry::Call;
use crate::registry::options::WriteOptions;
use crate::response::{self, ApiError, ApiResponse, Body, RequestBody};

/// Where a request is carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The kubelet of a node, with the server's client certificate.
    Kubelet {
        node: String,
        address: String,
        port: u16,
    },
    /// A pod or a service's endpoint, plain or with unverified TLS.
    Endpoint {
        address: IpAddr,
        port: u16,
        tls: bool,
    },
    /// An aggregated API server, with the server's front-proxy certificate.
    Aggregated {
        place: Place,
        /// PEM; empty: the system's authorities.
        authorities: Vec<u8>,
        insecure: bool,
    },
}

/// Carries requests to nodes and pods.
#[async_trait]
pub trait NodeConnector: Send + Sync + 'static {
    /// Sends the request (method, headers, extensions of `parts`; the path and query of `uri`) and
    /// returns the answer, its body streamed. An upgrade is joined to the other side's.
    async fn carry(
        &self,
        target: &Target,
        uri: Uri,
        parts: Parts,
        body: RequestBody,
    ) -> Result<ApiResponse, ApiError>;
}

const KUBELET_PORT: u16 = 10_250;

pub(super) async fn connect(
    call: Arc<Call>,
    parts: Parts,
    body: RequestBody,
) -> Result<ApiResponse, ApiError> {
    let subresource = call.info.subresource.as_str();
    if subresource != "log" {
        admit(&call).await?;
    }
    if subresource == "proxy" {
        return proxy(&call, parts, body).await;
    }
    let (target, path) = match (call.resource.plural.as_ref(), subresource) {
        (_, "log") => match log_target(&call).await? {
            Some(found) => found,
            None => return Ok(no_content()),
        },
        _ => session_target(&call).await?,
    };
    if subresource == "log" && streaming::websocket::is_requested(&parts.headers) {
        return download(&call, &target, &path, parts, body).await;
    }
    send(&call, &target, &path, parts, body).await
}

/// A log that is read through a WebSocket. The kubelet does not know of it.
async fn download(
    call: &Call,
    target: &Target,
    path: &str,
    parts: Parts,
    body: RequestBody,
) -> Result<ApiResponse, ApiError> {
    let mut handshake = http::Request::from_parts(parts, ());
    let accepted = streaming::download::accept(&mut handshake);
    let (accepted, reader) =
        accepted.ok_or_else(|| ApiError::bad_request("the WebSocket handshake is not sound"))?;
    let (mut parts, ()) = handshake.into_parts();
    parts.headers.remove(http::header::CONNECTION);
    parts.headers.remove(http::header::UPGRADE);
    let answer = send(call, target, path, parts, body).await?;
    if answer.status() != http::StatusCode::OK {
        return Ok(answer);
    }
    tokio::spawn(reader.serve(http_body_util::BodyDataStream::new(answer.into_body())));
    Ok(accepted.map(|()| Body::empty()))
}

/// Everything behind `proxy`, whatever the method.
async fn proxy(call: &Call, mut parts: Parts, body: RequestBody) -> Result<ApiResponse, ApiError> {
    let proxied = Proxied::of(parts.uri.path(), call.resource.namespaced())
        .ok_or_else(|| ApiError::bad_request("the path is not valid"))?;
    if let Some(redirect) = proxied.redirect(&parts) {
        return Ok(redirect);
    }
    let target = match call.resource.plural.as_ref() {
        "nodes" => node_target(call).await?,
        "services" => service_target(call).await?,
        _ => pod_target(call).await?,
    };
    let path = proxied.path(parts.uri.query());
    // Links in pages are looked at, so pages have to come as they are.
    parts.headers.remove(http::header::ACCEPT_ENCODING);
    let is_read = parts.method == http::Method::GET;
    let mut response = send(call, &target, &path, parts, body).await?;
    proxied.rewrite(&mut response);
    if is_read {
        return proxied.relink(response).await;
    }
    Ok(response)
}

async fn send(
    call: &Call,
    target: &Target,
    path: &str,
    mut parts: Parts,
    body: RequestBody,
) -> Result<ApiResponse, ApiError> {
    let uri: Uri = path
        .parse()
        .map_err(|_| ApiError::bad_request("the path is not valid"))?;
    // What authenticated the client here means nothing there.
    for header in [http::header::AUTHORIZATION, http::header::HOST] {
        parts.headers.remove(header);
    }
    call.registry.nodes()?.carry(target, uri, parts, body).await
}

/// What is connected to, and how, is subject to admission.
async fn admit(call: &Call) -> Result<(), ApiError> {
    let mut options = connect_options(call);
    let admission = &call.registry.admission;
    let mut attributes = call.attributes(
        Operation::Connect,
        Some(&mut options),
        None,
        &WriteOptions::default(),
    );
    attributes.options = Value::Null;
    admission.mutate(&mut attributes).await?;
    admission.validate(&attributes).await
}

/// The options of a session or proxy as an object: `PodExecOptions` and so on.
fn connect_options(call: &Call) -> Value {
    let kind = match (
        call.resource.plural.as_ref(),
        call.info.subresource.as_str(),
    ) {
        ("pods", "exec") => "PodExecOptions",
        ("pods", "attach") => "PodAttachOptions",
        ("pods", "portforward") => "PodPortForwardOptions",
        ("pods", _) => "PodProxyOptions",
        ("services", _) => "ServiceProxyOptions",
        _ => "NodeProxyOptions",
    };
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    if kind.ends_with("ProxyOptions") {
        options["path"] = call.info.rest.as_str().into();
        return options;
    }
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if call.query.flag(flag) {
            options[flag] = true.into();
        }
    }
    if let Some(container) = call.query.get("container") {
        options["container"] = container.into();
    }
    let command: Vec<&str> = call.query.all("command").collect();
    if !command.is_empty() {
        options["command"] = command.into();
    }
    let ports: Vec<i64> = call
        .query
        .all("ports")
        .filter_map(|p| p.parse().ok())
        .collect();
    if !ports.is_empty() {
        options["ports"] = ports.into();
    }
    options
}

fn no_content() -> ApiResponse {
    let mut response = response::with_type(204, "text/plain", Body::empty());
    response.headers_mut().remove(http::header::CONTENT_TYPE);
    response
}

/// The object's name may carry a scheme and a port: `https:NAME:PORT`.
fn split_name(name: &str) -> (bool, &str, &str) {
    match name.split(':').collect::<Vec<_>>().as_slice() {
        [scheme @ ("http" | "https" | ""), name, port] => (*scheme == "https", name, port),
        [name, port] => (false, name, port),
        _ => (false, name, ""),
    }
}

fn with_query(path: String, query: &[String]) -> String {
    if query.is_empty() {
        path
    } else {
        format!("{path}?{}", query.join("&"))
    }
}

fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$'()*,;:@".contains(&b);
    text.bytes()
        .map(|b| {
            if plain(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

async fn kubelet(call: &Call, node: &str) -> Result<Target, ApiError> {
    let found = call
        .registry
        .lookup("", "nodes", "", node)
        .ok_or_else(|| ApiError::not_found("", "nodes", node))?
        .value();
    let port = found["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = port
        .and_then(|p| u16::try_from(p).ok())
        .filter(|p| *p != 0)
        .unwrap_or(KUBELET_PORT);
    let addresses = found["status"]["addresses"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let of_type = |kind: &str| {
        addresses
            .iter()
            .find(|a| a["type"] == kind)
            .and_then(|a| a["address"].as_str())
    };
    let address = ["InternalIP", "Hostname", "ExternalIP"]
        .into_iter()
        .find_map(of_type);
    let address = address.unwrap_or(node).to_owned();
    Ok(Target::Kubelet {
        node: node.to_owned(),
        address,
        port,
    })
}

async fn node_target(call: &Call) -> Result<Target, ApiError> {
    let (_, name, port) = split_name(&call.info.name);
    call.registry.cacher.consistent().await?;
    let mut target = kubelet(call, name).await?;
    if let (Target::Kubelet { port: own, .. }, Ok(port)) = (&mut target, port.parse()) {
        *own = port;
    }
    Ok(target)
}

async fn pod_target(call: &Call) -> Result<Target, ApiError> {
    let (tls, name, port) = split_name(&call.info.name);
    let pod = call.current(name).await?.value();
    let address = pod["status"]["podIP"].as_str().and_then(|a| a.parse().ok());
    let address = allowed(address)?;
    let port = match port.parse() {
        Ok(port) => port,
        Err(_) => pod_port(&pod, port).unwrap_or(80),
    };
    Ok(Target::Endpoint { address, port, tls })
}

fn pod_port(pod: &Value, name: &str) -> Option<u16> {
    let containers = pod["spec"]["containers"].as_array()?;
    let mut ports = containers
        .iter()
        .flat_map(|c| c["ports"].as_array().into_iter().flatten());
    let port = ports.find(|p| name.is_empty() || p["name"] == name)?;
    port["containerPort"]
        .as_u64()
        .and_then(|p| u16::try_from(p).ok())
}

/// Addresses of the machine itself and of link-local services are no pods'.
fn allowed(address: Option<IpAddr>) -> Result<IpAddr, ApiError> {
    let forbidden = |address: &IpAddr| match address {
        IpAddr::V4(v4) => {
            v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || v4.is_multicast()
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
        }
    };
    address
        .filter(|a| !forbidden(&a.to_canonical()))
        .ok_or_else(|| ApiError::bad_request("address not allowed"))
}

async fn service_target(call: &Call) -> Result<Target, ApiError> {
    let (tls, name, port) = split_name(&call.info.name);
    let service = call.current(name).await?.value();
    let ports = service["spec"]["ports"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let chosen = if port.is_empty() {
        ports.first()
    } else {
        ports
            .iter()
            .find(|p| p["name"] == port || p["port"].as_u64() == port.parse().ok())
    };
    let no_endpoints = || {
        ApiError::unavailable(format!(
            "no endpoints available for service {:?}",
            call.info.name
        ))
    };
    let chosen = match chosen {
        Some(chosen) => chosen,
        None if ports.is_empty() => return Err(no_endpoints()),
        None => {
            return Err(ApiError::unavailable(format!(
                "no service port {port:?} found for service {name:?}"
            )));
        }
    };
    let cacher = &call.registry.cacher;
    let (address, port) =
        ready_endpoint(cacher, call.namespace(), name, chosen).ok_or_else(no_endpoints)?;
    let address = allowed(Some(address))?;
    Ok(Target::Endpoint { address, port, tls })
}

/// A pod's node and container for logs and sessions; `None`: not scheduled yet.
async fn placed(call: &Call) -> Result<(Value, String), ApiError> {
    let pod = call.current(&call.info.name).await?.value();
    let wanted = call.query.get("container").unwrap_or_default();
    let container = choose_container(&pod, wanted)?;
    Ok((pod, container))
}

fn choose_container(pod: &Value, wanted: &str) -> Result<String, ApiError> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let names = |list: &str| -> Vec<String> {
        let all = pod["spec"][list].as_array().into_iter().flatten();
        all.filter_map(|c| c["name"].as_str().map(str::to_owned))
            .collect()
    };
    let (own, init, ephemeral) = (
        names("containers"),
        names("initContainers"),
        names("ephemeralContainers"),
    );
    if !wanted.is_empty() {
        let known = [&own, &init, &ephemeral]
            .iter()
            .any(|l| l.iter().any(|n| n == wanted));
        if known {
            return Ok(wanted.to_owned());
        }
        return Err(ApiError::bad_request(format!(
            "container {wanted} is not valid for pod {name}"
        )));
    }
    if let Some(default) =
        pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str()
        && own.iter().any(|n| n == default)
    {
        return Ok(default.to_owned());
    }
    if let ([one], true, true) = (own.as_slice(), init.is_empty(), ephemeral.is_empty()) {
        return Ok(one.clone());
    }
    if own.len() == 1 && init.is_empty() {
        return Ok(own[0].clone());
    }
    let mut message = format!(
        "a container name must be specified for pod {name}, choose one of: [{}]",
        own.join(" ")
    );
    if !init.is_empty() {
        message.push_str(&format!(
            " or one of the init containers: [{}]",
            init.join(" ")
        ));
    }
    if !ephemeral.is_empty() {
        message.push_str(&format!(
            " or one of the ephemeral containers: [{}]",
            ephemeral.join(" ")
        ));
    }
    Err(ApiError::bad_request(message))
}

async fn log_target(call: &Call) -> Result<Option<(Target, String)>, ApiError> {
    check_log_options(call)?;
    let (pod, container) = placed(call).await?;
    let Some(node) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) else {
        return Ok(None);
    };
    let target = kubelet(call, node).await?;
    let known = [
        "follow",
        "previous",
        "timestamps",
        "sinceSeconds",
        "sinceTime",
        "tailLines",
        "limitBytes",
        "stream",
    ];
    let query: Vec<String> = call
        .query
        .pairs()
        .filter(|(k, _)| known.contains(k))
        .map(|(k, v)| format!("{k}={}", encode(v)))
        .collect();
    let path = format!(
        "/containerLogs/{}/{}/{container}",
        call.namespace(),
        call.info.name
    );
    Ok(Some((target, with_query(path, &query))))
}

fn check_log_options(call: &Call) -> Result<(), ApiError> {
    use crate::response::Cause;
    let mut causes = Vec::new();
    let number = |key: &str| call.query.get(key).and_then(|v| v.parse::<i64>().ok());
    for (key, least, text) in [
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
    ] {
        if let Some(value) = number(key).filter(|v| *v < least) {
            causes.push(Cause::new(
                "FieldValueInvalid",
                format!("Invalid value: {value}: {text}"),
                key,
            ));
        }
    }
    if causes.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(
            "",
            "PodLogOptions",
            &call.info.name,
            causes,
        ))
    }
}

async fn session_target(call: &Call) -> Result<(Target, String), ApiError> {
    let subresource = call.info.subresource.as_str();
    let pod = call.current(&call.info.name).await?.value();
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let (namespace, name) = (call.namespace(), &call.info.name);
    let node = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty());
    let Some(node) = node else {
        return Err(ApiError::bad_request(format!(
            "pod {name} does not have a host assigned"
        )));
    };
    let target = kubelet(call, node).await?;
    let mut query = Vec::new();
    let path = if subresource == "portforward" {
        query.extend(
            call.query
                .all("ports")
                .map(|p| format!("port={}", encode(p))),
        );
        format!("/portForward/{namespace}/{name}/{uid}")
    } else {
        let container = choose_container(&pod, call.query.get("container").unwrap_or_default())?;
        let spelled = [
            ("stdin", "input"),
            ("stdout", "output"),
            ("stderr", "error"),
            ("tty", "tty"),
        ];
        for (here, there) in spelled {
            if call.query.flag(here) {
                query.push(format!("{there}=1"));
            }
        }
        query.extend(
            call.query
                .all("command")
                .map(|c| format!("command={}", encode(c))),
        );
        let verb = if subresource == "exec" {
            "exec"
        } else {
            "attach"
        };
        format!("/{verb}/{namespace}/{name}/{uid}/{container}")
    };
    Ok((target, with_query(path, &query)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_carry_scheme_and_port() {
        assert_eq!(split_name("a"), (false, "a", ""));
        assert_eq!(split_name("a:80"), (false, "a", "80"));
        assert_eq!(split_name("https:a:443"), (true, "a", "443"));
        assert_eq!(split_name("https:a:"), (true, "a", ""));
    }

    #[test]
    fn nothing_of_the_machine_itself_is_reached_through_a_pod() {
        for address in [
            "127.0.0.1",
            "169.254.169.254",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
        ] {
            assert!(allowed(address.parse().ok()).is_err(), "{address}");
        }
        assert!(allowed("10.244.0.1".parse().ok()).is_ok());
        assert!(allowed(None).is_err());
    }

    #[test]
    fn one_container_needs_no_name() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}, {"name": "d"}]}});
        assert_eq!(choose_container(&pod, "d").unwrap(), "d");
        assert!(choose_container(&pod, "x").is_err());
        let refused = choose_container(&pod, "").unwrap_err();
        assert_eq!(
            refused.message(),
            "a container name must be specified for pod p, choose one of: [c d]"
        );
    }
}
