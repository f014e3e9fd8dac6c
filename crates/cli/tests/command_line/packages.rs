//! Package managers, as they are, against servers on the stage of what leaves.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crate::support::{Case, EVERYWHERE, Finished, Home, Stage};

pub const CASES: &[Case] = &[
    Case::new("packages::pip_installs", pip)
        .on(EVERYWHERE)
        .staged()
        .needs_beside(&["/usr/bin/python3", "/usr/lib/python3/dist-packages/pip"])
        .brief_on(&["gvisor-root"]),
    Case::new("packages::apt_in_a_virtual_machine", apt_there)
        .on(&["qemu-tcg", "firecracker-jailed"])
        .staged()
        .needs_beside(&["/usr/bin/apt-get", "/usr/bin/dpkg-deb"])
        .brief(),
    Case::new("packages::apt_updates_and_downloads", apt).on(EVERYWHERE).staged().needs_beside(&["/usr/bin/apt-get", "/usr/bin/dpkg-deb"]),
    Case::new("packages::git_clones", git).on(EVERYWHERE).staged().needs_beside(&["/usr/bin/git"]),
    Case::new("packages::npm_installs", npm).on(EVERYWHERE).staged().needs_beside(&["/usr/bin/npm", "/usr/bin/node"]),
];

/// Where packages are: without TLS and with it.
const PLAIN: &str = "http://packages.test:8080/packages";
const TLS: &str = "https://packages.test:8443/packages";
const NET: &str = "allow=packages.test:8080,packages.test:8443";
/// What every package holds.
pub const WORD: &str = "well-packed";

struct Shop {
    stage: Stage,
    home: Home,
    id: String,
}

impl Shop {
    /// A sandbox that may reach the packages that `publish` makes in `$1`, and has the certificate of their server.
    fn open(outer: &Home, publish: &str) -> Self {
        let stage = Stage::new();
        self::publish(&stage, publish);
        let home = stage.home(&outer.wall);
        let id = home.create(&["--net", NET]);
        let certificate = home.work().join("stage.pem");
        std::fs::copy(stage.folder().join("cert.pem"), &certificate).unwrap();
        home.wall.hand_over(&certificate);
        home.ok(&["cp", &certificate.display().to_string(), &format!("{id}:/tmp/stage.pem")]);
        Self { stage, home, id }
    }

    fn run(&self, line: &str) -> Finished {
        /// An emulated processor takes its time.
        const PATIENCE: Duration = Duration::from_secs(300);
        self.home.start(&["exec", &self.id, "--", "bash", "-euc", line]).finish_within(PATIENCE)
    }

    fn ok(&self, line: &str) -> String {
        let done = self.run(line);
        assert_eq!(done.code, 0, "{done}\n{}", self.home.ok(&["net", "log", &self.id]));
        done.text().trim().to_owned()
    }
}

/// Puts packages where the stage's servers have them: the script makes them in `$1`.
pub fn publish(stage: &Stage, script: &str) {
    let folder = stage.folder().join("packages");
    std::fs::create_dir(&folder).unwrap();
    run(Command::new("bash").args(["-euc", script, "publish"]).arg(&folder).env("WORD", WORD));
}

