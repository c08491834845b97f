//! The canonical text of a quantity: what the API server answers for `0.5`, `1000m`, `1.5Gi`.
//!
//! A quantity is kept exactly, as `mantissa × 10^exponent` (after a binary suffix was
//! multiplied in), rounded away from zero at 10⁻⁹ and capped at 2⁶³-1 as upstream does.

/// Why a text is no quantity; the texts are those that clients see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not of the form of a quantity.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// The number does not parse.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix is not one of the known ones.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Decimal,
    Binary,
    Exponent,
}

/// The canonical form of a quantity.
pub fn canonical(text: &str) -> Result<String, QuantityError> {
    let parsed = parse(text.trim())?;
    Ok(parsed.render())
}

/// The canonical form, rounded up to a multiple of a thousandth.
pub fn round_up_to_milli(text: &str) -> Result<String, QuantityError> {
    let mut own = parse(text.trim())?;
    let negative = own.mantissa < 0;
    while own.exponent < -3 {
        let rest = own.mantissa % 10;
        own.mantissa = own.mantissa / 10 + i128::from(rest != 0) * if negative { -1 } else { 1 };
        own.exponent += 1;
    }
    own.bound_positive();
    Ok(own.render())
}

/// The sum, in the first one's format (the second's where the first is zero).
pub fn add(a: &str, b: &str) -> Result<String, QuantityError> {
    let (a, b) = (parse(a.trim())?, parse(b.trim())?);
    let format = if a.mantissa == 0 { b.format } else { a.format };
    let exponent = a.exponent.min(b.exponent);
    let mut sum = Quantity {
        mantissa: a.scaled_to(exponent).saturating_add(b.scaled_to(exponent)),
        exponent,
        format,
    };
    sum.bound_positive();
    Ok(sum.render())
}

/// Compares two amounts.
pub fn compare(a: &str, b: &str) -> Result<std::cmp::Ordering, QuantityError> {
    let (a, b) = (parse(a.trim())?, parse(b.trim())?);
    let exponent = a.exponent.min(b.exponent);
    Ok(a.scaled_to(exponent).cmp(&b.scaled_to(exponent)))
}

/// Whether it is a quantity that is not a whole number.
pub fn is_fractional(text: &str) -> bool {
    parse(text.trim()).is_ok_and(|q| q.exponent < 0)
}

/// The amount as an integer, rounded up; `None` if it is no quantity.
pub fn to_integer(text: &str) -> Option<i64> {
    let own = parse(text.trim()).ok()?;
    let value = if own.exponent >= 0 {
        own.scaled_to(0)
    } else {
        let unit = 10i128.pow(own.exponent.unsigned_abs());
        own.mantissa.div_euclid(unit) + i128::from(own.mantissa.rem_euclid(unit) != 0)
    };
    i64::try_from(value).ok()
}

/// The amount in thousandths, rounded up; `None` if it is no quantity or too large.
pub fn to_milli(text: &str) -> Option<i64> {
    let own = parse(text.trim()).ok()?;
    let value = if own.exponent >= -3 {
        own.scaled_to(-3)
    } else {
        let unit = 10i128.pow((own.exponent + 3).unsigned_abs());
        own.mantissa.div_euclid(unit) + i128::from(own.mantissa.rem_euclid(unit) != 0)
    };
    i64::try_from(value).ok()
}

struct Quantity {
    mantissa: i128,
    exponent: i32,
    format: Format,
}

const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
const BINARY: [(&str, u32); 6] = [
    ("Ki", 10),
    ("Mi", 20),
    ("Gi", 30),
    ("Ti", 40),
    ("Pi", 50),
    ("Ei", 60),
];

fn interpret(suffix: &str) -> Option<(Format, i32)> {
    if let Some((_, e)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Some((Format::Decimal, *e));
    }
    if let Some((_, e)) = BINARY.iter().find(|(s, _)| *s == suffix) {
        return Some((Format::Binary, *e as i32));
    }
    let digits = suffix.strip_prefix(['e', 'E'])?;
    let exponent: i64 = digits.strip_prefix('+').unwrap_or(digits).parse().ok()?;
    Some((Format::Exponent, exponent.clamp(-1000, 1000) as i32))
}

fn parse(text: &str) -> Result<Quantity, QuantityError> {
    if !text.is_ascii() || text.is_empty() {
        return Err(QuantityError::Format);
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let negative = text.starts_with('-');
    let number_end = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(number_end);
    if number.matches('.').count() > 1
        || !suffix_has_form(suffix)
        || (number.is_empty() && suffix.is_empty())
    {
        return Err(QuantityError::Format);
    }
    let (format, exponent) = interpret(suffix).ok_or(QuantityError::Suffix)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return Err(QuantityError::Numeric);
    }
    let fraction = fraction.trim_end_matches('0');
    let mut mantissa: i128 = 0;
    for d in whole.bytes().chain(fraction.bytes()) {
        mantissa = mantissa
            .saturating_mul(10)
            .saturating_add(i128::from(d - b'0'));
    }
    let mut own = Quantity {
        mantissa,
        exponent: -(fraction.len() as i32),
        format,
    };
    match format {
        Format::Binary => own.mantissa = own.mantissa.saturating_mul(1 << exponent),
        _ => own.exponent += exponent,
    }
    own.bound();
    if negative {
        own.mantissa = -own.mantissa;
    }
    Ok(own)
}

