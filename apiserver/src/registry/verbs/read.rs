//! GET of one object, LIST of many.

use std::sync::Arc;

use storage::{Range, StoreError};

use crate::registry::cache::Filter;
use crate::registry::call::Call;
use crate::registry::continue_token::ContinueToken;
use crate::registry::object::Object;
use crate::registry::options::{ListOptions, VersionMatch, parse_resource_version};
use crate::registry::render::ListMeta;
use crate::response::{ApiError, ApiResponse};

impl Call {
    /// GET.
    pub async fn get(&self) -> Result<ApiResponse, ApiError> {
        match parse_resource_version(self.query.get("resourceVersion").unwrap_or_default())? {
            None => {
                self.registry.cacher.consistent().await?;
            }
            Some(0) => {}
            Some(revision) => self.registry.cacher.at_least(revision).await?,
        }
        let object = self.cached(&self.info.name)?;
        self.object_response(200, &object).await
    }

    /// The object of this name as the cache has it.
    pub fn cached(&self, name: &str) -> Result<Arc<Object>, ApiError> {
        let key = self.resource.key(self.namespace(), name);
        self.resource
            .cache
            .get(&key)
            .ok_or_else(|| self.not_found(name))
    }

    /// The object of this name, at least as new as every write before the call.
    pub async fn current(&self, name: &str) -> Result<Arc<Object>, ApiError> {
        self.registry.cacher.consistent().await?;
        self.cached(name)
    }

    /// LIST.
    pub async fn list(&self) -> Result<ApiResponse, ApiError> {
        let filter = self.filter()?;
        let options = ListOptions::parse(&self.query, false)?;
        if !options.continue_token.is_empty() {
            return self.list_continued(&filter, &options).await;
        }
        match (options.resource_version, options.version_match) {
            (None, _) => {
                self.registry.cacher.consistent().await?;
            }
            (Some(0), _) => {}
            // With a limit, a bare resourceVersion means exactly that one.
            (Some(revision), Some(VersionMatch::Exact)) => {
                return self.list_exact(&filter, &options, revision).await;
            }
            (Some(revision), None) if options.limit > 0 => {
                return self.list_exact(&filter, &options, revision).await;
            }
            (Some(revision), _) => self.registry.cacher.at_least(revision).await?,
        }
        self.list_cached(&filter, &options, None).await
    }

    async fn list_cached(
        &self,
        filter: &Filter,
        options: &ListOptions,
        after: Option<&str>,
    ) -> Result<ApiResponse, ApiError> {
        let applied = self.registry.cacher.applied();
        // Any resourceVersion is good enough for "0", for which upstream ignores the limit.
        let limit = if options.resource_version == Some(0) || filter.late.is_some() {
            0
        } else {
            options.limit
        };
        let cache = &self.resource.cache;
        let snapshot = cache.list(filter, after, limit, applied);
        let mut meta = ListMeta {
            revision: snapshot.revision,
            ..ListMeta::default()
        };
        if snapshot.more
            && let Some(last) = snapshot.objects.last()
        {
            let token = ContinueToken::new(Some(snapshot.revision), &last.key, &cache.prefix);
            meta.continue_token = token.encode();
            meta.remaining = snapshot.remaining;
        }
        self.list_response(snapshot.objects, meta, filter.late.as_ref())
            .await
    }

    /// A later chunk: at the revision of the first one.
    async fn list_continued(
        &self,
        filter: &Filter,
        options: &ListOptions,
    ) -> Result<ApiResponse, ApiError> {
        let token = ContinueToken::decode(&options.continue_token)?;
        let after = token.after(&self.resource.cache.prefix);
        let Ok(revision) = u64::try_from(token.rv) else {
            // An inconsistent continuation: whatever is newest.
            self.registry.cacher.consistent().await?;
            return self.list_cached(filter, options, Some(&after)).await;
        };
        self.list_at(filter, options, revision, Some(after)).await
    }

    async fn list_exact(
        &self,
        filter: &Filter,
        options: &ListOptions,
        revision: u64,
    ) -> Result<ApiResponse, ApiError> {
        self.registry.cacher.at_least(revision).await?;
        self.list_at(filter, options, revision, None).await
    }

