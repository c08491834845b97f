//! Laws of the transcoding, over values made from the type table itself.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::check;
use crate::types::{Field, Gvk, Scalar, Struct, StructRef, Type, builtin, root};

/// A value of a type, from a stream of choices; shallow types end the recursion.
fn make(ty: &Type, choices: &mut impl Iterator<Item = u8>, depth: usize) -> Value {
    let mut choice = || choices.next().unwrap_or(0);
    match ty {
        Type::Struct(shape) => make_struct(shape.get(), choices, depth),
        Type::List(list) => (0..choice() % 3)
            .map(|_| make(&list.item, choices, depth + 1))
            .collect(),
        Type::Map(map) => {
            let count = choice() % 3;
            (0..count)
                .map(|i| (format!("k{i}"), make(&map.value, choices, depth + 1)))
                .collect::<Map<_, _>>()
                .into()
        }
        Type::Scalar(scalar) => match scalar {
            Scalar::String => ["", "a", "ü", "x/y"][usize::from(choice() % 4)].into(),
            Scalar::Bool => choice().is_multiple_of(2).into(),
            Scalar::Int32 => json!([0, 1, -1, i32::MAX, i32::MIN][usize::from(choice() % 5)]),
            Scalar::Int64 => json!([0, 1, -1, i64::MAX, i64::MIN][usize::from(choice() % 5)]),
            Scalar::Double => json!([0.5, -3.25, 1e10][usize::from(choice() % 3)]),
            Scalar::Bytes => ["", "YQ==", "AAAA"][usize::from(choice() % 3)].into(),
            Scalar::Time => "2026-01-02T03:04:05Z".into(),
            Scalar::MicroTime => "2026-01-02T03:04:05.000006Z".into(),
            Scalar::Quantity => ["0", "100m", "1Gi", "3"][usize::from(choice() % 4)].into(),
            Scalar::IntOrString => [json!(0), json!(80), json!("http"), json!("25%")]
                [usize::from(choice() % 4)]
            .clone(),
            Scalar::SchemaOrBool => choice().is_multiple_of(2).into(),
            Scalar::SchemaOrArray | Scalar::SchemaOrStrings => json!([]),
            _ => json!({"f:a": {"b": [1, "c", null]}}),
        },
    }
}

fn make_struct(shape: &Struct, choices: &mut impl Iterator<Item = u8>, depth: usize) -> Value {
    let wanted =
        |f: &&Field, choice: u8| !f.number.is_empty() && depth < 8 && choice.is_multiple_of(4);
    let mut out = Map::new();
    for field in &shape.fields {
        let choice = choices.next().unwrap_or(1);
        if wanted(&field, choice) {
            out.insert(field.name.to_string(), make(&field.ty, choices, depth + 1));
        }
    }
    out.into()
}

/// An object as the server holds it: decoded, complete.
fn object(kind: &Gvk, choices: Vec<u8>) -> Value {
    let shape = root(&kind.group, &kind.version, &kind.kind).expect("built in");
    let mut choices = choices.into_iter();
    let own = make(&Type::Struct(shape.clone()), &mut choices, 0);
    let mut own = normal(own, &shape);
    own["apiVersion"] = kind.api_version().into();
    own["kind"] = kind.kind.as_ref().into();
    own
}

/// Decoded and complete; a watch event has no type of its own to keep.
fn normal(object: Value, shape: &StructRef) -> Value {
    let (version, kind) = (object["apiVersion"].clone(), object["kind"].clone());
    let mut own = check::decode_value(object, shape)
        .expect("of the kind")
        .value;
    check::complete(&mut own, shape);
    if version.is_string() {
        own["apiVersion"] = version;
        own["kind"] = kind;
    }
    own
}

