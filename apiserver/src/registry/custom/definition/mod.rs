//! Whether a custom resource definition is one: its names, its versions, its schemas.
//!
//! What all versions have in common is judged once, under the name that it had when a definition
//! had one version only (`spec.validation`, `spec.subresources`, ...), as upstream does.

mod rules;
mod schema;
mod structural;

use serde_json::{Value, json};

use crate::registry::names;
use crate::registry::strategy::Context;
use crate::response::Cause;

/// Collects faults.
pub(super) struct Faults<'a>(pub(super) &'a mut Vec<Cause>);

impl Faults<'_> {
    pub(super) fn required(&mut self, field: &str, why: &str) {
        let text = if why.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {why}")
        };
        self.0.push(Cause::new("FieldValueRequired", text, field));
    }

    pub(super) fn invalid(&mut self, field: &str, value: &Value, why: &str) {
        self.shown(field, &value.to_string(), why);
    }

    /// As [`Faults::invalid`], of a value that has a text already.
    pub(super) fn shown(&mut self, field: &str, value: &str, why: &str) {
        let text = format!("Invalid value: {value}: {why}");
        self.0.push(Cause::new("FieldValueInvalid", text, field));
    }

    pub(super) fn forbidden(&mut self, field: &str, why: &str) {
        let text = format!("Forbidden: {why}");
        self.0.push(Cause::new("FieldValueForbidden", text, field));
    }

    pub(super) fn one_of(&mut self, field: &str, value: &Value, allowed: &[&str]) {
        let shown: Vec<String> = allowed.iter().map(|a| format!("{a:?}")).collect();
        let text = format!(
            "Unsupported value: {value}: supported values: {}",
            shown.join(", ")
        );
        self.0
            .push(Cause::new("FieldValueNotSupported", text, field));
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// All faults of a definition.
pub(crate) fn validate(
    new: &Value,
    old: Option<&Value>,
    context: &Context<'_>,
    causes: &mut Vec<Cause>,
) {
    if !context.subresource.is_empty() {
        return;
    }
    let mut faults = Faults(causes);
    let spec = &new["spec"];
    check_name(new, &mut faults);
    check_spec(spec, old.map(|o| &o["spec"]), &mut faults);
    check_stored_versions(new, &mut faults);
    check_approval(new, old, &mut faults);
    if let Some(old) = old {
        check_immutable(spec, old, &mut faults);
    }
}

fn check_name(definition: &Value, faults: &mut Faults<'_>) {
    let spec = &definition["spec"];
    let wanted = format!(
        "{}.{}",
        text(&spec["names"]["plural"]),
        text(&spec["group"])
    );
    let name = &definition["metadata"]["name"];
    if *name != wanted {
        faults.invalid(
            "metadata.name",
            name,
            "must be spec.names.plural+\".\"+spec.group",
        );
    }
}

fn check_spec(spec: &Value, old: Option<&Value>, faults: &mut Faults<'_>) {
    check_group(&spec["group"], faults);
    let scopes = ["Cluster", "Namespaced"];
    if text(&spec["scope"]).is_empty() {
        faults.required("spec.scope", "");
    } else if !scopes.contains(&text(&spec["scope"])) {
        faults.one_of("spec.scope", &spec["scope"], &scopes);
    }
    if spec["preserveUnknownFields"] == true
        && old.is_none_or(|o| o["preserveUnknownFields"] != true)
    {
        faults.invalid(
            "spec.preserveUnknownFields",
            &json!(true),
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        );
    }
    check_versions(spec, faults);
    check_names(&spec["names"], faults);
    for hoisted in Part::ALL {
        if let Some(common) = hoisted.common(spec) {
            let schema = Part::Schema.of(&list(&spec["versions"])[0]);
            hoisted.check(common, schema, "spec", faults);
        }
    }
    check_conversion(spec, faults);
}

fn check_group(group: &Value, faults: &mut Faults<'_>) {
    let name = text(group);
    if name.is_empty() {
        faults.required("spec.group", "");
        return;
    }
    let wrong = names::subdomain_faults(name);
    if !wrong.is_empty() {
        faults.invalid("spec.group", group, &wrong.join(","));
    } else if !name.contains('.') {
        faults.invalid(
            "spec.group",
            group,
            "should be a domain with at least one dot",
        );
    }
}

/// What a version says and several may have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Schema,
    Subresources,
    Columns,
    Selectable,
}

