use serde_json::{Value, json};

use super::*;

fn activation() -> Activation<'static> {
    let mut activation = Activation::default();
    let object = json!({
        "metadata": {"name": "web", "namespace": "shop", "labels": {"app.kubernetes.io/name": "x"}},
        "spec": {"replicas": 3, "paused": false, "containers": [
            {"name": "a", "image": "one:1", "cpu": "200m"}, {"name": "b", "image": "two"},
        ]},
    });
    activation.set("object", from_json(&object));
    activation.set("oldObject", CelValue::Null);
    activation
}

fn environment() -> Environment {
    let mut environment = Environment::new(&["object", "oldObject", "variables"]);
    environment = environment.with_construction();
    for name in ["count", "double", "broken", "same"] {
        environment.compose(name);
    }
    environment
}

fn value(source: &str) -> Result<Value, EvaluationError> {
    let expression = Expression::compile(source, &environment()).unwrap();
    to_json(&expression.evaluate(&activation())?)
}

#[test]
fn expressions_mean_what_they_mean_upstream() {
    for (source, expect) in [
        (
            "object.spec.replicas > 2 && object.metadata.namespace == 'shop'",
            json!(true),
        ),
        (
            "object.metadata.labels['app.kubernetes.io/name']",
            json!("x"),
        ),
        (
            "has(object.spec.nothing) || object.spec.containers.all(c, c.name != 'c')",
            json!(true),
        ),
        (
            "object.spec.containers.filter(c, c.image.contains(':')).map(c, c.name)",
            json!(["a"]),
        ),
        (
            "object.spec.containers.exists(c, c.cpu == '200m')",
            json!(true),
        ),
        (
            "object.spec.containers.exists_one(c, c.name == 'a')",
            json!(true),
        ),
        ("object.?spec.?other.orValue(7)", json!(7)),
        ("object.spec.?replicas.hasValue()", json!(true)),
        (
            "object.spec[?'replicas'].optMap(r, r * 2).value()",
            json!(6),
        ),
        ("oldObject == null ? 'new' : 'old'", json!("new")),
        (
            "'replicas: ' + string(object.spec.replicas)",
            json!("replicas: 3"),
        ),
        ("[1, 2, 3].map(x, x > 1, x * x)", json!([4, 9])),
        (
            "{'a': 1, 'b': 2}.all(k, v, size(k) == 1 && v < 3)",
            json!(true),
        ),
        ("[5, 6].transformList(i, v, i + v)", json!([5, 7])),
        ("{'a': 1}.transformMap(k, v, v + 1)", json!({"a": 2})),
        ("type(object.spec.replicas) == int", json!(true)),
        ("size('äöü')", json!(3)),
        ("quantity('200m').isLessThan(quantity('1'))", json!(true)),
        ("'a-b-c'.split('-').join('+')", json!("a+b+c")),
        ("jsonpatch.escapeKey('a/b')", json!("a~1b")),
        ("'a' in ['a', 'b'] && !('c' in {'d': 1})", json!(true)),
        (
            "timestamp('2024-01-02T00:00:00Z') < timestamp('2025-01-02T00:00:00Z')",
            json!(true),
        ),
        ("object.metadata.name.matches('^w.b$')", json!(true)),
        ("int('12') + 1", json!(13)),
        ("bool('true')", json!(true)),
        ("7 / 2 * 2 + 7 % 2", json!(7)),
        (
            "Object{spec: Object.spec{replicas: object.spec.replicas + 1, ?gone: optional.none()}}",
            json!({"spec": {"replicas": 4}}),
        ),
        (
            "[JSONPatch{op: 'add', path: '/a', value: Object.spec{x: 'y'}}]",
            json!([{"op": "add", "path": "/a", "value": {"x": "y"}}]),
        ),
    ] {
        assert_eq!(value(source), Ok(expect), "{source}");
    }
}

