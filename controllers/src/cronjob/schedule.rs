//! Cron schedules: five fields, or `@hourly` and its kin, or `@every 90m`.
//!
//! Days follow cron's old rule: if both day of month and day of week are restricted, either
//! suffices. A local time that does not exist (clocks put forward) is skipped.

use std::time::Duration;

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Span, Timestamp, ToSpan};

/// A text that is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no cron schedule")]
pub(crate) struct InvalidSchedule(pub String);

/// How far a search looks for a day: some schedules name only the 29th of February.
const HORIZON_DAYS: u32 = 366 * 8 + 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Schedule {
    Every(Duration),
    Fields(Box<Fields>),
}

/// Allowed values as bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    any_day: bool,
    any_weekday: bool,
}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

fn value(text: &str, names: &[&str], first: u32) -> Option<u32> {
    let lower = text.to_ascii_lowercase();
    match names.iter().position(|name| *name == lower) {
        Some(at) => u32::try_from(at).ok().map(|at| at + first),
        None => text.parse().ok(),
    }
}

/// Reads one field: lists of values, ranges and steps.
fn bits(text: &str, first: u32, last: u32, names: &[&str]) -> Option<u64> {
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse::<u32>().ok().filter(|step| *step > 0)?),
            None => (part, 1),
        };
        let (low, high) = match range {
            "*" | "?" => (first, last),
            _ => match range.split_once('-') {
                Some((low, high)) => (value(low, names, first)?, value(high, names, first)?),
                None => {
                    let low = value(range, names, first)?;
                    (low, if part.contains('/') { last } else { low })
                }
            },
        };
        if low < first || high > last || low > high {
            return None;
        }
        let mut at = low;
        while at <= high {
            bits |= 1 << at;
            at += step;
        }
    }
    Some(bits)
}

fn is_any(text: &str) -> bool {
    text.split(',').any(|part| {
        let range = part.split_once('/').map_or(part, |(range, _)| range);
        matches!(range, "*" | "?")
    })
}

/// `1h30m` and the like.
fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let seconds = match &rest[..end] {
            "h" => 3600,
            "m" => 60,
            "s" => 1,
            _ => return None,
        };
        total = total.checked_add(Duration::from_secs(number.checked_mul(seconds)?))?;
        rest = &rest[end..];
    }
    (total >= Duration::from_secs(1)).then_some(total)
}

impl std::str::FromStr for Schedule {
    type Err = InvalidSchedule;

    fn from_str(text: &str) -> Result<Self, InvalidSchedule> {
        parse(text.trim()).ok_or_else(|| InvalidSchedule(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Schedule> {
    let spelled = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => match text.strip_prefix("@every ") {
            Some(every) => return duration(every.trim()).map(Schedule::Every),
            None => text,
        },
    };
    let fields: Vec<&str> = spelled.split_ascii_whitespace().collect();
    let [minute, hour, day, month, weekday] = fields.as_slice() else {
        return None;
    };
    // Sunday is 0, and 7 to some.
    let weekdays = bits(weekday, 0, 7, &WEEKDAYS)?;
    Some(Schedule::Fields(Box::new(Fields {
        minutes: bits(minute, 0, 59, &[])?,
        hours: bits(hour, 0, 23, &[])?,
        days: bits(day, 1, 31, &[])?,
        months: bits(month, 1, 12, &MONTHS)?,
        weekdays: (weekdays | weekdays >> 7) & 0x7f,
        any_day: is_any(day),
        any_weekday: is_any(weekday),
    })))
}

fn has(bits: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| bits & (1 << value) != 0)
}

impl Fields {
    fn on(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        let either = if self.any_day || self.any_weekday {
            day && weekday
        } else {
            day || weekday
        };
        has(self.months, date.month()) && either
    }

    /// The times of a day, in order.
    fn times(&self, date: Date, zone: &TimeZone) -> Vec<Timestamp> {
        let mut times = Vec::new();
        for hour in (0..24).filter(|hour| has(self.hours, *hour)) {
            for minute in (0..60).filter(|minute| has(self.minutes, *minute)) {
                let local: DateTime = date.at(hour, minute, 0, 0);
                let ambiguous = zone.to_ambiguous_timestamp(local);
                if matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. }) {
                    continue;
                }
                times.extend(ambiguous.earlier().ok());
            }
        }
        times.sort();
        times
    }

    fn search(
        &self,
        from: Timestamp,
        zone: &TimeZone,
        step: Span,
        hit: impl Fn(&[Timestamp]) -> Option<Timestamp>,
    ) -> Option<Timestamp> {
        let mut date = from.to_zoned(zone.clone()).date();
        for _ in 0..HORIZON_DAYS {
            if self.on(date)
                && let Some(found) = hit(&self.times(date, zone))
            {
                return Some(found);
            }
            date = date.checked_add(step).ok()?;
        }
        None
    }
}

