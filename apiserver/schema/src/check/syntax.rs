//! What is wrong with a JSON text, in the words of the Go decoder.
//!
//! Only called for text that does not parse, so it may be simple.

const MAX_DEPTH: usize = 10_000;

/// The message for the first syntax error, or `None` for valid JSON.
pub(crate) fn error(text: &[u8]) -> Option<String> {
    let mut own = Scan { text, at: 0 };
    own.space();
    let whole = own.value().and_then(|()| {
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

    /// One value with everything in it. What is open stands in a list and not on the stack, so
    /// that no text can exhaust that.
    fn value(&mut self) -> Step {
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.space();
            let opened = match self.need()? {
                b'{' => self.open(b'}')?,
                b'[' => self.open(b']')?,
                _ => self.scalar().map(|()| None)?,
            };
            if let Some(closing) = opened {
                open.push(closing);
                if open.len() > MAX_DEPTH {
                    return Err("exceeded max depth".into());
                }
                if closing == b'}' {
                    self.key()?;
                }
            } else if self.close(&mut open)? {
                return Ok(());
            }
        }
    }

    fn scalar(&mut self) -> Step {
        match self.need()? {
            b'"' => self.string(),
            b't' => self.literal(b"true"),
            b'f' => self.literal(b"false"),
            b'n' => self.literal(b"null"),
            b'-' | b'0'..=b'9' => self.number(),
            c => Err(invalid(c, "looking for beginning of value")),
        }
    }

    /// Opens an object or array; `None` when it is empty and thereby closed.
    fn open(&mut self, closing: u8) -> Result<Option<u8>, String> {
        self.at += 1;
        self.space();
        if self.need()? == closing {
            self.at += 1;
            return Ok(None);
        }
        Ok(Some(closing))
    }

    /// After a value: on to the next one, or out of what it ends. True at the very end.
    fn close(&mut self, open: &mut Vec<u8>) -> Result<bool, String> {
        while let Some(closing) = open.last().copied() {
            self.space();
            match self.need()? {
                b',' => {
                    self.at += 1;
                    if closing == b'}' {
                        self.key()?;
                    }
                    return Ok(false);
                }
                c if c == closing => {
                    self.at += 1;
                    open.pop();
                }
                c if closing == b'}' => {
                    return Err(invalid(c, "after object key:value pair"));
                }
                c => return Err(invalid(c, "after array element")),
            }
        }
        Ok(true)
    }

    /// An object's key and its colon.
    fn key(&mut self) -> Step {
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
        let deep = "[{\"a\":".repeat(500_000);
        assert_eq!(
            error(deep.as_bytes()).as_deref(),
            Some("exceeded max depth")
        );
        assert_eq!(error(b" {\"a\": [1, -2.5e+3, null, \"\\u00e4\"]} "), None);
    }
}
