//! The one binary: argument parsing, wiring and progress output.

mod cli;
mod command;
mod logging;

use std::process::ExitCode;

use clap::Parser;

/// A quarter of an API server's time goes into allocations of small pieces, which this one makes
/// faster than the C library's. It starts no thread of its own (see `.cargo/config.toml`): a
/// process with several threads cannot enter the namespaces of another one (setns(2)).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    logging::start(cli.log.as_deref());
    match command::run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("fairlead: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes on one line. A cause that its parent already tells is left out.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_and_tells_each_cause_once() {
        let error = anyhow::anyhow!("no such file\nreally")
            .context("cannot read a")
            .context("b");
        assert_eq!(one_line(&error), "b: cannot read a: no such file really");
        let repeated = anyhow::anyhow!("refused").context("dial: refused");
        assert_eq!(one_line(&repeated), "dial: refused");
    }
}
