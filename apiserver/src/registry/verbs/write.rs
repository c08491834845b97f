//! What every write has in common: decode, admit, validate, commit.

use std::sync::Arc;

use bytes::Bytes;
use schema::types::Gvk;
use serde_json::Value;
use storage::{Expect, Mutation, StoreError, Transaction};

use crate::admission::{Attributes, Operation};
use crate::registry::call::Call;
use crate::registry::object::{self, Object};
use crate::registry::options::{FieldValidation, WriteOptions};
use crate::registry::resource::Resource;
use crate::registry::strategy::Context;
use crate::registry::{kinds, meta};
use crate::response::{ApiError, Cause, negotiate};

/// The outcome of a write: the object as it is stored now.
#[derive(Debug)]
pub struct Stored {
    pub object: Arc<Object>,
    pub created: bool,
}

/// What a commit wants of the key.
#[derive(Debug, Clone, Copy)]
pub enum Commit {
    Create,
    /// Over the object of this revision.
    Update(u64),
    Delete(u64),
}

/// Why a commit did not happen.
#[derive(Debug)]
pub enum Refused {
    /// Somebody else was quicker.
    Conflict,
    Error(ApiError),
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Conflict => ApiError::conflict("", "", "", "the object has been modified"),
            Refused::Error(error) => error,
        }
    }
}

impl Call {
    /// The body as a tree of this kind: decoded, checked, normalized and with defaults.
    pub fn decode(
        &self,
        gvk: &Gvk,
        body: &Bytes,
        validation: FieldValidation,
    ) -> Result<Value, ApiError> {
        let media = negotiate::sent(&self.headers, self.offered())?;
        let decoded = kinds::decode(&self.resource, gvk, media, body)?;
        self.report_faults(gvk, decoded.faults, validation)?;
        Ok(decoded.value)
    }

    /// Unknown and duplicate fields: refused, told or passed over.
    pub fn report_faults(
        &self,
        gvk: &Gvk,
        faults: Vec<String>,
        validation: FieldValidation,
    ) -> Result<(), ApiError> {
        match validation {
            FieldValidation::Ignore => Ok(()),
            FieldValidation::Warn => {
                faults.into_iter().for_each(|fault| self.warn(fault));
                Ok(())
            }
            FieldValidation::Strict if faults.is_empty() => Ok(()),
            FieldValidation::Strict => Err(ApiError::bad_request(format!(
                "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
                gvk.kind,
                gvk.version,
                gvk.kind,
                faults.join(", ")
            ))),
        }
    }

    /// The context for strategies.
    pub fn context(&self) -> Context<'_> {
        Context {
            user: Some(&self.user),
            subresource: &self.info.subresource,
        }
    }

    /// What admission is told of this write.
    pub fn attributes<'a>(
        &'a self,
        operation: Operation,
        object: Option<&'a mut Value>,
        old: Option<&'a Value>,
        options: &WriteOptions,
    ) -> Attributes<'a> {
        Attributes {
            call: self,
            operation,
            object,
            old,
            dry_run: options.dry_run,
            name: self.info.name.clone(),
            options: self.options(options),
        }
    }

    /// Writes the object, or acts as if (dry run).
    pub async fn commit(
        &self,
        key: &str,
        value: &Value,
        how: Commit,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Refused> {
        let key: Arc<str> = key.into();
        if options.dry_run {
            let revision = match how {
                Commit::Create => 0,
                Commit::Update(revision) | Commit::Delete(revision) => revision,
            };
            return Ok(Arc::new(Object::new(
                key,
                &object::encode(value),
                revision,
                &[],
            )));
        }
        let stored = kinds::to_stored(&self.registry, &self.resource, value)
            .await
            .map_err(Refused::Error)?;
        let bytes = Bytes::from(object::encode(&stored));
        let expect = match how {
            Commit::Create => Expect::Absent,
            Commit::Update(revision) | Commit::Delete(revision) => Expect::ModRevision(revision),
        };
        let mutation = match how {
            Commit::Delete(_) => Mutation::Delete { key: key.clone() },
            _ => Mutation::Put {
                key: key.clone(),
                value: bytes.clone(),
            },
        };
        let transaction = Transaction {
            expect: vec![(key.clone(), expect)],
            mutations: vec![mutation],
        };
        match self.registry.cacher.store().commit(transaction).await {
            Ok(revision) => {
                if matches!(how, Commit::Delete(_)) {
                    self.registry.release(self, value);
                }
                if decides_about_writes(&self.resource) {
                    // Whoever is told that it is written finds it in force. Written it is, even if
                    // the cache should take too long.
                    let _ = self.registry.cacher.at_least(revision).await;
                }
                Ok(Arc::new(Object::unindexed(key, &bytes, revision)))
            }
            Err(StoreError::Conflict { .. }) => Err(Refused::Conflict),
            Err(error) => Err(Refused::Error(error.into())),
        }
    }
}

/// Whether admission of other objects depends on objects of this resource.
fn decides_about_writes(resource: &Resource) -> bool {
    match resource.group.as_ref() {
        "" => matches!(
            resource.plural.as_ref(),
            "namespaces" | "resourcequotas" | "limitranges"
        ),
        group => group == "admissionregistration.k8s.io",
    }
}

/// All faults of an object: its metadata, its kind's rules, its strategy's rules.
pub fn validate_object(
    resource: &Resource,
    new: &Value,
    old: Option<&Value>,
    context: &Context<'_>,
) -> Result<(), ApiError> {
    let mut causes: Vec<Cause> = Vec::new();
    match old {
        None => meta::validate(resource, new, &mut causes),
        Some(old) => meta::validate_update(resource, old, new, &mut causes),
    }
    kinds::validate(resource, new, old, context, &mut causes);
    (resource.strategy.validate)(new, old, context, &mut causes);
    if causes.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(
        &resource.group,
        &resource.kind,
        meta::name(new),
        causes,
    ))
}
