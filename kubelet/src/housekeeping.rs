//! What has to be tidied now and then: large logs and unused images.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::{images, logs};

const LOGS: Duration = Duration::from_secs(10);
/// Images are looked at every so many rounds.
const IMAGES_EVERY: u32 = 30;

pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let mut round = 0_u32;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOGS) => {}
        }
        rotate_logs(&context).await;
        round = round.wrapping_add(1);
        if round.is_multiple_of(IMAGES_EVERY) {
            let config = &context.config.images;
            match images::collect(&context.runtime, &context.images, config, false).await {
                Ok(0) => {}
                Ok(freed) => tracing::info!(freed, "removed unused images"),
                Err(error) => tracing::debug!(%error, "unused images were not removed"),
            }
        }
    }
}

async fn rotate_logs(context: &Arc<Context>) {
    let running: Vec<(String, PathBuf)> = context
        .list()
        .iter()
        .flat_map(|listed| listed.observed.containers.clone())
        .filter(|record| record.is_running() && !record.log_path.is_empty())
        .map(|record| (record.id, PathBuf::from(record.log_path)))
        .collect();
    let (max_bytes, max_files) = (context.config.log_max_bytes, context.config.log_max_files);
    let work = move || -> Vec<(String, std::io::Result<bool>)> {
        let rotate = |(id, log): (String, PathBuf)| (id, logs::rotate(&log, max_bytes, max_files));
        running.into_iter().map(rotate).collect()
    };
    for (id, result) in tokio::task::spawn_blocking(work).await.unwrap_or_default() {
        match result {
            Ok(false) => {}
            Ok(true) => {
                if let Err(error) = context.runtime.reopen_log(&id).await {
                    tracing::warn!(container = id, %error, "the runtime did not open a new log");
                }
            }
            Err(error) => tracing::warn!(container = id, %error, "a log was not rotated"),
        }
    }
}
