//! Runs the cases of a suite and tells how they went.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

/// One thing that a suite shows.
pub struct Case<S> {
    /// A sentence with `_` for spaces: subject, condition, result.
    pub name: &'static str,
    pub run: fn(&S) -> anyhow::Result<()>,
}

/// Makes cases of functions, named as the functions are.
#[macro_export]
macro_rules! cases {
    ($($module:ident :: $name:ident),* $(,)?) => {
        vec![$($crate::harness::Case { name: stringify!($name), run: $module::$name }),*]
    };
}

/// What the runner was asked for on the command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    list: bool,
    ignored: bool,
    filters: Vec<String>,
}

impl Request {
    fn parse(arguments: impl Iterator<Item = String>) -> Self {
        let mut request = Self::default();
        for argument in arguments {
            match argument.as_str() {
                "--list" => request.list = true,
                "--ignored" => request.ignored = true,
                // Values of options that test runners give: there is nothing to choose here.
                "terse" | "pretty" | "json" => {}
                option if option.starts_with('-') => {}
                filter => request.filters.push(filter.to_owned()),
            }
        }
        request
    }

    /// A runner names the suite, a person names cases.
    fn selects(&self, suite: &str, case: &str) -> bool {
        self.filters.is_empty()
            || self
                .filters
                .iter()
                .any(|filter| filter == suite || case.contains(filter.as_str()))
    }
}

/// Runs a suite: `set_up` once, then the cases, `parallel` at a time.
pub fn run<S: Sync>(
    suite: &'static str,
    parallel: usize,
    cases: Vec<Case<S>>,
    set_up: impl FnOnce() -> anyhow::Result<S>,
) -> ExitCode {
    let request = Request::parse(std::env::args().skip(1));
    if request.list {
        if !request.ignored {
            println!("{suite}: test");
        }
        return ExitCode::SUCCESS;
    }
    let chosen: VecDeque<_> = cases
        .into_iter()
        .filter(|case| request.selects(suite, case.name))
        .collect();
    if request.ignored || chosen.is_empty() {
        println!("{suite}: no case to run");
        return ExitCode::SUCCESS;
    }
    let start = Instant::now();
    let state = match set_up() {
        Ok(state) => state,
        Err(error) => {
            println!("{suite}: cannot start: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    println!(
        "{suite}: ready after {:.1} s, {} cases",
        start.elapsed().as_secs_f32(),
        chosen.len()
    );
    let count = chosen.len();
    let mut failed = run_cases(&state, parallel, chosen);
    for _ in 0..retries() {
        if failed.is_empty() {
            break;
        }
        println!("{suite}: {} once more, one at a time", failed.len());
        failed = run_cases(&state, 1, failed.into());
    }
    drop(state);
    let seconds = start.elapsed().as_secs_f32();
    println!(
        "{suite}: {} passed, {} failed in {seconds:.1} s",
        count - failed.len(),
        failed.len()
    );
    for case in &failed {
        println!("    failed: {}", case.name);
    }
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// How often cases that failed are run again beside the same cluster: `CASE_RETRIES`, else never.
fn retries() -> u32 {
    let wanted = std::env::var("CASE_RETRIES").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Runs all; the answer is those that failed.
fn run_cases<S: Sync>(state: &S, parallel: usize, cases: VecDeque<Case<S>>) -> Vec<Case<S>> {
    let queue = Mutex::new(cases);
    let failed = Mutex::new(Vec::new());
    let next = || queue.lock().ok()?.pop_front();
    thread::scope(|scope| {
        for _ in 0..parallel.max(1) {
            scope.spawn(|| {
                while let Some(case) = next() {
                    if !run_case(state, &case)
                        && let Ok(mut failed) = failed.lock()
                    {
                        failed.push(case);
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_default()
}

fn run_case<S>(state: &S, case: &Case<S>) -> bool {
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (case.run)(state)));
    let seconds = start.elapsed().as_secs_f32();
    let name = case.name.replace('_', " ");
    match &result {
        Ok(Ok(())) => println!("  ok      {seconds:6.1} s  {name}"),
        Ok(Err(error)) => println!("  FAILED  {seconds:6.1} s  {name}\n{}", indent(error)),
        Err(_) => println!("  PANIC   {seconds:6.1} s  {name}"),
    }
    matches!(result, Ok(Ok(())))
}

fn indent(error: &anyhow::Error) -> String {
    format!("{error:#}")
        .lines()
        .map(|line| format!("            {line}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str) -> Request {
        Request::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_runner_that_names_the_suite_gets_every_case() {
        let request = request("cluster --exact --nocapture");
        assert!(request.selects("cluster", "dns_resolves"));
    }

    #[test]
    fn a_person_gets_the_cases_that_are_named() {
        let request = request("dns");
        assert!(request.selects("cluster", "dns_resolves"));
        assert!(!request.selects("cluster", "logs_follow"));
    }

    #[test]
    fn failures_and_panics_are_told_and_do_not_stop_the_rest() {
        let cases = VecDeque::from([
            Case {
                name: "fails",
                run: |_: &()| anyhow::bail!("no"),
            },
            Case {
                name: "panics",
                run: |_: &()| panic!("no"),
            },
            Case {
                name: "passes",
                run: |_: &()| Ok(()),
            },
        ]);
        let failed = run_cases(&(), 2, cases);
        let mut failed: Vec<&str> = failed.iter().map(|case| case.name).collect();
        failed.sort_unstable();
        assert_eq!(failed, ["fails", "panics"]);
    }
}
