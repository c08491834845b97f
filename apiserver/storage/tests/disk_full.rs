//! A full disk: writes are refused, reads go on, and it recovers once there is room.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use storage::{EmbeddedOptions, EmbeddedStore, Mutation, Range, Store, StoreError, Transaction};

/// Runs the body with a small file system of its own, which only its threads see.
fn on_small_disk(megabytes: u32, body: impl AsyncFnOnce(PathBuf) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        let directory = tempfile::tempdir().unwrap();
        unshare(CloneFlags::CLONE_NEWNS).expect("needs root: a mount namespace");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
        let size = format!("size={megabytes}m");
        let flags = MsFlags::empty();
        mount(
            Some("tmpfs"),
            directory.path(),
            Some("tmpfs"),
            flags,
            Some(size.as_str()),
        )
        .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(body(directory.path().to_path_buf()));
        nix::mount::umount2(directory.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn open(disk: &Path) -> EmbeddedStore {
    let mut options = EmbeddedOptions::new(disk.join("db"));
    options.log_bytes = 1 << 20;
    options.apply_bytes = 128 << 10;
    options.apply_after = Duration::from_millis(50);
    EmbeddedStore::open(options).unwrap()
}

async fn put(store: &EmbeddedStore, n: usize) -> Result<u64, StoreError> {
    let key = format!("/k/{n:06}").into();
    let value = format!("{n:06}").repeat(700).into();
    let mutations = vec![Mutation::Put { key, value }];
    store
        .commit(Transaction {
            expect: vec![],
            mutations,
        })
        .await
}

/// Writes until it is refused; returns how many were acknowledged in all.
async fn fill(store: &EmbeddedStore, mut written: usize) -> usize {
    loop {
        match put(store, written).await {
            Ok(_) => written += 1,
            Err(StoreError::NoSpace { .. }) => return written,
            Err(error) => panic!("after {written} writes: {error}"),
        }
        assert!(written < 100_000, "the disk never fills");
    }
}

async fn verify(store: &EmbeddedStore, written: usize) {
    let page = store
        .list(Range {
            prefix: "/k/".to_owned(),
            ..Range::default()
        })
        .await
        .unwrap();
    assert_eq!(page.entries.len(), written);
    for (n, entry) in page.entries.iter().enumerate() {
        assert_eq!(&*entry.key, format!("/k/{n:06}"));
        assert_eq!(entry.value, format!("{n:06}").repeat(700));
    }
    let some = store.get(&format!("/k/{:06}", written / 2)).await.unwrap();
    assert!(some.is_some());
}

async fn recover(store: &EmbeddedStore, n: usize) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = put(store, n).await {
        assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
        assert!(Instant::now() < deadline, "no recovery");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn a_full_disk_refuses_writes_keeps_reading_and_recovers() {
    on_small_disk(16, async |disk| {
        std::fs::write(disk.join("ballast"), vec![1; 6 << 20]).unwrap();
        let store = open(&disk);
        let written = fill(&store, 0).await;
        assert!(written > 100, "{written}");
        verify(&store, written).await;
        for _ in 0..3 {
            assert!(matches!(
                put(&store, written).await,
                Err(StoreError::NoSpace { .. })
            ));
        }
        verify(&store, written).await;

        std::fs::remove_file(disk.join("ballast")).unwrap();
        recover(&store, written).await;
        verify(&store, written + 1).await;
        drop(store);
        verify(&open(&disk), written + 1).await;
    });
}

#[test]
fn a_store_opens_on_a_full_disk_with_every_acknowledged_write() {
    on_small_disk(16, async |disk| {
        std::fs::write(disk.join("ballast"), vec![1; 6 << 20]).unwrap();
        let store = open(&disk);
        let written = fill(&store, 0).await;
        drop(store);
        let store = open(&disk);
        verify(&store, written).await;
        std::fs::remove_file(disk.join("ballast")).unwrap();
        recover(&store, written).await;
        drop(store);
        verify(&open(&disk), written + 1).await;
    });
}

#[test]
fn a_second_process_is_told_that_the_store_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let _store = open(directory.path());
    let second = EmbeddedStore::open(EmbeddedOptions::new(directory.path().join("db")));
    let error = second.err().expect("refused");
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("in use by another process"));
}
