use super::*;
use std::os::unix::fs::PermissionsExt;

fn names(dns: &[&str]) -> ServingNames {
    ServingNames {
        dns: dns.iter().map(|&name| name.to_owned()).collect(),
        addresses: vec![[127, 0, 0, 1].into()],
    }
}

#[test]
fn what_was_made_on_the_first_start_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let first = Pki::open(directory.path(), &names(&["kubernetes"]), true).unwrap();
    let second = Pki::open(directory.path(), &names(&["kubernetes"]), false).unwrap();
    assert_eq!(
        first.authority.certificate_pem(),
        second.authority.certificate_pem()
    );
    assert_eq!(first.serving, second.serving);
    assert_eq!(first.service_account_key, second.service_account_key);
    assert!(first.authority.public_key_hash().starts_with("sha256:"));
    for name in ["ca.key", "apiserver.key", "sa.key", "admin.key"] {
        let mode = std::fs::metadata(directory.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_new_name_renews_the_serving_certificate_alone() {
    let directory = tempfile::tempdir().unwrap();
    let first = Pki::open(directory.path(), &names(&["a"]), true).unwrap();
    let second = Pki::open(directory.path(), &names(&["a", "b"]), false).unwrap();
    assert_ne!(first.serving, second.serving);
    assert_eq!(first.admin, second.admin);
    assert_eq!(
        first.authority.certificate_pem(),
        second.authority.certificate_pem()
    );
}

#[test]
fn keys_of_two_clusters_are_told_apart() {
    let one = tempfile::tempdir().unwrap();
    let two = tempfile::tempdir().unwrap();
    Pki::open(one.path(), &names(&[]), true).unwrap();
    Pki::open(two.path(), &names(&[]), true).unwrap();
    std::fs::copy(two.path().join("ca.key"), one.path().join("ca.key")).unwrap();
    let error = Pki::open(one.path(), &names(&[]), false).err().unwrap();
    assert!(matches!(error, PkiError::KeyMismatch { .. }), "{error}");
}

#[test]
fn a_lost_authority_of_an_existing_cluster_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let error = Pki::open(directory.path(), &names(&[]), false)
        .err()
        .unwrap();
    assert!(
        matches!(error, PkiError::AuthorityMissing { .. }),
        "{error}"
    );
    assert!(!error.to_string().contains('\n'));
}

#[test]
fn the_admin_kubeconfig_is_private_and_readable_for_clients() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::open(&directory.path().join("pki"), &names(&[]), true).unwrap();
    let path = directory.path().join("admin.kubeconfig");
    pki.write_admin_kubeconfig(&path, "https://127.0.0.1:6443")
        .unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    let config = kube::config::Kubeconfig::from_yaml(&text).unwrap();
    assert_eq!(
        config.current_context.as_deref(),
        Some("kubernetes-admin@fairlead")
    );
}
