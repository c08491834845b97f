//! Clients that are very many, or very slow: the server has room for the others.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cluster_tests::api::Api;
use cluster_tests::cluster::wait_for;

use crate::Suite;

const MANY: usize = 10_000;
/// A connection that says nothing is given up after ten seconds; so many of them close slowly on a
/// busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// What the server may take for each of them, in bytes: the kernel's buffers do not count.
const MEMORY_OF_ONE: u64 = 16 << 10;

fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
    let kilobytes: u64 = kilobytes.context("no VmRSS in the status")?.parse()?;
    Ok(kilobytes << 10)
}

/// Whether the other side has closed the connection.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    }
}

pub(crate) fn ten_thousand_idle_connections_leave_room_and_are_closed(
    suite: &Suite,
) -> anyhow::Result<()> {
    let api = Api::of(&suite.server.kubeconfig())?;
    ensure!(api.get("/readyz")?.code == 200);
    let before = resident_bytes(suite.server.pid())?;
    let mut idle = Vec::with_capacity(MANY);
    for number in 0..MANY {
        let stream = TcpStream::connect(("127.0.0.1", suite.server.port))
            .with_context(|| format!("connection {number}"))?;
        stream.set_nonblocking(true)?;
        idle.push(stream);
    }
    let answer = api.get("/api/v1/namespaces/default")?;
    ensure!(answer.code == 200, "among the idle ones: {answer:?}");
    let taken = resident_bytes(suite.server.pid())?.saturating_sub(before);
    ensure!(
        taken < MANY as u64 * MEMORY_OF_ONE,
        "{MANY} connections took {taken} bytes"
    );
    wait_for("the idle connections to be closed", PATIENCE, || {
        idle.retain_mut(|stream| !is_closed(stream));
        Ok(idle.is_empty())
    })?;
    ensure!(api.get("/readyz")?.code == 200);
    Ok(())
}

/// A handshake of which a byte comes now and then.
pub(crate) fn clients_that_send_a_byte_at_a_time_are_given_up(suite: &Suite) -> anyhow::Result<()> {
    // The beginning of a TLS record that announces 512 bytes.
    let hello = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(("127.0.0.1", suite.server.port))?;
        stream.write_all(&hello)?;
        stream.set_nonblocking(true)?;
        slow.push(stream);
    }
    let api = Api::of(&suite.server.kubeconfig())?;
    ensure!(api.get("/api/v1/namespaces/default")?.code == 200);
    let begun = Instant::now();
    wait_for("the slow clients to be given up", PATIENCE, || {
        slow.retain_mut(|stream| {
            // One more byte does not buy more time.
            let broken = stream.write_all(&[0]).is_err();
            !broken && !is_closed(stream)
        });
        Ok(slow.is_empty())
    })
    .with_context(|| format!("{} are left after {:?}", slow.len(), begun.elapsed()))
}
