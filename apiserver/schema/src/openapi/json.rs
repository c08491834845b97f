//! A JSON object that is written part by part.

use serde_json::Value;

/// An object being written.
pub(super) struct Object {
    out: Vec<u8>,
    first: bool,
}

impl Object {
    pub(super) fn new() -> Self {
        Self {
            out: b"{".to_vec(),
            first: true,
        }
    }

    fn name(&mut self, name: &str) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        self.out
            .extend_from_slice(Value::from(name).to_string().as_bytes());
        self.out.push(b':');
    }

    /// A field with its value.
    pub(super) fn field(&mut self, name: &str, value: &Value) {
        self.name(name);
        self.out.extend_from_slice(value.to_string().as_bytes());
    }

    /// A field whose value is an object that `fill` writes.
    pub(super) fn object(&mut self, name: &str, fill: impl FnOnce(&mut Self)) {
        self.name(name);
        self.out.push(b'{');
        self.first = true;
        fill(self);
        self.out.push(b'}');
        self.first = false;
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.out.push(b'}');
        self.out
    }
}
