//! Every target over its corpus, in which crashes that were found stay.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use fairlead_fuzz::TARGETS;

#[test]
fn no_input_of_the_corpus_is_a_crash() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut crashes = Vec::new();
    for target in TARGETS {
        let files = fs::read_dir(corpus.join(target.name)).unwrap();
        let paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        assert!(!paths.is_empty(), "{} has no corpus", target.name);
        for path in paths {
            let input = fs::read(&path).unwrap();
            if catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_err() {
                crashes.push(path);
            }
        }
    }
    assert!(crashes.is_empty(), "{crashes:?}");
}

#[test]
fn every_folder_of_the_corpus_belongs_to_a_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let folders = fs::read_dir(corpus).unwrap();
    let names: BTreeSet<String> = folders
        .map(|folder| folder.unwrap().file_name().into_string().unwrap())
        .collect();
    let targets: BTreeSet<String> = TARGETS.iter().map(|own| own.name.to_owned()).collect();
    assert_eq!(names, targets);
}