impl Schedule {
    /// The first time after another one.
    pub(crate) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(every) => after.checked_add(*every).ok(),
            Schedule::Fields(fields) => fields.search(after, zone, 1.day(), |times| {
                times.iter().copied().find(|time| *time > after)
            }),
        }
    }

    /// The last time not after `until`, and after `since`.
    pub(crate) fn latest(
        &self,
        since: Timestamp,
        until: Timestamp,
        zone: &TimeZone,
    ) -> Option<Timestamp> {
        let found = match self {
            Schedule::Every(every) => {
                let period = i64::try_from(every.as_secs()).ok()?.max(1);
                let passed = (until.as_second() - since.as_second()) / period;
                (passed > 0).then(|| since.checked_add((passed * period).seconds()).ok())?
            }
            Schedule::Fields(fields) => fields.search(until, zone, -1.day(), |times| {
                times.iter().copied().rev().find(|time| *time <= until)
            }),
        };
        found.filter(|found| *found > since)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn schedule(text: &str) -> Schedule {
        text.parse().expect("a schedule")
    }

    #[test]
    fn the_next_time_follows_the_fields() {
        let cases = [
            ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            (
                "*/15 * * * *",
                "2026-01-01T00:14:59Z",
                "2026-01-01T00:15:00Z",
            ),
            ("30 2 * * *", "2026-01-01T02:30:00Z", "2026-01-02T02:30:00Z"),
            ("0 0 1 * *", "2026-01-15T00:00:00Z", "2026-02-01T00:00:00Z"),
            (
                "0 9 * * mon-fri",
                "2026-01-02T10:00:00Z",
                "2026-01-05T09:00:00Z",
            ),
            ("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            (
                "0 0 13 * fri",
                "2026-01-01T00:00:00Z",
                "2026-01-02T00:00:00Z",
            ),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            (
                "0 0 1 jan *",
                "2026-01-01T00:00:00Z",
                "2027-01-01T00:00:00Z",
            ),
            (
                "5/20 1 * * ?",
                "2026-01-01T01:06:00Z",
                "2026-01-01T01:25:00Z",
            ),
            ("@hourly", "2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z"),
            (
                "@every 1h30m",
                "2026-01-01T00:30:00Z",
                "2026-01-01T02:00:00Z",
            ),
        ];
        for (text, after, expect) in cases {
            let next = schedule(text).next(time(after), &TimeZone::UTC);
            assert_eq!(next, Some(time(expect)), "{text}");
        }
        let never = schedule("0 0 31 2 *").next(time("2026-01-01T00:00:00Z"), &TimeZone::UTC);
        assert_eq!(never, None);
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in [
            "",
            "* * * *",
            "60 * * * *",
            "* * 0 * *",
            "*/0 * * * *",
            "5-1 * * * *",
            "@never",
            "@every",
            "@every 5x",
            "a * * * *",
            "* * * * * *",
        ] {
            assert!(text.parse::<Schedule>().is_err(), "{text}");
        }
    }

    #[test]
    fn local_times_follow_the_zone_and_skip_what_does_not_exist() {
        // Central European rules, written out, so that no database is needed.
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone");
        let nightly = schedule("30 2 * * *");
        let next = |after: &str| {
            nightly
                .next(time(after), &zone)
                .expect("a time")
                .to_string()
        };
        assert_eq!(next("2026-01-01T00:00:00Z"), "2026-01-01T01:30:00Z");
        assert_eq!(next("2026-03-28T02:00:00Z"), "2026-03-30T00:30:00Z");
        assert_eq!(next("2026-07-01T00:00:00Z"), "2026-07-01T00:30:00Z");
    }

    proptest! {
        /// The latest time before the next one is the one that was next before.
        #[test]
        fn next_and_latest_agree(second in 1_700_000_000i64..1_900_000_000, pick in 0usize..5) {
            let text = ["*/7 * * * *", "0 3 * * 1", "15 */6 1,15 * *", "@hourly", "1-5 0 * 2 *"][pick];
            let schedule = schedule(text);
            let start = Timestamp::from_second(second).expect("in range");
            let first = schedule.next(start, &TimeZone::UTC).expect("a time");
            let second = schedule.next(first, &TimeZone::UTC).expect("a time");
            prop_assert!(start < first && first < second);
            let before = second - Duration::from_secs(1);
            prop_assert_eq!(schedule.latest(start, before, &TimeZone::UTC), Some(first));
            let early = first - Duration::from_secs(1);
            prop_assert_eq!(schedule.latest(start, early, &TimeZone::UTC), None);
        }

        #[test]
        fn no_text_panics(text in "[0-9a-z@*/,? -]{0,30}") {
            let _ = text.parse::<Schedule>();
        }
    }
}
