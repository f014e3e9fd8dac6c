//! What leaves a sandbox, in short, behind the walls for which the whole of it takes too long, with nothing inside but what their image has.

use crate::{
    egress::{assert_reached, assert_refused},
    support::{Case, Home, Stage},
};

const WALLS: &[&str] =
    &["container-root", "gvisor-root", "gvisor-rootless", "docker-runc", "docker-runsc", "qemu-tcg", "firecracker-jailed"];

pub const CASES: &[Case] = &[Case::new("egress::the_whole_policy_in_one_sandbox", whole).on(WALLS).staged().brief()];

fn whole(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test,rebind.test,private.test"]);
    assert_reached(&home, &id, &["http://allowed.test/"], "you reached 93.184.215.14 as allowed.test");
    assert_refused(&home, &id, &["http://secret.denied.example/"]);
    assert_refused(&home, &id, &["http://private.test/"]);
    // The second time it means something else.
    assert_reached(&home, &id, &["http://rebind.test/"], "you reached 93.184.215.14 as rebind.test");
    assert_refused(&home, &id, &["http://rebind.test/"]);
    assert_refused(&home, &id, &["-H", "Host: other.test", "http://allowed.test/"]);
    assert_refused(&home, &id, &["http://93.184.215.14/"]);
    assert_refused(&home, &id, &["-g", "http://[2606:4700::1111]/"]);
    // By another name server.
    let asked = home.sandbar(&["exec", &id, "--", "busybox", "nslookup", "secret.denied.example", "8.8.8.8"]);
    assert!(asked.code != 0 && asked.text().contains("NXDOMAIN"), "{asked}");
    let asked = home.sandbar(&["exec", &id, "--", "busybox", "nslookup", "-type=a", "allowed.test", "8.8.8.8"]);
    assert!(asked.code == 0 && asked.text().contains("198.18."), "{asked}");
    home.ok(&["net", "set", &id, "allow=other.test"]);
    assert_refused(&home, &id, &["http://allowed.test/"]);
    assert_reached(&home, &id, &["http://other.test/"], "you reached 93.184.215.15 as other.test");
    for text in ["tcp 10.", "8.8.8.8", "2001:4860", "2606:4700", "denied.example"] {
        stage.assert_not_seen(text);
    }
    home.close();
}
