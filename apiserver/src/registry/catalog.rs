//! Every resource that the server has: the built-in ones, and those of definitions.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;
use schema::resources::ResourceTable;

use super::resource::Resource;

/// Looked up once per request. Custom resources come and go.
#[derive(Default)]
pub struct Catalog {
    resources: RwLock<HashMap<String, Arc<Resource>>>,
    /// What discovery is made of; built anew when a custom resource came or went.
    table: RwLock<Option<Arc<ResourceTable>>>,
}

fn name(group: &str, version: &str, plural: &str) -> String {
    format!("{group}/{version}/{plural}")
}

impl Catalog {
    pub fn insert(&self, resource: Arc<Resource>) {
        let name = name(&resource.group, &resource.version, &resource.plural);
        self.resources.write().insert(name, resource);
        *self.table.write() = None;
    }

    /// Removes every version of a resource.
    pub fn remove(&self, group: &str, plural: &str) {
        self.resources
            .write()
            .retain(|_, r| r.group != group || r.plural != plural);
        *self.table.write() = None;
    }

    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.resources
            .read()
            .get(&name(group, version, plural))
            .cloned()
    }

    /// The table for discovery: the built-in groups in their order, then the custom ones.
    pub fn table(&self) -> Arc<ResourceTable> {
        if let Some(table) = self.table.read().as_ref() {
            return table.clone();
        }
        let table = Arc::new(self.build_table());
        *self.table.write() = Some(table.clone());
        table
    }

    fn build_table(&self) -> ResourceTable {
        let all = self.all();
        let custom = all
            .iter()
            .filter(|r| r.is_custom())
            .map(|r| r.definition.clone());
        schema::resources::builtin().with(custom.collect())
    }

    /// Puts these in the place of every version of a resource.
    pub fn replace(&self, group: &str, plural: &str, new: Vec<Resource>) {
        let mut resources = self.resources.write();
        resources.retain(|_, r| r.group != group || r.plural != plural);
        for resource in new {
            let name = name(&resource.group, &resource.version, &resource.plural);
            resources.insert(name, Arc::new(resource));
        }
        *self.table.write() = None;
    }

    /// The resource of a kind, in a version when one is given.
    pub fn of_kind(&self, group: &str, version: &str, kind: &str) -> Option<Arc<Resource>> {
        let resources = self.resources.read();
        let found = resources.values().find(|r| {
            r.group == group && r.kind == kind && (version.is_empty() || r.version == version)
        });
        found.cloned()
    }

    /// The same objects under other groups or versions.
    pub fn equivalents(&self, resource: &Resource) -> Vec<Arc<Resource>> {
        let resources = self.resources.read();
        let same = |r: &&Arc<Resource>| {
            r.plural == resource.plural
                && r.storage.0 == resource.storage.0
                && (r.group != resource.group || r.version != resource.version)
        };
        let mut found: Vec<_> = resources.values().filter(same).cloned().collect();
        found.sort_by(|a, b| (&a.group, &a.version).cmp(&(&b.group, &b.version)));
        found
    }

    /// Any version of a resource.
    pub fn any_version(&self, group: &str, plural: &str) -> Option<Arc<Resource>> {
        let resources = self.resources.read();
        resources
            .values()
            .find(|r| r.group == group && r.plural == plural)
            .cloned()
    }

    pub fn has_group(&self, group: &str) -> bool {
        self.resources.read().values().any(|r| r.group == group)
    }

    pub fn has_group_version(&self, group: &str, version: &str) -> bool {
        self.resources
            .read()
            .values()
            .any(|r| r.group == group && r.version == version)
    }

    /// (group, version) of everything.
    pub fn group_versions(&self) -> BTreeSet<(String, String)> {
        let resources = self.resources.read();
        resources
            .values()
            .map(|r| (r.group.to_string(), r.version.to_string()))
            .collect()
    }

    pub fn all(&self) -> Vec<Arc<Resource>> {
        let mut all: Vec<_> = self.resources.read().values().cloned().collect();
        all.sort_by(|a, b| {
            (&a.group, &a.plural, &a.version).cmp(&(&b.group, &b.plural, &b.version))
        });
        all
    }
}
