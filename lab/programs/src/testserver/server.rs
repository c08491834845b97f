//! The server: a thread per connection, which is plenty for tests.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use serde_json::json;
use socket2::{Domain, Protocol as SocketProtocol, SockAddr, Socket, Type};

use crate::dial;
use crate::http::{self, Request};
use crate::line;
use crate::options::{Protocol, Serve};
use crate::{review, sample};

/// Set after SIGTERM: `/readyz` fails from then on.
static STOPPING: AtomicBool = AtomicBool::new(false);
/// Set by `/unhealthy`: `/healthz` fails from then on.
static UNHEALTHY: AtomicBool = AtomicBool::new(false);

struct State {
    started: Instant,
    delay_ready: Duration,
}

pub(crate) fn run(serve: Serve) -> io::Result<ExitCode> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block()?;
    let state: &'static State = Box::leak(Box::new(State {
        started: Instant::now(),
        delay_ready: serve.delay_ready,
    }));
    for port in &serve.http {
        let listener = listen(*port, SocketProtocol::TCP)?;
        accept(listener, move |socket, _| serve_http(socket.into(), state));
    }
    for port in &serve.tcp {
        let listener = listen(*port, SocketProtocol::TCP)?;
        accept(listener, |socket, peer| serve_lines(&socket, peer));
    }
    for port in &serve.sctp {
        let listener = listen(*port, dial::sctp())?;
        accept(listener, |socket, peer| serve_lines(&socket, peer));
    }
    for port in &serve.udp {
        let socket = bind(*port, Type::DGRAM, SocketProtocol::UDP)?;
        thread::spawn(move || serve_udp(&socket.into()));
    }
    println!(
        "{} serves HTTP {:?}, TCP {:?}, UDP {:?}, SCTP {:?}",
        line::hostname(),
        serve.http,
        serve.tcp,
        serve.udp,
        serve.sctp
    );
    let signal = signals.wait()?;
    STOPPING.store(true, Ordering::Relaxed);
    println!("{signal} received, ending in {:?}", serve.shutdown_delay);
    thread::sleep(serve.shutdown_delay);
    Ok(ExitCode::SUCCESS)
}

/// Both families on one socket; IPv4 alone where the kernel has no IPv6.
fn bind(port: u16, kind: Type, protocol: SocketProtocol) -> io::Result<Socket> {
    let any6 = SockAddr::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0));
    let both = Socket::new(Domain::IPV6, kind, Some(protocol)).and_then(|socket| {
        socket.set_only_v6(false)?;
        socket.set_reuse_address(true)?;
        socket.bind(&any6)?;
        Ok(socket)
    });
    both.or_else(|_| {
        let socket = Socket::new(Domain::IPV4, kind, Some(protocol))?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into())?;
        Ok(socket)
    })
    .map_err(|error: io::Error| io::Error::new(error.kind(), format!("port {port}: {error}")))
}

fn listen(port: u16, protocol: SocketProtocol) -> io::Result<Socket> {
    let socket = bind(port, Type::STREAM, protocol)?;
    socket.listen(1024)?;
    Ok(socket)
}

fn accept(
    listener: Socket,
    serve: impl Fn(Socket, SocketAddr) -> io::Result<()> + Send + Copy + 'static,
) {
    thread::spawn(move || {
        loop {
            match listener.accept() {
                Ok((socket, peer)) => {
                    let Some(peer) = peer.as_socket() else {
                        continue;
                    };
                    // A peer that goes away in the middle concerns nobody else.
                    thread::spawn(move || serve(socket, plain(peer)));
                }
                Err(error) => {
                    eprintln!("accept: {error}");
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
    });
}

/// An IPv4 peer of an IPv6 socket shows as IPv4.
fn plain(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

fn serve_lines(socket: &Socket, peer: SocketAddr) -> io::Result<()> {
    let mut reader = BufReader::new(socket);
    let mut request = String::new();
    while reader.read_line(&mut request)? > 0 {
        let answer = format!("{}\n", line::answer(&request, peer));
        (&*socket).write_all(answer.as_bytes())?;
        request.clear();
    }
    Ok(())
}

fn serve_udp(socket: &std::net::UdpSocket) {
    let mut buffer = [0; 65536];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, peer)) => {
                let request = String::from_utf8_lossy(&buffer[..length]);
                let answer = line::answer(&request, plain(peer));
                if let Err(error) = socket.send_to(answer.as_bytes(), peer) {
                    eprintln!("answer to {peer}: {error}");
                }
            }
            Err(error) => eprintln!("udp: {error}"),
        }
    }
}

fn serve_http(stream: TcpStream, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let peer = plain(stream.peer_addr()?);
    let local = plain(stream.local_addr()?);
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    while let Some(request) = http::read(&mut reader)? {
        let alive = request.keep_alive() && !STOPPING.load(Ordering::Relaxed);
        let (status, body) = respond(&request, peer, local, state);
        http::write(&mut writer, &request.method, (status, &body), alive)?;
        if !alive {
            break;
        }
    }
    Ok(())
}

