//! Requests of everything that the server says it serves: for every kind and verb, made by its
//! own OpenAPI documents, valid and broken. None is answered with a fault of the server, none
//! hangs, what changes nothing has the same answer twice, and the server lives.
//!
//! ```text
//! SURFACE_SEED=7 SURFACE_ROUNDS=200 cargo test -p cluster-tests --test surface
//! ```
//!
//! A round makes one request of each operation. The same seed makes the same requests.

mod answers;
mod connection;
mod operations;
mod queries;
mod requests;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::{Context, bail, ensure};
use cluster_tests::cases;
use cluster_tests::objects::objects;
use cluster_tests::server::Server;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;

use connection::Connection;
use operations::{NAMESPACE, Operation};
use requests::{Fault, Request};

/// Rounds of a run of all tests: less than a minute.
const ROUNDS: u64 = 2;

/// How many send at the same time.
const SENDERS: usize = 8;

/// After so many different faults nothing new is learnt.
const ENOUGH: usize = 40;

/// A server with one object of each kind, and what it says it serves.
struct Suite {
    server: Mutex<Server>,
    connection: Connection,
    operations: Vec<Operation>,
    _directory: tempfile::TempDir,
}

impl Suite {
    /// The last lines that the server wrote.
    fn server_log(&self) -> anyhow::Result<String> {
        let server = self
            .server
            .lock()
            .map_err(|_| anyhow::anyhow!("a case panicked"))?;
        let log = std::fs::read_to_string(server.data.with_extension("log"))?;
        let lines: Vec<&str> = log.lines().rev().take(20).collect();
        Ok(lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }
}

fn main() -> ExitCode {
    let cases = cases![
        suite::every_kind_that_can_be_created_has_a_sample,
        suite::any_request_is_answered_and_the_server_lives,
    ];
    cluster_tests::harness::run("surface", 1, cases, set_up)
}

fn set_up() -> anyhow::Result<Suite> {
    let directory = tempfile::tempdir()?;
    // Nobody else changes anything: what is asked twice is answered alike.
    let arguments = ["--controllers=", "--no-scheduler"];
    let server = Server::start(&directory.path().join("data"), &arguments)?;
    let connection = Connection::of(&server.kubeconfig())?;
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let made = connection.send(&Request::json("POST", "/api/v1/namespaces", &namespace))?;
    ensure!(made.code == 201, "{made:?}");
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let accounts = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
    let made = connection.send(&Request::json("POST", &accounts, &account))?;
    ensure!(made.code == 201, "{made:?}");
    let first = operations::discover(&connection)?;
    create_samples(&connection, &first)?;
    // The custom kind is among them only now.
    let operations = operations::discover(&connection)?;
    Ok(Suite {
        server: Mutex::new(server),
        connection,
        operations,
        _directory: directory,
    })
}

/// Makes one object of each kind, unless it is there.
fn create_samples(connection: &Connection, operations: &[Operation]) -> anyhow::Result<()> {
    for operation in operations.iter().filter(|o| o.action == "post") {
        let Some(sample) = &operation.sample else {
            continue;
        };
        // Subresources of the kind, and what would judge the requests of this suite.
        if operation.path.contains("{name}") || sample["kind"] == "APIService" {
            continue;
        }
        let path = operation.path.replace("{namespace}", NAMESPACE);
        let made = connection.send(&Request::json("POST", &path, sample))?;
        ensure!(
            [201, 409].contains(&made.code),
            "the sample of {}: {made:?}",
            operation.kind
        );
    }
    Ok(())
}

/// What a round found.
#[derive(Default)]
struct Found {
    faults: BTreeMap<String, String>,
    codes: BTreeMap<u16, usize>,
}

/// What of the paths has to do with each other: requests of one resource are sent one after the
/// other, since a harmless one is answered alike only while nobody changes what it asks for.
fn resource_of(operation: &Operation) -> &str {
    let (_, own) = operation
        .path
        .split_once("/namespaces/{namespace}/")
        .unwrap_or_else(|| {
            let version = operation.path.match_indices('/').nth(
                // /api/v1/..., /apis/GROUP/VERSION/...
                if operation.path.starts_with("/apis/") {
                    3
                } else {
                    2
                },
            );
            operation.path.split_at(version.map_or(0, |(at, _)| at + 1))
        });
    let plural = own.split('/').next().unwrap_or_default();
    match plural {
        // A Service has an address and is in a range.
        "ipaddresses" | "servicecidrs" => "services",
        other => other,
    }
}

/// One request of each operation, of several resources at a time.
fn round(suite: &Suite, seed: u64) -> anyhow::Result<Found> {
    let mut resources: BTreeMap<&str, Vec<(usize, &Operation)>> = BTreeMap::new();
    for (number, operation) in suite.operations.iter().enumerate() {
        let of_resource = resources.entry(resource_of(operation)).or_default();
        of_resource.push((number, operation));
    }
    let queue = Mutex::new(resources.into_values());
    let send = || {
        let mut found = Found::default();
        loop {
            let next = queue.lock().ok().and_then(|mut queue| queue.next());
            let Some(operations) = next else {
                return found;
            };
            for (number, operation) in operations {
                // A seed of its own for each: one that fails can be made again by itself.
                let mut random = StdRng::seed_from_u64(seed ^ number as u64);
                let fault = Fault::any(&mut random);
                let request = requests::request(operation, fault, &mut random);
                let code = attempt(suite, operation, &request, &mut found.faults);
                *found.codes.entry(code).or_default() += 1;
                if found.faults.len() >= ENOUGH || code == 0 {
                    return found;
                }
            }
        }
    };
    let mut all = Found::default();
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS).map(|_| scope.spawn(send)).collect();
        for sender in senders {
            let found = sender
                .join()
                .map_err(|_| anyhow::anyhow!("a sender panicked"))?;
            all.faults.extend(found.faults);
            for (code, count) in found.codes {
                *all.codes.entry(code).or_default() += count;
            }
        }
        Ok(all)
    })
}

