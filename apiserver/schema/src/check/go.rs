//! Names of types as Go's decoding errors print them.

use std::borrow::Cow;

use crate::types::{Field, Scalar, Struct, Type};

impl Struct {
    /// Name in errors about its fields: `PodSpec`.
    pub(super) fn go_struct(&self) -> Cow<'static, str> {
        match &self.name {
            Cow::Borrowed(name) => Cow::Borrowed(name.rsplit('.').next().unwrap_or_default()),
            Cow::Owned(name) => Cow::Owned(name.rsplit('.').next().unwrap_or_default().to_owned()),
        }
    }
}

/// The Go structs that stand between a struct and its inlined fields.
pub(super) fn embedded(name: &str) -> &'static [&'static str] {
    match name {
        "Volume" => &["VolumeSource"],
        "PersistentVolumeSpec" => &["PersistentVolumeSource"],
        "Probe" => &["ProbeHandler"],
        "EphemeralContainer" => &["EphemeralContainerCommon"],
        "RuleWithOperations" => &["Rule"],
        "NamedRuleWithOperations" => &["RuleWithOperations"],
        "IngressRule" => &["IngressRuleValue"],
        "DeviceClaimConfiguration"
        | "DeviceClassConfiguration"
        | "DeviceAllocationConfiguration" => &["DeviceConfiguration"],
        _ => &["LocalObjectReference"],
    }
}

/// Name of a type as Go prints it.
pub(super) fn go_type(ty: &Type, field: Option<&Field>) -> String {
    match ty {
        Type::Struct(s) => s.get().go_name(),
        Type::List(l) => format!("[]{}", go_type(&l.item, field)),
        Type::Map(m) if matches!(m.value, Type::Scalar(Scalar::Quantity)) => {
            "v1.ResourceList".into()
        }
        Type::Map(m) => format!("map[string]{}", go_type(&m.value, field)),
        Type::Scalar(scalar) => match scalar {
            Scalar::String => field
                .and_then(|f| f.go_type.as_deref())
                .unwrap_or("string")
                .into(),
            Scalar::Bool => "bool".into(),
            Scalar::Int32 => "int32".into(),
            Scalar::Int64 => "int64".into(),
            Scalar::Double => "float64".into(),
            Scalar::Bytes => "[]uint8".into(),
            Scalar::SchemaOrArray => "v1.JSONSchemaPropsOrArray".into(),
            Scalar::SchemaOrBool => "v1.JSONSchemaPropsOrBool".into(),
            _ => "string".into(),
        },
    }
}
