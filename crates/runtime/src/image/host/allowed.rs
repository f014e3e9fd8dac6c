//! What of the host's `/etc` a sandbox sees.
//!
//! The rule for this list: an entry is here because common programs under `/usr` fail or lose their sense without it,
//! and because it says nothing about this host but its release, its language and its certificate authorities. Never
//! here: accounts (`passwd` … `shadow`, `subuid`, `sudoers`, `pam.d`, `krb5*`), keys (`ssh`, `ssl/private`, `pki/tls/private`),
//! identity (`machine-id`, `hostname`, `hosts`, `resolv.conf`, `fstab`), and whatever people put passwords, tokens or
//! proxies into (`environment`, `profile`, `profile.d`, `bash.bashrc`, `apt`, `pip.conf`, `npmrc`, `gitconfig`,
//! `wgetrc`, `maven`, `docker`, `php`, `odbc*`, `my.cnf`). What of those programs need is made by us.

/// Paths below `/etc`: a file, a link or a whole folder each; one `*` may stand for any part of a name.
pub(super) const ALLOWED: &[&str] = &[
    // The dynamic linker, and programs chosen among several.
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "ld-musl-*.path",
    "alternatives",
    // Which system this is.
    "os-release",
    "lsb-release",
    "debian_version",
    "alpine-release",
    "arch-release",
    "fedora-release",
    "redhat-release",
    "system-release",
    // Certificate authorities, and how TLS libraries are set up.
    "ssl/certs",
    "ssl/cert.pem",
    "ssl/ca-bundle.pem",
    "ssl/openssl.cnf",
    "ca-certificates.conf",
    "ca-certificates/extracted",
    "pki/ca-trust/extracted",
    "pki/tls/certs",
    "pki/tls/cert.pem",
    "pki/tls/openssl.cnf",
    "pki/tls/openssl.d",
    "pki/java",
    "crypto-policies/back-ends",
    "crypto-policies/config",
    "gnutls/config",
    // Language, time and terminals.
    "localtime",
    "timezone",
    "locale.alias",
    "locale.conf",
    "terminfo",
    "inputrc",
    // Names of the network and of file types, the same everywhere.
    "protocols",
    "services",
    "rpc",
    "ethertypes",
    "gai.conf",
    "host.conf",
    "mime.types",
    "magic",
    "magic.mime",
    "xattr.conf",
    // Interpreters and libraries whose own folder leads here by links, or that read their set-up from here.
    "python2*",
    "python3*",
    "perl",
    "java",
    "java-*",
    "jvm",
    "R",
    "mono",
    "dotnet",
    "ghc*",
    "emacs",
    "vim",
    "fonts",
    "ImageMagick-*",
    "GraphicsMagick*",
    "xml",
    "sgml",
    "texmf",
    "groff",
    "iproute2",
    "netconfig",
    "mke2fs.conf",
];

/// Names that are left out wherever they are in those folders.
pub(super) fn is_private(name: &str) -> bool {
    matches!(name, "private" | "keystore" | "jmxremote.password") || name.ends_with(".key") || name.ends_with("-key.pem")
}

/// Whether a name is meant by a pattern with at most one `*`.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, end)) => name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_part() {
        for (pattern, name, expected) in [
            ("perl", "perl", true),
            ("perl", "perl5", false),
            ("python3*", "python3", true),
            ("python3*", "python3.11", true),
            ("java-*", "java-17-openjdk", true),
            ("ld-musl-*.path", "ld-musl-x86_64.path", true),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn nothing_that_holds_accounts_or_secrets_is_allowed() {
        for name in [
            "passwd",
            "shadow",
            "gshadow",
            "sudoers",
            "ssh",
            "machine-id",
            "hostname",
            "hosts",
            "resolv.conf",
            "environment",
            "profile",
            "fstab",
            "docker",
            "krb5.keytab",
            "pip.conf",
            "npmrc",
            "gitconfig",
            "kubernetes",
            "letsencrypt",
            "NetworkManager",
            "wireguard",
        ] {
            assert!(!ALLOWED.iter().any(|pattern| matches(pattern.split('/').next().unwrap(), name)), "{name}");
        }
    }
}