    /// At exactly one revision: from memory while nothing has changed since, else from the store.
    async fn list_at(
        &self,
        filter: &Filter,
        options: &ListOptions,
        revision: u64,
        after: Option<String>,
    ) -> Result<ApiResponse, ApiError> {
        let cache = &self.resource.cache;
        self.check_kept(revision, after.as_deref()).await?;
        // What is selected after conversion comes in one piece.
        let limit = if filter.late.is_some() {
            0
        } else {
            options.limit
        };
        let snapshot = cache.list(filter, after.as_deref(), limit, 0);
        let (objects, remaining, more) = if snapshot.revision <= revision {
            (snapshot.objects, snapshot.remaining, snapshot.more)
        } else {
            self.list_stored(filter, limit, revision, after.clone())
                .await?
        };
        let mut meta = ListMeta {
            revision,
            ..ListMeta::default()
        };
        if more && let Some(last) = objects.last() {
            meta.continue_token =
                ContinueToken::new(Some(revision), &last.key, &cache.prefix).encode();
            meta.remaining = remaining;
        }
        self.list_response(objects, meta, filter.late.as_ref())
            .await
    }

    /// Refuses a revision whose history is gone, also where memory would know the answer: how
    /// long a token lasts must not depend on what happened to be written.
    async fn check_kept(&self, revision: u64, after: Option<&str>) -> Result<(), ApiError> {
        if revision == self.registry.cacher.applied() {
            return Ok(());
        }
        let probe = Range {
            prefix: self.resource.cache.prefix.clone(),
            limit: 1,
            at: Some(revision),
            ..Range::default()
        };
        match self.registry.cacher.store().list(probe).await {
            Err(StoreError::Compacted { .. }) => Err(self.expired(after)),
            // Other failures show themselves when history is really needed.
            _ => Ok(()),
        }
    }

    /// Reads history page by page until the chunk is full.
    async fn list_stored(
        &self,
        filter: &Filter,
        limit: usize,
        revision: u64,
        mut after: Option<String>,
    ) -> Result<(Vec<Arc<Object>>, usize, bool), ApiError> {
        let cache = &self.resource.cache;
        let prefix = match filter.namespace.as_str() {
            "" => cache.prefix.clone(),
            namespace => format!("{}{namespace}/", cache.prefix),
        };
        let resumed = after.clone();
        let mut chosen: Vec<Arc<Object>> = Vec::new();
        loop {
            let range = Range {
                prefix: prefix.clone(),
                after: after.take(),
                limit: if limit == 0 { 0 } else { limit + 1 },
                at: Some(revision),
            };
            let page = match self.registry.cacher.store().list(range).await {
                Ok(page) => page,
                Err(StoreError::Compacted { .. }) => return Err(self.expired(resumed.as_deref())),
                Err(error) => return Err(error.into()),
            };
            let last = page.entries.last().map(|e| e.key.to_string());
            for (i, entry) in page.entries.iter().enumerate() {
                if limit > 0 && chosen.len() == limit {
                    let rest =
                        page.entries.len() - i + usize::try_from(page.remaining).unwrap_or(0);
                    return Ok((chosen, if filter.selects_all() { rest } else { 0 }, true));
                }
                let object = Object::from_entry(entry, &filter.known);
                if filter.matches(&object) {
                    chosen.push(Arc::new(object));
                }
            }
            let rest = usize::try_from(page.remaining).unwrap_or(0);
            if rest == 0 || last.is_none() {
                return Ok((chosen, 0, false));
            }
            if limit > 0 && chosen.len() == limit {
                return Ok((chosen, if filter.selects_all() { rest } else { 0 }, true));
            }
            after = last;
        }
    }

    /// 410; for a chunk with a token to go on inconsistently.
    fn expired(&self, after: Option<&str>) -> ApiError {
        let Some(after) = after else {
            return ApiError::gone("The resourceVersion for the provided list is too old.");
        };
        let token = ContinueToken::new(None, after, &self.resource.cache.prefix).encode();
        ApiError::expired_continue(token)
    }
}
