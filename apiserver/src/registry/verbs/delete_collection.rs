//! DELETE of a collection: everything that the selectors choose, one by one.

use bytes::Bytes;

use crate::registry::call::Call;
use crate::registry::options::ListOptions;
use crate::registry::render::ListMeta;
use crate::response::{ApiError, ApiResponse};

impl Call {
    /// DELETE of a collection. Answers with the list of what was deleted.
    pub async fn delete_collection(&self, body: Bytes) -> Result<ApiResponse, ApiError> {
        let options = self.delete_options(&body)?;
        let filter = self.filter()?;
        let list = ListOptions::parse(&self.query, false)?;
        let applied = self.registry.cacher.consistent().await?;
        let snapshot = self.resource.cache.list(&filter, None, list.limit, applied);
        let mut deleted = Vec::new();
        for object in snapshot.objects {
            if let Some(late) = &filter.late
                && !late.matches(&self.present(&object).await?)
            {
                continue;
            }
            match self.delete_named(object.name(), &options).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
            deleted.push(object);
        }
        let meta = ListMeta {
            revision: snapshot.revision,
            ..ListMeta::default()
        };
        self.list_response(deleted, meta, None).await
    }
}
