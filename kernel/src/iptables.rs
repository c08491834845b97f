//! iptables by its own interface: `iptables-save` and `iptables-restore`.
//!
//! The iptables programs come in two variants, which keep their rules in different places of
//! the kernel: rules must go where the machine's other programs put theirs. [`Iptables::detect`]
//! looks for rules of Kubernetes first, then for any rules, then takes the machine's default.
//! [`Watch`] notices changes by others.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

mod watch;

pub use watch::Watch;

/// Where the rules live in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    /// In nf_tables.
    Nft,
    /// In xtables.
    Legacy,
}

impl Variant {
    fn infix(self) -> &'static str {
        match self {
            Self::Nft => "-nft",
            Self::Legacy => "-legacy",
        }
    }
}

/// What can go wrong with iptables.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operator has to install something.
    #[error("{program} is not installed (Debian: the package iptables)")]
    Missing { program: String },
    #[error("cannot start {program}: {error}")]
    Start {
        program: String,
        #[source]
        error: std::io::Error,
    },
    /// The input was refused; the table of the line is unchanged. Can be tried again, since
    /// somebody may have held the lock.
    #[error("{program} failed{}: {message}", line.map_or_else(String::new, |n| format!(" at line {n} (\"{text}\")")))]
    Refused {
        program: String,
        /// Which line of the input, from 1 on, where the program said so.
        line: Option<usize>,
        text: String,
        message: String,
    },
}

/// The iptables programs of one family and variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iptables {
    v6: bool,
    variant: Variant,
    save: String,
    restore: String,
}

/// Seconds for which a program waits for another one that holds the lock.
const LOCK_WAIT: &str = "5";

impl Iptables {
    /// The variant that the machine uses.
    pub fn detect(v6: bool) -> Result<Self, Error> {
        let choices = [Variant::Nft, Variant::Legacy].map(|variant| Self::named(v6, variant));
        let saved: Vec<(Self, String)> = choices
            .into_iter()
            .filter_map(|tables| tables.save(None).ok().map(|text| (tables, text)))
            .collect();
        let marked = |text: &str| {
            ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY", "KUBE-SERVICES"]
                .iter()
                .any(|chain| text.contains(&format!(":{chain} ")))
        };
        let rules = |text: &str| text.lines().filter(|line| line.starts_with('-')).count();
        if let Some((tables, _)) = saved.iter().find(|(_, text)| marked(text)) {
            return Ok(tables.clone());
        }
        let used: Vec<_> = saved.iter().filter(|(_, text)| rules(text) > 0).collect();
        if let [(only, _)] = used.as_slice() {
            return Ok(only.clone());
        }
        Self::default_of(v6)
    }

    /// A certain variant.
    pub fn named(v6: bool, variant: Variant) -> Self {
        let family = if v6 { "ip6tables" } else { "iptables" };
        let infix = variant.infix();
        let (save, restore) = (
            format!("{family}{infix}-save"),
            format!("{family}{infix}-restore"),
        );
        Self {
            v6,
            variant,
            save,
            restore,
        }
    }

    /// What the plain program names stand for.
    fn default_of(v6: bool) -> Result<Self, Error> {
        let family = if v6 { "ip6tables" } else { "iptables" };
        let (save, restore) = (format!("{family}-save"), format!("{family}-restore"));
        let version = run(&restore, &["--version"], "")?;
        let text = String::from_utf8_lossy(&version.stdout).into_owned();
        let variant = if text.contains("nf_tables") {
            Variant::Nft
        } else {
            Variant::Legacy
        };
        Ok(Self {
            v6,
            variant,
            save,
            restore,
        })
    }

    pub fn variant(&self) -> Variant {
        self.variant
    }

    pub fn is_v6(&self) -> bool {
        self.v6
    }

    /// The rules of a table, or of all that are in use, as `iptables-save` prints them.
    pub fn save(&self, table: Option<&str>) -> Result<String, Error> {
        let arguments: Vec<&str> = table.map_or_else(Vec::new, |table| vec!["-t", table]);
        let output = run(&self.save, &arguments, "")?;
        if !output.status.success() {
            return Err(refused(&self.save, "", &output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Performs the lines; what they do not mention stays. Each table changes as a whole.
    pub fn restore(&self, input: &str) -> Result<(), Error> {
        // The nft variant needs no lock and ignores the option.
        let output = run(&self.restore, &["--noflush", "--wait", LOCK_WAIT], input)?;
        match output.status.success() {
            true => Ok(()),
            false => Err(refused(&self.restore, input, &output)),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "iptables-restore is the interface of iptables; one call per batch"
)]
fn run(program: &str, arguments: &[&str], input: &str) -> Result<Output, Error> {
    let start = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::Missing {
            program: program.to_owned(),
        },
        _ => Error::Start {
            program: program.to_owned(),
            error,
        },
    };
    let path = std::env::var("PATH").unwrap_or_default();
    let mut child = Command::new(program)
        .args(arguments)
        // Services often run with a path that lacks the administrator's programs.
        .env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let mut stdin = child.stdin.take();
    // The program prints only at its end (save reads nothing), so that writing first is safe.
    if let Some(stdin) = &mut stdin {
        match stdin.write_all(input.as_bytes()) {
            // It gave up early: its message says why.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            other => other.map_err(start)?,
        }
    }
    drop(stdin);
    child.wait_with_output().map_err(start)
}

fn refused(program: &str, input: &str, output: &Output) -> Error {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let line = failed_line(&stderr);
    let text = line
        .and_then(|n| input.lines().nth(n.checked_sub(1)?))
        .unwrap_or_default();
    let first = stderr
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("no message");
    Error::Refused {
        program: program.to_owned(),
        line,
        text: text.to_owned(),
        message: first.trim().to_owned(),
    }
}

/// The number after "line", in the messages of both variants.
fn failed_line(message: &str) -> Option<usize> {
    message.match_indices("line").find_map(|(at, word)| {
        let rest = message[at + word.len()..].trim_start_matches([':', ' ']);
        rest.split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    })
}

#[cfg(test)]
mod tests {
    use super::failed_line;

    #[test]
    fn the_failing_line_is_read_from_either_variants_message() {
        for (message, line) in [
            ("iptables-restore: line 7 failed", Some(7)),
            (
                "iptables-nft-restore v1.8.9 (nf_tables): \nline 12: RULE_APPEND failed",
                Some(12),
            ),
            (
                "iptables-restore v1.8.9 (legacy): Couldn't load target\nError occurred at line: 3",
                Some(3),
            ),
            ("Another app is currently holding the xtables lock", None),
        ] {
            assert_eq!(failed_line(message), line, "{message}");
        }
    }
}
