//! Sends probes and lifecycle hooks. What their answers mean is decided in
//! [`crate::pod::probe`].

mod grpc;
mod http;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use crate::runtime::Runtime;

/// How a probe ended: well, or with what to say of it.
pub(crate) type Answer = Result<(), String>;

/// Where a container can be asked.
#[derive(Debug, Clone)]
pub(crate) struct Target<'a> {
    pub container: &'a Container,
    pub container_id: &'a str,
    pub address: Option<IpAddr>,
}

/// Sends one probe and waits for its answer.
pub(crate) async fn probe(runtime: &dyn Runtime, probe: &Probe, target: &Target<'_>) -> Answer {
    let timeout = crate::pod::probe::timeout(probe);
    if let Some(exec) = &probe.exec {
        return exec_command(runtime, target, exec.command.as_deref(), timeout).await;
    }
    let sent = async {
        if let Some(action) = &probe.http_get {
            let request = http_request(action, target)?;
            return http::get(&request).await;
        }
        if let Some(action) = &probe.tcp_socket {
            return tcp(action, target).await;
        }
        if let Some(action) = &probe.grpc {
            let port =
                u16::try_from(action.port).map_err(|_| format!("invalid port {}", action.port))?;
            let service = action.service.clone().unwrap_or_default();
            return grpc::check(address(None, target)?, port, service).await;
        }
        Err("the probe has no action".to_owned())
    };
    match tokio::time::timeout(timeout, sent).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("timeout: no answer within {}s", timeout.as_secs())),
    }
}

/// Runs a lifecycle hook to its end.
pub(crate) async fn hook(
    runtime: &dyn Runtime,
    handler: &LifecycleHandler,
    target: &Target<'_>,
    timeout: Duration,
) -> Answer {
    if let Some(exec) = &handler.exec {
        return exec_command(runtime, target, exec.command.as_deref(), timeout).await;
    }
    if let Some(sleep) = &handler.sleep {
        let wanted = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
        tokio::time::sleep(wanted.min(timeout)).await;
        return Ok(());
    }
    let sent = async {
        match (&handler.http_get, &handler.tcp_socket) {
            (Some(action), _) => http::get(&http_request(action, target)?).await,
            (None, Some(action)) => tcp(action, target).await,
            (None, None) => Err("the hook has no action".to_owned()),
        }
    };
    match tokio::time::timeout(timeout, sent).await {
        Ok(answer) => answer,
        Err(_) => Err("the hook did not end in time".to_owned()),
    }
}

async fn exec_command(
    runtime: &dyn Runtime,
    target: &Target<'_>,
    command: Option<&[String]>,
    timeout: Duration,
) -> Answer {
    let command = command.unwrap_or_default().to_vec();
    let shown = command.join(" ");
    match runtime
        .exec_sync(target.container_id, command, timeout)
        .await
    {
        Ok(answer) if answer.exit_code == 0 => Ok(()),
        Ok(answer) => {
            let mut output = answer.stdout;
            output.extend(answer.stderr);
            output.truncate(10 << 10);
            let output = String::from_utf8_lossy(&output).into_owned();
            Err(if output.is_empty() {
                format!("command \"{shown}\" exited with {}", answer.exit_code)
            } else {
                output
            })
        }
        Err(cri::Error::Deadline { .. }) => Err(format!(
            "command timed out: \"{shown}\" timed out after {}s",
            timeout.as_secs()
        )),
        Err(error) => Err(error.to_string()),
    }
}

fn port_number(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match name.parse() {
            Ok(number) => number,
            Err(_) => container
                .ports
                .iter()
                .flatten()
                .find(|port| port.name.as_ref() == Some(name))
                .map(|port| port.container_port)
                .ok_or_else(|| format!("couldn't find port: {name}"))?,
        },
    };
    u16::try_from(number)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
}

fn address(host: Option<&str>, target: &Target<'_>) -> Result<String, String> {
    match host.filter(|host| !host.is_empty()) {
        Some(host) => Ok(host.to_owned()),
        None => target
            .address
            .map(|ip| ip.to_string())
            .ok_or_else(|| "the pod has no address".to_owned()),
    }
}

fn http_request(action: &HTTPGetAction, target: &Target<'_>) -> Result<http::Request, String> {
    let host = address(action.host.as_deref(), target)?;
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for header in action.http_headers.iter().flatten() {
        headers.insert(header.name.clone(), header.value.clone());
    }
    let path = action.path.clone().unwrap_or_default();
    Ok(http::Request {
        tls: action.scheme.as_deref() == Some("HTTPS"),
        host,
        port: port_number(&action.port, target.container)?,
        path: if path.starts_with('/') {
            path
        } else {
            format!("/{path}")
        },
        headers,
    })
}

async fn tcp(action: &TCPSocketAction, target: &Target<'_>) -> Answer {
    let host = address(action.host.as_deref(), target)?;
    let port = port_number(&action.port, target.container)?;
    match TcpStream::connect((host.as_str(), port)).await {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("dial tcp {host}:{port}: {error}")),
    }
}
