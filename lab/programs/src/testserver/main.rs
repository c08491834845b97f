//! A server and client for tests of pod networks: one static binary, no file system needed.
//!
//! As a server it answers on HTTP, TCP, UDP and SCTP with its host name and the peer's address,
//! resolves names and dials others on request. The HTTP paths are those that people know from
//! the Kubernetes test images (`/hostname`, `/clientip`, `/echo`, `/dial`). The other protocols
//! take a line and answer it: `hostname`, `clientip`, `echo TEXT`.
//!
//! Behind something that speaks TLS it is also a webhook (`/always-deny`, `/mutating-pods` and the
//! others of [`review`]) and an aggregated API server (`/apis/wardle.example.com`).
//!
//! As a client (`get`, `load`, `resolve`, `dial`) it does from inside a pod what a test asks.

mod client;
mod dial;
mod http;
mod line;
mod options;
mod review;
mod sample;
mod server;

use std::process::ExitCode;

use options::Command;

const USAGE: &str = "\
testserver serve [--http-port N[,N]] [--tcp-port N[,N]] [--udp-port N[,N]] [--sctp-port N[,N]]
                 [--delay-ready SECONDS] [--shutdown-delay SECONDS]
testserver get URL [--timeout SECONDS] [--count N]
testserver load URL [--seconds N] [--rate PER_SECOND]
testserver dial tcp|udp|sctp|http HOST:PORT [REQUEST] [--timeout SECONDS]
testserver hold HOST:PORT [--seconds N]
testserver resolve NAME
testserver sleep [SECONDS]
testserver exit CODE [AFTER_SECONDS]
testserver write FILE TEXT | read FILE | burn MIB";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match options::parse(&arguments) {
        Ok(Command::Serve(serve)) => server::run(serve),
        Ok(command) => client::run(command),
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("testserver: {error}");
            ExitCode::FAILURE
        }
    }
}
