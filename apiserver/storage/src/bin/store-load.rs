//! Writes into an embedded store as fast as it is acknowledged.
//!
//! `store-load DIRECTORY WRITERS SECONDS [acks]` prints the rate and the latencies; with
//! `acks` it prints a line `WRITER SEQUENCE REVISION` for every acknowledged write, which
//! the crash test compares with what is there after it killed this process.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use storage::{EmbeddedOptions, EmbeddedStore, Mutation, Store, StoreError, Transaction};

/// Keys that each writer goes round.
const KEYS: u64 = 40;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, writers, seconds, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: store-load DIRECTORY WRITERS SECONDS [acks]");
        std::process::exit(2);
    };
    let (Ok(writers), Ok(seconds)) = (writers.parse::<u64>(), seconds.parse::<f64>()) else {
        eprintln!("store-load: WRITERS and SECONDS are numbers");
        std::process::exit(2);
    };
    let acks = rest.first().is_some_and(|word| word == "acks");
    if let Err(error) = run(directory, writers, Duration::from_secs_f64(seconds), acks).await {
        eprintln!("store-load: {error}");
        std::process::exit(1);
    }
}

async fn run(directory: &str, writers: u64, time: Duration, acks: bool) -> Result<(), StoreError> {
    let store = Arc::new(EmbeddedStore::open(EmbeddedOptions::new(directory))?);
    let base = store.revision().await?;
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| tokio::spawn(write(store.clone(), writer, base, start + time, acks)))
        .collect();
    let mut latencies: Vec<Duration> = Vec::new();
    for task in tasks {
        if let Ok(result) = task.await {
            latencies.extend(result?);
        }
    }
    let elapsed = start.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let at = |part: f64| {
        let index = (latencies.len() as f64 * part) as usize;
        latencies
            .get(index.min(latencies.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    };
    eprintln!(
        "{} writes, {:.0}/s, p50 {:?}, p99 {:?}, max {:?}",
        latencies.len(),
        latencies.len() as f64 / elapsed,
        at(0.5),
        at(0.99),
        at(1.0)
    );
    Ok(())
}

async fn write(
    store: Arc<EmbeddedStore>,
    writer: u64,
    base: u64,
    end: Instant,
    acks: bool,
) -> Result<Vec<Duration>, StoreError> {
    let mut latencies = Vec::new();
    let mut sequence = base * 1_000_000;
    while Instant::now() < end {
        sequence += 1;
        // The text says its sequence throughout, so that a torn value shows.
        let value = format!("{sequence} ").repeat(60);
        let key = format!("/load/{writer}/{}", sequence % KEYS);
        let mutations = vec![Mutation::Put {
            key: key.into(),
            value: value.into(),
        }];
        let begun = Instant::now();
        let revision = store
            .commit(Transaction {
                expect: Vec::new(),
                mutations,
            })
            .await?;
        latencies.push(begun.elapsed());
        if acks {
            let line = format!("{writer} {sequence} {revision}\n");
            if std::io::stdout().lock().write_all(line.as_bytes()).is_err() {
                break;
            }
        }
    }
    Ok(latencies)
}
