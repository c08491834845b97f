use serde_json::{Value, json};

use super::*;
use crate::types::Gvk;

#[test]
fn every_document_of_the_index_can_be_built_and_refers_to_what_it_holds() {
    let own = built_in();
    for path in own.v3_paths() {
        let document = own.v3(&path).expect("in the index");
        let mut names = Vec::new();
        schemas::references(&document, &mut names);
        for name in names {
            assert!(
                document["components"]["schemas"].get(&name).is_some(),
                "{path}: {name}"
            );
        }
    }
    assert!(own.v3("apis/nothing.example.com/v1").is_none());
}

#[test]
fn fields_are_described_and_extended() {
    let document = built_in().v3("apis/apps/v1").expect("built in");
    let spec = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"];
    let containers = &spec["properties"]["containers"];
    assert!(
        containers["description"]
            .as_str()
            .is_some_and(|d| d.contains("containers"))
    );
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    let deployment = &document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(
        deployment["x-kubernetes-group-version-kind"][0]["kind"],
        "Deployment"
    );
    assert_eq!(deployment["properties"]["metadata"]["default"], json!({}));
}

#[test]
fn the_old_document_shares_its_parameters() {
    let document = built_in().v2();
    let get = &document["paths"]["/api/v1/namespaces/{namespace}/pods"];
    let reference = get["parameters"][0]["$ref"].as_str().expect("a reference");
    let key = reference.rsplit('/').next().unwrap_or_default();
    assert_eq!(document["parameters"][key]["name"], "namespace");
    assert_eq!(get["post"]["consumes"], json!(["*/*"]));
    assert_eq!(
        document["definitions"]["io.k8s.apimachinery.pkg.api.resource.Quantity"]["type"],
        "string"
    );
}

fn widget() -> CustomSchema {
    CustomSchema {
        plural: "widgets".into(),
        kind: Gvk::new("example.com", "v1", "Widget"),
        list_kind: "WidgetList".into(),
        schema: json!({"type": "object", "description": "A widget.", "properties": {"spec": {"type": "object", "properties": {
            "size": {"type": "integer", "nullable": true, "default": 1}, "port": {"x-kubernetes-int-or-string": true}}}}}),
    }
}

#[test]
fn custom_resources_are_published_beside_the_built_in_ones() {
    let definition = json!({"spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}}}]}});
    let table = builtin().with(crate::resources::custom(&definition));
    let custom = [widget()];
    let own = Documents {
        table: &table,
        custom: &custom,
    };
    assert!(own.v3_index()["paths"].get("apis/example.com/v1").is_some());
    let v3 = own.v3("apis/example.com/v1").expect("there now");
    let schema = &v3["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(
        schema["properties"]["spec"]["properties"]["size"]["default"],
        1
    );
    assert_eq!(
        schema["x-kubernetes-group-version-kind"],
        json!([{"group": "example.com", "kind": "Widget", "version": "v1"}])
    );
    let path = &v3["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}/status"];
    assert_eq!(
        path["get"]["operationId"],
        "readExampleComV1NamespacedWidgetStatus"
    );
    assert!(
        v3["components"]["schemas"]
            .get("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
            .is_some()
    );
    let v2 = own.v2();
    let spec = &v2["definitions"]["com.example.v1.Widget"]["properties"]["spec"]["properties"];
    assert!(spec["size"].get("type").is_none() && spec["size"].get("default").is_none());
    assert_ne!(
        own.hash("apis/example.com/v1"),
        Documents {
            custom: &[],
            ..own.clone()
        }
        .hash("apis/example.com/v1")
    );
    assert_eq!(own.hash("apis/apps/v1"), built_in().hash("apis/apps/v1"));
}

/// Reads fields of a message: (number, bytes).
fn fields(mut message: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(m: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = m[0];
            *m = &m[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return value;
            }
            shift += 7;
        }
    }
    let mut out = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let value = match tag & 7 {
            0 => varint(&mut message).to_le_bytes().to_vec(),
            1 => {
                let own = message[..8].to_vec();
                message = &message[8..];
                own
            }
            _ => {
                let length = varint(&mut message) as usize;
                let own = message[..length].to_vec();
                message = &message[length..];
                own
            }
        };
        out.push((tag >> 3, value));
    }
    out
}

#[test]
fn the_protobuf_form_holds_the_same_paths_and_definitions() {
    let document = built_in().v2();
    let message = built_in().v2_protobuf();
    assert_eq!(encode_v2(&document).len(), message.len());
    let top = fields(&message);
    assert_eq!(top[0], (1, b"2.0".to_vec()));
    let count = |number: u64, inner: u64| {
        let own = top
            .iter()
            .find(|(n, _)| *n == number)
            .map(|(_, m)| fields(m))
            .unwrap_or_default();
        own.iter().filter(|(n, _)| *n == inner).count()
    };
    let length = |name: &str| document[name].as_object().map_or(0, serde_json::Map::len);
    assert_eq!(count(8, 2), length("paths"));
    assert_eq!(count(9, 1), length("definitions"));
    assert_eq!(count(10, 1), length("parameters"));
    let definitions = top
        .iter()
        .find(|(n, _)| *n == 9)
        .map(|(_, m)| fields(m))
        .expect("definitions");
    let names: Vec<Vec<u8>> = definitions
        .iter()
        .map(|(_, d)| fields(d)[0].1.clone())
        .collect();
    assert!(names.contains(&b"io.k8s.api.core.v1.Pod".to_vec()));
    assert!(matches!(document["definitions"], Value::Object(_)));
}

#[test]
fn what_keeps_unknown_fields_has_no_properties_in_the_second_version() {
    let mut own = widget();
    own.schema["x-kubernetes-preserve-unknown-fields"] = true.into();
    let name = "com.example.v1.Widget";
    let second = own.definition(name, Dialect::V2).expect("its kind");
    assert!(second.get("properties").is_none(), "{second}");
    assert_eq!(second["type"], "object");
    let third = own.definition(name, Dialect::V3).expect("its kind");
    assert!(third["properties"]["spec"].is_object(), "{third}");
}

#[test]
fn what_keeps_unknown_fields_inside_has_no_type_in_the_second_version() {
    let mut own = widget();
    own.schema["properties"]["spec"]["x-kubernetes-preserve-unknown-fields"] = true.into();
    let second = own
        .definition("com.example.v1.Widget", Dialect::V2)
        .expect("its kind");
    let spec = &second["properties"]["spec"];
    assert!(spec.is_object(), "{second}");
    assert!(spec.get("type").is_none() && spec.get("properties").is_none());
    assert_eq!(second["type"], "object");
}
