use std::{fs, process::Child};

use serde_json::{Value, json};

use crate::world::Home;

pub const CASES: &[(&str, fn())] = &[
    ("names_are_listed_used_and_forgotten_and_keys_are_not_shown", names_are_listed_used_and_forgotten_and_keys_are_not_shown),
    ("one_server_has_one_key", one_server_has_one_key),
    ("many_that_are_added_at_once_are_all_there", many_that_are_added_at_once_are_all_there),
];

fn key(home: &Home, name: &str, secret: &str) -> String {
    let file = home.path().join(name);
    fs::write(&file, secret).unwrap();
    file.display().to_string()
}

fn names_are_listed_used_and_forgotten_and_keys_are_not_shown() {
    let home = Home::new();
    // Nobody listens at this port.
    let nowhere = "http://127.0.0.1:9/container";
    home.says(&["context", "add", "nowhere", nowhere, "--key-file", &key(&home, "key", "hunter2\n")]);
    home.says(&["context", "add", "box", "ssh://me@Box.example"]);
    home.says(&["context", "use", "nowhere"]);
    let table = home.says(&["context", "ls"]);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        rows,
        [vec!["NAME", "URL", "KEY", "USED"], vec!["box", "ssh://me@box.example", "-", "-"], vec!["nowhere", nowhere, "yes", "yes"]]
    );
    let listed = |used: bool| {
        let told = home.says(&["context", "ls", "--json"]);
        assert!(!told.contains("hunter2"), "{told}");
        let expected = json!([
            { "name": "box", "url": "ssh://me@box.example", "has_key": false, "current": false },
            { "name": "nowhere", "url": nowhere, "has_key": true, "current": used },
        ]);
        assert_eq!(serde_json::from_str::<Value>(&told).unwrap(), expected);
    };
    listed(true);
    assert!(home.complains(&["run", "--", "true"]).contains("nothing listens there"));
    // Without a name it is this machine again.
    home.says(&["context", "use"]);
    listed(false);
    assert_eq!(home.says(&["run", "--", "echo", "here"]), "here");
    let complaint = home.complains(&["context", "use", "nobodys"]);
    assert!(complaint.contains("no such context") && complaint.contains("there are box, nowhere"), "{complaint}");
    // What is forgotten is not used either.
    home.says(&["context", "use", "nowhere"]);
    home.says(&["context", "rm", "nowhere", "box"]);
    assert_eq!(home.says(&["context", "ls", "--json"]), "[]");
    assert_eq!(home.says(&["run", "--", "echo", "here"]), "here");
    assert!(home.complains(&["context", "rm", "box"]).contains("no such context"));
}

fn one_server_has_one_key() {
    let home = Home::new();
    let (one, other) = (key(&home, "one", "hunter2"), key(&home, "other", "hunter3"));
    home.says(&["context", "add", "admin", "https://farm.example", "--key-file", &one]);
    let complaint = home.complains(&["context", "add", "ci", "https://farm.example/container", "--key-file", &other]);
    assert!(complaint.contains("admin and ci are of one server") && !complaint.contains("hunter"), "{complaint}");
    let listed = home.says(&["context", "ls", "--json"]);
    assert!(listed.contains("admin") && !listed.contains("\"ci\""), "{listed}");
    home.says(&["context", "add", "ci", "https://farm.example/container", "--key-file", &one]);
}

fn many_that_are_added_at_once_are_all_there() {
    let home = Home::new();
    let add = |name: usize| home.command(&["context", "add", &format!("box{name}"), &format!("ssh://box{name}")]).spawn().unwrap();
    let adding: Vec<Child> = (0..12).map(add).collect();
    for mut child in adding {
        assert!(child.wait().unwrap().success());
    }
    let listed: Vec<Value> = serde_json::from_str(&home.says(&["context", "ls", "--json"])).unwrap();
    assert_eq!(listed.len(), 12, "{listed:?}");
}
