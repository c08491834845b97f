//! Kubernetes quantities as exact numbers.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Amounts by resource name.
pub type ResourceList = BTreeMap<String, Quantity>;

const NANO: i128 = 1_000_000_000;

/// The quantity in billionths; `None` when it does not parse.
pub fn nanos(text: &str) -> Option<i128> {
    api_rules::quantity::nanos(text).ok()
}

/// The quantity in thousandths, rounded up. What does not parse counts as nothing.
pub fn milli(quantity: &Quantity) -> i64 {
    scaled(quantity, NANO / 1000)
}

/// The quantity as a whole number, rounded up. What does not parse counts as nothing.
pub fn value(quantity: &Quantity) -> i64 {
    scaled(quantity, NANO)
}

fn scaled(quantity: &Quantity, unit: i128) -> i64 {
    let nanos = nanos(&quantity.0).unwrap_or(0);
    let rounded = nanos.div_euclid(unit) + i128::from(nanos.rem_euclid(unit) != 0);
    i64::try_from(rounded).unwrap_or(i64::MAX)
}

/// An amount in the unit in which a resource is counted: thousandths for cpu, else whole.
pub fn amount(resource: &str, quantity: &Quantity) -> i64 {
    if resource == "cpu" {
        milli(quantity)
    } else {
        value(quantity)
    }
}

/// The reverse of [`amount`].
pub fn quantity(resource: &str, amount: i64) -> Quantity {
    if resource == "cpu" {
        from_milli(amount)
    } else {
        Quantity(amount.to_string())
    }
}

/// Thousandths as upstream prints them.
pub fn from_milli(milli: i64) -> Quantity {
    if milli % 1000 == 0 {
        Quantity((milli / 1000).to_string())
    } else {
        Quantity(format!("{milli}m"))
    }
}

/// Bytes as upstream prints memory: in Ki.
pub fn from_kibibytes(bytes: u64) -> Quantity {
    Quantity(format!("{}Ki", bytes / 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_parse_to_exact_numbers() {
        for (text, expected_milli) in [
            ("1", 1000_i64),
            ("100m", 100),
            ("0.1", 100),
            ("1.5", 1500),
            ("1Ki", 1_024_000),
            ("64Mi", 67_108_864_000),
            ("1.5Gi", 1_610_612_736_000),
            ("2e3", 2_000_000),
            ("-5", -5000),
            ("100u", 1),
            (".5", 500),
        ] {
            let nanos = nanos(text).expect(text);
            let milli = nanos.div_euclid(1_000_000) + i128::from(nanos.rem_euclid(1_000_000) != 0);
            assert_eq!(milli, i128::from(expected_milli), "{text}");
        }
        for text in ["", "m", "1x", "1Kib", "e3", "--1", "1.2.3"] {
            assert_eq!(nanos(text), None, "{text}");
        }
    }

    #[test]
    fn whole_numbers_round_up() {
        assert_eq!(value(&Quantity("1500m".into())), 2);
        assert_eq!(milli(&Quantity("1".into())), 1000);
        assert_eq!(from_milli(1500).0, "1500m");
        assert_eq!(from_milli(2000).0, "2");
    }
}
