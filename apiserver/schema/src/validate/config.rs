//! ConfigMaps and Secrets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::field::{Errors, Node, Path, same};
use super::{Change, names};

const MAX_SIZE: usize = 1024 * 1024;
const SEALED: &str = "field is immutable when `immutable` is set";

/// Who set `immutable` cannot take it back, nor change the data.
fn sealed(e: &mut Errors, change: &Change<'_>, data: &[&str]) {
    let Some(old) = &change.old else { return };
    if !old.get("immutable").flag() {
        return;
    }
    let immutable = change.new.get("immutable");
    if !immutable.flag() {
        e.forbidden(&immutable, SEALED);
    }
    for field in data {
        let new = change.new.get(field);
        if !same(new.value, old.get(field).value) {
            e.forbidden(&new, SEALED);
        }
    }
}

pub(super) fn decoded(node: &Node<'_>) -> Vec<u8> {
    STANDARD.decode(node.text()).unwrap_or_default()
}

/// ConfigMap
pub(super) fn config_map(e: &mut Errors, change: &Change<'_>) {
    sealed(e, change, &["data", "binaryData"]);
    let (data, binary) = (change.new.get("data"), change.new.get("binaryData"));
    let mut size = 0;
    for (key, value) in data.entries() {
        e.faults(&value, key, names::config_key_faults(key));
        if !binary.value[key].is_null() {
            e.invalid(&value, key, "duplicate of key present in binaryData");
        }
        size += value.text().len();
    }
    for (key, value) in binary.entries() {
        e.faults(&value, key, names::config_key_faults(key));
        size += decoded(&value).len();
    }
    if size > MAX_SIZE {
        e.too_long(&Path::default(), MAX_SIZE);
    }
}

/// Secret
pub(super) fn secret(e: &mut Errors, change: &Change<'_>) {
    change.immutable(e, "type");
    sealed(e, change, &["data"]);
    let data = change.new.get("data");
    let mut size = 0;
    for (key, value) in data.entries() {
        e.faults(&value, key, names::config_key_faults(key));
        size += decoded(&value).len();
    }
    if size > MAX_SIZE {
        e.too_long(&data, MAX_SIZE);
    }
    let has = |key: &str| data.value[key].is_string();
    let at = |key: &str| data.path.key(key);
    match change.new.get("type").text() {
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            let annotations = change.new.get("metadata.annotations");
            if annotations.value[key]
                .as_str()
                .unwrap_or_default()
                .is_empty()
            {
                e.required(&annotations.path.key(key), "");
            }
        }
        "kubernetes.io/dockercfg" => docker(e, &data, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => docker(e, &data, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            e.required(&at("username"), "");
            e.required(&at("password"), "");
        }
        "kubernetes.io/ssh-auth" => {
            let key = "ssh-privatekey";
            if data.value[key].as_str().unwrap_or_default().is_empty() {
                e.required(&at(key), "");
            }
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !has(key) {
                    e.required(&at(key), "");
                }
            }
        }
        _ => {}
    }
}

fn docker(e: &mut Errors, data: &Node<'_>, key: &str) {
    let at = data.path.key(key);
    let Some(text) = data.value[key].as_str() else {
        return e.required(&at, "");
    };
    let content = STANDARD.decode(text).unwrap_or_default();
    if let Some(fault) = crate::check::map_fault(&content) {
        e.invalid(&at, "<secret contents redacted>", fault);
    }
}
