//! Canonical text of leaves: times and base64, with the messages of the Go decoder.

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;

/// Layouts as Go's error messages name them.
const SECONDS: &str = "2006-01-02T15:04:05Z07:00";
const MICROSECONDS: &str = "2006-01-02T15:04:05.000000Z07:00";

/// RFC 3339 in UTC with whole seconds.
pub(crate) fn time(text: &str) -> Result<String, String> {
    let at = parse(text, SECONDS)?;
    let seconds = Timestamp::from_second(at.as_second() - i64::from(at.subsec_nanosecond() < 0))
        .unwrap_or(at);
    Ok(DateTimePrinter::new()
        .precision(Some(0))
        .timestamp_to_string(&seconds))
}

/// RFC 3339 in UTC with microseconds.
pub(crate) fn micro_time(text: &str) -> Result<String, String> {
    let at = parse(text, MICROSECONDS)?;
    Ok(DateTimePrinter::new()
        .precision(Some(6))
        .timestamp_to_string(&at))
}

fn parse(text: &str, layout: &str) -> Result<Timestamp, String> {
    let bad = |rest: &str, part: &str| {
        format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {part:?}")
    };
    // The fixed part first: it decides which part Go names.
    let shape: [(&str, usize); 6] = [
        ("2006", 4),
        ("01", 2),
        ("02", 2),
        ("15", 2),
        ("04", 2),
        ("05", 2),
    ];
    let separators = ["-", "-", "T", ":", ":", ""];
    let mut rest = text;
    for ((part, width), separator) in shape.into_iter().zip(separators) {
        let digits = rest
            .get(..width)
            .filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        if digits.is_none() {
            return Err(bad(rest, part));
        }
        rest = &rest[width..];
        let Some(after) = rest.strip_prefix(separator) else {
            return Err(bad(rest, separator));
        };
        rest = after;
    }
    if let Some(fraction) = rest.strip_prefix(['.', ',']) {
        let end = fraction
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(fraction.len());
        if end > 0 {
            rest = &fraction[end..];
        }
    }
    if rest != "Z" && !is_offset(rest) {
        return Err(bad(rest, "Z07:00"));
    }
    text.parse()
        .map_err(|_| format!("parsing time {text:?}: day out of range"))
}

fn is_offset(text: &str) -> bool {
    let b = text.as_bytes();
    b.len() == 6
        && matches!(b[0], b'+' | b'-')
        && b[3] == b':'
        && [1, 2, 4, 5].iter().all(|i| b[*i].is_ascii_digit())
}

/// Standard base64 with padding, line breaks allowed; the error is Go's.
pub(crate) fn bytes(text: &str) -> Result<String, String> {
    use base64::Engine as _;
    let engine = &base64::engine::general_purpose::STANDARD;
    if engine.decode(text).is_ok() {
        return Ok(text.to_owned());
    }
    let joined: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match engine.decode(&joined) {
        Ok(raw) => Ok(engine.encode(raw)),
        Err(_) => Err(format!(
            "illegal base64 data at input byte {}",
            corrupt_at(text)
        )),
    }
}

/// The offset that Go's decoder reports.
fn corrupt_at(text: &str) -> usize {
    let alphabet = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    let mut in_quantum = 0;
    let bytes = text.as_bytes();
    for (i, b) in bytes
        .iter()
        .enumerate()
        .filter(|(_, b)| !matches!(b, b'\r' | b'\n'))
    {
        match *b {
            b if alphabet(b) => in_quantum = (in_quantum + 1) % 4,
            b'=' if in_quantum >= 2 => {
                let rest = bytes[i + 1..]
                    .iter()
                    .filter(|b| !matches!(b, b'\r' | b'\n'))
                    .count();
                let second = bytes.get(i + 1) == Some(&b'=');
                return match (in_quantum, second) {
                    (2, false) => i + 1,
                    (2, true) if rest > 1 => i + 2,
                    _ => i + 1,
                };
            }
            _ => return i,
        }
    }
    // Cut off inside a quantum of four: Go names its first byte.
    let length = bytes.iter().filter(|b| !matches!(b, b'\r' | b'\n')).count();
    length - in_quantum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(
            time("2026-01-02T03:04:05+02:00").as_deref(),
            Ok("2026-01-02T01:04:05Z")
        );
        assert_eq!(
            time("2026-01-02T03:04:05.999Z").as_deref(),
            Ok("2026-01-02T03:04:05Z")
        );
        assert_eq!(
            micro_time("2026-01-02T03:04:05Z").as_deref(),
            Ok("2026-01-02T03:04:05.000000Z")
        );
        assert_eq!(
            micro_time("2026-01-02T03:04:05.1234567Z").as_deref(),
            Ok("2026-01-02T03:04:05.123456Z")
        );
    }

    #[test]
    fn a_bad_time_names_the_part_that_does_not_parse() {
        let expect =
            "parsing time \"x\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"x\" as \"2006\"";
        assert_eq!(time("x"), Err(expect.into()));
        assert!(time("2026-01-02").is_err_and(|e| e.ends_with("cannot parse \"\" as \"T\"")));
        assert!(
            time("2026-01-02T03:04:05")
                .is_err_and(|e| e.ends_with("cannot parse \"\" as \"Z07:00\""))
        );
    }

    #[test]
    fn base64_errors_name_the_byte() {
        assert_eq!(bytes("YQ==").as_deref(), Ok("YQ=="));
        assert_eq!(bytes("YW\nJj").as_deref(), Ok("YWJj"));
        assert_eq!(
            bytes("not base64"),
            Err("illegal base64 data at input byte 3".into())
        );
        assert_eq!(
            bytes("a"),
            Err("illegal base64 data at input byte 0".into())
        );
        assert_eq!(
            bytes("!"),
            Err("illegal base64 data at input byte 0".into())
        );
    }
}
