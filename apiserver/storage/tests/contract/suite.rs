//! The checks. Each gets an empty store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use storage::{
    Change, Commit, CommitStream, Entry, Expect, Mutation, Page, Range, Revision, Store,
    StoreError, Transaction,
};

fn put(key: &str, value: &str) -> Mutation {
    Mutation::Put {
        key: key.into(),
        value: value.to_owned().into(),
    }
}

fn delete(key: &str) -> Mutation {
    Mutation::Delete { key: key.into() }
}

async fn write(store: &dyn Store, mutations: Vec<Mutation>) -> Revision {
    store
        .commit(Transaction {
            expect: vec![],
            mutations,
        })
        .await
        .unwrap()
}

async fn guarded(
    store: &dyn Store,
    expect: &[(&str, Expect)],
    mutations: Vec<Mutation>,
) -> Result<Revision, StoreError> {
    let expect = expect
        .iter()
        .map(|(key, expect)| (Arc::from(*key), *expect))
        .collect();
    store.commit(Transaction { expect, mutations }).await
}

fn below(prefix: &str) -> Range {
    Range {
        prefix: prefix.to_owned(),
        ..Range::default()
    }
}

fn keys(page: &Page) -> Vec<&str> {
    page.entries.iter().map(|entry| &*entry.key).collect()
}

fn values(page: &Page) -> Vec<(String, String)> {
    page.entries
        .iter()
        .map(|entry| {
            (
                entry.key.to_string(),
                String::from_utf8_lossy(&entry.value).into_owned(),
            )
        })
        .collect()
}

async fn next(stream: &mut CommitStream) -> Result<Commit, StoreError> {
    tokio::time::timeout(Duration::from_secs(20), stream.next())
        .await
        .expect("a commit within the time")
        .expect("the stream goes on")
}

/// The next commit that is not about progress.
async fn event(stream: &mut CommitStream) -> Commit {
    loop {
        let commit = next(stream).await.unwrap();
        if !commit.changes.is_empty() {
            return commit;
        }
    }
}

/// The error of a watch, whether it comes at once or with the stream.
async fn watch_error(store: &dyn Store, after: Revision) -> StoreError {
    match store.watch("/", after).await {
        Err(error) => error,
        Ok(mut stream) => next(&mut stream).await.expect_err("an error"),
    }
}

pub(crate) async fn an_entry_is_read_as_it_was_written(store: &dyn Store) {
    assert_eq!(store.get("/a").await.unwrap(), None);
    let first = write(store, vec![put("/a", "1")]).await;
    let second = write(store, vec![put("/a", "2")]).await;
    assert!(second > first);
    let expected = Entry {
        key: "/a".into(),
        value: "2".into(),
        create_revision: first,
        mod_revision: second,
    };
    assert_eq!(store.get("/a").await.unwrap(), Some(expected));
    assert_eq!(store.revision().await.unwrap(), second);
    write(store, vec![delete("/a")]).await;
    assert_eq!(store.get("/a").await.unwrap(), None);
    let again = write(store, vec![put("/a", "")]).await;
    let entry = store.get("/a").await.unwrap().unwrap();
    assert_eq!((entry.create_revision, entry.mod_revision), (again, again));
    assert!(entry.value.is_empty());
}

