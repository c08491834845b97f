use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use nix::sys::statvfs::statvfs;

use super::{Images, is_local};
use crate::config::ImageCollection;
use crate::runtime::{Runtime, Selector};

/// An image that might be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub id: String,
    pub bytes: u64,
    pub last_used: Timestamp,
}

/// The images to remove, the longest unused first, until so many bytes are free.
pub(crate) fn to_remove(
    mut candidates: Vec<Candidate>,
    bytes: u64,
    minimum_age: SignedDuration,
    now: Timestamp,
) -> Vec<String> {
    candidates.retain(|candidate| now.duration_since(candidate.last_used) >= minimum_age);
    candidates.sort_by(|a, b| (a.last_used, &a.id).cmp(&(b.last_used, &b.id)));
    let mut freed = 0;
    candidates
        .into_iter()
        .take_while(|candidate| {
            let more = freed < bytes;
            freed += candidate.bytes;
            more
        })
        .map(|candidate| candidate.id)
        .collect()
}

/// Bytes to free on a file system that is `total` large and has `available` left.
fn excess(total: u64, available: u64, config: &ImageCollection) -> u64 {
    let used = total.saturating_sub(available);
    let percent = |percent: f64| (total as f64 * percent / 100.0) as u64;
    if config.high_percent >= 100.0 || used < percent(config.high_percent) {
        0
    } else {
        used.saturating_sub(percent(config.low_percent))
    }
}

fn is_kept(tags: &[String], keep: &[String]) -> bool {
    tags.iter().any(|tag| {
        keep.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => tag.starts_with(prefix),
            None => tag == pattern,
        })
    })
}

/// Removes unused images when their file system is nearly full, or (`all`) whatever is
/// unused. Answers the bytes that the removed images had.
pub(crate) async fn collect(
    runtime: &Arc<dyn Runtime>,
    images: &Images,
    config: &ImageCollection,
    all: bool,
) -> Result<u64, cri::Error> {
    let wanted = if all {
        u64::MAX
    } else {
        excess_now(runtime, config).await?
    };
    if wanted == 0 {
        return Ok(0);
    }
    let in_use: BTreeSet<String> = runtime
        .list_containers(Selector::new())
        .await?
        .into_iter()
        .flat_map(|container| {
            [
                container.image_ref,
                container.image_id,
                container.image.unwrap_or_default().image,
            ]
        })
        .collect();
    let list = runtime.list_images().await?;
    let last_used = images.last_used(list.iter().map(|image| image.id.clone()));
    let sizes: BTreeMap<String, u64> = list
        .iter()
        .map(|image| (image.id.clone(), image.size))
        .collect();
    let candidates = list
        .into_iter()
        .filter(|image| {
            let names = [&image.repo_tags[..], &image.repo_digests[..]].concat();
            let used = in_use.contains(&image.id) || names.iter().any(|name| in_use.contains(name));
            // What came from an archive no registry brings back.
            !used && !image.pinned && !is_local(image) && !is_kept(&image.repo_tags, &config.keep)
        })
        .map(|image| Candidate {
            last_used: last_used
                .get(&image.id)
                .copied()
                .unwrap_or_else(Timestamp::now),
            bytes: image.size,
            id: image.id,
        })
        .collect();
    let age = SignedDuration::try_from(config.minimum_age).unwrap_or(SignedDuration::ZERO);
    let mut freed = 0;
    for id in to_remove(candidates, wanted, age, Timestamp::now()) {
        match runtime.remove_image(&id).await {
            Ok(()) => freed += sizes.get(&id).copied().unwrap_or(0),
            Err(error) => tracing::warn!(image = id, %error, "an unused image was not removed"),
        }
    }
    Ok(freed)
}

async fn excess_now(
    runtime: &Arc<dyn Runtime>,
    config: &ImageCollection,
) -> Result<u64, cri::Error> {
    let filesystems = runtime.image_filesystems().await?.image_filesystems;
    let excess = filesystems.iter().filter_map(|usage| {
        let stat = statvfs(usage.fs_id.as_ref()?.mountpoint.as_str()).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
        Some(excess(
            bytes(stat.blocks()),
            bytes(stat.blocks_available()),
            config,
        ))
    });
    Ok(excess.max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn the_longest_unused_images_go_first_until_enough_is_free() {
        let candidate = |id: &str, bytes, used| Candidate {
            id: id.into(),
            bytes,
            last_used: at(used),
        };
        let list = vec![
            candidate("new", 10, 900),
            candidate("b", 10, 20),
            candidate("a", 10, 10),
        ];
        let age = SignedDuration::from_secs(120);
        assert_eq!(to_remove(list.clone(), 5, age, at(1000)), ["a"]);
        assert_eq!(to_remove(list.clone(), 15, age, at(1000)), ["a", "b"]);
        assert_eq!(
            to_remove(list, 100, age, at(1000)),
            ["a", "b"],
            "the new one is too young"
        );
    }

    #[test]
    fn nothing_is_removed_below_the_high_mark() {
        let config = ImageCollection::default();
        assert_eq!(excess(1000, 200, &config), 0);
        assert_eq!(excess(1000, 100, &config), 100);
    }

    #[test]
    fn kept_names_may_end_in_anything() {
        let keep = ["a/*".to_owned(), "b:1".to_owned()];
        assert!(is_kept(&["a/x:2".into()], &keep));
        assert!(is_kept(&["b:1".into()], &keep));
        assert!(!is_kept(&["b:2".into()], &keep));
    }
}
