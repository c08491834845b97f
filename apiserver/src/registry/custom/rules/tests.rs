use serde_json::json;

use super::limits::judge;
use super::*;

fn faults(schema: &Value, new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut causes = Vec::new();
    let rules = Rules::compile(schema).unwrap();
    rules.check(schema, new, old, &mut causes);
    let told = causes.into_iter();
    told.map(|c| format!("{}: {}", c.field, c.message))
        .collect()
}

fn cost(rule: &str, schema: &Value) -> u64 {
    let rule = Expression::compile(rule, &environment()).unwrap();
    judge(&rule, schema, Limits::root()).0
}

#[test]
fn rules_see_fields_by_their_escaped_names_and_types() {
    let schema = json!({"type": "object", "properties": {
        "snake_case": {"type": "integer"}, "a-b": {"type": "string"},
        "ratio": {"type": "number"}, "at": {"type": "string", "format": "date-time"}},
        "x-kubernetes-validations": [
            {"rule": "self.snake_case > 1", "message": "more"},
            {"rule": "self.a__dash__b == 'x'"},
            {"rule": "self.ratio < 0.5"},
            {"rule": "self.at > timestamp('2020-01-01T00:00:00Z')"}]});
    let good = json!({"snake_case": 2, "a-b": "x", "ratio": 0, "at": "2024-01-01T00:00:00Z"});
    assert_eq!(faults(&schema, &good, None), Vec::<String>::new());
    let bad = json!({"snake_case": 1, "a-b": "y", "ratio": 1, "at": "2001-01-01T00:00:00Z"});
    assert_eq!(
        faults(&schema, &bad, None),
        [
            "<nil>: Invalid value: more",
            "<nil>: Invalid value: failed rule: self.a__dash__b == 'x'",
            "<nil>: Invalid value: failed rule: self.ratio < 0.5",
            "<nil>: Invalid value: failed rule: self.at > timestamp('2020-01-01T00:00:00Z')",
        ]
    );
}

#[test]
fn transitions_are_judged_where_there_was_something() {
    let schema = json!({"type": "object", "properties": {
        "fixed": {"type": "string", "x-kubernetes-validations": [
            {"rule": "self == oldSelf", "message": "fixed", "reason": "FieldValueForbidden"}]},
        "list": {"type": "array", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "properties": {
                "k": {"type": "string"}, "v": {"type": "integer"}},
            "x-kubernetes-validations": [{"rule": "self.v >= oldSelf.v", "fieldPath": ".v"}]}},
        "once": {"type": "integer", "x-kubernetes-validations": [
            {"rule": "!oldSelf.hasValue() || oldSelf.value() <= self", "optionalOldSelf": true}]}}});
    let old = json!({"fixed": "a", "once": 2, "list": [{"k": "x", "v": 5}, {"k": "y", "v": 1}]});
    assert_eq!(faults(&schema, &old, None), Vec::<String>::new());
    let new = json!({"fixed": "b", "once": 1, "list": [{"k": "y", "v": 1}, {"k": "x", "v": 4}]});
    assert_eq!(
        faults(&schema, &new, Some(&old)),
        [
            "fixed: Forbidden: fixed",
            "list[1].v: Invalid value: failed rule: self.v >= oldSelf.v",
            "once: Invalid value: failed rule: !oldSelf.hasValue() || oldSelf.value() <= self",
        ]
    );
}

#[test]
fn what_an_update_leaves_alone_is_not_judged() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer",
        "x-kubernetes-validations": [{"rule": "self > 5", "messageExpression": "'is ' + string(self)"}]}}});
    let old = json!({"a": 1});
    assert_eq!(faults(&schema, &old, Some(&old)), Vec::<String>::new());
    assert_eq!(
        faults(&schema, &json!({"a": 2}), Some(&old)),
        ["a: Invalid value: is 2"]
    );
}

#[test]
fn a_rule_that_would_run_forever_ends_the_judgement() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}},
        "x-kubernetes-validations": [
            {"rule": "self.a.all(x, self.a.all(y, self.a.all(z, x + y + z >= 0)))"},
            {"rule": "false"}]});
    let many: Vec<u32> = (0..300).collect();
    let told = faults(&schema, &json!({"a": many}), None);
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("actual cost limit exceeded"), "{told:?}");
}

#[test]
fn errors_of_evaluation_are_told_with_the_rule() {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "x-kubernetes-validations": [{"rule": "self.a > 0", "message": "positive"}]});
    assert_eq!(
        faults(&schema, &json!({}), None),
        ["<nil>: Invalid value: no such key: a evaluating rule: positive"]
    );
}

#[test]
fn costs_are_those_of_the_worst_object() {
    let text = |max: u64| json!({"type": "string", "maxLength": max});
    // A name, and nothing to walk.
    assert_eq!(cost("self", &json!({"type": "boolean"})), 1);
    // One name, a constant, and the shorter of both texts.
    assert_eq!(cost("self == 'abcdefghij'", &text(100)), 1 + 1);
    // Names, 40 bytes and one, a tenth of it, times a quarter of the pattern.
    assert_eq!(cost("self.matches('abcd')", &text(10)), 1 + 5);
    let list = json!({"type": "array", "maxItems": 10, "items": {"type": "integer"}});
    // The list; per item the condition (2) and the step (2 + 1); the result.
    let small = cost("self.all(x, x > 0)", &list);
    assert!((40..=80).contains(&small), "{small}");
    let nested = json!({"type": "array", "items": {"type": "array", "items": {"type": "string"}}});
    assert!(cost("self.all(x, x.all(y, y.matches('a*b*c*')))", &nested) > 1_000_000_000);
}

#[test]
fn a_schema_that_costs_too_much_names_what_costs_most() {
    let mut total = TotalCost::default();
    assert_eq!(total.observe("rule", "a", 5), None);
    let alone = total.observe("rule", "b", 12_000_000).unwrap();
    assert!(alone.starts_with("estimated rule cost exceeds budget by factor of 1.200000x"));
    assert!(
        total
            .observe("rule", "c", 300_000_000)
            .unwrap()
            .contains("of 30.0x")
    );
    let faults = total.faults("schema");
    let paths: Vec<&str> = faults.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["c", "b", "a", "schema"]);
    assert!(TotalCost::default().faults("schema").is_empty());
}

#[test]
fn fields_that_no_object_has_are_found() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "object",
        "properties": {"b": {"type": "string"}}}}});
    let check = |rule: &str, expect: Option<&str>| {
        let compiled = Expression::compile(rule, &environment()).unwrap();
        let found = judge(&compiled, &schema, Limits::root()).1;
        assert_eq!(found.as_deref(), expect, "{rule}");
    };
    check("self.a.b == 'x'", None);
    check("has(self.a.b)", None);
    check("self.a.c == 'x'", Some("c"));
    check("self.nope", Some("nope"));
    check("self.metadata.name == 'x'", None);
}

#[test]
fn reading_a_duration_is_one_step_however_long_its_text_may_be() {
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "string"}, "b": {"type": "string"}}});
    assert!(cost("duration(self.a) > duration(self.b)", &schema) < 20);
    assert!(cost("isURL(self.a)", &schema) > 100_000);
}
