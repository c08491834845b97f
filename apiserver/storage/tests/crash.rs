//! `kill -9` of a writing process, again and again: every acknowledged write is there,
//! nothing is half-written, and a watch from before resumes without a gap.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::StreamExt;
use storage::{Change, EmbeddedOptions, EmbeddedStore, Range, Revision, Store};

const ROUNDS: u64 = 50;

struct Ack {
    writer: u64,
    sequence: u64,
    revision: Revision,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_kills_lose_no_acknowledged_write() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().join("db");
    let mut verified = 0;
    let mut total = 0;
    for round in 0..ROUNDS {
        let acks = write_and_kill(&directory, Duration::from_millis(20 + round * 37 % 80));
        total += acks.len();
        let store = EmbeddedStore::open(EmbeddedOptions::new(&directory)).unwrap();
        verify_entries(&store, &acks).await;
        verified = verify_history(&store, verified, &acks).await;
    }
    assert!(
        total > ROUNDS as usize * 10,
        "only {total} writes were acknowledged"
    );
}

/// What a process got acknowledged before it was killed.
fn write_and_kill(directory: &Path, time: Duration) -> Vec<Ack> {
    let mut process = Victim(spawn(directory));
    let mut pipe = process.0.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).unwrap();
        text
    });
    std::thread::sleep(time);
    process.0.kill().unwrap();
    let status = process.0.wait().unwrap();
    assert!(
        status.code().is_none(),
        "the writer ended by itself: {status}"
    );
    let text = reader.join().unwrap();
    // The last line may be cut.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(parse).collect()
}

fn parse(line: &str) -> Ack {
    let numbers: Vec<u64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
    Ack {
        writer: numbers[0],
        sequence: numbers[1],
        revision: numbers[2],
    }
}

struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "only a process of its own can be killed"
)]
fn spawn(directory: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_store-load"))
        .arg(directory)
        .args(["8", "30", "acks"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn verify_entries(store: &EmbeddedStore, acks: &[Ack]) {
    let page = store
        .list(Range {
            prefix: "/load/".to_owned(),
            ..Range::default()
        })
        .await
        .unwrap();
    let mut found: HashMap<String, (u64, Revision)> = HashMap::new();
    for entry in page.entries {
        let text = String::from_utf8(entry.value.to_vec()).unwrap();
        let sequence = text.split(' ').next().unwrap();
        assert_eq!(
            text,
            format!("{sequence} ").repeat(60),
            "{} is torn",
            entry.key
        );
        found.insert(
            entry.key.to_string(),
            (sequence.parse().unwrap(), entry.mod_revision),
        );
    }
    for ack in acks {
        let key = format!("/load/{}/{}", ack.writer, ack.sequence % 40);
        let (sequence, revision) = found[&key];
        assert!(
            sequence >= ack.sequence,
            "{key} has {sequence}, acknowledged {}",
            ack.sequence
        );
        if sequence == ack.sequence {
            assert_eq!(revision, ack.revision);
        }
    }
}

/// Follows the history from where the last round ended.
async fn verify_history(store: &EmbeddedStore, from: Revision, acks: &[Ack]) -> Revision {
    let newest = store.revision().await.unwrap();
    let mut stream = store.watch("/load/", from).await.unwrap();
    let mut seen: HashMap<Revision, String> = HashMap::new();
    let mut last = from;
    while last < newest {
        let commit = stream.next().await.unwrap().unwrap();
        assert_eq!(commit.revision, last + 1, "a gap");
        last = commit.revision;
        for change in commit.changes {
            let Change::Put { entry } = change else {
                panic!("nothing was deleted")
            };
            seen.insert(last, String::from_utf8_lossy(&entry.value).into_owned());
        }
    }
    for ack in acks {
        assert!(seen[&ack.revision].starts_with(&format!("{} ", ack.sequence)));
    }
    newest
}
