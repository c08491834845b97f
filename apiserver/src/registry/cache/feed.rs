//! Follows the store's commits into the caches.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use storage::{Change, Commit, CommitStream, Range, StoreError};
use tokio_util::sync::CancellationToken;

use super::{Cacher, PREFIX};

/// How many objects are read from the store at once.
const PAGE: usize = 5_000;

/// Reads every object at one revision and returns that revision.
pub(super) async fn load(cacher: &Cacher) -> Result<u64, StoreError> {
    let mut range = Range {
        prefix: PREFIX.into(),
        limit: PAGE,
        ..Range::default()
    };
    let revision = loop {
        let page = cacher.store.list(range.clone()).await?;
        for entry in &page.entries {
            if let Some(cache) = owner(cacher, &entry.key) {
                cache.load(entry);
            }
        }
        match page.entries.last() {
            Some(last) if page.remaining > 0 => {
                range.after = Some(last.key.to_string());
                range.at = Some(page.revision);
            }
            _ => break page.revision,
        }
    };
    for cache in cacher.all() {
        cache.set_floor(revision);
    }
    cacher.applied.send_replace(revision);
    Ok(revision)
}

/// Applies commits until shutdown; after a broken stream it goes on where it was, after a gap it
/// loads everything anew.
pub(super) async fn follow(
    cacher: Arc<Cacher>,
    mut commits: CommitStream,
    shutdown: CancellationToken,
) {
    loop {
        let next = tokio::select! {
            () = shutdown.cancelled() => return,
            next = commits.next() => next,
        };
        if let Some(Ok(commit)) = next {
            apply(&cacher, &commit);
            continue;
        }
        if let Some(Err(error)) = next {
            tracing::warn!(%error, "the watch of the store broke, it is begun again");
        }
        commits = tokio::select! {
            () = shutdown.cancelled() => return,
            commits = resume(&cacher) => commits,
        };
    }
}

async fn resume(cacher: &Cacher) -> CommitStream {
    loop {
        match cacher.store.watch(PREFIX, cacher.applied()).await {
            Ok(commits) => return commits,
            Err(StoreError::Compacted { .. }) => {
                for cache in cacher.all() {
                    cache.reset();
                }
                if let Err(error) = load(cacher).await {
                    tracing::warn!(%error, "loading the store failed, it is tried again");
                }
            }
            Err(error) => tracing::warn!(%error, "watching the store failed, it is tried again"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn apply(cacher: &Cacher, commit: &Commit) {
    for change in &commit.changes {
        let key = match change {
            Change::Put { entry } => &entry.key,
            Change::Delete { key } => key,
        };
        if let Some(cache) = owner(cacher, key) {
            cache.apply(commit.revision, change);
        }
    }
    cacher.applied.send_replace(commit.revision);
}

/// The cache that a key belongs to; none for keys that are no objects.
fn owner(cacher: &Cacher, key: &str) -> Option<Arc<super::ResourceCache>> {
    let mut parts = key.strip_prefix(PREFIX)?.split('/');
    let (group, resource) = (parts.next()?, parts.next()?);
    parts.next()?;
    let group = if group == "core" { "" } else { group };
    Some(cacher.resource(group, resource))
}