static NOTHING: Value = Value::Null;

impl Part {
    const ALL: [Part; 4] = [
        Part::Schema,
        Part::Subresources,
        Part::Columns,
        Part::Selectable,
    ];

    fn of(self, version: &Value) -> &Value {
        match self {
            Part::Schema => &version["schema"],
            Part::Subresources => &version["subresources"],
            Part::Columns => &version["additionalPrinterColumns"],
            Part::Selectable => &version["selectableFields"],
        }
    }

    fn name(self, hoisted: bool) -> &'static str {
        match self {
            Part::Schema if hoisted => "validation",
            Part::Schema => "schema",
            Part::Subresources => "subresources",
            Part::Columns => "additionalPrinterColumns",
            Part::Selectable => "selectableFields",
        }
    }

    /// What all versions say, when they say the same.
    fn common(self, spec: &Value) -> Option<&Value> {
        let versions = list(&spec["versions"]);
        let first = self.of(versions.first()?);
        versions
            .iter()
            .all(|v| self.of(v) == first)
            .then_some(first)
    }

    fn check(self, own: &Value, schema: &Value, path: &str, faults: &mut Faults<'_>) {
        let hoisted = path == "spec";
        let path = format!("{path}.{}", self.name(hoisted));
        let schema = &schema["openAPIV3Schema"];
        match self {
            Part::Schema => {
                if schema.is_object() {
                    schema::check(schema, &format!("{path}.openAPIV3Schema"), faults);
                }
            }
            Part::Subresources => check_scale(&own["scale"], &format!("{path}.scale"), faults),
            Part::Columns => {
                for (i, column) in list(own).iter().enumerate() {
                    check_column(column, &format!("{path}[{i}]"), faults);
                }
            }
            Part::Selectable => check_selectable(list(own), schema, &path, faults),
        }
    }
}

fn check_versions(spec: &Value, faults: &mut Faults<'_>) {
    let versions = list(&spec["versions"]);
    for (i, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{i}]");
        if !version["schema"]["openAPIV3Schema"].is_object() {
            faults.required(
                &format!("{path}.schema.openAPIV3Schema"),
                "schemas are required",
            );
        }
        let wrong = names::label_1035_faults(text(&version["name"]));
        if !wrong.is_empty() {
            faults.invalid(&format!("{path}.name"), &version["name"], &wrong.join(","));
        }
        for part in Part::ALL {
            if part.common(spec).is_none() {
                part.check(part.of(version), &version["schema"], &path, faults);
            }
        }
    }
    let mut seen: Vec<&Value> = Vec::new();
    for version in versions {
        if seen.contains(&&version["name"]) {
            faults.invalid(
                "spec.versions",
                &spec["versions"],
                "must contain unique version names",
            );
            break;
        }
        seen.push(&version["name"]);
    }
    let storage = versions.iter().filter(|v| v["storage"] == true).count();
    if storage != 1 {
        faults.invalid(
            "spec.versions",
            &spec["versions"],
            "must have exactly one version marked as storage version",
        );
    }
}

fn check_names(own: &Value, faults: &mut Faults<'_>) {
    for key in ["plural", "singular", "kind", "listKind"] {
        let name = text(&own[key]);
        let path = format!("spec.names.{key}");
        if name.is_empty() {
            faults.required(&path, "");
            continue;
        }
        let is_kind = key.ends_with("ind");
        let spelled = if is_kind {
            name.to_lowercase()
        } else {
            name.to_owned()
        };
        let wrong = names::label_1035_faults(&spelled);
        if !wrong.is_empty() {
            let why = if is_kind {
                format!(
                    "may have mixed case, but should otherwise match: {}",
                    wrong.join(",")
                )
            } else {
                wrong.join(",")
            };
            faults.invalid(&path, &own[key], &why);
        }
    }
    for key in ["shortNames", "categories"] {
        for (i, name) in list(&own[key]).iter().enumerate() {
            let wrong = names::label_1035_faults(text(name));
            if !wrong.is_empty() {
                faults.invalid(&format!("spec.names.{key}[{i}]"), name, &wrong.join(","));
            }
        }
    }
    if !text(&own["kind"]).is_empty() && own["kind"] == own["listKind"] {
        faults.invalid(
            "spec.names.listKind",
            &own["listKind"],
            "kind and listKind may not be the same",
        );
    }
}

