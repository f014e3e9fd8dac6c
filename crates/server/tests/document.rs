//! The OpenAPI document is frozen in the repository: a change of what clients see is seen by whoever reads the change.

use std::{fs, path::Path};

/// Beneath the repository's root.
const FROZEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");

#[test]
fn the_document_is_the_one_in_the_repository() {
    let document = sandbar_server::document().to_pretty_json().unwrap() + "\n";
    if std::env::var_os("SANDBAR_FREEZE").is_some() {
        fs::write(FROZEN, &document).unwrap();
    }
    let frozen = fs::read_to_string(FROZEN).unwrap_or_default();
    assert!(
        frozen == document,
        "docs/openapi.json is not what the code says; SANDBAR_FREEZE=1 writes it anew: {}",
        Path::new(FROZEN).display()
    );
}

#[test]
fn every_operation_can_be_told_apart_and_says_what_it_is() {
    let document: serde_json::Value = serde_json::to_value(sandbar_server::document()).unwrap();
    let mut names = Vec::new();
    for operations in document["paths"].as_object().unwrap().values() {
        for operation in operations.as_object().unwrap().values() {
            assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{operation}");
            assert!(operation["responses"]["default"].is_object(), "{operation}");
            names.push(operation["operationId"].as_str().unwrap().to_owned());
        }
    }
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}
