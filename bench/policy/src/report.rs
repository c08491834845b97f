//! How measurements are told.

use std::time::Duration;

/// What was measured several times.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn add(&mut self, sample: f64) {
        self.0.push(sample);
        self.0.sort_by(f64::total_cmp);
    }

    /// The sample below which this share of them lies; 0 where there are none.
    fn at(&self, share: f64) -> f64 {
        let index = ((self.0.len() as f64 - 1.0) * share).round() as usize;
        self.0.get(index).copied().unwrap_or_default()
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }

    pub(crate) fn lowest(&self) -> f64 {
        self.at(0.0)
    }

    pub(crate) fn highest(&self) -> f64 {
        self.at(1.0)
    }
}

/// How much more or less than something else, in percent.
pub(crate) fn against(value: f64, other: f64) -> String {
    format!("{:+.1} %", (value / other - 1.0) * 100.0)
}

/// Median, p99 and worst in milliseconds, as cells of a table, and how often it was measured.
pub(crate) fn cells(times: &[Duration]) -> String {
    let mut samples = Samples::default();
    times
        .iter()
        .for_each(|time| samples.add(time.as_secs_f64() * 1000.0));
    format!(
        "{:.2} | {:.2} | {:.2} | {}",
        samples.median(),
        samples.at(0.99),
        samples.highest(),
        times.len()
    )
}