/// `[eEinumkKMGTP]*[-+]?[0-9]*`
fn suffix_has_form(suffix: &str) -> bool {
    let rest = suffix.trim_start_matches(|c: char| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    rest.bytes().all(|b| b.is_ascii_digit())
}

impl Quantity {
    fn scaled_to(&self, exponent: i32) -> i128 {
        self.mantissa
            .saturating_mul(10i128.saturating_pow((self.exponent - exponent).unsigned_abs()))
    }

    /// [`Self::bound`] for either sign.
    fn bound_positive(&mut self) {
        let negative = self.mantissa < 0;
        self.mantissa = self.mantissa.saturating_abs();
        self.bound();
        if negative {
            self.mantissa = -self.mantissa;
        }
    }

    /// Rounds up at nano and caps at the largest value; takes factors of ten out.
    fn bound(&mut self) {
        while self.exponent < -9 {
            let rest = self.mantissa % 10;
            self.mantissa = self.mantissa / 10 + i128::from(rest != 0);
            self.exponent += 1;
            if self.mantissa <= 1 && self.exponent < -9 {
                self.exponent = -9;
            }
        }
        while self.mantissa != 0 && self.mantissa % 10 == 0 {
            self.mantissa /= 10;
            self.exponent += 1;
        }
        if self.mantissa == 0 {
            self.exponent = 0;
        }
        let max = i128::from(i64::MAX);
        let too_large = self.exponent > 18
            || self.mantissa > max.saturating_mul(10i128.pow(9))
            || match self.exponent {
                e @ 0.. => self.mantissa.saturating_mul(10i128.pow(e as u32)) > max,
                e => self.mantissa / 10i128.pow(e.unsigned_abs()) > max,
            };
        if too_large && self.mantissa != 0 {
            (self.mantissa, self.exponent) = (max, 0);
        }
    }

    /// The value as an integer, if it is one.
    fn integer(&self) -> Option<i128> {
        (self.exponent >= 0).then(|| {
            self.mantissa
                .saturating_mul(10i128.pow(self.exponent as u32))
        })
    }

    fn render(&self) -> String {
        if self.mantissa == 0 {
            return "0".into();
        }
        match self.format {
            Format::Binary => match self.integer() {
                Some(v) if v.abs() >= 1024 => binary(v),
                _ => self.decimal(false),
            },
            Format::Decimal => self.decimal(false),
            Format::Exponent => self.decimal(true),
        }
    }

    /// The largest exponent that is a multiple of three.
    fn decimal(&self, exponent_form: bool) -> String {
        let exponent = self.exponent.div_euclid(3) * 3;
        let mantissa = self.mantissa * 10i128.pow((self.exponent - exponent) as u32);
        if exponent_form {
            return if exponent == 0 {
                mantissa.to_string()
            } else {
                format!("{mantissa}e{exponent}")
            };
        }
        let suffix = DECIMAL
            .iter()
            .find(|(_, e)| *e == exponent)
            .map_or("", |(s, _)| s);
        format!("{mantissa}{suffix}")
    }
}

fn binary(mut value: i128) -> String {
    let mut power = 0;
    while value % 1024 == 0 && power < BINARY.len() {
        value /= 1024;
        power += 1;
    }
    let suffix = power.checked_sub(1).map_or("", |p| BINARY[p].0);
    format!("{value}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_one_canonical_form() {
        for (text, expect) in [
            ("0.1", "100m"),
            ("1500m", "1500m"),
            ("1000m", "1"),
            ("2.0", "2"),
            ("1e-3", "1e-3"),
            ("1e3", "1e3"),
            ("129e6", "129e6"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("0.5Gi", "512Mi"),
            ("1000Ki", "1000Ki"),
            ("0.5Ki", "512"),
            ("0.1Ki", "102400m"),
            ("123Mi", "123Mi"),
            ("1k", "1k"),
            ("1000k", "1M"),
            (".5", "500m"),
            ("1 ", "1"),
            ("0", "0"),
            ("0.0", "0"),
            ("-1", "-1"),
            ("+1", "1"),
            ("100", "100"),
            ("1000", "1k"),
            ("1073741824", "1073741824"),
            ("0.0000000001", "1n"),
            ("1E", "1E"),
            ("5n", "5n"),
            ("1Ei", "1Ei"),
            ("100000000E", "9223372036854775807"),
            ("1e1", "10"),
        ] {
            assert_eq!(canonical(text).as_deref(), Ok(expect), "{text}");
        }
    }

    #[test]
    fn amounts_add_up_and_compare() {
        assert_eq!(add("500m", "1").as_deref(), Ok("1500m"));
        assert_eq!(add("0", "1Gi").as_deref(), Ok("1Gi"));
        assert_eq!(add("512Mi", "512Mi").as_deref(), Ok("1Gi"));
        assert_eq!(compare("1000m", "1"), Ok(std::cmp::Ordering::Equal));
        assert_eq!(compare("1Gi", "1G"), Ok(std::cmp::Ordering::Greater));
        assert_eq!(round_up_to_milli("1n").as_deref(), Ok("1m"));
        assert_eq!(round_up_to_milli("1500u").as_deref(), Ok("2m"));
        assert_eq!(to_integer("1500m"), Some(2));
        assert_eq!(to_integer("1Ki"), Some(1024));
    }

    #[test]
    fn bad_quantities_say_why() {
        for (text, expect) in [
            ("", QuantityError::Format),
            ("x", QuantityError::Format),
            ("1e3Ki", QuantityError::Format),
            ("1mm", QuantityError::Suffix),
            (".", QuantityError::Numeric),
            ("1.2.3", QuantityError::Format),
            ("1 Gi", QuantityError::Format),
            ("--1", QuantityError::Suffix),
        ] {
            assert_eq!(canonical(text), Err(expect), "{text}");
        }
    }
}
