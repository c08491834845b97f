//! PUT, and what PATCH has in common with it: replacing an object by a newer state.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::write::{Commit, Refused, Stored, validate_object};
use crate::admission::Operation;
use crate::registry::call::Call;
use crate::registry::object::Object;
use crate::registry::options::WriteOptions;
use crate::registry::{kinds, managed, meta};
use crate::response::{ApiError, ApiResponse, Cause};

/// How often an update without a resourceVersion is tried against a moving object.
pub(super) const ATTEMPTS: usize = 5;

const MANAGED: &[u8] = b"\"managedFields\"";

/// How often a change by a rule is tried.
const CHANGE_ATTEMPTS: usize = 20;

/// What a rule makes of an object.
#[derive(Debug)]
pub enum Decision {
    /// This state of it.
    Write(Value),
}

impl Call {
    /// PUT of an object or its status.
    pub async fn update(&self, body: Bytes) -> Result<ApiResponse, ApiError> {
        let options = WriteOptions::parse(&self.query, "UpdateOptions", false)?;
        let mut value = self.decode(&self.resource.gvk(), &body, options.field_validation)?;
        if body.windows(MANAGED.len()).any(|w| w == MANAGED)
            && serde_json::from_slice::<Value>(&body).is_ok_and(|sent| managed::is_emptied(&sent))
        {
            managed::forget(&mut value);
        }
        self.check_name(&value)?;
        let stored = self.update_value(value, &options).await?;
        let code = if stored.created { 201 } else { 200 };
        self.object_response(code, &stored.object).await
    }

