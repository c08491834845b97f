//! Definitions of custom resources.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::describe::Descriptions;
use super::schemas::{Dialect, gvk};
use crate::types::Gvk;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// The schema of one version of a custom resource.
#[derive(Clone, Debug)]
pub struct CustomSchema {
    /// Its kind.
    pub kind: Gvk,
    /// Name of the resource.
    pub plural: String,
    /// Kind of its list.
    pub list_kind: String,
    /// `openAPIV3Schema`, or `null` where everything is allowed.
    pub schema: Value,
}

impl CustomSchema {
    fn name(&self, kind: &str) -> String {
        super::paths::definition_name(&Gvk {
            kind: kind.to_owned().into(),
            ..self.kind.clone()
        })
    }

    /// The definition of that name, if it is this kind's or its list's.
    pub(super) fn definition(&self, name: &str, dialect: Dialect) -> Option<Value> {
        if name == self.name(&self.kind.kind) {
            Some(self.object(dialect))
        } else if name == self.name(&self.list_kind) {
            Some(self.list(dialect))
        } else {
            None
        }
    }

    fn object(&self, dialect: Dialect) -> Value {
        // Where there are properties, kubectl allows no others: what keeps unknown fields has none.
        let keeps = self.schema["x-kubernetes-preserve-unknown-fields"] == true;
        if dialect == Dialect::V2 && (keeps || self.schema.is_null()) {
            return json!({"type": "object", "x-kubernetes-group-version-kind": [gvk(&self.kind)]});
        }
        let mut own = match (&self.schema, dialect) {
            (Value::Object(map), Dialect::V3) => map.clone(),
            (Value::Object(map), Dialect::V2) => match to_v2(&Value::Object(map.clone())) {
                Value::Object(map) => map,
                _ => Map::new(),
            },
            _ => Map::from_iter([(
                "x-kubernetes-preserve-unknown-fields".to_owned(),
                true.into(),
            )]),
        };
        own.insert("type".into(), "object".into());
        let properties = own.entry("properties").or_insert_with(|| json!({}));
        object_properties(properties, "ObjectMeta", dialect);
        own.insert(
            "x-kubernetes-group-version-kind".into(),
            json!([gvk(&self.kind)]),
        );
        own.into()
    }

    fn list(&self, dialect: Dialect) -> Value {
        let mut properties = json!({"items": {
            "description": format!(
                "List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md",
                self.plural
            ),
            "type": "array",
            "items": {"$ref": reference(dialect, &self.name(&self.kind.kind))},
        }});
        object_properties(&mut properties, "ListMeta", dialect);
        let kind = Gvk {
            kind: self.list_kind.clone().into(),
            ..self.kind.clone()
        };
        json!({"type": "object", "description": format!("{} is a list of {}", self.list_kind, self.kind.kind),
               "required": ["items"], "properties": properties, "x-kubernetes-group-version-kind": [gvk(&kind)]})
    }
}

/// What every kind says of its first three fields.
static TEXTS: LazyLock<[String; 3]> = LazyLock::new(|| {
    const LIKE: &str = "io.k8s.api.core.v1.ConfigMap";
    let texts = Descriptions::of(&vec![LIKE.to_owned()]);
    ["apiVersion", "kind", "metadata"].map(|field| {
        let found = texts.of_field(LIKE, field);
        found.unwrap_or_default().to_owned()
    })
});

fn reference(dialect: Dialect, name: &str) -> String {
    match dialect {
        Dialect::V3 => format!("#/components/schemas/{name}"),
        Dialect::V2 => format!("#/definitions/{name}"),
    }
}

fn object_properties(properties: &mut Value, meta: &str, dialect: Dialect) {
    let target = reference(dialect, &format!("{META}{meta}"));
    let [api_version, kind, text] = &*TEXTS;
    properties["apiVersion"] = json!({"type": "string", "description": api_version});
    properties["kind"] = json!({"type": "string", "description": kind});
    properties["metadata"] = match dialect {
        Dialect::V3 => json!({"allOf": [{"$ref": target}], "description": text}),
        Dialect::V2 => json!({"$ref": target, "description": text}),
    };
}

/// What 2.0 has no word for is left out; a field that may be `null` has no type then, nor has
/// one that keeps unknown fields, whose values kubectl would otherwise judge by that type.
fn to_v2(schema: &Value) -> Value {
    let Value::Object(map) = schema else {
        return schema.clone();
    };
    let flag = |name: &str| map.get(name) == Some(&Value::Bool(true));
    let loose = flag("nullable") || flag("x-kubernetes-int-or-string");
    let open = flag("x-kubernetes-preserve-unknown-fields");
    let mut out = Map::new();
    for (key, value) in map {
        match key.as_str() {
            "nullable"
            | "oneOf"
            | "anyOf"
            | "allOf"
            | "not"
            | "default"
            | "example"
            | "x-kubernetes-validations" => {}
            "type" if loose || open => {}
            "items" | "properties" if loose || open => {}
            "properties" => {
                let inner = value
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(k, v)| (k.clone(), to_v2(v)));
                out.insert(key.clone(), Value::Object(inner.collect()));
            }
            "items" | "additionalProperties" => {
                out.insert(key.clone(), to_v2(value));
            }
            _ => {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    out.into()
}
