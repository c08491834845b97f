//! Everything that is data about Kubernetes kinds, and the pure functions over it.
//!
//! A kind's shape is a [`types::Struct`]: fields with their JSON name, protobuf number,
//! type, list type, patch strategy and default. Built-in kinds (Kubernetes v1.36) come
//! from the fact tables in `data/`, which `tools/import_schema.py` writes; kinds of custom
//! resources come from their definition's structural schema. Every other module walks a
//! JSON value beside such a shape and so serves both alike.
//!
//! The walk of an object through this crate, as the API server calls it:
//!
//! 1. bytes → value: [`check::decode_json`] (or [`protobuf::decode`]), which finds unknown
//!    and duplicate fields and mismatched types, with upstream's messages;
//! 2. [`check::normalize`]: canonical quantities and times, no empty optional values;
//! 3. [`defaults::apply`]: what the API promises for absent fields;
//! 4. [`validate::validate`]: what is wrong with the object, and with the change of an old one;
//! 5. value → bytes: JSON as it is, [`protobuf::encode`], or [`table::rows`].
//!
//! [`resources`] says which kinds there are and under which names and verbs;
//! [`discovery`] and [`openapi`] are the documents that publish it all.
//!
//! **Invariant:** nothing here does I/O, waits, or keeps state but lazily parsed tables.

pub mod cbor;
pub mod check;
pub mod defaults;
pub mod discovery;
pub mod openapi;
pub mod protobuf;
pub mod quantity;
pub mod resources;
pub mod table;
pub mod types;
pub mod validate;
pub mod warnings;