pub(crate) async fn expectations_guard_the_whole_transaction(store: &dyn Store) {
    let revision = guarded(store, &[("/a", Expect::Absent)], vec![put("/a", "1")])
        .await
        .unwrap();
    let refused = guarded(store, &[("/a", Expect::Absent)], vec![put("/a", "2")]).await;
    let Err(StoreError::Conflict {
        key,
        current: Some(current),
    }) = refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!(
        (&*key, current.mod_revision, &current.value[..]),
        ("/a", revision, &b"1"[..])
    );

    let expect = [
        ("/a", Expect::ModRevision(revision)),
        ("/b", Expect::ModRevision(revision)),
    ];
    let refused = guarded(store, &expect, vec![put("/a", "2"), put("/c", "1")]).await;
    let Err(StoreError::Conflict { key, current: None }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(&*key, "/b");
    assert_eq!(store.get("/c").await.unwrap(), None);
    assert_eq!(store.revision().await.unwrap(), revision);

    let expect = [
        ("/a", Expect::ModRevision(revision)),
        ("/b", Expect::Absent),
    ];
    guarded(store, &expect, vec![delete("/a"), put("/b", "1")])
        .await
        .unwrap();
    assert_eq!(keys(&store.list(below("/")).await.unwrap()), ["/b"]);
}

pub(crate) async fn a_transaction_has_one_revision_and_orders_its_changes(store: &dyn Store) {
    let start = write(store, vec![put("/x", "0")]).await;
    let mut stream = store.watch("/", start).await.unwrap();
    let revision = write(store, vec![put("/z", "1"), delete("/x"), put("/a", "2")]).await;
    assert_eq!(revision, start + 1);
    let commit = event(&mut stream).await;
    assert_eq!(commit.revision, revision);
    let seen: Vec<&str> = commit
        .changes
        .iter()
        .map(|change| match change {
            Change::Put { entry } => &*entry.key,
            Change::Delete { key } => &**key,
        })
        .collect();
    assert_eq!(seen, ["/z", "/x", "/a"]);
}

pub(crate) async fn what_changes_nothing_makes_no_revision(store: &dyn Store) {
    let start = write(store, vec![put("/a", "1")]).await;
    assert_eq!(write(store, vec![delete("/nothing")]).await, start);
    let checked = guarded(store, &[("/a", Expect::ModRevision(start))], vec![]).await;
    assert_eq!(checked.unwrap(), start);
    assert_eq!(store.revision().await.unwrap(), start);
    let refused = guarded(store, &[("/a", Expect::Absent)], vec![]).await;
    assert!(
        matches!(refused, Err(StoreError::Conflict { .. })),
        "{refused:?}"
    );
}

pub(crate) async fn a_key_named_twice_is_refused(store: &dyn Store) {
    let twice = Transaction {
        expect: vec![],
        mutations: vec![put("/a", "1"), delete("/a")],
    };
    let refused = store.commit(twice).await;
    assert!(
        matches!(refused, Err(StoreError::Corrupt { .. })),
        "{refused:?}"
    );
}

pub(crate) async fn lists_are_ordered_and_paged(store: &dyn Store) {
    for name in ["/p/b", "/p/a", "/q", "/p/c", "/o", "/p/aa", "/p0"] {
        write(store, vec![put(name, name)]).await;
    }
    let all = store.list(below("/p/")).await.unwrap();
    assert_eq!(keys(&all), ["/p/a", "/p/aa", "/p/b", "/p/c"]);
    assert_eq!(
        (all.remaining, all.revision),
        (0, store.revision().await.unwrap())
    );

    let page = store
        .list(Range {
            limit: 3,
            ..below("/p/")
        })
        .await
        .unwrap();
    assert_eq!(
        (keys(&page), page.remaining),
        (vec!["/p/a", "/p/aa", "/p/b"], 1)
    );
    let rest = Range {
        limit: 3,
        after: Some("/p/b".to_owned()),
        at: Some(page.revision),
        ..below("/p/")
    };
    let page = store.list(rest).await.unwrap();
    assert_eq!((keys(&page), page.remaining), (vec!["/p/c"], 0));
    let none = store
        .list(Range {
            after: Some("/p/c".to_owned()),
            ..below("/p/")
        })
        .await
        .unwrap();
    assert!(none.entries.is_empty());
    assert_eq!(store.list(below("")).await.unwrap().entries.len(), 7);
    assert!(store.list(below("/zzz")).await.unwrap().entries.is_empty());
}

pub(crate) async fn a_list_at_an_old_revision_shows_the_old_state(store: &dyn Store) {
    write(store, vec![put("/a", "1"), put("/b", "1"), put("/d", "1")]).await;
    let then = write(store, vec![put("/b", "2")]).await;
    write(store, vec![put("/a", "3"), delete("/b"), put("/c", "3")]).await;
    write(store, vec![put("/b", "4"), delete("/d")]).await;
    for moment in 0..2 {
        let page = store
            .list(Range {
                at: Some(then),
                ..below("/")
            })
            .await
            .unwrap();
        assert_eq!(
            values(&page),
            [("/a", "1"), ("/b", "2"), ("/d", "1")].map(|(k, v)| (k.to_owned(), v.to_owned())),
            "moment {moment}"
        );
        assert_eq!(page.revision, then);
        let page = store
            .list(Range {
                at: Some(then),
                limit: 1,
                ..below("/")
            })
            .await
            .unwrap();
        assert_eq!((keys(&page), page.remaining), (vec!["/a"], 2));
        // Long enough for the embedded store to have moved it all into the tables.
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    let now = store.list(below("/")).await.unwrap();
    assert_eq!(
        values(&now),
        [("/a", "3"), ("/b", "4"), ("/c", "3")].map(|(k, v)| (k.to_owned(), v.to_owned()))
    );
}

pub(crate) async fn revisions_out_of_reach_are_told_apart(store: &dyn Store) {
    let first = write(store, vec![put("/a", "1")]).await;
    write(store, vec![put("/a", "2")]).await;
    let last = write(store, vec![put("/a", "3")]).await;
    let future = store
        .list(Range {
            at: Some(last + 9),
            ..below("/")
        })
        .await;
    assert!(
        matches!(future, Err(StoreError::Future { .. })),
        "{future:?}"
    );
    let future = watch_error(store, last + 9).await;
    assert!(matches!(future, StoreError::Future { .. }), "{future:?}");
    let future = store.compact(last + 9).await;
    assert!(
        matches!(future, Err(StoreError::Future { .. })),
        "{future:?}"
    );

    store.compact(last).await.unwrap();
    store.compact(last).await.unwrap();
    let old = store
        .list(Range {
            at: Some(first),
            ..below("/")
        })
        .await;
    assert!(matches!(old, Err(StoreError::Compacted { .. })), "{old:?}");
    let old = watch_error(store, first).await;
    assert!(matches!(old, StoreError::Compacted { .. }), "{old:?}");
    let kept = store
        .list(Range {
            at: Some(last),
            ..below("/")
        })
        .await
        .unwrap();
    assert_eq!(kept.entries.len(), 1);
}

pub(crate) async fn a_watch_sees_history_and_then_what_comes(store: &dyn Store) {
    let start = write(store, vec![put("/a", "0")]).await;
    for n in 1..50 {
        write(store, vec![put("/a", &n.to_string())]).await;
    }
    let mut stream = store.watch("/", start).await.unwrap();
    for n in 50..100 {
        write(store, vec![put("/a", &n.to_string())]).await;
    }
    for n in 1..100u64 {
        let commit = event(&mut stream).await;
        assert_eq!(commit.revision, start + n);
        let Change::Put { entry } = &commit.changes[0] else {
            panic!("{commit:?}")
        };
        assert_eq!(entry.value, n.to_string());
        assert_eq!(entry.create_revision, start);
    }
    let deleted = write(store, vec![delete("/a")]).await;
    let commit = event(&mut stream).await;
    assert_eq!(
        commit,
        Commit {
            revision: deleted,
            changes: vec![Change::Delete { key: "/a".into() }]
        }
    );
}

pub(crate) async fn a_watch_sees_only_its_prefix_and_hears_of_progress(store: &dyn Store) {
    let start = write(store, vec![put("/p/a", "1")]).await;
    let mut stream = store.watch("/p/", start).await.unwrap();
    let other = write(store, vec![put("/q/a", "1")]).await;
    let progress = next(&mut stream).await.unwrap();
    assert_eq!(
        progress,
        Commit {
            revision: other,
            changes: vec![]
        }
    );
    let mixed = write(store, vec![put("/q/b", "1"), put("/p/b", "1")]).await;
    let commit = event(&mut stream).await;
    assert_eq!((commit.revision, commit.changes.len()), (mixed, 1));
}

pub(crate) async fn a_slow_watcher_misses_nothing(store: &dyn Store) {
    let start = write(store, vec![put("/w/start", "1")]).await;
    let mut stream = store.watch("/w/", start).await.unwrap();
    let text = "x".repeat(200);
    for batch in 0..40 {
        let writes = (0..100).map(|n| write_one(store, batch * 100 + n, &text));
        futures::future::join_all(writes).await;
    }
    let mut seen = 0;
    let mut last = start;
    while seen < 4000 {
        let commit = event(&mut stream).await;
        assert_eq!(commit.revision, last + 1);
        last = commit.revision;
        seen += commit.changes.len();
    }
}

async fn write_one(store: &dyn Store, n: usize, text: &str) {
    write(store, vec![put(&format!("/w/{n:05}"), text)]).await;
}

pub(crate) async fn concurrent_writers_agree_on_one_order(store: &dyn Store) {
    write(store, vec![put("/counter", "0")]).await;
    let increments = (0..10).map(|_| async {
        for _ in 0..10 {
            increment(store).await;
        }
    });
    futures::future::join_all(increments).await;
    assert_eq!(store.get("/counter").await.unwrap().unwrap().value, "100");
}

async fn increment(store: &dyn Store) {
    let mut current = store.get("/counter").await.unwrap().unwrap();
    loop {
        let value: u64 = String::from_utf8_lossy(&current.value).parse().unwrap();
        let expect = [("/counter", Expect::ModRevision(current.mod_revision))];
        let next = vec![put("/counter", &(value + 1).to_string())];
        match guarded(store, &expect, next).await {
            Ok(_) => return,
            Err(StoreError::Conflict {
                current: Some(newer),
                ..
            }) => current = newer,
            Err(error) => panic!("{error}"),
        }
    }
}

pub(crate) async fn compaction_keeps_what_lives(store: &dyn Store) {
    for round in 0..20 {
        for key in 0..20 {
            let name = format!("/k/{key}");
            if (key + round) % 7 == 0 {
                write(store, vec![delete(&name)]).await;
            } else {
                write(store, vec![put(&name, &format!("{round}"))]).await;
            }
        }
    }
    let before = store.list(below("/")).await.unwrap();
    store.compact(before.revision - 30).await.unwrap();
    assert_eq!(store.list(below("/")).await.unwrap(), before);
    store.compact(before.revision).await.unwrap();
    assert_eq!(store.list(below("/")).await.unwrap(), before);
    let mut stream = store.watch("/", before.revision).await.unwrap();
    let after = write(store, vec![put("/k/new", "1")]).await;
    assert_eq!(event(&mut stream).await.revision, after);
}

/// A small generator; the seed is fixed, so that a failure comes again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % sides
    }
}

