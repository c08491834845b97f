//! The configurations as they are now, parsed once for each change.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use parking_lot::RwLock;
use serde_json::Value;

use super::super::conditions::{Conditions, environment};
use super::super::matching::{Criteria, GROUP};
use crate::registry::Cacher;
use crate::registry::cache::{Filter, ResourceCache};

const DEFAULT_TIMEOUT: u64 = 10;

/// One webhook of a configuration.
pub(super) struct Hook {
    pub(super) name: String,
    /// Name of the configuration.
    pub(super) configuration: String,
    /// Unlike the name, never that of another webhook.
    pub(super) id: String,
    pub(super) criteria: Criteria,
    pub(super) conditions: Conditions,
    /// What cannot be asked is let through.
    pub(super) fails_open: bool,
    pub(super) timeout: Duration,
    /// Asked again when a later webhook changed the object.
    pub(super) reinvoked: bool,
    pub(super) allows_dry_run: bool,
    pub(super) server: Server,
}

/// Where a webhook is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Server {
    pub(super) place: Place,
    /// PEM; empty for the system's authorities.
    pub(super) authorities: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Url(String),
    Service {
        namespace: String,
        name: String,
        port: u16,
        path: String,
    },
}

impl Server {
    pub(super) fn parse(client: &Value) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let service = &client["service"];
        let place = if service.is_object() {
            Place::Service {
                namespace: text(&service["namespace"]),
                name: text(&service["name"]),
                port: service["port"]
                    .as_u64()
                    .and_then(|p| u16::try_from(p).ok())
                    .unwrap_or(443),
                path: text(&service["path"]),
            }
        } else {
            Place::Url(text(&client["url"]))
        };
        let bundle = text(&client["caBundle"]);
        let authorities = base64::engine::general_purpose::STANDARD
            .decode(bundle)
            .unwrap_or_default();
        Server { place, authorities }
    }
}

impl Hook {
    fn parse(configuration: &str, position: usize, webhook: &Value) -> Self {
        let name = webhook["name"].as_str().unwrap_or_default().to_owned();
        Hook {
            id: format!("{configuration}/{name}/{position}"),
            configuration: configuration.to_owned(),
            criteria: Criteria::of_webhook(webhook),
            conditions: Conditions::compile(&webhook["matchConditions"], &environment()),
            fails_open: webhook["failurePolicy"] == "Ignore",
            timeout: Duration::from_secs(
                webhook["timeoutSeconds"]
                    .as_u64()
                    .unwrap_or(DEFAULT_TIMEOUT),
            ),
            reinvoked: webhook["reinvocationPolicy"] == "IfNeeded",
            allows_dry_run: matches!(
                webhook["sideEffects"].as_str(),
                Some("None" | "NoneOnDryRun")
            ),
            server: Server::parse(&webhook["clientConfig"]),
            name,
        }
    }
}

/// All webhooks of one kind.
pub(super) struct Hooks {
    cache: Arc<ResourceCache>,
    parsed: RwLock<(u64, Arc<[Hook]>)>,
}

impl Hooks {
    pub(super) fn of(cacher: &Cacher, resource: &str) -> Self {
        Hooks {
            cache: cacher.resource(GROUP, resource),
            parsed: RwLock::new((0, Arc::new([]))),
        }
    }

    /// In the order in which they are asked: by configuration, then as listed there.
    pub(super) fn now(&self) -> Arc<[Hook]> {
        let newest = self.cache.touched();
        {
            let parsed = self.parsed.read();
            if parsed.0 == newest {
                return parsed.1.clone();
            }
        }
        let configurations = self.cache.list(&Filter::default(), None, 0, 0);
        let mut hooks = Vec::new();
        for configuration in &configurations.objects {
            let value = configuration.value();
            let webhooks = value["webhooks"].as_array().into_iter().flatten();
            for (position, webhook) in webhooks.enumerate() {
                hooks.push(Hook::parse(configuration.name(), position, webhook));
            }
        }
        let hooks: Arc<[Hook]> = hooks.into();
        *self.parsed.write() = (configurations.revision, hooks.clone());
        hooks
    }
}
