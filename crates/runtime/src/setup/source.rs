//! Where a suite of the distribution comes from: as this machine's own package sources say it, in either form that apt reads.

use std::{fs, path::Path};

/// Where a suite of the distribution comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageSource {
    /// The archive.
    pub uri: String,
    /// The file with its keys.
    pub signed_by: Option<String>,
}

impl PackageSource {
    /// Of the main component of a suite that this machine gets packages of.
    pub fn of_suite(suite: &str) -> Option<Self> {
        let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
        let all = [Path::new("/etc/apt/sources.list").to_owned()].into_iter().chain(parts);
        all.filter_map(|path| fs::read_to_string(path).ok()).find_map(|text| Self::find(&text, suite))
    }

    /// A file of sources with nothing but a suite of the same archive.
    pub fn file_for(&self, suite: &str) -> String {
        let signed_by = self.signed_by.as_ref().map(|key| format!("Signed-By: {key}\n")).unwrap_or_default();
        format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n{signed_by}", self.uri)
    }

    /// What makes apt know the sources of one file (its name ends in `.sources`) and no others, with a folder for their lists: this machine's stay as
    /// they are.
    pub fn options(file: &Path, lists: &Path) -> [String; 6] {
        let [file, lists] = [file.display(), lists.display()];
        let [list, parts, lists] =
            [format!("Dir::Etc::sourcelist={file}"), "Dir::Etc::sourceparts=-".to_owned(), format!("Dir::State::lists={lists}")];
        ["-o".to_owned(), list, "-o".to_owned(), parts, "-o".to_owned(), lists]
    }

    fn find(text: &str, suite: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
        let stanzas = lines.split(|line| line.trim().is_empty());
        stanzas.filter_map(|stanza| Self::one_line(stanza, suite).or_else(|| Self::fields(stanza, suite))).next()
    }

    fn one_line(lines: &[&str], suite: &str) -> Option<Self> {
        lines.iter().find_map(|line| {
            let rest = line.trim().strip_prefix("deb ")?.trim();
            let (options, rest) = match rest.strip_prefix('[') {
                Some(rest) => rest.split_once(']')?,
                None => ("", rest),
            };
            let mut words = rest.split_whitespace();
            let (uri, found) = (words.next()?, words.next()?);
            let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by=")).map(str::to_owned);
            (found == suite && words.any(|word| word == "main")).then(|| Self { uri: uri.to_owned(), signed_by })
        })
    }

    fn fields(stanza: &[&str], suite: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut found = stanza.iter().filter_map(|line| line.split_once(':'));
            found.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
        };
        let has = |name: &str, wanted: &str| field(name).is_some_and(|value| value.split_whitespace().any(|word| word == wanted));
        let uri = field("URIs")?.split_whitespace().next()?.to_owned();
        (has("Types", "deb") && has("Suites", suite) && has("Components", "main"))
            .then(|| Self { uri, signed_by: field("Signed-By").filter(|key| !key.is_empty()).map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_sources_are_read() {
        let source = |uri: &str| Some(PackageSource { uri: uri.into(), signed_by: Some("/k.gpg".into()) });
        let stanzas = "Types: deb\n# said by somebody\nURIs: http://a.example/other\nSuites: other\nComponents: main\n\n\
            Types: deb\nURIs: http://b.example/debian\nSuites: here here-updates\nComponents: main contrib\nSigned-By: /k.gpg\n";
        assert_eq!(PackageSource::find(stanzas, "here"), source("http://b.example/debian"));
        let line = "# deb http://no.example here main\ndeb [arch=amd64 signed-by=/k.gpg] http://c.example/debian here main\n";
        assert_eq!(PackageSource::find(line, "here"), source("http://c.example/debian"));
        assert_eq!(PackageSource::find("deb http://d.example here contrib", "here"), None);
        assert_eq!(PackageSource::find(stanzas, "nowhere"), None);
    }

    #[test]
    fn a_file_for_one_suite_is_read_as_that() {
        let source = PackageSource { uri: "http://b.example/debian".into(), signed_by: Some("/k.gpg".into()) };
        assert_eq!(PackageSource::find(&source.file_for("here-backports"), "here-backports"), Some(source));
    }
}
