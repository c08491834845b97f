//! Taints and the tolerations that pods have for them.

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// Whether one toleration covers a taint; an unknown operator covers nothing.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    let key = toleration.key.as_deref().unwrap_or_default();
    if !key.is_empty() && key != taint.key {
        return false;
    }
    let wanted = toleration.value.as_deref().unwrap_or_default();
    let actual = taint.value.as_deref().unwrap_or_default();
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && wanted == actual,
        "Gt" => numbers(actual, wanted).is_some_and(|(a, w)| a > w),
        "Lt" => numbers(actual, wanted).is_some_and(|(a, w)| a < w),
        _ => false,
    }
}

fn numbers(actual: &str, wanted: &str) -> Option<(i64, i64)> {
    Some((actual.parse().ok()?, wanted.parse().ok()?))
}

/// The first taint with one of the effects that no toleration covers.
pub fn untolerated<'a>(
    taints: &'a [Taint],
    tolerations: &[Toleration],
    effects: &[&str],
) -> Option<&'a Taint> {
    taints.iter().find(|taint| {
        effects.contains(&taint.effect.as_str())
            && !tolerations
                .iter()
                .any(|toleration| tolerates(toleration, taint))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Toleration {
            key: some(key),
            operator: some(operator),
            value: some(value),
            effect: some(effect),
            toleration_seconds: None,
        }
    }

    #[test]
    fn a_toleration_covers_by_key_value_and_effect() {
        let taint = Taint {
            key: "gpu".into(),
            value: Some("a".into()),
            effect: "NoSchedule".into(),
            time_added: None,
        };
        let cases = [
            (toleration("gpu", "", "a", ""), true),
            (toleration("gpu", "Equal", "a", "NoSchedule"), true),
            (toleration("gpu", "Equal", "b", ""), false),
            (toleration("gpu", "Exists", "", "NoExecute"), false),
            (toleration("gpu", "Exists", "", ""), true),
            (toleration("", "Exists", "", ""), true),
            (toleration("", "Equal", "a", ""), false),
            (toleration("other", "Exists", "", ""), false),
        ];
        for (toleration, expected) in cases {
            assert_eq!(tolerates(&toleration, &taint), expected, "{toleration:?}");
        }
    }
}
