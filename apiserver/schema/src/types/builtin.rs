//! The built-in types, read from the fact table one by one as they are needed.

use std::collections::HashMap;
use std::sync::{LazyLock, OnceLock};

use super::text::{self, Index};
use super::{Gvk, Struct, StructRef};

const TABLE: &str = concat!(
    include_str!("../../data/types.txt"),
    include_str!("../../data/more-types.txt")
);

/// All built-in types.
pub struct Builtin {
    index: Index,
    parsed: Vec<OnceLock<Struct>>,
    roots: HashMap<(&'static str, &'static str, &'static str), u16>,
}

static BUILTIN: LazyLock<Builtin> = LazyLock::new(|| {
    let index = text::index(TABLE);
    let parsed = index.blocks.iter().map(|_| OnceLock::new()).collect();
    let roots = roots(&index);
    Builtin {
        index,
        parsed,
        roots,
    }
});

/// The built-in types.
pub fn builtin() -> &'static Builtin {
    &BUILTIN
}

/// The shape of a built-in kind.
pub fn root(group: &str, version: &str, kind: &str) -> Option<StructRef> {
    builtin()
        .roots
        .get(&(group, version, kind))
        .copied()
        .map(StructRef::Builtin)
}

/// A built-in definition by its published name.
pub fn named(name: &str) -> Option<StructRef> {
    builtin()
        .index
        .names
        .get(name)
        .copied()
        .map(StructRef::Builtin)
}

fn roots(index: &Index) -> HashMap<(&'static str, &'static str, &'static str), u16> {
    let mut roots = HashMap::new();
    for (i, block) in index.blocks.iter().enumerate() {
        let head = block.lines().next().unwrap_or_default();
        for word in head.split(' ').filter_map(|w| w.strip_prefix("gvk=")) {
            let mut parts = word.splitn(3, '/');
            if let (Some(g), Some(v), Some(k)) = (parts.next(), parts.next(), parts.next()) {
                roots.insert((g, v, k), i as u16);
            }
        }
    }
    roots
}

impl Builtin {
    /// The shape at an index of the table.
    pub(super) fn get(&self, index: u16) -> &Struct {
        self.parsed[usize::from(index)].get_or_init(|| {
            // A test reads every definition of the table, so this cannot fail in service.
            text::parse(self.index.blocks[usize::from(index)], &self.index)
                .expect("the built-in type table is well-formed")
        })
    }

    /// Names of all definitions, in the table's order (sorted).
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.index
            .blocks
            .iter()
            .map(|b| &b[..b.find([' ', '\n']).unwrap_or(b.len())])
    }

    /// Every kind of the table.
    pub fn kinds(&self) -> Vec<Gvk> {
        let mut all: Vec<Gvk> = self
            .roots
            .keys()
            .map(|(g, v, k)| Gvk::new(*g, *v, *k))
            .collect();
        all.sort();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ListType, Presence, Scalar, Type};

    #[test]
    fn every_definition_of_the_table_parses() {
        let all = builtin();
        for (i, block) in all.index.blocks.iter().enumerate() {
            let parsed = text::parse(block, &all.index);
            assert!(parsed.is_ok(), "{}: {:?}", i, parsed.err());
        }
        assert!(all.index.blocks.len() > 500);
    }

    #[test]
    fn a_pod_has_its_containers_keyed_by_name() {
        let pod = root("", "v1", "Pod").expect("Pod is built in");
        let spec = pod
            .get()
            .field("spec")
            .and_then(|f| f.ty.as_struct())
            .expect("a struct");
        let containers = spec.field("containers").expect("a field");
        assert_eq!(containers.number, [2]);
        assert!(containers.required && containers.patch.merge);
        let Type::List(list) = &containers.ty else {
            panic!("a list")
        };
        assert_eq!(list.list_type, ListType::Map(vec!["name".into()]));
        let cpu = spec.field("priority").expect("a field");
        assert_eq!(cpu.presence, Presence::Pointer);
        assert!(matches!(cpu.ty, Type::Scalar(Scalar::Int32)));
    }

    #[test]
    fn volumes_inline_their_source_in_json_and_not_in_protobuf() {
        let volume = named("io.k8s.api.core.v1.Volume").expect("known");
        assert_eq!(
            volume.get().field("hostPath").map(|f| f.number.clone()),
            Some(vec![2, 1])
        );
    }

    #[test]
    fn a_recursive_definition_resolves() {
        let schema =
            named("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
                .expect("known");
        let not = schema
            .get()
            .field("not")
            .and_then(|f| f.ty.as_struct())
            .expect("a struct");
        assert_eq!(not.name, schema.get().name);
    }
}
