//! Resource quantities: `100m`, `1.5Gi`, `2e3`.
//!
//! Source: k8s.io/apimachinery/pkg/api/resource, "Quantity" serialization format.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Billionths of a unit, the finest that a quantity can express.
const NANO: i128 = 1_000_000_000;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a quantity: write a number with one of the suffixes n, u, m, k, M, G, T, P, E, Ki, Mi, Gi, Ti, Pi, Ei or an exponent"
)]
pub struct InvalidQuantity {
    pub text: String,
}

/// The quantity in billionths, rounded up, saturating at the limits of `i128`.
pub fn nanos(text: &str) -> Result<i128, InvalidQuantity> {
    parse(text).ok_or_else(|| InvalidQuantity {
        text: text.to_owned(),
    })
}

/// The quantity in whole units, rounded up as upstream's `Quantity.Value`.
pub fn value(quantity: &Quantity) -> Result<i64, InvalidQuantity> {
    Ok(ceil_div(nanos(&quantity.0)?, NANO))
}

/// The quantity in thousandths, rounded up as upstream's `Quantity.MilliValue`.
pub fn milli_value(quantity: &Quantity) -> Result<i64, InvalidQuantity> {
    Ok(ceil_div(nanos(&quantity.0)?, NANO / 1000))
}

fn ceil_div(value: i128, by: i128) -> i64 {
    let quotient = value.div_euclid(by) + i128::from(value.rem_euclid(by) != 0);
    i64::try_from(quotient).unwrap_or(if quotient < 0 { i64::MIN } else { i64::MAX })
}

fn parse(text: &str) -> Option<i128> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let digits_end = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(digits_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let magnitude = scaled(whole, fraction, suffix)?;
    Some(if negative { -magnitude } else { magnitude })
}

/// `whole.fraction` times the suffix, in billionths, rounded up.
fn scaled(whole: &str, fraction: &str, suffix: &str) -> Option<i128> {
    // More digits than the limits of any quantity only saturate.
    let digits: String = whole.chars().chain(fraction.chars()).take(60).collect();
    let dropped = whole.len() + fraction.len() - digits.len();
    let mantissa: i128 = digits.parse().unwrap_or(i128::MAX);
    let decimals = i32::try_from(fraction.len().saturating_sub(dropped)).ok()?;
    if let Some(shift) = binary_shift(suffix) {
        let scaled = mantissa
            .saturating_mul(NANO)
            .saturating_mul(1_i128 << shift);
        return Some(divide_up(scaled, decimals));
    }
    let exponent = decimal_exponent(suffix)?
        .checked_add(9)?
        .checked_sub(decimals)?;
    Some(match u32::try_from(exponent) {
        Ok(up) => 10_i128
            .checked_pow(up)
            .map_or(if mantissa == 0 { 0 } else { i128::MAX }, |power| {
                mantissa.saturating_mul(power)
            }),
        Err(_) => divide_up(mantissa, -exponent),
    })
}

fn divide_up(value: i128, decimals: i32) -> i128 {
    let Some(power) = u32::try_from(decimals)
        .ok()
        .and_then(|d| 10_i128.checked_pow(d))
    else {
        return i128::from(value != 0);
    };
    value / power + i128::from(value % power != 0)
}

fn binary_shift(suffix: &str) -> Option<u32> {
    Some(match suffix {
        "Ki" => 10,
        "Mi" => 20,
        "Gi" => 30,
        "Ti" => 40,
        "Pi" => 50,
        "Ei" => 60,
        _ => return None,
    })
}

fn decimal_exponent(suffix: &str) -> Option<i32> {
    Some(match suffix {
        "n" => -9,
        "u" => -6,
        "m" => -3,
        "" => 0,
        "k" => 3,
        "M" => 6,
        "G" => 9,
        "T" => 12,
        "P" => 15,
        "E" => 18,
        other => other
            .strip_prefix(['e', 'E'])?
            .parse::<i32>()
            .ok()
            .filter(|e| e.abs() < 1000)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_their_documented_values() {
        let cases: [(&str, i64, i64); 14] = [
            ("0", 0, 0),
            ("1", 1, 1000),
            ("100m", 1, 100),
            ("1500m", 2, 1500),
            ("0.5", 1, 500),
            (".5", 1, 500),
            ("1Ki", 1024, 1_024_000),
            ("1.5Gi", 1_610_612_736, 1_610_612_736_000),
            ("2e3", 2000, 2_000_000),
            ("2E3", 2000, 2_000_000),
            ("1E", 1_000_000_000_000_000_000, i64::MAX),
            ("1n", 1, 1),
            ("-1500m", -1, -1500),
            ("+3k", 3000, 3_000_000),
        ];
        for (text, whole, milli) in cases {
            let quantity = Quantity(text.to_owned());
            assert_eq!(value(&quantity), Ok(whole), "{text}");
            assert_eq!(milli_value(&quantity), Ok(milli), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in [
            "",
            "-",
            "x",
            "1.2.3",
            "1Zi",
            "1e",
            "e3",
            "1 Gi",
            "1e99999999999",
            "٣",
        ] {
            assert!(nanos(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}") {
            let _ = nanos(&text);
        }

        #[test]
        fn milli_is_read_exactly(milli in 0_i64..1_000_000_000) {
            let quantity = Quantity(format!("{milli}m"));
            proptest::prop_assert_eq!(milli_value(&quantity), Ok(milli));
        }
    }
}