fn run(command: &mut Command) {
    let done = command.stdin(Stdio::null()).current_dir(Path::new("/tmp")).output().unwrap();
    assert!(done.status.success(), "{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
}

const WHEEL: &str = r#"
cd "$1"
mkdir -p simple/demo simple/elsewhere
/usr/bin/python3 - <<'END'
import os, zipfile
info = 'demo-1.0.dist-info/'
with zipfile.ZipFile('simple/demo/demo-1.0-py3-none-any.whl', 'w') as wheel:
    wheel.writestr('demo.py', 'WORD = %r\n' % os.environ['WORD'])
    wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n')
    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\nGenerator: stage\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
    wheel.writestr(info + 'RECORD', 'demo.py,,\n' + ''.join(info + name + ',,\n' for name in ['METADATA', 'WHEEL', 'RECORD']))
END
echo '<!DOCTYPE html><a href="demo-1.0-py3-none-any.whl">demo-1.0-py3-none-any.whl</a>' > simple/demo/index.html
echo '<!DOCTYPE html><a href="https://other.test:8443/packages/simple/demo/demo-1.0-py3-none-any.whl">elsewhere-1.0-py3-none-any.whl</a>' > simple/elsewhere/index.html
"#;

fn pip(outer: &Home) {
    let shop = Shop::open(outer, WHEEL);
    let pip = "/usr/bin/python3 -m pip --disable-pip-version-check --retries 0 install --quiet --no-cache-dir --cert /tmp/stage.pem";
    for (number, from) in [TLS, PLAIN].into_iter().enumerate() {
        let line = format!(
            "{pip} --trusted-host packages.test:8080 --target /tmp/site{number} --index-url {from}/simple/ demo
            PYTHONPATH=/tmp/site{number} /usr/bin/python3 -c 'import demo; print(demo.WORD)'"
        );
        assert_eq!(shop.ok(&line), WORD, "{from}");
    }
    // An index that sends it to another host.
    let away = shop.run(&format!("{pip} --target /tmp/away --index-url {TLS}/simple/ elsewhere"));
    assert_ne!(away.code, 0, "{away}");
    shop.stage.assert_not_seen("http other.test");
    shop.home.close();
}

const DEBIAN: &str = r#"
cd "$1"
mkdir -p apt demo/DEBIAN demo/usr/share/demo
echo "$WORD" > demo/usr/share/demo/word
printf 'Package: demo\nVersion: 1.0\nArchitecture: all\nMaintainer: stage <stage@packages.test>\nDescription: %s\n' "$WORD" > demo/DEBIAN/control
dpkg-deb --root-owner-group --build demo apt/demo_1.0_all.deb
{
    cat demo/DEBIAN/control
    printf 'Filename: ./demo_1.0_all.deb\nSize: %s\nSHA256: %s\n\n' "$(stat -c %s apt/demo_1.0_all.deb)" "$(sha256sum < apt/demo_1.0_all.deb | cut -d' ' -f1)"
} > apt/Packages
"#;

/// apt with folders of its own, and this source.
const APT: &str = r#"
rm -rf /tmp/apt && mkdir -p /tmp/apt/state/lists/partial /tmp/apt/cache/archives/partial && cd /tmp/apt && touch status
echo "deb [trusted=yes] $SOURCE ./" > sources.list
cat > apt.conf <<END
Dir::Etc::SourceList "/tmp/apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Parts "/dev/null";
Dir::State "/tmp/apt/state";
Dir::State::Status "/tmp/apt/status";
Dir::Cache "/tmp/apt/cache";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Retries "0";
Acquire::https::CAInfo "/tmp/stage.pem";
END
export APT_CONFIG=/tmp/apt/apt.conf
apt-get -q update >&2
apt-get -q download demo >&2
dpkg-deb --fsys-tarfile demo_1.0_all.deb | tar xO ./usr/share/demo/word
"#;

fn apt(outer: &Home) {
    let shop = Shop::open(outer, DEBIAN);
    for from in [PLAIN, TLS] {
        assert_eq!(shop.ok(&format!("SOURCE={from}/apt{APT}")), WORD, "{from}");
    }
    // A server that sends it to where machines of clouds tell who they are.
    let away = shop.run(&format!("SOURCE={PLAIN}/away{APT}"));
    assert_ne!(away.code, 0, "{away}");
    shop.stage.assert_not_seen("tcp 169.254");
    let log = shop.home.ok(&["net", "log", &shop.id]);
    assert!(log.contains("169.254.169.254"), "{log}");
    shop.home.close();
}

fn apt_there(outer: &Home) {
    let shop = Shop::open(outer, DEBIAN);
    assert_eq!(shop.ok(&format!("SOURCE={TLS}/apt{APT}")), WORD);
    shop.home.close();
}

pub const REPOSITORY: &str = r#"
cd "$1"
export HOME="$1" GIT_CONFIG_NOSYSTEM=1
git init --quiet --initial-branch=main source
echo "$WORD" > source/word
git -C source add word
git -C source -c user.name=stage -c user.email=stage@packages.test commit --quiet --message=first
mkdir git
git clone --quiet --bare source git/demo.git
git -C git/demo.git update-server-info
"#;

fn git(outer: &Home) {
    let shop = Shop::open(outer, REPOSITORY);
    for (number, from) in [PLAIN, TLS].into_iter().enumerate() {
        let line =
            format!("git -c http.sslCAInfo=/tmp/stage.pem clone --quiet {from}/git/demo.git /tmp/demo{number}; cat /tmp/demo{number}/word");
        assert_eq!(shop.ok(&line), WORD, "{from}");
    }
    let away = shop.run("git clone --quiet http://other.test:8080/packages/git/demo.git /tmp/away");
    assert!(away.code != 0 && away.stderr.contains("other.test"), "{away}");
    shop.stage.assert_not_seen("http other.test");
    shop.home.close();
}

const MODULE: &str = r#"
cd "$1"
mkdir -p npm package
echo "module.exports = '$WORD'" > package/index.js
echo '{"name":"demo","version":"1.0.0","main":"index.js"}' > package/package.json
tar czf npm/demo-1.0.0.tgz package
sum="sha512-$(openssl dgst -sha512 -binary npm/demo-1.0.0.tgz | base64 -w0)"
# Every host has it where it says itself.
for name in plain encrypted; do
    mkdir npm/$name
    [ $name = plain ] && from=http://packages.test:8080 || from=https://packages.test:8443
    cat > npm/$name/demo <<END
{"name":"demo","dist-tags":{"latest":"1.0.0"},"versions":{"1.0.0":{"name":"demo","version":"1.0.0",
"dist":{"tarball":"$from/packages/npm/demo-1.0.0.tgz","integrity":"$sum"}}}}
END
done
"#;

fn npm(outer: &Home) {
    let shop = Shop::open(outer, MODULE);
    for from in [format!("{PLAIN}/npm/plain/"), format!("{TLS}/npm/encrypted/")] {
        let line = format!(
            "rm -rf /tmp/app && mkdir /tmp/app && cd /tmp/app
            npm install --silent --no-audit --no-fund --no-update-notifier --fetch-retries 0 --cache /tmp/app/cache --cafile /tmp/stage.pem --registry {from} demo
            node --print 'require(\"demo\")'"
        );
        assert_eq!(shop.ok(&line), WORD, "{from}");
    }
    shop.home.close();
}
