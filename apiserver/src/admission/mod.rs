//! Admission: what changes or refuses a write after it was decoded and before it is stored.
//!
//! Each built-in plugin is a file with pure decisions over the object and what the caches say.
//! They run in upstream's order; mutation first, validation of the result later. Webhooks and
//! policies come after what is built in, because they decide about the result.

mod certificates;
mod conditions;
mod default_class;
mod limit_ranger;
mod matching;
mod namespace_lifecycle;
mod node_restriction;
mod node_taint;
mod pod_security;
mod policy;
mod priority;
mod quota;
mod runtime_class;
mod service_account;
mod storage_protection;
mod tolerations;
pub(crate) mod topology;
mod volume_resize;
mod webhook;

use schema::types::Gvk;
use serde_json::Value;

use crate::authn::user_name;
use crate::registry::{Cacher, Call, kinds, meta};
use crate::response::ApiError;
use crate::subresources::scale;
use matching::Seen;
use policy::Policies;
use quota::Quotas;
use webhook::{Reinvocation, Webhooks};

pub(crate) use conditions::environment as condition_environment;
pub(crate) use policy::{MutatingSpec, ValidatingSpec, faults as policy_faults};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// As rules and reviews spell it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// What a plugin may look at, and change.
pub struct Attributes<'a> {
    pub call: &'a Call,
    pub operation: Operation,
    /// The object as it would be stored; none for deletions.
    pub object: Option<&'a mut Value>,
    pub old: Option<&'a Value>,
    pub dry_run: bool,
    /// Of the object; empty for collections and names that are still to be generated.
    pub name: String,
    /// The request's options object (`CreateOptions` and so on).
    pub options: Value,
}

impl Attributes<'_> {
    /// Whether it is about objects of this resource themselves.
    pub fn is_for(&self, group: &str, resource: &str) -> bool {
        let r = &self.call.resource;
        r.group == group && r.plural == resource && self.call.info.subresource.is_empty()
    }

    pub fn is_create_of(&self, group: &str, resource: &str) -> bool {
        self.operation == Operation::Create && self.is_for(group, resource)
    }

    /// The name for messages: the object's, or the request's.
    pub fn object_name(&self) -> String {
        match &self.object {
            Some(object) if !meta::name(object).is_empty() => meta::name(object).to_owned(),
            _ => self.name.clone(),
        }
    }

    /// 403 in the usual words.
    pub fn forbidden(&self, why: &str) -> ApiError {
        let resource = &self.call.resource;
        ApiError::forbidden(&resource.group, &resource.plural, &self.object_name(), why)
    }
}

/// What webhooks and policies need of a request.
impl Attributes<'_> {
    /// The request's namespace; of a Namespace its own name.
    fn namespace(&self) -> &str {
        let r = &self.call.resource;
        if !r.group.is_empty() || r.plural != "namespaces" {
            return self.call.namespace();
        }
        match self.object.as_deref() {
            Some(object) if !meta::name(object).is_empty() => meta::name(object),
            _ => &self.name,
        }
    }

    /// The name in the request, which is empty while it is still to be generated.
    fn request_name(&self) -> &str {
        &self.name
    }

    /// The object in the version in which somebody sees it.
    async fn object_as(&self, seen: &Seen) -> Result<Option<Value>, ApiError> {
        match self.object.as_deref() {
            Some(object) => self.shown(object, seen).await.map(Some),
            None => Ok(None),
        }
    }

    async fn old_as(&self, seen: &Seen) -> Result<Option<Value>, ApiError> {
        match self.old {
            Some(old) => self.shown(old, seen).await.map(Some),
            None => Ok(None),
        }
    }

    async fn shown(&self, object: &Value, seen: &Seen) -> Result<Value, ApiError> {
        let call = self.call;
        if call.info.subresource == "scale" {
            return Ok(scale::present(call, object));
        }
        let own = call.resource.gvk();
        if self.is_of_other_kind(object) {
            return Ok(object.clone());
        }
        translate(call, object.clone(), &own, &seen.resource.gvk(), seen).await
    }

    /// Options and objects of subresources have a kind of their own.
    fn is_of_other_kind(&self, object: &Value) -> bool {
        object["kind"]
            .as_str()
            .is_some_and(|k| k != self.call.resource.kind)
    }

    /// Puts in the place of the object what somebody made of it, with defaults and without
    /// fields that the kind does not have.
    async fn replace_object(&mut self, made: Value, seen: &Seen) -> Result<(), ApiError> {
        let call = self.call;
        let other_kind = self.is_of_other_kind(&made);
        let Some(object) = self.object.as_deref_mut() else {
            return Ok(());
        };
        if call.info.subresource == "scale" {
            scale::absorb(call, object, &made);
            return Ok(());
        }
        if other_kind {
            *object = made;
            return Ok(());
        }
        let own = call.resource.gvk();
        let made = translate(call, made, &seen.resource.gvk(), &own, &Seen::as_sent(call)).await?;
        let decoded = kinds::decode_patched(&call.resource, &own, made)
            .map_err(|error| ApiError::internal(error.to_string()))?;
        let kept = ["uid", "creationTimestamp"].map(|f| (f, object["metadata"][f].clone()));
        *object = decoded.value;
        for (field, value) in kept {
            if !value.is_null() {
                meta::of_mut(object).insert(field.into(), value);
            }
        }
        Ok(())
    }
}