const NO_SIMPLE_PATH: &str = "must be a simple json path starting with .";

fn check_scale(scale: &Value, path: &str, faults: &mut Faults<'_>) {
    if !scale.is_object() {
        return;
    }
    let mut check = |key: &str, below: &[&str], needed: bool| {
        let own = text(&scale[key]);
        let field = format!("{path}.{key}");
        if own.is_empty() {
            if needed {
                faults.required(&field, "");
            }
            return;
        }
        if !own.starts_with('.') {
            return faults.invalid(&field, &scale[key], NO_SIMPLE_PATH);
        }
        let inside = below.iter().any(|b| own.starts_with(&format!("{b}.")));
        if !inside || own.contains(['[', ']']) {
            let places = below.join(" or ");
            faults.invalid(
                &field,
                &scale[key],
                &format!("should be a json path under {places}"),
            );
        }
    };
    check("specReplicasPath", &[".spec"], true);
    check("statusReplicasPath", &[".status"], true);
    check("labelSelectorPath", &[".spec", ".status"], false);
}

fn check_column(column: &Value, path: &str, faults: &mut Faults<'_>) {
    if text(&column["name"]).is_empty() {
        faults.required(&format!("{path}.name"), "");
    }
    let types = ["boolean", "date", "integer", "number", "string"];
    if text(&column["type"]).is_empty() {
        faults.required(
            &format!("{path}.type"),
            "must be one of boolean,date,integer,number,string",
        );
    } else if !types.contains(&text(&column["type"])) {
        faults.invalid(
            &format!("{path}.type"),
            &column["type"],
            "must be one of boolean,date,integer,number,string",
        );
    }
    let formats = [
        "byte",
        "date",
        "date-time",
        "double",
        "float",
        "int32",
        "int64",
        "password",
    ];
    let format = text(&column["format"]);
    if !format.is_empty() && !formats.contains(&format) {
        let why = format!("must be one of {}", formats.join(","));
        faults.invalid(&format!("{path}.format"), &column["format"], &why);
    }
    if text(&column["jsonPath"]).is_empty() {
        faults.required(&format!("{path}.JSONPath"), "");
    } else if !text(&column["jsonPath"]).starts_with('.') {
        faults.invalid(
            &format!("{path}.JSONPath"),
            &column["jsonPath"],
            NO_SIMPLE_PATH,
        );
    } else if let Err(error) = ::schema::table::JsonPath::parse(text(&column["jsonPath"])) {
        faults.invalid(
            &format!("{path}.JSONPath"),
            &column["jsonPath"],
            &error.to_string(),
        );
    }
}

/// The largest number of selectable fields.
const MAX_SELECTABLE: usize = 8;

fn check_selectable(own: &[Value], schema: &Value, path: &str, faults: &mut Faults<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, field) in own.iter().enumerate() {
        let given = text(&field["jsonPath"]);
        let path = format!("{path}[{i}].jsonPath");
        if given.is_empty() {
            faults.required(&path, "");
            continue;
        }
        let mut at = schema;
        for key in given.trim_start_matches('.').split('.') {
            at = &at["properties"][key];
        }
        if given.starts_with(".metadata") {
            faults.invalid(
                &path,
                &field["jsonPath"],
                "must not point to fields in metadata",
            );
        } else if !at.is_object() {
            faults.invalid(
                &path,
                &field["jsonPath"],
                "is an invalid path: does not refer to a valid field",
            );
        } else if !matches!(text(&at["type"]), "string" | "boolean" | "integer") {
            faults.invalid(
                &path,
                &field["jsonPath"],
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
            );
        }
        if seen.contains(&given) {
            let text = format!("Duplicate value: {}", field["jsonPath"]);
            faults.0.push(Cause::new("FieldValueDuplicate", text, path));
        }
        seen.push(given);
    }
    if own.len() > MAX_SELECTABLE {
        let text = format!(
            "Too many: {}: must have at most {MAX_SELECTABLE} items",
            own.len()
        );
        faults.0.push(Cause::new("FieldValueTooMany", text, path));
    }
}

