//! What is wrong with a JSON text, in the words of the Go decoder.
//!
//! Only called for text that does not parse, so it may be simple.

const MAX_DEPTH: usize = 10_000;

/// The message for the first syntax error, or `None` for valid JSON.
pub(crate) fn error(text: &[u8]) -> Option<String> {
    let mut own = Scan { text, at: 0 };
    own.space();
    let whole = own.value(0).and_then(|()| {
        own.space();
        own.peek()
            .map_or(Ok(()), |c| Err(invalid(c, "after top-level value")))
    });
    whole.err()
}

fn invalid(c: u8, context: &str) -> String {
    let shown = match c {
        b'\'' => "'\\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        c if c.is_ascii_graphic() || c == b' ' => format!("'{}'", char::from(c)),
        b'\n' => "'\\n'".into(),
        b'\r' => "'\\r'".into(),
        b'\t' => "'\\t'".into(),
        c if c >= 0xa1 => format!("'{}'", char::from(c)),
        c => format!("'\\x{c:02x}'"),
    };
    format!("invalid character {shown} {context}")
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

type Step = Result<(), String>;

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn need(&self) -> Result<u8, String> {
        self.peek()
            .ok_or_else(|| "unexpected end of JSON input".to_owned())
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Step {
        if depth > MAX_DEPTH {
            return Err("exceeded max depth".into());
        }
        match self.need()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string(),
            b't' => self.literal(b"true"),
            b'f' => self.literal(b"false"),
            b'n' => self.literal(b"null"),
            b'-' | b'0'..=b'9' => self.number(),
            c => Err(invalid(c, "looking for beginning of value")),
        }
    }

    fn object(&mut self, depth: usize) -> Step {
        self.at += 1;
        self.space();
        if self.need()? == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            match self.need()? {
                b'"' => self.string()?,
                c => return Err(invalid(c, "looking for beginning of object key string")),
            }
            self.space();
            match self.need()? {
                b':' => self.at += 1,
                c => return Err(invalid(c, "after object key")),
            }
            self.space();
            self.value(depth + 1)?;
            self.space();
            match self.need()? {
                b',' => self.at += 1,
                b'}' => break,
                c => return Err(invalid(c, "after object key:value pair")),
            }
        }
        self.at += 1;
        Ok(())
    }

    fn array(&mut self, depth: usize) -> Step {
        self.at += 1;
        self.space();
        if self.need()? == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            self.value(depth + 1)?;
            self.space();
            match self.need()? {
                b',' => self.at += 1,
                b']' => break,
                c => return Err(invalid(c, "after array element")),
            }
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Step {
        self.at += 1;
        loop {
            match self.need()? {
                b'"' => break,
                b'\\' => self.escape()?,
                c if c < 0x20 => return Err(invalid(c, "in string literal")),
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Ok(())
    }

    fn escape(&mut self) -> Step {
        self.at += 1;
        match self.need()? {
            b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => self.at += 1,
            b'u' => {
                for _ in 0..4 {
                    self.at += 1;
                    let c = self.need()?;
                    if !c.is_ascii_hexdigit() {
                        return Err(invalid(c, "in \\u hexadecimal character escape"));
                    }
                }
                self.at += 1;
            }
            c => return Err(invalid(c, "in string escape code")),
        }
        Ok(())
    }

    fn literal(&mut self, word: &'static [u8]) -> Step {
        let name = std::str::from_utf8(word).unwrap_or_default();
        for expect in word {
            let c = self.need()?;
            if c != *expect {
                let context = format!("in literal {name} (expecting '{}')", char::from(*expect));
                return Err(invalid(c, &context));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn number(&mut self) -> Step {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.need()? {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            c => return Err(invalid(c, "in numeric literal")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            match self.need()? {
                b'0'..=b'9' => self.digits(),
                c => return Err(invalid(c, "after decimal point in numeric literal")),
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            match self.need()? {
                b'0'..=b'9' => self.digits(),
                c => return Err(invalid(c, "in exponent of numeric literal")),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_errors_read_as_gos() {
        for (text, expect) in [
            ("{", "unexpected end of JSON input"),
            ("", "unexpected end of JSON input"),
            (
                "{a",
                "invalid character 'a' looking for beginning of object key string",
            ),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            (
                "{\"a\":1 2}",
                "invalid character '2' after object key:value pair",
            ),
            ("[1 2]", "invalid character '2' after array element"),
            ("tru", "unexpected end of JSON input"),
            (
                "nul1",
                "invalid character '1' in literal null (expecting 'l')",
            ),
            ("01", "invalid character '1' after top-level value"),
            (
                "1.x",
                "invalid character 'x' after decimal point in numeric literal",
            ),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("x", "invalid character 'x' looking for beginning of value"),
        ] {
            assert_eq!(error(text.as_bytes()).as_deref(), Some(expect), "{text}");
        }
        assert_eq!(error(b" {\"a\": [1, -2.5e+3, null, \"\\u00e4\"]} "), None);
    }
}
