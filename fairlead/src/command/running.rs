//! Long-running commands: a runtime, signals, and components that end together.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long components may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Of a worker thread, in bytes: what a main thread has. Objects nest, and what walks them walks
/// down. Their depth is bounded (`schema::check::MAX_NESTING`), but without the compiler's
/// optimizations reading as many levels of YAML takes more than the usual two MiB. Pages that are
/// never reached take no memory.
const STACK: usize = 8 << 20;

/// When what only the start of a process needs has been needed: caches are filled, the first sync
/// is done.
const SETTLED: Duration = Duration::from_secs(10);

/// Runs the future on a runtime of its own.
pub(crate) fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.clamp(2, 8))
        .thread_stack_size(STACK)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(future)
}

/// The components of this process.
pub(crate) struct Components {
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
    shutdown: CancellationToken,
}

impl Components {
    /// SIGTERM or SIGINT ends the components.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let shutdown = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("cannot watch signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch signals")?;
        let token = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            token.cancel();
        });
        Ok(Self {
            tasks: JoinSet::new(),
            shutdown,
        })
    }

    pub(crate) fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Starts a component. Its name stands before its error.
    pub(crate) fn spawn<E>(
        &mut self,
        name: &'static str,
        run: impl Future<Output = Result<(), E>> + Send + 'static,
    ) where
        E: Into<anyhow::Error> + Send + 'static,
    {
        self.tasks
            .spawn(async move { (name, run.await.map_err(Into::into)) });
    }

    /// Waits until a signal or until a component ends, ends the others and tells the first error.
    pub(crate) async fn finish(mut self) -> anyhow::Result<ExitCode> {
        tokio::spawn(forget_start(self.shutdown()));
        let first = tokio::select! {
            () = self.shutdown.cancelled() => None,
            ended = self.tasks.join_next() => ended,
        };
        let by_signal = self.shutdown.is_cancelled();
        self.shutdown.cancel();
        let rest = async {
            let mut results: Vec<_> = first.into_iter().collect();
            while let Some(ended) = self.tasks.join_next().await {
                results.push(ended);
            }
            results
        };
        let Ok(results) = tokio::time::timeout(PATIENCE, rest).await else {
            tracing::warn!("components did not end in time");
            return Ok(ExitCode::SUCCESS);
        };
        for ended in results {
            let (name, result) = ended.context("a component panicked")?;
            result.with_context(|| name)?;
            if !by_signal {
                tracing::warn!(component = name, "ended by itself");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Gives back the memory of code that has run for the last time, half of this program.
async fn forget_start(shutdown: CancellationToken) {
    if tokio::time::timeout(SETTLED, shutdown.cancelled())
        .await
        .is_ok()
    {
        return;
    }
    if let Err(error) = kernel::memory::unmap_unchanged() {
        tracing::debug!(%error, "cannot give back the pages of the start");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_error_ends_the_others_and_is_told_with_its_component() {
        let mut components = Components::new().unwrap();
        let shutdown = components.shutdown();
        components.spawn("steady", async move {
            shutdown.cancelled().await;
            Ok::<_, anyhow::Error>(())
        });
        components.spawn("broken", async { Err(anyhow::anyhow!("no room")) });
        let error = components.finish().await.unwrap_err();
        assert_eq!(format!("{error:#}"), "broken: no room");
    }

    #[tokio::test]
    async fn shutdown_ends_everything_without_an_error() {
        let mut components = Components::new().unwrap();
        let shutdown = components.shutdown();
        let own = shutdown.clone();
        components.spawn("steady", async move {
            own.cancelled().await;
            Ok::<_, anyhow::Error>(())
        });
        shutdown.cancel();
        assert!(components.finish().await.is_ok());
    }
}
