//! How deeply an expression is nested, told before it is parsed: the parser and everything that
//! walks its tree recurse, and a stack that overflows ends the whole server.

/// Deeper expressions are refused.
pub(super) const MAX_DEPTH: usize = 250;
/// More brackets within each other are refused.
pub(super) const MAX_BRACKETS: usize = 48;

/// Whether the parser may see the text.
pub(super) fn is_bounded(source: &str) -> bool {
    Scanner {
        text: source.as_bytes(),
        at: 0,
    }
    .runs_bounded()
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    /// Operators at the same level nest to the left; a separator begins anew.
    fn runs_bounded(mut self) -> bool {
        let mut levels = vec![0usize];
        while let Some(&c) = self.text.get(self.at) {
            match c {
                b'\'' | b'"' => {
                    self.skip_string(c);
                    continue;
                }
                b'/' if self.peek(1) == Some(b'/') => {
                    self.skip_line();
                    continue;
                }
                b'(' | b'[' | b'{' => {
                    Self::count(&mut levels);
                    levels.push(0);
                }
                b')' | b']' | b'}' if levels.len() > 1 => {
                    levels.pop();
                }
                b',' => Self::restart(&mut levels),
                b'&' | b'|' if self.peek(1) == Some(c) => Self::restart(&mut levels),
                b'.' | b'+' | b'-' | b'*' | b'/' | b'%' | b'!' | b'?' | b'<' | b'>' | b'=' => {
                    Self::count(&mut levels);
                }
                b'i' if self.is_in() => Self::count(&mut levels),
                _ => {}
            }
            if levels.len() > MAX_BRACKETS || levels.iter().sum::<usize>() > MAX_DEPTH {
                return false;
            }
            self.at += 1;
        }
        true
    }

    fn count(levels: &mut [usize]) {
        if let Some(level) = levels.last_mut() {
            *level += 1;
        }
    }

    fn restart(levels: &mut [usize]) {
        if let Some(level) = levels.last_mut() {
            *level = 0;
        }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn before(&self, back: usize) -> Option<u8> {
        self.text.get(self.at.checked_sub(back)?).copied()
    }

    /// The operator `in`.
    fn is_in(&self) -> bool {
        let word = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == b'_');
        self.peek(1) == Some(b'n') && !word(self.before(1)) && !word(self.peek(2))
    }

    fn skip_line(&mut self) {
        while self.text.get(self.at).is_some_and(|c| *c != b'\n') {
            self.at += 1;
        }
    }

    /// A quote with `r` before it, and nothing before that which makes it a longer word.
    fn is_raw(&self) -> bool {
        let is = |c: Option<u8>, of: [u8; 2]| c.is_some_and(|c| of.contains(&c));
        let word = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == b'_');
        let (one, two, three) = (self.before(1), self.before(2), self.before(3));
        (is(one, [b'r', b'R']) && (!word(two) || is(two, [b'b', b'B']) && !word(three)))
            || (is(one, [b'b', b'B']) && is(two, [b'r', b'R']) && !word(three))
    }

    fn skip_string(&mut self, quote: u8) {
        let raw = self.is_raw();
        let long = self.peek(1) == Some(quote) && self.peek(2) == Some(quote);
        self.at += if long { 3 } else { 1 };
        while let Some(&c) = self.text.get(self.at) {
            if c == b'\\' && !raw {
                self.at += 2;
                continue;
            }
            if !long && (c == quote || c == b'\n') {
                self.at += 1;
                return;
            }
            if long && c == quote && self.peek(1) == Some(quote) && self.peek(2) == Some(quote) {
                self.at += 3;
                return;
            }
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_told_without_being_fooled_by_strings() {
        let deep = "(".repeat(60);
        for prefix in [
            "",
            "r'\\' + ",
            "'\\'' + ",
            "// \"\"\"\n",
            "'x\n",
            "\"\"\"(\"\"\" + ",
            "br'\\' + ",
        ] {
            assert!(!is_bounded(&format!("{prefix}{deep}")), "{prefix}");
        }
        for hidden in [
            format!("'{deep}'"),
            format!("\"\"\"{deep}\"\"\""),
            format!("1 // {deep}"),
        ] {
            assert!(is_bounded(&hidden), "{hidden}");
        }
        assert!(!is_bounded(&"a.".repeat(400)));
        assert!(!is_bounded(&"1+".repeat(400)));
        assert!(!is_bounded(&"a?b:".repeat(400)));
        assert!(is_bounded(&"a.b == 'c' && ".repeat(400)));
        assert!(is_bounded(&format!("[{}]", "'x', ".repeat(1000))));
    }
}