mod suite {
    use super::*;

    pub(super) fn every_kind_that_can_be_created_has_a_sample(suite: &Suite) -> anyhow::Result<()> {
        let sampled: BTreeSet<String> = objects(NAMESPACE)?
            .iter()
            .map(|o| o["kind"].to_string())
            .collect();
        let own = |o: &&Operation| {
            let built_in =
                !o.path.contains("/fairlead.io/") && !o.path.contains("policy.networking");
            // What can be created and not listed is asked and not kept: reviews, bindings.
            let kept = suite
                .operations
                .iter()
                .any(|l| l.path == o.path && l.action == "list");
            o.action == "post" && built_in && kept && o.kind != "Widget"
        };
        let without: Vec<&str> = suite
            .operations
            .iter()
            .filter(own)
            .filter(|o| !sampled.contains(&json!(o.kind).to_string()))
            .map(|o| o.kind.as_str())
            .collect();
        ensure!(
            without.is_empty(),
            "no sample of {without:?} in tests/data/objects.yaml"
        );
        Ok(())
    }

    pub(super) fn any_request_is_answered_and_the_server_lives(
        suite: &Suite,
    ) -> anyhow::Result<()> {
        let seed = number("SURFACE_SEED", 1)?;
        let rounds = number("SURFACE_ROUNDS", ROUNDS)?;
        let mut faults: BTreeMap<String, String> = BTreeMap::new();
        let mut codes: BTreeMap<u16, usize> = BTreeMap::new();
        for round in 0..rounds {
            create_samples(&suite.connection, &suite.operations)?;
            let found = self::round(suite, seed ^ (round << 32))?;
            faults.extend(found.faults);
            for (code, count) in found.codes {
                *codes.entry(code).or_default() += count;
            }
            if let Err(error) = alive(suite) {
                // The first request that got no answer is the one that did it.
                let all: Vec<&str> = faults.values().map(String::as_str).collect();
                let log = suite.server_log()?;
                bail!(
                    "after round {round} of seed {seed}: {error:#}\n{log}\n{}",
                    all.join("\n")
                );
            }
        }
        println!("    answers by code: {codes:?}");
        if faults.is_empty() {
            return Ok(());
        }
        let all: Vec<String> = faults.into_values().collect();
        bail!("seed {seed}: {} faults\n{}", all.len(), all.join("\n"))
    }
}

fn number(name: &str, default: u64) -> anyhow::Result<u64> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{name}={text}: not a number")),
        Err(_) => Ok(default),
    }
}

fn alive(suite: &Suite) -> anyhow::Result<()> {
    let mut server = suite
        .server
        .lock()
        .map_err(|_| anyhow::anyhow!("a case panicked"))?;
    ensure!(server.is_alive()?, "the server ended");
    let ready = suite.connection.send(&Request::get("/readyz"))?;
    ensure!(ready.code == 200, "not ready: {ready:?}");
    Ok(())
}

/// Sends one request, harmless ones twice, and keeps what is wrong with the answer. One fault of
/// an operation is kept for each first words of it.
fn attempt(
    suite: &Suite,
    operation: &Operation,
    request: &Request,
    faults: &mut BTreeMap<String, String>,
) -> u16 {
    let mut keep = |what: &str, detail: String| {
        let short: String = what.chars().take(60).collect();
        let key = format!("{} {} {short}", operation.kind, operation.action);
        faults.entry(key).or_insert_with(|| {
            let body = String::from_utf8_lossy(&request.body);
            let body: String = body.chars().take(3000).collect();
            format!(
                "{} {} {:?}\n{body}\n=> {what}\n{detail}\n",
                request.method, request.target, request.headers
            )
        });
    };
    let answer = match suite.connection.send(request) {
        Ok(answer) => answer,
        Err(error) => {
            keep(&format!("{error:#}"), String::new());
            return 0;
        }
    };
    if let Err(error) = answers::check(request, &answer) {
        keep(
            &format!("{error:#}: {}", answer.message()),
            format!("{answer:?}"),
        );
        return answer.code;
    }
    if request.harmless {
        match suite.connection.send(request) {
            Ok(again)
                if answers::lasting(request, &again) != answers::lasting(request, &answer) =>
            {
                keep(
                    "another answer the second time",
                    format!("{answer:?}\n{again:?}"),
                );
            }
            Ok(_) => {}
            Err(error) => keep(&format!("the second time: {error:#}"), String::new()),
        }
    }
    answer.code
}
