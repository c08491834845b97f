//! Settings of connection tracking, as an operator wants them.

use std::time::Duration;

use kernel::sysctl;

use crate::config::Conntrack;

const MAX: &str = "net/netfilter/nf_conntrack_max";

/// The settings that differ from the kernel's own, by name.
fn wanted(config: &Conntrack) -> Vec<(&'static str, String)> {
    let seconds = |time: Option<Duration>| {
        let time = time.filter(|time| !time.is_zero())?;
        Some(time.as_secs().to_string())
    };
    let all = [
        (
            "net/netfilter/nf_conntrack_tcp_timeout_established",
            seconds(config.tcp_established),
        ),
        (
            "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
            seconds(config.tcp_close_wait),
        ),
        (
            "net/netfilter/nf_conntrack_udp_timeout",
            seconds(config.udp),
        ),
        (
            "net/netfilter/nf_conntrack_udp_timeout_stream",
            seconds(config.udp_stream),
        ),
        (
            "net/netfilter/nf_conntrack_tcp_be_liberal",
            config.tcp_be_liberal.then(|| "1".to_owned()),
        ),
    ];
    let known = all.into_iter();
    known
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

/// How many connections may be tracked with so many processors; `None` where it is left alone.
fn most(config: &Conntrack, cores: u64) -> Option<u64> {
    let wanted = config.max_per_core.saturating_mul(cores).max(config.min);
    (config.max_per_core > 0).then_some(wanted)
}

/// Writes what differs, in the calling thread's network namespace. What cannot be written is told
/// in the log: Services work without it.
pub(crate) fn ensure(config: &Conntrack) {
    for (name, value) in wanted(config) {
        if let Err(error) = sysctl::ensure(name, &value) {
            tracing::warn!(%error, "connections are tracked as the kernel has it");
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let held: Option<u64> = sysctl::read(MAX).ok().and_then(|text| text.parse().ok());
    if let (Some(most), Some(held)) = (most(config, cores), held)
        && held < most
        && let Err(error) = sysctl::write(MAX, &most.to_string())
    {
        // It is the machine's, and only the machine's own namespace may change it.
        tracing::info!(%error, held, most, "the number of tracked connections stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_for_is_left_to_the_kernel() {
        let nothing = Conntrack {
            max_per_core: 0,
            tcp_established: None,
            tcp_close_wait: Some(Duration::ZERO),
            ..Conntrack::default()
        };
        assert_eq!(wanted(&nothing), []);
        assert_eq!(most(&nothing, 64), None);
    }

    #[test]
    fn the_most_grows_with_the_processors_from_a_least() {
        let config = Conntrack::default();
        assert_eq!(most(&config, 1), Some(131_072));
        assert_eq!(most(&config, 64), Some(64 * 32_768));
    }
}