    /// The name in the body has to be the name in the path.
    pub fn check_name(&self, value: &Value) -> Result<(), ApiError> {
        let (given, wanted) = (meta::name(value), self.info.name.as_str());
        if given.is_empty() {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({wanted} based on URL) was undeterminable: name must be provided"
            )));
        }
        if given != wanted {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({wanted})"
            )));
        }
        let namespace = meta::text(value, "namespace");
        if self.resource.namespaced() && !namespace.is_empty() && namespace != self.namespace() {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        Ok(())
    }

    /// Replaces the object by a decoded one.
    pub async fn update_value(
        &self,
        mut value: Value,
        options: &WriteOptions,
    ) -> Result<Stored, ApiError> {
        let key = self.key();
        let conditional = !meta::text(&value, "resourceVersion").is_empty();
        for attempt in 1.. {
            self.registry.cacher.consistent().await?;
            let Some(current) = self.resource.cache.get(&key) else {
                return self.create_on_update(value, options).await;
            };
            // An update of one revision is tried once.
            let mut new = if conditional {
                std::mem::take(&mut value)
            } else {
                value.clone()
            };
            meta::set_namespace(&self.resource, &mut new, self.namespace())?;
            let old = self.present(&current).await?;
            managed::track_update(self, Some(&old), &mut new, &options.field_manager);
            match self.replace(&key, &current, &old, new, options).await {
                Err(Refused::Conflict) if !conditional && attempt < ATTEMPTS => {}
                Err(Refused::Conflict) => return Err(self.stale()),
                Err(Refused::Error(error)) => return Err(error),
                Ok(object) => {
                    return Ok(Stored {
                        object,
                        created: false,
                    });
                }
            }
        }
        Err(self.stale())
    }

    /// Reads the object, lets `decide` say what becomes of it, and writes that, again if it moved
    /// meanwhile. For subresources that change the object by a rule.
    pub async fn change(
        &self,
        options: &WriteOptions,
        decide: impl Fn(&Value) -> Result<Decision, ApiError> + Send + Sync,
    ) -> Result<Arc<Object>, ApiError> {
        let key = self.key();
        for _ in 0..CHANGE_ATTEMPTS {
            let current = self.current(&self.info.name).await?;
            let old = self.present(&current).await?;
            let Decision::Write(new) = decide(&old)?;
            match self.replace(&key, &current, &old, new, options).await {
                Err(Refused::Conflict) => {}
                Err(Refused::Error(error)) => return Err(error),
                Ok(object) => return Ok(object),
            }
        }
        Err(self.stale())
    }

    pub(super) fn stale(&self) -> ApiError {
        ApiError::stale(&self.resource.group, &self.resource.plural, &self.info.name)
    }

    async fn create_on_update(
        &self,
        mut value: Value,
        options: &WriteOptions,
    ) -> Result<Stored, ApiError> {
        let creatable = self.resource.strategy.create_on_update && self.info.subresource.is_empty();
        if !creatable {
            return Err(self.not_found(&self.info.name));
        }
        if !meta::text(&value, "resourceVersion").is_empty() {
            return Err(self.stale());
        }
        managed::track_update(self, None, &mut value, &options.field_manager);
        self.create_value(value, options).await
    }

    /// One attempt to put `new` in the place of `current`. Managed fields are already tracked.
    pub(super) async fn replace(
        &self,
        key: &str,
        current: &Arc<Object>,
        old: &Value,
        new: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Refused> {
        self.replace_spelled(key, current, old, new, false, options)
            .await
    }

    /// As [`Call::replace`]; what was `respelled` is written even when it means the same.
    pub(super) async fn replace_spelled(
        &self,
        key: &str,
        current: &Arc<Object>,
        old: &Value,
        mut new: Value,
        respelled: bool,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Refused> {
        let new = {
            self.check_preconditions(old, &new)
                .map_err(Refused::Error)?;
            self.admit_update(old, &mut new, options)
                .await
                .map_err(Refused::Error)?;
            new
        };
        if removes_last_finalizer(&new) && !options.dry_run {
            return self
                .commit(key, &new, Commit::Delete(current.revision), options)
                .await;
        }
        if !respelled && is_same(old, &new) {
            return Ok(current.clone());
        }
        self.commit(key, &new, Commit::Update(current.revision), options)
            .await
    }

    /// resourceVersion and uid, when given, have to be those of the object.
    fn check_preconditions(&self, old: &Value, new: &Value) -> Result<(), ApiError> {
        let uid = meta::text(new, "uid");
        // A patch shows the uid that it found; only a PUT demands one.
        if self.info.verb == "update" && !uid.is_empty() && uid != meta::text(old, "uid") {
            let resource = &self.resource;
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                upstream_key(
                    &resource.group,
                    &resource.plural,
                    self.namespace(),
                    &self.info.name
                ),
                meta::text(old, "uid")
            );
            return Err(ApiError::conflict(
                &resource.group,
                &resource.plural,
                &self.info.name,
                &why,
            ));
        }
        let version = meta::text(new, "resourceVersion");
        if version.is_empty() && !self.resource.strategy.unconditional_update {
            let fault = Cause::new(
                "FieldValueInvalid",
                "Invalid value: 0: must be specified for an update",
                "metadata.resourceVersion",
            );
            // Upstream puts the resource where the kind stands otherwise.
            let resource = &self.resource;
            let (group, plural) = (&resource.group, &resource.plural);
            return Err(ApiError::invalid(
                group,
                plural,
                &self.info.name,
                vec![fault],
            ));
        }
        if !version.is_empty() && version != "0" && version != meta::text(old, "resourceVersion") {
            return Err(self.stale());
        }
        Ok(())
    }

    /// Everything between merging and committing.
    async fn admit_update(
        &self,
        old: &Value,
        new: &mut Value,
        options: &WriteOptions,
    ) -> Result<(), ApiError> {
        let resource = &self.resource;
        let admission = &self.registry.admission;
        if let Some(warning) = meta::dedup_owners(new) {
            self.warn(warning);
        }
        meta::carry_system_fields(old, new);
        let mut counted = false;
        admission
            .mutate(&mut self.attributes(Operation::Update, Some(new), Some(old), options))
            .await?;
        kinds::apply_defaults(resource, new);
        match self.info.subresource.as_str() {
            // Whoever changes an object by a rule of the server knows which part it changes.
            "binding" => kinds::normalize(resource, new),
            "status" | "approval" => {
                kinds::keep_all_but_status(resource, old, new);
                (resource.strategy.prepare_status)(new, old, &self.context());
            }
            _ => {
                if resource.has_status() {
                    kinds::keep_status(resource, old, new);
                }
                (resource.strategy.prepare_update)(new, old, &self.context());
                self.registry.allocate(self, new, Some(old), options)?;
                kinds::normalize(resource, new);
                if resource.strategy.generation && resource.strategy.is_counted(old, new) {
                    counted = true;
                    let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
                    meta::of_mut(new).insert("generation".into(), generation.into());
                }
            }
        }
        kinds::normalize(resource, new);
        validate_object(resource, new, Some(old), &self.context())?;
        // Who is told what is wrong is not told what is old.
        if counted || self.info.subresource.is_empty() {
            let told = schema::warnings::on_update(&resource.gvk(), new, counted);
            told.into_iter().for_each(|w| self.warn(w));
        }
        admission
            .validate(&self.attributes(Operation::Update, Some(new), Some(old), options))
            .await?;
        crate::authz::grants::check(self, new, Some(old)).await
    }
}

/// An object that waits for its finalizers goes with the last of them.
fn removes_last_finalizer(new: &Value) -> bool {
    meta::is_deleting(new)
        && meta::finalizers(new).is_empty()
        && new["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(0)
            == 0
        && !(new["kind"] == "Namespace"
            && new["spec"]["finalizers"]
                .as_array()
                .is_some_and(|f| !f.is_empty()))
}

/// Whether a write would change nothing; then none happens, and watchers hear nothing.
fn is_same(old: &Value, new: &Value) -> bool {
    managed::same_but_times(old, new)
}

/// The key that upstream would use, which one of its messages shows.
fn upstream_key(group: &str, resource: &str, namespace: &str, name: &str) -> String {
    let place = match (group, resource) {
        ("", "services") => "services/specs",
        ("", "endpoints") => "services/endpoints",
        ("", "nodes") => "minions",
        ("", "replicationcontrollers") => "controllers",
        ("networking.k8s.io", "ingresses") => "ingress",
        (_, resource) => resource,
    };
    if namespace.is_empty() {
        format!("/registry/{place}/{name}")
    } else {
        format!("/registry/{place}/{namespace}/{name}")
    }
}
