//! The contract of [`storage::Store`], run on every implementation.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod contract {
    pub(crate) mod backends;
    pub(crate) mod suite;
}

use contract::backends::{Embedded, Etcd};
use contract::suite;

macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let backend = Embedded::start();
                suite::$name(backend.store()).await;
            })*
        }
        mod etcd {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let backend = Etcd::start().await;
                suite::$name(backend.store()).await;
            })*
        }
    };
}

contract!(
    an_entry_is_read_as_it_was_written,
    expectations_guard_the_whole_transaction,
    a_transaction_has_one_revision_and_orders_its_changes,
    what_changes_nothing_makes_no_revision,
    a_key_named_twice_is_refused,
    lists_are_ordered_and_paged,
    a_list_at_an_old_revision_shows_the_old_state,
    revisions_out_of_reach_are_told_apart,
    a_watch_sees_history_and_then_what_comes,
    a_watch_sees_only_its_prefix_and_hears_of_progress,
    a_slow_watcher_misses_nothing,
    concurrent_writers_agree_on_one_order,
    compaction_keeps_what_lives,
    random_histories_match_a_model,
);