fn a_kind() -> impl Strategy<Value = Gvk> {
    prop::sample::select(builtin().kinds())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_encoded_reads_back(kind in a_kind(), choices in prop::collection::vec(any::<u8>(), 0..600)) {

        let shape = root(&kind.group, &kind.version, &kind.kind).expect("built in");
        let own = object(&kind, choices);
        let bytes = encode(&own).expect("a built-in kind");
        let read = decode(&bytes).expect("what was just encoded");
        let read = normal(read, &shape);
        prop_assert_eq!(encode(&read).expect("a built-in kind"), bytes);
    }

    #[test]
    fn normal_objects_do_not_change(kind in a_kind(), choices in prop::collection::vec(any::<u8>(), 0..600)) {
        let shape = root(&kind.group, &kind.version, &kind.kind).expect("built in");
        let own = object(&kind, choices);
        prop_assert_eq!(normal(own.clone(), &shape), own);
    }

    #[test]
    fn defaults_are_a_fixed_point(kind in a_kind(), choices in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut once = object(&kind, choices);
        crate::defaults::apply(&mut once, &kind);
        let mut twice = once.clone();
        crate::defaults::apply(&mut twice, &kind);
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn arbitrary_bytes_are_refused_and_never_end_the_process(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
        let mut framed = MAGIC.to_vec();
        framed.extend_from_slice(&bytes);
        let _ = decode(&framed);
    }

    #[test]
    fn a_damaged_object_is_refused_or_read(
        kind in a_kind(),
        choices in prop::collection::vec(any::<u8>(), 0..300),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encode(&object(&kind, choices)).expect("a built-in kind");
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(read) = decode(&bytes) {
            let text = |n: &str| read[n].as_str().unwrap_or_default().to_owned();
            let kind = Gvk::from_api_version(&text("apiVersion"), &text("kind"));
            if let Some(shape) = root(&kind.group, &kind.version, &kind.kind) {
                let _ = check::decode_value(read, &shape);
            }
        }
    }
}

#[test]
fn nesting_has_an_end() {
    // JSONSchemaProps.not in itself, a thousand times.
    let mut inner: Vec<u8> = Vec::new();
    for _ in 0..1000 {
        let mut w = Writer::default();
        w.bytes(28, &inner);
        inner = w.out;
    }
    let wrap = |path: &[u16], mut message: Vec<u8>| {
        for number in path.iter().rev() {
            let mut w = Writer::default();
            w.bytes(*number, &message);
            message = w.out;
        }
        message
    };
    let shape = root("apiextensions.k8s.io", "v1", "CustomResourceDefinition").expect("built in");
    let number =
        |shape: &Struct, name: &str| shape.field(name).map(|f| f.number[0]).unwrap_or_default();
    let spec = shape
        .get()
        .field("spec")
        .and_then(|f| f.ty.as_struct())
        .expect("a struct");
    let Some(Type::List(versions)) = spec.field("versions").map(|f| &f.ty) else {
        panic!("a list")
    };
    let version = versions.item.as_struct().expect("a struct");
    let schema = version
        .field("schema")
        .and_then(|f| f.ty.as_struct())
        .expect("a struct");
    let props = schema
        .field("openAPIV3Schema")
        .and_then(|f| f.ty.as_struct())
        .expect("a struct");
    assert_eq!(number(props, "not"), 28);
    let path = [
        2,
        number(shape.get(), "spec"),
        number(spec, "versions"),
        number(version, "schema"),
        number(schema, "openAPIV3Schema"),
    ];
    let mut meta = Writer::default();
    meta.bytes(1, b"apiextensions.k8s.io/v1");
    meta.bytes(2, b"CustomResourceDefinition");
    let mut bytes = MAGIC.to_vec();
    bytes.extend(wrap(&[1], meta.out));
    bytes.extend(wrap(&path, inner));
    assert_eq!(decode(&bytes), Err(DecodeError::Depth));
}

#[test]
fn the_verbs_of_a_resource_are_a_message_of_their_own() {
    let own = json!({"apiVersion": "v1", "kind": "APIResourceList", "groupVersion": "v1",
        "resources": [{"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod",
                       "verbs": ["get", "list"]}]});
    let bytes = encode(&own).expect("a built-in kind");
    let verbs = b"\x22\x0b\x0a\x03get\x0a\x04list";
    assert!(bytes.windows(verbs.len()).any(|part| part == verbs));
    assert_eq!(decode(&bytes), Ok(own));
}

#[test]
fn the_envelope_is_that_of_upstream() {
    let own = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let bytes = encode(&own).expect("a built-in kind");
    assert_eq!(bytes[..4], *b"k8s\0");
    assert_eq!(bytes[4..6], [0x0a, 15]);
    assert_eq!(bytes[bytes.len() - 4..], [0x1a, 0, 0x22, 0]);
    assert_eq!(decode(b"{}"), Err(DecodeError::Magic));
    assert!(matches!(
        encode(&json!({"apiVersion": "example.com/v1", "kind": "Foo"})),
        Err(EncodeError::NoMessage { .. })
    ));
}
