//! Schedules: five fields, or a word for them.

use super::field::{Errors, Node, quote};

/// `spec.schedule`
pub(super) fn schedule(e: &mut Errors, node: &Node<'_>, spec: &Node<'_>, old: Option<&Node<'_>>) {
    let text = node.text();
    if let Err(why) = parse(text) {
        e.bad(node, why);
    }
    let allowed = old.is_some_and(|o| o.get("schedule").text().contains("TZ"));
    if !text.contains("TZ") {
        return;
    }
    if allowed && spec.get("timeZone").is_set() {
        let why = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
        e.bad(node, why);
    } else if !allowed {
        let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        e.bad(node, why);
    }
}

/// `spec.timeZone`
pub(super) fn time_zone(e: &mut Errors, node: &Node<'_>) {
    let text = node.text();
    if text.is_empty() {
        return e.bad(node, "timeZone must be nil or non-empty string");
    }
    let unknown = format!("unknown time zone {text}");
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._+".contains(c);
    let right = |part: &str| {
        (1..=14).contains(&part.len())
            && part != "."
            && part != ".."
            && !part.starts_with('-')
            && part.chars().all(plain)
    };
    if !text.split('/').all(right) {
        return e.bad(node, unknown);
    }
    if text.eq_ignore_ascii_case("Local") {
        let why =
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        e.bad(node, why);
    }
    if !is_zone(text) {
        e.bad(node, unknown);
    }
}

/// Go knows these two without a database.
fn is_zone(name: &str) -> bool {
    matches!(name, "UTC" | "Local")
        || jiff::tz::TimeZone::get(name).is_ok_and(|z| z.iana_name() == Some(name))
}

struct Bounds {
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const FIELDS: [Bounds; 5] = [
    Bounds {
        low: 0,
        high: 59,
        names: &[],
    },
    Bounds {
        low: 0,
        high: 23,
        names: &[],
    },
    Bounds {
        low: 1,
        high: 31,
        names: &[],
    },
    Bounds {
        low: 1,
        high: 12,
        names: &[
            "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
        ],
    },
    Bounds {
        low: 0,
        high: 6,
        names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    },
];

const WORDS: [&str; 7] = [
    "@yearly",
    "@annually",
    "@monthly",
    "@weekly",
    "@daily",
    "@midnight",
    "@hourly",
];

fn parse(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("empty spec string".into());
    }
    let mut rest = text;
    if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
        let (zone, fields) = text.split_once(' ').unwrap_or((text, ""));
        let name = zone.split_once('=').map_or("", |(_, n)| n);
        if !name.is_empty() && !is_zone(name) {
            return Err(format!(
                "provided bad location {name}: unknown time zone {name}"
            ));
        }
        rest = fields.trim();
    }
    if rest.starts_with('@') {
        return parse_word(rest);
    }
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!(
            "expected exactly 5 fields, found {}: [{}]",
            fields.len(),
            fields.join(" ")
        ));
    }
    for (field, bounds) in fields.iter().zip(&FIELDS) {
        for part in field.split(',').filter(|p| !p.is_empty()) {
            parse_part(part, bounds)?;
        }
    }
    Ok(())
}

fn parse_word(word: &str) -> Result<(), String> {
    if WORDS.contains(&word) {
        return Ok(());
    }
    let Some(duration) = word.strip_prefix("@every ") else {
        return Err(format!("unrecognized descriptor: {word}"));
    };
    if is_duration(duration) {
        return Ok(());
    }
    Err(format!(
        "failed to parse duration {word}: time: invalid duration {}",
        quote(duration)
    ))
}

/// `1h30m`, as Go spells durations.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number = &rest[..digits];
        rest = &rest[digits..];
        let units = ["ns", "us", "µs", "ms", "s", "m", "h"];
        let unit = units
            .iter()
            .filter(|u| rest.starts_with(**u))
            .max_by_key(|u| u.len());
        let numeric = number.bytes().any(|c| c.is_ascii_digit()) && number.matches('.').count() < 2;
        match unit {
            Some(unit) if numeric => rest = &rest[unit.len()..],
            _ => return false,
        }
    }
    true
}

fn parse_part(part: &str, bounds: &Bounds) -> Result<(), String> {
    let slashes: Vec<&str> = part.split('/').collect();
    let ends: Vec<&str> = slashes[0].split('-').collect();
    let (mut start, mut end) = (bounds.low, bounds.high);
    let single = ends.len() == 1;
    if ends[0] != "*" && ends[0] != "?" {
        start = parse_number(ends[0], bounds)?;
        end = match ends.as_slice() {
            [_] => start,
            [_, last] => parse_number(last, bounds)?,
            _ => return Err(format!("too many hyphens: {part}")),
        };
    }
    let mut step = 1;
    match slashes.as_slice() {
        [_] => {}
        [_, text] => {
            step = parse_int(text)?;
            if single {
                end = bounds.high;
            }
        }
        _ => return Err(format!("too many slashes: {part}")),
    }
    let (low, high) = (bounds.low, bounds.high);
    if start < low {
        return Err(format!(
            "beginning of range ({start}) below minimum ({low}): {part}"
        ));
    }
    if end > high {
        return Err(format!(
            "end of range ({end}) above maximum ({high}): {part}"
        ));
    }
    if start > end {
        return Err(format!(
            "beginning of range ({start}) beyond end of range ({end}): {part}"
        ));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    Ok(())
}

fn parse_number(text: &str, bounds: &Bounds) -> Result<u32, String> {
    let lower = text.to_lowercase();
    match bounds.names.iter().position(|n| *n == lower) {
        Some(index) => Ok(bounds.low + u32::try_from(index).unwrap_or_default()),
        None => parse_int(text),
    }
}

fn parse_int(text: &str) -> Result<u32, String> {
    let number: i64 = text.parse().map_err(|_| {
        format!(
            "failed to parse int from {text}: strconv.Atoi: parsing {}: invalid syntax",
            quote(text)
        )
    })?;
    if number < 0 {
        return Err(format!("negative number ({number}) not allowed: {text}"));
    }
    Ok(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn schedules_are_judged_as_upstream_judges_them() {
        for right in [
            "* * * * *",
            "*/5 1-3 1,15 jan-mar MON",
            "@daily",
            "@every 1h30m",
        ] {
            assert_eq!(parse(right), Ok(()), "{right}");
        }
        for (wrong, why) in [
            ("x", "expected exactly 5 fields, found 1: [x]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            (
                "5-1 * * * *",
                "beginning of range (5) beyond end of range (1): 5-1",
            ),
            (
                "*/0 * * * *",
                "step of range should be a positive number: */0",
            ),
            (
                "a * * * *",
                "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax",
            ),
            ("@never", "unrecognized descriptor: @never"),
        ] {
            assert_eq!(parse(wrong), Err(why.into()));
        }
    }
}