pub(crate) async fn random_histories_match_a_model(store: &dyn Store) {
    let mut dice = Dice(20_240_607);
    let mut model: BTreeMap<String, String> = BTreeMap::new();
    let mut history: Vec<(Revision, BTreeMap<String, String>)> = Vec::new();
    let start = write(store, vec![put("/first", "")]).await;
    model.insert("/first".to_owned(), String::new());
    history.push((start, model.clone()));
    let mut oldest = 0;
    for step in 0..600 {
        let mut mutations: BTreeMap<String, Mutation> = BTreeMap::new();
        for _ in 0..=dice.roll(3) {
            let key = format!("/{}/{}", dice.roll(3), dice.roll(8));
            let mutation = match dice.roll(3) {
                0 => delete(&key),
                _ => put(
                    &key,
                    &format!("{step}{}", "v".repeat(dice.roll(300) as usize)),
                ),
            };
            mutations.insert(key, mutation);
        }
        for mutation in mutations.values() {
            match mutation {
                Mutation::Put { key, value } => {
                    model.insert(key.to_string(), String::from_utf8_lossy(value).into_owned());
                }
                Mutation::Delete { key } => drop(model.remove(&**key)),
            }
        }
        let revision = write(store, mutations.into_values().collect()).await;
        history.push((revision, model.clone()));
        if dice.roll(150) == 0 {
            let back = dice.roll(10).min(history.len() as u64 - 1) as usize;
            oldest = oldest.max(history.len() - 1 - back);
            store.compact(history[oldest].0).await.unwrap();
        }
        if dice.roll(10) == 0 {
            let back = dice.roll((history.len() - oldest) as u64) as usize;
            compare(store, &history[history.len() - 1 - back], &mut dice).await;
        }
    }
    follow_again(store, &history[oldest..]).await;
}