fn check_conversion(spec: &Value, faults: &mut Faults<'_>) {
    let conversion = &spec["conversion"];
    if conversion.is_null() {
        return;
    }
    let path = "spec.conversion";
    match text(&conversion["strategy"]) {
        "None" => {
            if !conversion["webhook"].is_null() {
                faults.forbidden(
                    &format!("{path}.webhookClientConfig"),
                    "should not be set when strategy is not set to Webhook",
                );
            }
        }
        "Webhook" => check_webhook(&conversion["webhook"], faults),
        "" => faults.required(&format!("{path}.strategy"), ""),
        _ => faults.one_of(
            &format!("{path}.strategy"),
            &conversion["strategy"],
            &["None", "Webhook"],
        ),
    }
}

fn check_webhook(webhook: &Value, faults: &mut Faults<'_>) {
    let config = &webhook["clientConfig"];
    let path = "spec.conversion.webhookClientConfig";
    let (url, service) = (!config["url"].is_null(), config["service"].is_object());
    if !config.is_object() {
        faults.required(path, "required when strategy is set to Webhook");
    } else if url == service {
        faults.required(path, "exactly one of url or service is required");
    } else if service {
        for key in ["name", "namespace"] {
            if text(&config["service"][key]).is_empty() {
                faults.required(
                    &format!("{path}.service.{key}"),
                    &format!("service {key} is required"),
                );
            }
        }
    } else if !text(&config["url"]).starts_with("https://") {
        faults.invalid(
            &format!("{path}.url"),
            &config["url"],
            "'https' is the only allowed URL scheme; desired format: https://host[/path]",
        );
    }
    let versions = list(&webhook["conversionReviewVersions"]);
    let path = "spec.conversion.conversionReviewVersions";
    if versions.is_empty() {
        faults.required(path, "");
    } else if !versions.iter().any(|v| matches!(text(v), "v1" | "v1beta1")) {
        faults.invalid(
            path,
            &webhook["conversionReviewVersions"],
            "must include at least one of v1, v1beta1",
        );
    }
}

fn check_stored_versions(definition: &Value, faults: &mut Faults<'_>) {
    let path = "status.storedVersions";
    let stored = &definition["status"]["storedVersions"];
    let versions = list(&definition["spec"]["versions"]);
    if list(stored).is_empty() {
        let shown = if stored.is_array() {
            &json!([])
        } else {
            &NOTHING
        };
        let shown = if versions.is_empty() { &NOTHING } else { shown };
        faults.invalid(path, shown, "must have at least one stored version");
    }
    for (i, name) in list(stored).iter().enumerate() {
        if !versions.iter().any(|v| v["name"] == *name) {
            faults.invalid(
                &format!("{path}[{i}]"),
                name,
                "must appear in spec.versions",
            );
        }
    }
    for version in versions.iter().filter(|v| v["storage"] == true) {
        if !list(stored).contains(&version["name"]) {
            faults.invalid(
                path,
                stored,
                &format!("must have the storage version {}", text(&version["name"])),
            );
        }
    }
}

const APPROVAL: &str = "api-approved.kubernetes.io";

/// Groups of the community need its approval.
fn check_approval(definition: &Value, old: Option<&Value>, faults: &mut Faults<'_>) {
    let group = text(&definition["spec"]["group"]);
    let protected = [".k8s.io", ".kubernetes.io"];
    let is_protected = protected
        .iter()
        .any(|p| group.ends_with(p) || group == &p[1..]);
    let annotation = |d: &Value| text(&d["metadata"]["annotations"][APPROVAL]).to_owned();
    let own = annotation(definition);
    if !is_protected || old.is_some_and(|old| annotation(old) == own) {
        return;
    }
    let path = format!("metadata.annotations[{APPROVAL}]");
    if own.is_empty() {
        faults.required(
            &path,
            &format!(
                "protected groups must have approval annotation {APPROVAL:?}, see https://github.com/kubernetes/enhancements/pull/1111"
            ),
        );
    } else if !own.starts_with("unapproved") && own.parse::<http::Uri>().is_err() {
        faults.invalid(
            &path,
            &json!(own),
            "protected groups must have approval annotation with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111",
        );
    }
}