#[test]
fn what_has_no_value_says_why() {
    for (source, expect) in [
        ("object.spec.nothing > 1", "no such key: nothing"),
        ("oldObject.spec.replicas == 1", "no such key: spec"),
        ("[1][4]", "index out of bounds: 4"),
        ("1 / 0", "division by zero"),
        ("1 % 0", "modulus by zero"),
        ("9223372036854775807 + 1", "return error for overflow"),
        ("'a' > 1", "no such overload"),
        (
            "object.spec.containers.all(c, c.cpu == '200m')",
            "no such key: cpu",
        ),
        ("optional.none().value()", "optional.none() dereference"),
    ] {
        assert_eq!(value(source).unwrap_err().to_string(), expect, "{source}");
    }
    // One side that decides is enough.
    assert_eq!(value("object.nothing.x == 1 || true"), Ok(json!(true)));
    assert_eq!(value("object.nothing.x == 1 && false"), Ok(json!(false)));
}

#[test]
fn what_cannot_be_compiled_is_refused_when_it_is_written() {
    let compile = |source: &str| {
        let error = Expression::compile(source, &environment()).unwrap_err();
        error.to_string()
    };
    assert!(compile("... [] bad expression").starts_with("compilation failed: ERROR: <input>:1:"));
    assert_eq!(
        compile("objekt.spec == 1"),
        "compilation failed: ERROR: <input>:1:1: undeclared reference to 'objekt' (in container '')\n | objekt.spec == 1\n | ^"
    );
    assert!(
        compile("object.spec.frobnicate()")
            .contains("<input>:1:23: undeclared reference to 'frobnicate' (in container '')")
    );
    assert!(compile("variables.unknown").contains("undefined field 'unknown'"));
    assert!(compile("Foo{a: 1}").contains("undeclared reference to 'Foo'"));
    assert!(compile(&"x".repeat(100_000)).contains("longer than"));
    for deep in [
        format!("{}1{}", "(".repeat(5000), ")".repeat(5000)),
        format!("object{}", ".a".repeat(20_000)),
        format!("1{}", "+1".repeat(20_000)),
        "[".repeat(60_000),
        "!".repeat(60_000),
        format!("1{}", " in [1]".repeat(5000)),
    ] {
        assert!(Expression::compile(&deep, &environment()).is_err());
    }
    // As deep as it may be, it is read and evaluated.
    let sum = format!("1{}", "+1".repeat(200));
    assert_eq!(value(&sum), Ok(json!(201)));
    let nested = format!("{}1{}", "(".repeat(40), ")".repeat(40));
    assert_eq!(value(&nested), Ok(json!(1)));
}

#[test]
fn objects_are_made_only_where_that_is_declared() {
    let made = Expression::compile("[{'a': Foo{a: 1}}].size() > 0", &environment()).unwrap_err();
    assert!(
        made.to_string().contains("undeclared reference to 'Foo'"),
        "{made}"
    );
}

#[test]
fn names_are_found_where_they_are_used_and_not_in_texts() {
    let compiled = |source: &str| Expression::compile(source, &environment()).unwrap();
    assert!(compiled("[1].all(x, x > 0 && has(object.a))").mentions("object"));
    assert!(!compiled("'object' == 'x'").mentions("object"));
}

#[test]
fn variables_are_computed_once_and_when_they_are_used() {
    let environment = environment();
    let compile = |source: &str| Expression::compile(source, &environment).unwrap();
    let variables = [
        ("count".to_owned(), compile("size(object.spec.containers)")),
        ("double".to_owned(), compile("variables.count * 2")),
        ("broken".to_owned(), compile("object.nothing.x")),
    ];
    let mut activation = activation();
    activation.compose(&variables);
    let double = compile("variables.double + variables.count").evaluate(&activation);
    assert_eq!(to_json(&double.unwrap()), Ok(json!(6)));
    let broken = compile("variables.broken == 1").evaluate(&activation);
    assert_eq!(
        broken.unwrap_err().to_string(),
        "composited variable \"object.nothing.x\" fails to evaluate: no such key: nothing"
    );
}

#[test]
fn nothing_runs_for_long_or_takes_much_memory() {
    let list = "[0,1,2,3,4,5,6,7,8,9]";
    let mut nested = "true".to_owned();
    for name in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"] {
        nested = format!("{list}.all({name}, {nested})");
    }
    for source in [
        nested.as_str(),
        "lists.range(100000000).size() > 1",
        "lists.range(100000).map(x, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa').join('bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb').replace('', 'cccccccccccccccccccccccccccc').size() > 1",
        "lists.range(100000).distinct().size() > 1",
        "lists.range(2000000).all(x, x >= 0) || true",
    ] {
        assert_eq!(value(source), Err(EvaluationError::OverBudget), "{source}");
    }
}
