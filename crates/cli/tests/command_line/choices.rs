//! Which wall is taken where nobody names one, and what is said about it.

use crate::support::{Case, Home};

const CONTAINERS: &[&str] = &["container-root", "container-rootless"];

pub const CASES: &[Case] = &[
    Case::new("choices::the_usual_one_is_taken_without_a_word", usual).on(CONTAINERS),
    Case::new("choices::a_floor_is_met_and_the_reason_told_once", floor).on(CONTAINERS),
    Case::new("choices::where_nothing_will_do_every_provider_is_told", nothing).on(CONTAINERS),
];

fn usual(home: &Home) {
    let run = home.sandbar(&["run", "--", "true"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{run}");
    let id = home.ok(&["create"]);
    let told = home.json(&["inspect", &id]);
    assert_eq!(told["provider"], "container");
    assert!(told["choice"].as_str().unwrap().starts_with("the first usable provider: "), "{told}");
}

fn floor(home: &Home) {
    for options in [&["--isolation", "namespaces"][..], &["--on", "auto"]] {
        let made = home.sandbar(&[&["create"], options].concat());
        assert_eq!(made.code, 0, "{made}");
        assert!(made.stderr.starts_with("on container: the first usable provider") && made.stderr.lines().count() == 1, "{made}");
        let told = home.json(&["inspect", made.text().trim()]);
        assert!(made.stderr.contains(told["choice"].as_str().unwrap()), "{made}");
    }
}

fn nothing(home: &Home) {
    let refused = home.sandbar(&["run", "--isolation", "vm", "--net", "open", "--image", "host", "--", "true"]);
    assert_eq!(refused.code, 125, "{refused}");
    for name in ["container has only namespaces", "dangerous-host is no wall"] {
        assert!(refused.stderr.contains(name), "{refused}");
    }
}