fn check_immutable(spec: &Value, old: &Value, faults: &mut Faults<'_>) {
    let before = &old["spec"];
    let established = super::naming::is_true(old, "Established");
    let mut same = |new: &Value, old: &Value, path: &str| {
        if new != old {
            faults.invalid(path, new, "field is immutable");
        }
    };
    if established {
        same(&spec["scope"], &before["scope"], "spec.scope");
        same(
            &spec["names"]["kind"],
            &before["names"]["kind"],
            "spec.names.kind",
        );
    }
    same(&spec["group"], &before["group"], "spec.group");
    same(
        &spec["names"]["plural"],
        &before["names"]["plural"],
        "spec.names.plural",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Value {
        json!({"metadata": {"name": "foos.example.com"},
            "spec": {"group": "example.com", "scope": "Namespaced",
                "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                    "type": "object", "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}}}}]},
            "status": {"storedVersions": ["v1"]}})
    }

    fn faults(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut own = definition();
        change(&mut own);
        let mut causes = Vec::new();
        validate(&own, None, &Context::default(), &mut causes);
        let told = causes.into_iter();
        told.map(|c| format!("{}: {}", c.field, c.message))
            .collect()
    }

    #[test]
    fn a_good_definition_has_no_faults() {
        assert_eq!(faults(|_| {}), Vec::<String>::new());
    }

    #[test]
    fn faults_stand_where_the_common_parts_were_once() {
        let schema = "/spec/versions/0/schema/openAPIV3Schema";
        assert_eq!(
            faults(|d| d["spec"]["scope"] = "X".into()),
            ["spec.scope: Unsupported value: \"X\": supported values: \"Cluster\", \"Namespaced\""]
        );
        assert_eq!(
            faults(|d| *d.pointer_mut(schema).unwrap() = json!({"type": "string"})),
            [
                "spec.validation.openAPIV3Schema.type: Invalid value: \"string\": must be object at the root"
            ]
        );
        assert_eq!(
            faults(|d| d["spec"]["versions"][0]["subresources"] =
                json!({"scale": {"specReplicasPath": ".x", "statusReplicasPath": ".status.r"}})),
            [
                "spec.subresources.scale.specReplicasPath: Invalid value: \".x\": should be a json path under .spec"
            ]
        );
        assert_eq!(
            faults(|d| d["spec"]["versions"][0]["selectableFields"] =
                json!([{"jsonPath": ".spec.none"}])),
            [
                "spec.selectableFields[0].jsonPath: Invalid value: \".spec.none\": is an invalid path: does not refer to a valid field"
            ]
        );
        assert_eq!(
            faults(|d| {
                d["spec"]["versions"] = json!([]);
                d["status"] = json!({});
            }),
            [
                "spec.versions: Invalid value: []: must have exactly one version marked as storage version",
                "status.storedVersions: Invalid value: null: must have at least one stored version"
            ]
        );
    }

    #[test]
    fn columns_have_paths_and_formats_that_are_known() {
        let column = |own: Value| {
            faults(|d| d["spec"]["versions"][0]["additionalPrinterColumns"] = json!([own]))
        };
        assert_eq!(
            column(json!({"name": "a", "type": "string", "jsonPath": "x"})),
            [
                "spec.additionalPrinterColumns[0].JSONPath: Invalid value: \"x\": must be a simple json path starting with ."
            ]
        );
        assert_eq!(
            column(json!({"name": "a", "type": "string", "jsonPath": ".x", "format": "X"})),
            [
                "spec.additionalPrinterColumns[0].format: Invalid value: \"X\": must be one of byte,date,date-time,double,float,int32,int64,password"
            ]
        );
        assert_eq!(
            faults(
                |d| d["spec"]["versions"][0]["subresources"] = json!({"scale": {"specReplicasPath": "spec.x", "statusReplicasPath": ".status.r"}})
            ),
            [
                "spec.subresources.scale.specReplicasPath: Invalid value: \"spec.x\": must be a simple json path starting with ."
            ]
        );
    }

    #[test]
    fn protected_groups_need_an_approval() {
        let told = faults(|d| {
            d["spec"]["group"] = "x.k8s.io".into();
            d["metadata"]["name"] = "foos.x.k8s.io".into();
        });
        assert_eq!(told.len(), 1);
        assert!(
            told[0].starts_with("metadata.annotations[api-approved.kubernetes.io]: Required value")
        );
    }
}
