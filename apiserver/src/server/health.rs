//! `/healthz`, `/livez` and `/readyz`, whole, verbose, and check by check.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use storage::Store;
use tokio_util::sync::CancellationToken;

use crate::request::Query;
use crate::response::{self, ApiResponse};

/// What the checks look at.
pub struct Health {
    pub store: Arc<dyn Store>,
    pub bootstrapped: AtomicBool,
    pub shutdown: CancellationToken,
}

/// How long the store may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Ping,
    Log,
    Etcd,
    InformerSync,
    BootstrapRoles,
    PriorityClasses,
    Shutdown,
}

const LIVE: &[Check] = &[
    Check::Ping,
    Check::Log,
    Check::Etcd,
    Check::BootstrapRoles,
    Check::PriorityClasses,
];
const READY: &[Check] = &[
    Check::Ping,
    Check::Log,
    Check::Etcd,
    Check::InformerSync,
    Check::BootstrapRoles,
    Check::PriorityClasses,
    Check::Shutdown,
];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::Ping => "ping",
            Check::Log => "log",
            Check::Etcd => "etcd",
            Check::InformerSync => "informer-sync",
            Check::BootstrapRoles => "poststarthook/rbac/bootstrap-roles",
            Check::PriorityClasses => "poststarthook/scheduling/bootstrap-system-priority-classes",
            Check::Shutdown => "shutdown",
        }
    }
}

/// The endpoint and the single check that a path names.
fn parse(path: &str) -> Option<(&str, &str)> {
    let (endpoint, check) = match path.strip_prefix('/')?.split_once('/') {
        Some((endpoint, check)) => (endpoint, check.trim_end_matches('/')),
        None => (path.strip_prefix('/')?, ""),
    };
    matches!(endpoint, "healthz" | "livez" | "readyz").then_some((endpoint, check))
}

impl Health {
    /// Whether the path is one of these.
    pub fn owns(path: &str) -> bool {
        parse(path).is_some()
    }

    /// Answers a GET that was allowed.
    pub async fn answer(&self, path: &str, query: &Query) -> ApiResponse {
        let Some((endpoint, single)) = parse(path) else {
            return response::text(404, "404 page not found\n");
        };
        let checks = if endpoint == "readyz" { READY } else { LIVE };
        if !single.is_empty() {
            let Some(check) = checks.iter().find(|check| check.name() == single) else {
                return response::text(404, "404 page not found\n");
            };
            return match self.perform(*check).await {
                true => response::text(200, "ok"),
                false => response::text(500, "internal server error: reason withheld\n"),
            };
        }
        let excluded: Vec<&str> = query.all("exclude").collect();
        self.report(endpoint, checks, &excluded, query.get("verbose").is_some())
            .await
    }

    async fn report(
        &self,
        endpoint: &str,
        checks: &[Check],
        excluded: &[&str],
        verbose: bool,
    ) -> ApiResponse {
        let mut lines = String::new();
        let mut failed = false;
        for check in checks {
            let name = check.name();
            if excluded.contains(&name) {
                lines.push_str(&format!("[+]{name} excluded: ok\n"));
            } else if self.perform(*check).await {
                lines.push_str(&format!("[+]{name} ok\n"));
            } else {
                failed = true;
                lines.push_str(&format!("[-]{name} failed: reason withheld\n"));
            }
        }
        if failed {
            return response::text(500, format!("{lines}{endpoint} check failed\n"));
        }
        if verbose {
            return response::text(200, format!("{lines}{endpoint} check passed\n"));
        }
        response::text(200, "ok")
    }

    async fn perform(&self, check: Check) -> bool {
        match check {
            Check::Ping | Check::Log | Check::InformerSync => true,
            Check::Etcd => {
                let read = tokio::time::timeout(PATIENCE, self.store.revision()).await;
                matches!(read, Ok(Ok(_)))
            }
            Check::BootstrapRoles | Check::PriorityClasses => {
                self.bootstrapped.load(Ordering::Acquire)
            }
            Check::Shutdown => !self.shutdown.is_cancelled(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_an_endpoint_and_a_check() {
        assert_eq!(parse("/readyz"), Some(("readyz", "")));
        assert_eq!(parse("/readyz/"), Some(("readyz", "")));
        assert_eq!(parse("/livez/etcd"), Some(("livez", "etcd")));
        let hook = "poststarthook/rbac/bootstrap-roles";
        assert_eq!(
            parse("/healthz/poststarthook/rbac/bootstrap-roles"),
            Some(("healthz", hook))
        );
        assert_eq!(parse("/metrics"), None);
        assert_eq!(parse("/healthzz"), None);
    }
}
