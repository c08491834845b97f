//! Probes, lifecycle hooks and what they do.

use super::super::address::{check_port, check_port_number};
use super::super::field::{Errors, Node};
use super::super::names;
use super::Scope;

/// The three probes of a container.
pub(super) fn all(e: &mut Errors, container: &Node<'_>, grace: Option<i64>) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.get(name);
        if !probe.is_set() {
            continue;
        }
        handler(e, &probe, grace);
        for field in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            e.non_negative(&probe.get(field));
        }
        let own = probe.get("terminationGracePeriodSeconds");
        if own.number().is_some_and(|n| n <= 0) {
            e.bad(&own, "must be greater than 0");
        }
        if name == "readinessProbe" {
            if own.is_set() {
                e.bad(&own, "must not be set for readinessProbes");
            }
            continue;
        }
        let threshold = probe.get("successThreshold");
        if threshold.int() != 1 {
            e.invalid(&threshold, threshold.int(), "must be 1");
        }
    }
}

/// `lifecycle`
pub(super) fn lifecycle(e: &mut Errors, node: &Node<'_>, scope: &Scope<'_>) {
    for name in ["postStart", "preStop"] {
        let hook = node.get(name);
        if hook.is_set() {
            handler(e, &hook, scope.grace);
        }
    }
    let signal = node.get("stopSignal");
    if signal.is_set() {
        stop_signal(e, &signal, scope);
    }
}

fn handler(e: &mut Errors, node: &Node<'_>, grace: Option<i64>) {
    let mut count = 0;
    for name in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let action = node.get(name);
        if !action.is_set() {
            continue;
        }
        count += 1;
        if count > 1 {
            e.forbidden(&action, "may not specify more than 1 handler type");
            continue;
        }
        match name {
            "exec" => e.need(&action.get("command")),
            "httpGet" => http(e, &action),
            "tcpSocket" => check_port(e, &action.get("port")),
            "grpc" => check_port_number(e, &action.get("port")),
            _ => sleep(e, &action, grace),
        }
    }
    if count == 0 {
        e.required(node, "must specify a handler type");
    }
}

fn http(e: &mut Errors, action: &Node<'_>) {
    e.need(&action.get("path"));
    check_port(e, &action.get("port"));
    let scheme = action.get("scheme");
    if !["HTTP", "HTTPS"].contains(&scheme.text()) {
        e.not_supported(&scheme, scheme.text(), &["HTTP", "HTTPS"]);
    }
    let headers = action.get("httpHeaders");
    for header in headers.items() {
        let name = header.get("name");
        // Upstream names the list, not the item.
        e.faults(
            &headers,
            name.text(),
            names::http_header_faults(name.text()),
        );
    }
}

fn sleep(e: &mut Errors, action: &Node<'_>, grace: Option<i64>) {
    let seconds = action.get("seconds").int();
    if let Some(grace) = grace.filter(|g| seconds < 0 || seconds > *g) {
        let why =
            format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        e.invalid(action, seconds, why);
    }
}

const WINDOWS_SIGNALS: [&str; 2] = ["SIGKILL", "SIGTERM"];

fn stop_signal(e: &mut Errors, signal: &Node<'_>, scope: &Scope<'_>) {
    let system = scope.spec.get("os.name");
    if system.is_empty() {
        e.forbidden(
            signal,
            "may not be set for containers with empty `spec.os.name`",
        );
        return;
    }
    if system.text() == super::WINDOWS {
        e.one_of(signal, &WINDOWS_SIGNALS);
    }
}