/// An object of one version of a kind in another.
async fn translate(
    call: &Call,
    mut object: Value,
    from: &Gvk,
    to: &Gvk,
    target: &Seen,
) -> Result<Value, ApiError> {
    if from == to {
        return Ok(object);
    }
    if target.resource.is_custom() {
        let mut all = kinds::convert(&call.registry, &target.resource, vec![object]).await?;
        return Ok(all.pop().unwrap_or_default());
    }
    schema::resources::convert(&mut object, from, to).map_err(ApiError::internal)?;
    Ok(object)
}

/// The built-in plugins, and those that the cluster's users configure.
pub struct Admission {
    webhooks: Webhooks,
    policies: Policies,
    quotas: Quotas,
}

impl Admission {
    pub fn new(cacher: &Cacher) -> Self {
        Admission {
            webhooks: Webhooks::new(cacher),
            policies: Policies::new(cacher),
            quotas: Quotas::default(),
        }
    }

    /// Changes the object. What a webhook or policy changed goes through all of it once more.
    pub async fn mutate(&self, a: &mut Attributes<'_>) -> Result<(), ApiError> {
        let mut state = Reinvocation::default();
        self.mutate_once(a, &mut state).await?;
        if state.needed {
            state.again = true;
            self.mutate_once(a, &mut state).await?;
        }
        Ok(())
    }

    async fn mutate_once(
        &self,
        a: &mut Attributes<'_>,
        state: &mut Reinvocation,
    ) -> Result<(), ApiError> {
        if matches!(a.operation, Operation::Create | Operation::Update) {
            namespace_lifecycle::admit(a).await?;
            limit_ranger::mutate(a);
            service_account::mutate(a).await?;
            node_taint::mutate(a);
            priority::mutate(a)?;
            tolerations::mutate(a);
            storage_protection::mutate(a);
            runtime_class::mutate(a)?;
            default_class::mutate(a)?;
            topology::mutate(a);
        }
        if !asks_others(a) {
            return Ok(());
        }
        state.resume(a.object.as_deref());
        self.policies.mutate(a, state).await?;
        self.webhooks.mutate(a, state).await?;
        state.pause(a.object.as_deref());
        Ok(())
    }

    /// Refuses the object.
    pub async fn validate(&self, a: &Attributes<'_>) -> Result<(), ApiError> {
        if a.operation == Operation::Delete {
            namespace_lifecycle::validate_delete(a)?;
        }
        node_restriction::validate(a)?;
        limit_ranger::validate(a)?;
        pod_security::validate(a)?;
        priority::validate(a)?;
        volume_resize::validate(a)?;
        certificates::validate(a).await?;
        if asks_others(a) {
            self.policies.validate(a).await?;
            self.webhooks.validate(a).await?;
        }
        // The last: what is taken of a quota is not given back by a refusal.
        self.quotas.admit(a).await
    }
}

/// Whether webhooks and policies have a say: not about themselves, nor about what the server
/// does on its own behalf (it could not start while their servers run on it), nor about steps of
/// a request that was admitted as a whole.
fn asks_others(a: &Attributes<'_>) -> bool {
    let call = a.call;
    !call.internal
        && call.user.name != user_name::API_SERVER
        && !matching::is_exempt(call)
        && (a.operation != Operation::Delete || call.info.subresource.is_empty())
}
