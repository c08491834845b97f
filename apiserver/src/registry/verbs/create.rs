//! POST of an object to its collection.

use bytes::Bytes;
use serde_json::Value;

use super::write::{Commit, Refused, Stored, validate_object};
use crate::admission::Operation;
use crate::registry::call::Call;
use crate::registry::options::WriteOptions;
use crate::registry::{kinds, managed, meta};
use crate::response::{ApiError, ApiResponse};

/// How often another name is generated when the first is taken.
const NAME_ATTEMPTS: usize = 8;

impl Call {
    /// POST.
    pub async fn create(&self, body: Bytes) -> Result<ApiResponse, ApiError> {
        let options = WriteOptions::parse(&self.query, "CreateOptions", false)?;
        let mut value = self.decode(&self.resource.gvk(), &body, options.field_validation)?;
        managed::track_update(self, None, &mut value, &options.field_manager);
        let stored = self.create_value(value, &options).await?;
        self.object_response(201, &stored.object).await
    }

    /// Creates an object that was decoded and whose managed fields are tracked; also what a PUT
    /// or an apply of a new object does.
    pub async fn create_value(
        &self,
        mut value: Value,
        options: &WriteOptions,
    ) -> Result<Stored, ApiError> {
        let resource = &self.resource;
        if resource.custom.as_ref().is_some_and(|c| c.terminating) {
            let why = "create not allowed while custom resource definition is terminating";
            return Err(ApiError::method_not_allowed().with_message(why));
        }
        meta::set_namespace(resource, &mut value, self.namespace())?;
        if !meta::text(&value, "resourceVersion").is_empty() {
            return Err(ApiError::new(
                500,
                "",
                "resourceVersion should not be set on objects to be created",
                None,
            ));
        }
        let generated =
            meta::name(&value).is_empty() && !meta::text(&value, "generateName").is_empty();
        if let Some(warning) = meta::dedup_owners(&mut value) {
            self.warn(warning);
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            // Only a generated name is tried again.
            let new = if generated {
                value.clone()
            } else {
                std::mem::take(&mut value)
            };
            let prepared = self.prepare_new(new, options).await?;
            let key = resource.key(self.namespace(), meta::name(&prepared));
            let taken = options.dry_run && resource.cache.get(&key).is_some();
            let refused = if taken {
                Refused::Conflict
            } else {
                match self.commit(&key, &prepared, Commit::Create, options).await {
                    Ok(object) => {
                        return Ok(Stored {
                            object,
                            created: true,
                        });
                    }
                    Err(refused) => refused,
                }
            };
            match refused {
                Refused::Conflict if generated && attempt < NAME_ATTEMPTS => {}
                Refused::Conflict => return Err(self.already_exists(&key, meta::name(&prepared))),
                Refused::Error(error) => {
                    self.registry.release(self, &prepared);
                    return Err(error);
                }
            }
        }
    }

    /// Everything between decoding and committing.
    async fn prepare_new(
        &self,
        mut value: Value,
        options: &WriteOptions,
    ) -> Result<Value, ApiError> {
        let resource = &self.resource;
        let admission = &self.registry.admission;
        let given = meta::name(&value).to_owned();
        meta::fill_system_fields(&mut value);
        let mut attributes = self.attributes(Operation::Create, Some(&mut value), None, options);
        attributes.name.clone_from(&given);
        admission.mutate(&mut attributes).await?;
        meta::set_namespace(resource, &mut value, self.namespace())?;
        kinds::apply_defaults(resource, &mut value);
        if resource.strategy.generation {
            meta::of_mut(&mut value).insert("generation".into(), 1.into());
        }
        if resource.has_status() && !resource.strategy.keeps_status {
            kinds::reset_status(resource, &mut value);
        }
        (resource.strategy.prepare_create)(&mut value, &self.context());
        kinds::normalize(resource, &mut value);
        self.registry.allocate(self, &mut value, None, options)?;
        validate_object(resource, &value, None, &self.context())?;
        // Who is told what is wrong is not told what is old.
        let told = schema::warnings::on_create(&resource.gvk(), &value);
        told.into_iter().for_each(|w| self.warn(w));
        // What reading it back would fill in, after what the server itself has added.
        kinds::apply_defaults(resource, &mut value);
        let mut attributes = self.attributes(Operation::Create, Some(&mut value), None, options);
        attributes.name = given;
        admission.validate(&attributes).await?;
        crate::authz::grants::check(self, &value, None).await?;
        Ok(value)
    }

    fn already_exists(&self, key: &str, name: &str) -> ApiError {
        let resource = &self.resource;
        let error = ApiError::already_exists(&resource.group, &resource.plural, name);
        let deleting = resource
            .cache
            .get(key)
            .is_some_and(|object| object.is_deleting());
        if deleting {
            let message = format!("object is being deleted: {}", error.message());
            return error.with_message(message);
        }
        error
    }
}