fn respond(request: &Request, peer: SocketAddr, local: SocketAddr, state: &State) -> (u16, String) {
    match request.path.as_str() {
        "/" => (
            200,
            format!(
                "NOW: {:?} on {}\n",
                state.started.elapsed(),
                line::hostname()
            ),
        ),
        "/hostname" | "/hostName" => (200, line::hostname()),
        "/clientip" => (200, peer.to_string()),
        "/serverip" => (200, local.to_string()),
        "/echo" => (200, request.parameter("msg").to_owned()),
        "/header" => {
            let name = request.parameter("key").to_ascii_lowercase();
            (200, request.headers.get(&name).cloned().unwrap_or_default())
        }
        "/headers" => (200, json!(request.headers).to_string()),
        "/env" => match request.parameter("name") {
            "" => (200, json!(std::env::vars().collect::<Vec<_>>()).to_string()),
            name => (200, std::env::var(name).unwrap_or_default()),
        },
        "/file" => file(request.parameter("path")),
        "/healthz" if UNHEALTHY.load(Ordering::Relaxed) => (500, "unhealthy".to_owned()),
        "/healthz" => (200, "ok".to_owned()),
        "/readyz" if STOPPING.load(Ordering::Relaxed) => (503, "stopping".to_owned()),
        "/readyz" if state.started.elapsed() < state.delay_ready => (503, "starting".to_owned()),
        "/readyz" => (200, "ok".to_owned()),
        "/unhealthy" => {
            UNHEALTHY.store(true, Ordering::Relaxed);
            (200, "unhealthy from now on".to_owned())
        }
        "/exit" => std::process::exit(request.parameter("code").parse().unwrap_or(0)),
        "/wait" => {
            let milliseconds = request.parameter("ms").parse().unwrap_or(1000);
            thread::sleep(Duration::from_millis(milliseconds));
            (200, "waited".to_owned())
        }
        "/bytes" => (200, "x".repeat(request.parameter("n").parse().unwrap_or(1))),
        "/resolve" => resolve(request.parameter("name")),
        "/dial" => dial_others(request),
        "/call" => call(),
        "/link" => (200, "<a href=\"/request\">link</a>".to_owned()),
        "/request" => (200, echo(request)),
        path if path.starts_with("/request/") => (200, echo(request)),
        path if sample::owns(path) => sample::answer(request),
        path => match review::answer(path, &request.body) {
            Some(answer) => answer,
            None => (404, format!("no such path: {path}")),
        },
    }
}

/// What arrived here, as JSON.
fn echo(request: &Request) -> String {
    json!({
        "pod": line::hostname(),
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "headers": request.headers,
        "body": String::from_utf8_lossy(&request.body),
    })
    .to_string()
}

fn file(path: &str) -> (u16, String) {
    let mut text = String::new();
    match std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)) {
        Ok(_) => (200, text),
        Err(error) => (404, format!("{path}: {error}")),
    }
}

fn resolve(name: &str) -> (u16, String) {
    match crate::client::addresses(name) {
        Ok(addresses) => (200, json!({ "addresses": addresses }).to_string()),
        Err(error) => (500, json!({ "error": error.to_string() }).to_string()),
    }
}

/// `/dial?host=H&port=P[&protocol=tcp][&request=hostname][&tries=N][&timeout=MS]`: what the
/// pod at H answers to this pod, as JSON with `responses` and `errors`.
fn dial_others(request: &Request) -> (u16, String) {
    let target = format!(
        "{}:{}",
        request.parameter("host"),
        request.parameter("port")
    );
    let protocol = match Protocol::parse(request.parameter("protocol")) {
        Ok(protocol) => protocol,
        Err(problem) => return (400, problem),
    };
    let what = match request.parameter("request") {
        "" => "hostname",
        what => what,
    };
    let tries = request.parameter("tries").parse().unwrap_or(1);
    let timeout = Duration::from_millis(request.parameter("timeout").parse().unwrap_or(5000));
    let mut responses = Vec::new();
    let mut errors = Vec::new();
    for _ in 0..tries {
        match dial::request(protocol, &target, what, timeout) {
            Ok(answer) => responses.push(answer),
            Err(error) => errors.push(error.to_string()),
        }
    }
    (
        200,
        json!({ "responses": responses, "errors": errors }).to_string(),
    )
}

/// One service of an application: says who it is, and what the services that `CALLS` lists
/// (URLs with commas between) answered. Fails when one of them does.
fn call() -> (u16, String) {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let mut status = 200;
    let mut calls = Vec::new();
    for url in variable("CALLS").split(',').filter(|url| !url.is_empty()) {
        match crate::client::fetch(url, Duration::from_secs(5)) {
            Ok(answer) => {
                status = if answer.status < 400 { status } else { 502 };
                let json = serde_json::from_str(&answer.body);
                calls.push(json.unwrap_or(serde_json::Value::String(answer.body)));
            }
            Err(error) => {
                status = 502;
                calls.push(json!({ "url": url, "error": error.to_string() }));
            }
        }
    }
    let body = json!({
        "service": variable("SERVICE"),
        "pod": line::hostname(),
        "details": variable("DETAILS"),
        "calls": calls,
    });
    (status, body.to_string())
}
