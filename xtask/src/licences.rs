use std::{fmt::Write, path::Path};

use cargo_metadata::{CargoOpt, Metadata, MetadataCommand, Package};
use spdx::{Expression, Licensee};

use crate::outcome::{Failure, say};

/// Permissive licences only: the binary is given to people who may do with it what Apache-2.0 says.
const ALLOWED: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "BSD-2-Clause",
    "BSD-3-Clause",
    // The TLS stack.
    "ISC",
    // Unicode tables of internationalised names.
    "Unicode-3.0",
    "Zlib",
    // The list of certificate authorities.
    "CDLA-Permissive-2.0",
];
/// Where packages of others may come from, besides this workspace.
const SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Refuses a dependency with a licence that is not allowed, or from anywhere but crates.io, for each of the systems that sandbar is built for.
pub fn check() -> Result<(), Failure> {
    let (mut refused, mut count) = (String::new(), 0);
    let allowed = ALLOWED.iter().map(|name| Licensee::parse(name)).collect::<Result<Vec<_>, _>>();
    let allowed = allowed.map_err(|error| Failure::new(format!("the list of licences: {error}")))?;
    for package in &metadata()?.packages {
        count += 1;
        if let Err(reason) = judge(package, &allowed) {
            let _ = write!(refused, "\n  {} {}: {reason}", package.name, package.version);
        }
    }
    if !refused.is_empty() {
        return Err(Failure::new(format!("packages that may not be used:{refused}")));
    }
    say(&format!("{count} packages, all with a licence that is allowed, and from where they may come"));
    Ok(())
}

/// What a build of Linux uses, on all processors.
fn metadata() -> Result<Metadata, Failure> {
    let mut command = MetadataCommand::new();
    command.manifest_path(Path::new("Cargo.toml")).features(CargoOpt::AllFeatures).other_options(["--locked".to_owned()]);
    command.exec().map_err(|error| Failure::new(format!("cargo metadata: {error}")))
}

fn judge(package: &Package, allowed: &[Licensee]) -> Result<(), String> {
    match &package.source {
        None => {}
        Some(source) if source.repr == SOURCE => {}
        Some(source) => return Err(format!("it comes from {source}")),
    }
    let Some(licence) = &package.license else { return Err("it names no licence".to_owned()) };
    let expression = Expression::parse_mode(licence, spdx::ParseMode::LAX).map_err(|error| format!("{licence}: {error}"))?;
    if expression.evaluate(|requirement| allowed.iter().any(|licensee| licensee.satisfies(requirement))) {
        return Ok(());
    }
    Err(format!("{licence} is not allowed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_or_a_source_that_is_not_allowed_is_named() {
        let allowed = ["MIT", "Apache-2.0"].map(|name| Licensee::parse(name).unwrap());
        let package = |license: &str, source: &str| {
            let text = format!(
                r#"{{"name": "p", "version": "1.0.0", "id": "p 1.0.0", "license": {license}, "source": {source}, "dependencies": [], "targets": [],
                "features": {{}}, "manifest_path": "/p/Cargo.toml", "edition": "2024"}}"#
            );
            cargo_metadata::MetadataCommand::parse(format!(
                r#"{{"packages": [{text}], "workspace_members": [], "resolve": null, "workspace_root": "/p", "target_directory": "/p", "version": 1}}"#
            ))
            .unwrap()
            .packages
            .remove(0)
        };
        let judge = |license: &str, source: &str| judge(&package(license, source), &allowed);
        let here = format!("\"{SOURCE}\"");
        assert_eq!(judge("\"MIT OR GPL-3.0\"", &here), Ok(()));
        assert_eq!(judge("\"Apache-2.0\"", "null"), Ok(()));
        assert_eq!(judge("\"MIT AND GPL-3.0\"", &here), Err("MIT AND GPL-3.0 is not allowed".to_owned()));
        assert_eq!(judge("null", &here), Err("it names no licence".to_owned()));
        assert!(judge("\"MIT\"", "\"git+https://example.com/p\"").is_err_and(|reason| reason.contains("example.com")));
    }
}
