//! Packages of the distribution's backports, from wherever this machine gets its packages: no registry is named here.

use std::{fs, path::Path};

use xshell::{Shell, cmd};

use crate::outcome::Failure;

/// Packages that the distribution's own suite has too old, or not at all.
pub const PACKAGES: [(&str, &str); 1] = [("runsc", "gVisor: the suite's own has no systrap")];

/// Where a suite of the distribution comes from.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    uri: String,
    signed_by: Option<String>,
}

/// Installs packages from the backports of this machine's suite, without adding that suite to the machine's sources.
pub fn install(shell: &Shell, packages: &[&str]) -> Result<(), Failure> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or_default().trim_matches('"').to_owned();
    let source = sources()
        .iter()
        .find_map(|text| find(text, &suite))
        .ok_or_else(|| Failure::new(format!("no apt source for the suite {suite:?} here; install by hand: {}", packages.join(" "))))?;
    let folder = shell.create_temp_dir()?;
    let (list, lists) = (folder.path().join("backports.sources"), folder.path().join("lists"));
    fs::create_dir_all(lists.join("partial"))?;
    let signed_by = source.signed_by.map(|key| format!("Signed-By: {key}\n")).unwrap_or_default();
    fs::write(&list, format!("Types: deb\nURIs: {}\nSuites: {suite}-backports\nComponents: main\n{signed_by}", source.uri))?;
    let options = [
        "-o".to_owned(),
        format!("Dir::Etc::sourcelist={}", list.display()),
        "-o".to_owned(),
        "Dir::Etc::sourceparts=-".to_owned(),
        "-o".to_owned(),
        format!("Dir::State::lists={}", lists.display()),
    ];
    // The user that apt becomes to download must be able to pass through.
    cmd!(shell, "chmod -R a+rX").arg(folder.path()).run()?;
    let options = &options;
    cmd!(shell, "apt-get update -q {options...}").ignore_stdout().run()?;
    cmd!(shell, "apt-get install -yq --no-install-recommends {options...} {packages...}")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .ignore_stdout()
        .run()?;
    Ok(())
}

fn sources() -> Vec<String> {
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let all = [Path::new("/etc/apt/sources.list").to_owned()].into_iter().chain(parts);
    all.filter_map(|path| fs::read_to_string(path).ok()).collect()
}

/// The source of a suite's main component, in either form that apt reads.
fn find(text: &str, suite: &str) -> Option<Source> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let stanzas = lines.split(|line| line.trim().is_empty());
    stanzas.filter_map(|stanza| one_line(stanza, suite).or_else(|| fields(stanza, suite))).next()
}

fn one_line(lines: &[&str], suite: &str) -> Option<Source> {
    lines.iter().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        let (uri, found) = (words.next()?, words.next()?);
        let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by=")).map(str::to_owned);
        (found == suite && words.any(|word| word == "main")).then(|| Source { uri: uri.to_owned(), signed_by })
    })
}

fn fields(stanza: &[&str], suite: &str) -> Option<Source> {
    let field = |name: &str| {
        let mut found = stanza.iter().filter_map(|line| line.split_once(':'));
        found.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let has = |name: &str, wanted: &str| field(name).is_some_and(|value| value.split_whitespace().any(|word| word == wanted));
    let uri = field("URIs")?.split_whitespace().next()?.to_owned();
    (has("Types", "deb") && has("Suites", suite) && has("Components", "main"))
        .then(|| Source { uri, signed_by: field("Signed-By").filter(|key| !key.is_empty()).map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_sources_are_read() {
        let stanzas = "Types: deb\n# said by somebody\nURIs: http://a.example/other\nSuites: other\nComponents: main\n\n\
            Types: deb\nURIs: http://b.example/debian\nSuites: here here-updates\nComponents: main contrib\nSigned-By: /k.gpg\n";
        assert_eq!(find(stanzas, "here"), Some(Source { uri: "http://b.example/debian".into(), signed_by: Some("/k.gpg".into()) }));
        let line = "# deb http://no.example here main\ndeb [arch=amd64 signed-by=/k.gpg] http://c.example/debian here main\n";
        assert_eq!(find(line, "here"), Some(Source { uri: "http://c.example/debian".into(), signed_by: Some("/k.gpg".into()) }));
        assert_eq!(find("deb http://d.example here contrib", "here"), None);
        assert_eq!(find(stanzas, "nowhere"), None);
    }
}