/// Lists at the moment, in pages of a random size, must show the model of that moment.
async fn compare(
    store: &dyn Store,
    (revision, model): &(Revision, BTreeMap<String, String>),
    dice: &mut Dice,
) {
    let prefix = ["", "/1/", "/2/"][dice.roll(3) as usize];
    let expected: Vec<(String, String)> = model
        .iter()
        .filter(|(key, _)| key.starts_with(prefix))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let limit = dice.roll(6) as usize;
    let mut range = Range {
        limit,
        at: Some(*revision),
        ..below(prefix)
    };
    let mut found = Vec::new();
    loop {
        let page = store.list(range.clone()).await.unwrap();
        found.extend(values(&page));
        assert_eq!(found.len() as u64 + page.remaining, expected.len() as u64);
        range.after = page.entries.last().map(|entry| entry.key.to_string());
        if page.remaining == 0 {
            break;
        }
    }
    assert_eq!(found, expected, "at {revision} below {prefix:?}");
}

/// Applying a watch's events to the oldest state must give each later one.
async fn follow_again(store: &dyn Store, history: &[(Revision, BTreeMap<String, String>)]) {
    let (start, mut state) = history[0].clone();
    let mut stream = store.watch("", start).await.unwrap();
    let mut last = start;
    for (revision, expected) in &history[1..] {
        while last < *revision {
            let commit = event(&mut stream).await;
            last = commit.revision;
            for change in commit.changes {
                match change {
                    Change::Put { entry } => {
                        let value = String::from_utf8_lossy(&entry.value).into_owned();
                        state.insert(entry.key.to_string(), value);
                    }
                    Change::Delete { key } => drop(state.remove(&*key)),
                }
            }
        }
        assert_eq!(&state, expected, "at {revision}");
    }
}
