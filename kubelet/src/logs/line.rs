use jiff::Timestamp;

/// Where a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// One line of a log file: `TIME STREAM TAGS TEXT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// As it was written, with its nanoseconds.
    pub time: &'a str,
    pub stream: Stream,
    /// The runtime cuts long lines; all parts but the last are partial.
    pub partial: bool,
    pub text: &'a [u8],
}

impl<'a> Line<'a> {
    /// Reads a line without its line feed; `None` for what is not in the format.
    pub(crate) fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?;
        let stream = match parts.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let partial = parts.next()?.split(|byte| *byte == b':').next() == Some(b"P");
        Some(Self {
            time,
            stream,
            partial,
            text: parts.next().unwrap_or_default(),
        })
    }

    pub(crate) fn at(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_in_the_runtimes_format() {
        let line = Line::parse(b"2024-01-02T03:04:05.678901234Z stderr P a b ").unwrap();
        assert_eq!(line.time, "2024-01-02T03:04:05.678901234Z");
        assert_eq!(line.at().unwrap().subsec_nanosecond(), 678_901_234);
        assert_eq!(
            (line.stream, line.partial, line.text),
            (Stream::Stderr, true, &b"a b "[..])
        );
        let empty = Line::parse(b"2024-01-02T03:04:05Z stdout F ").unwrap();
        assert_eq!((empty.partial, empty.text), (false, &b""[..]));
        assert!(
            Line::parse(b"2024-01-02T03:04:05+01:00 stdout F x")
                .unwrap()
                .at()
                .is_some()
        );
        for text in [
            &b""[..],
            b"x",
            b"2024 stdin F x",
            b"2024-01-02T03:04:05Z stdout",
        ] {
            assert_eq!(Line::parse(text), None);
        }
    }
}
