//! What a test asks a pod to do: requests, a steady load, names, signals of life.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use crate::dial;
use crate::options::Command;

pub(crate) fn run(command: Command) -> io::Result<ExitCode> {
    match command {
        Command::Serve(_) => unreachable!("the server is started elsewhere"),
        Command::Get {
            url,
            timeout,
            count,
        } => get(&url, timeout, count),
        Command::Load {
            url,
            duration,
            rate,
        } => load(&url, duration, rate),
        Command::Dial {
            protocol,
            target,
            request,
            timeout,
        } => {
            println!("{}", dial::request(protocol, &target, &request, timeout)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Hold { target, duration } => hold(&target, duration),
        Command::Resolve { name } => {
            for address in addresses(&name)? {
                println!("{address}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Sleep { duration } => sleep(duration),
        Command::Exit { code, after } => {
            thread::sleep(after);
            Ok(ExitCode::from(code))
        }
        Command::Write { file, text } => {
            std::fs::write(file, text)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Read { file } => {
            print!("{}", std::fs::read_to_string(file)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Burn { mebibytes } => burn(mebibytes),
    }
}

/// Every address of a name, through the system's resolver.
pub(crate) fn addresses(name: &str) -> io::Result<BTreeSet<IpAddr>> {
    Ok((name, 0)
        .to_socket_addrs()?
        .map(|address| address.ip())
        .collect())
}

pub(crate) fn fetch(url: &str, timeout: Duration) -> io::Result<dial::Answer> {
    let (target, path) = dial::split_url(url).map_err(io::Error::other)?;
    let address = dial::resolve(&target)?;
    let stream = TcpStream::connect_timeout(&address, timeout)?;
    let host = target.strip_suffix(":80").unwrap_or(&target);
    dial::get(stream, host, &path, timeout)
}

fn get(url: &str, timeout: Duration, count: u32) -> io::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for _ in 0..count {
        let answer = fetch(url, timeout)?;
        println!("{}", answer.body.trim_end());
        if answer.status >= 400 {
            eprintln!("status {}", answer.status);
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// Sends requests at a steady rate and tells once a second how many failed, and why. SIGTERM
/// or the end of the time prints the sum; the exit status is 1 if any failed.
fn load(url: &str, duration: Option<Duration>, rate: u32) -> io::Result<ExitCode> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block()?;
    let (stop, stopped) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let _ = signals.wait();
        let _ = stop.send(());
    });
    let (target, _) = dial::split_url(url).map_err(io::Error::other)?;
    println!("load on {target}, {rate} requests a second");
    let started = Instant::now();
    let pause = Duration::from_secs(1) / rate.max(1);
    let mut tally = Tally::default();
    let mut told = 0;
    while duration.is_none_or(|duration| started.elapsed() < duration) {
        tally.count(fetch(url, Duration::from_secs(5)));
        let seconds = started.elapsed().as_secs();
        if seconds > told {
            told = seconds;
            println!("ok={} failed={}", tally.ok, tally.failed());
        }
        let due = pause * (tally.ok + tally.failed());
        if stopped
            .recv_timeout(due.saturating_sub(started.elapsed()))
            .is_ok()
        {
            break;
        }
    }
    println!(
        "total ok={} failed={} failures={:?}",
        tally.ok,
        tally.failed(),
        tally.failures
    );
    Ok(if tally.failed() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[derive(Default)]
struct Tally {
    ok: u32,
    failures: BTreeMap<String, u32>,
}

impl Tally {
    fn failed(&self) -> u32 {
        self.failures.values().sum()
    }

    fn count(&mut self, result: io::Result<dial::Answer>) {
        let problem = match result {
            Ok(answer) if answer.status < 400 => {
                self.ok += 1;
                return;
            }
            Ok(answer) => format!("status {}", answer.status),
            Err(error) => error.to_string(),
        };
        println!("failed: {problem}");
        *self.failures.entry(problem).or_default() += 1;
    }
}

/// Keeps one TCP connection and asks it ten times a second. A broken connection ends the
/// program with status 1: this is how a test sees that an established connection survived.
fn hold(target: &str, duration: Option<Duration>) -> io::Result<ExitCode> {
    let mut stream = TcpStream::connect(dial::resolve(target)?)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let started = Instant::now();
    let mut answers = 0u64;
    let mut line = String::new();
    while duration.is_none_or(|duration| started.elapsed() < duration) {
        stream.write_all(b"hostname\n")?;
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answers += 1;
        if answers % 10 == 1 {
            println!("answers={answers} from={}", line.trim_end());
        }
        thread::sleep(Duration::from_millis(100));
    }
    println!("held answers={answers}");
    Ok(ExitCode::SUCCESS)
}

/// Ends at once on SIGTERM, also as process 1 of a container.
fn sleep(duration: Option<Duration>) -> io::Result<ExitCode> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block()?;
    if let Some(duration) = duration {
        thread::spawn(move || {
            thread::sleep(duration);
            std::process::exit(0);
        });
    }
    signals.wait()?;
    Ok(ExitCode::SUCCESS)
}

/// Takes memory and touches every page, for tests of memory limits.
fn burn(mebibytes: usize) -> io::Result<ExitCode> {
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    for _ in 0..mebibytes {
        blocks.push(vec![1; 1 << 20]);
    }
    println!("holding {} MiB", blocks.len());
    sleep(None)
}
