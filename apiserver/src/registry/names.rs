//! The syntax of names, label keys and label values, with upstream's wording of what is wrong.

pub use schema::validate::names::{
    canonical_ip_faults, label_1035_faults, label_faults, label_value_faults, path_segment_faults,
    qualified_name_faults, subdomain_faults,
};
