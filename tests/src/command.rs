//! Programs that the tests start.

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};

/// The build of `fairlead` that belongs to this test: both lie in the same target directory.
pub fn fairlead() -> PathBuf {
    beside("fairlead")
}

/// A static program of the images, for use on this machine.
pub fn testserver() -> PathBuf {
    beside("../release/testserver")
}

pub(crate) fn beside(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("a program knows where it lies");
    let directory = this
        .ancestors()
        .nth(2)
        .expect("tests lie in target/PROFILE/deps");
    directory.join(name)
}

/// What a program printed and how it ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub line: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Standard output, or an error that tells everything.
    pub fn success(self) -> anyhow::Result<String> {
        if self.code == Some(0) {
            return Ok(self.stdout);
        }
        bail!(
            "{}: {:?}\n{}{}",
            self.line,
            self.code,
            self.stdout,
            self.stderr
        )
    }

    /// Standard error of a program that had to fail.
    pub fn failure(self) -> anyhow::Result<String> {
        if self.code == Some(0) {
            bail!("{} succeeded: {}", self.line, self.stdout)
        }
        Ok(self.stderr)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the tests use the programs that people use"
)]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    Command::new(program)
}

/// Runs a program to its end.
pub fn run<A: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: &[A],
) -> anyhow::Result<Outcome> {
    let mut command = command(program);
    command.args(arguments);
    outcome(&mut command, None)
}

/// Runs a prepared command to its end, with `input` on standard input.
pub fn outcome(command: &mut Command, input: Option<&str>) -> anyhow::Result<Outcome> {
    let line = format!("{command:?}");
    let stdin = if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    };
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| line.clone())?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        // One that ends without reading its input says why on standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output()?;
    Ok(Outcome {
        line,
        code: status.code(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    })
}
