use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
};

use crate::world::{Home, There};

pub const CASES: &[(&str, fn())] = &[
    ("a_sandbox_there_is_one_of_here", a_sandbox_there_is_one_of_here),
    ("images_there_are_sent_listed_and_removed_from_here", images_there_are_sent_listed_and_removed_from_here),
    (
        "kernels_and_templates_there_are_sent_listed_and_removed_from_here",
        kernels_and_templates_there_are_sent_listed_and_removed_from_here,
    ),
    ("keys_of_a_server_there_are_made_and_removed_from_here", keys_of_a_server_there_are_made_and_removed_from_here),
    ("what_leaves_is_told_and_changed_from_here", what_leaves_is_told_and_changed_from_here),
    ("a_secret_takes_a_key_of_the_hosts_owner", a_secret_takes_a_key_of_the_hosts_owner),
    ("a_stronger_wall_of_that_host_is_named", a_stronger_wall_of_that_host_is_named),
    ("a_run_leaves_nothing_and_has_its_commands_status", a_run_leaves_nothing_and_has_its_commands_status),
    ("a_client_that_was_killed_leaves_no_sandbox_that_it_owned", a_client_that_was_killed_leaves_no_sandbox_that_it_owned),
    (
        "output_goes_on_when_the_server_was_killed_and_another_one_takes_its_place",
        output_goes_on_when_the_server_was_killed_and_another_one_takes_its_place,
    ),
    ("what_cannot_be_reached_or_will_not_have_us_says_so", what_cannot_be_reached_or_will_not_have_us_says_so),
];

fn a_sandbox_there_is_one_of_here() {
    let there = There::new();
    let here = there.here();
    let id = here.says(&["create", "--on", "there", "--name", "web"]);
    assert_eq!(there.home.ids(), [id.as_str()], "the same id on both sides");
    assert_eq!(here.says(&["exec", "web", "--", "cat", "/proc/sys/kernel/hostname"]), "web");
    assert_eq!(here.state(&id), "running");
    std::fs::write(here.path().join("file"), "carried").unwrap();
    here.says(&["cp", here.path().join("file").to_str().unwrap(), "web:/tmp/file"]);
    assert_eq!(here.says(&["exec", "web", "--", "cat", "/tmp/file"]), "carried");
    here.says(&["checkpoint", "web", "--name", "saved"]);
    let fork = here.says(&["fork", "saved"]);
    assert_eq!(here.says(&["exec", &fork, "--", "cat", "/tmp/file"]), "carried");
    here.says(&["rm", "-f", &id, &fork]);
    here.says(&["checkpoint", "rm", "saved"]);
    assert_eq!((here.ids().len(), there.home.ids().len()), (0, 0));
    assert_eq!(there.home.says(&["checkpoints", "--json"]), "[]", "a checkpoint that was removed here is there");
}

fn images_there_are_sent_listed_and_removed_from_here() {
    let there = There::new();
    let here = there.here();
    let folder = here.path().join("root");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("motd"), "from afar").unwrap();
    let archive = here.path().join("root.tar").display().to_string();
    let packed = Command::new("tar").args(["-cf", &archive, "-C"]).arg(&folder).arg(".").status().unwrap();
    assert!(packed.success());
    let id = here.says(&["image", "import", "--on", "there", &archive, "afar"]);
    assert_eq!(here.says(&["image", "ls", "--json"]), "[]", "it is there, and not here");
    assert!(there.home.says(&["image", "ls", "--json"]).contains(&id));
    let listed = here.says(&["image", "ls", "--on", "there"]);
    assert!(listed.contains("afar:latest") && listed.contains(&id.trim_start_matches("sha256:")[..12]), "{listed}");
    assert!(here.says(&["image", "--on", "there", "ls", "--json"]).contains(&id));
    let complaint = here.complains(&["image", "import", "--on", "there", folder.to_str().unwrap()]);
    assert!(complaint.contains("tar -cC"), "{complaint}");
    assert!(here.complains(&["image", "ls", "--on", "container"]).contains("leave --on out"));
    here.says(&["image", "rm", "--on", "there", "afar:latest"]);
    assert_eq!(there.home.says(&["image", "ls", "--json"]), "[]");
}

/// The smallest file that passes for a kernel: an ELF program of one segment that says which Linux it is.
fn kernel() -> Vec<u8> {
    let mut file = vec![0; 64 + 56];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    for (at, value) in [(16, 2), (18, 62), (20, 1), (32, 64), (52, 64), (54, 56), (56, 1), (64, 1)] {
        file[at] = value;
    }
    file.extend_from_slice(b"Linux version 6.1.0-test (of nobody)");
    file
}

fn kernels_and_templates_there_are_sent_listed_and_removed_from_here() {
    let there = There::new();
    let here = there.here();
    let file = here.path().join("vmlinux").display().to_string();
    std::fs::write(&file, kernel()).unwrap();
    assert_eq!(here.says(&["kernel", "import", "--on", "there", &file, "--name", "small"]), "small");
    assert_eq!(here.says(&["kernel", "ls", "--json"]), "[]", "it is there, and not here");
    assert_eq!(here.says(&["kernel", "ls", "--on", "there", "--json"]), there.home.says(&["kernel", "ls", "--json"]));
    assert!(here.says(&["kernel", "--on", "there", "ls"]).contains("6.1.0-test"));
    let complaint = here.complains(&["kernel", "import", "--on", "there", &file, "--modules", "/lib/modules"]);
    assert!(complaint.contains("as one file"), "{complaint}");
    assert!(here.complains(&["kernel", "ls", "--on", "qemu"]).contains("leave --on out"));
    let complaint = here.complains(&["kernel", "rm", "--on", "there", "nobodys", "small"]);
    assert!(complaint.contains("nobodys"), "{complaint}");
    assert_eq!(there.home.says(&["kernel", "ls", "--json"]), "[]", "what could be removed was");

    // Another machine begins from none, so one is put there.
    let folder = there.home.path().join("templates/saved");
    std::fs::create_dir_all(&folder).unwrap();
    let record = r#"{"provider":"qemu","parts":[["memory","536870912"],["processors","1"]],"bytes":7,"record":{}}"#;
    std::fs::write(folder.join("template.json"), record).unwrap();
    assert_eq!(here.says(&["template", "ls", "--json"]), "[]");
    assert_eq!(here.says(&["template", "ls", "--on", "there", "--json"]), there.home.says(&["template", "ls", "--json"]));
    assert!(here.says(&["template", "ls", "--on", "there"]).contains("saved"));
    assert!(here.complains(&["template", "ls", "--on", "qemu"]).contains("leave --on out"));
    here.says(&["template", "rm", "--on", "there", "saved"]);
    assert_eq!(there.home.says(&["template", "ls", "--json"]), "[]");
    assert!(here.complains(&["template", "rm", "--on", "there", "saved"]).contains("no such template"));
    // What is built is built there: by a sandbox, of which nothing is left.
    here.says(&["template", "build", "--on", "there"]);
    assert_eq!((here.ids().len(), there.home.ids().len()), (0, 0));
}

fn keys_of_a_server_there_are_made_and_removed_from_here() {
    let there = There::new();
    let here = there.here();
    let secret = here.says(&["key", "create", "ci", "--on", "there", "--scope", "read", "--max-sandboxes", "3", "--ttl", "1h"]);
    assert_eq!(here.says(&["key", "ls", "--json"]), "[]", "it is there, and not here");
    let keys = here.says(&["key", "ls", "--on", "there", "--json"]);
    assert_eq!(keys, there.home.says(&["key", "ls", "--json"]));
    assert!(keys.contains("\"ci\"") && keys.contains("\"read\"") && !keys.contains(&secret), "{keys}");
    // Its holder may look, and make no more of them.
    let holder = Home::new();
    let file = holder.path().join("key").display().to_string();
    std::fs::write(&file, &secret).unwrap();
    holder.says(&["context", "add", "there", &there.url, "--key-file", &file]);
    assert!(holder.says(&["image", "ls", "--on", "there"]).contains("NAMES"));
    for refused in [&["key", "create", "more"][..], &["audit"], &["gc"], &["doctor", "--self-test"]] {
        assert!(holder.complains(&[refused, &["--on", "there"]].concat()).contains("scope"), "{refused:?}");
    }
    assert!(here.complains(&["key", "ls", "--on", "container"]).contains("leave --on out"));
    here.says(&["key", "rm", "--on", "there", "ci"]);
    assert_eq!(there.home.says(&["key", "ls", "--json"]), "[]");
    assert!(holder.complains(&["image", "ls", "--on", "there"]).contains("does not take the key"));
}

/// No packet of it leaves: all is refused.
fn what_leaves_is_told_and_changed_from_here() {
    let there = There::new();
    let here = there.here();
    let id = here.says(&["create", "--on", "there", "--net", "allow=allowed.test:80"]);
    let knock = |port: &str| here.run(&["exec", &id, "--", "bash", "-c", &format!("exec 3<>/dev/tcp/93.184.215.14/{port} && read -u 3")]);
    assert!(!knock("80").status.success());
    let log = here.says(&["net", "log", &id]);
    assert!(log.contains("refused  tcp  93.184.215.14:80"), "{log}");
    assert_eq!(here.says(&["net", "log", "--json", &id]), there.home.says(&["net", "log", "--json", &id]));

    let mut following = here.command(&["net", "log", "--follow", &id]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), log.lines().next().unwrap());
    here.says(&["net", "set", &id, "deny=*:81,allow=allowed.test"]);
    assert!(here.says(&["inspect", "--json", &id]).contains("deny=*:81"));
    assert!(there.home.says(&["inspect", "--json", &id]).contains("deny=*:81"));
    assert!(!knock("81").status.success());
    let told = lines.by_ref().map(Result::unwrap).find(|line| line.contains(":81")).unwrap();
    assert!(told.contains("deny=*:81"), "{told}");
    here.says(&["rm", "-f", &id]);
    assert_eq!(lines.count(), 0);
    assert!(following.wait().unwrap().success());

    let id = here.says(&["create", "--on", "there", "--net", "none"]);
    assert!(here.complains(&["net", "set", &id, "open"]).contains("was made without a network"));
    here.says(&["rm", "-f", &id]);
}

fn a_secret_takes_a_key_of_the_hosts_owner() {
    let there = There::new();
    let secret = there.home.says(&["key", "create", "ci", "--scope", "manage"]);
    let here = Home::new();
    let file = here.path().join("key").display().to_string();
    std::fs::write(&file, secret).unwrap();
    here.says(&["context", "add", "there", &format!("{}/container", there.url), "--key-file", &file]);
    let asked = ["create", "--on", "there", "--net", "allow=api.test", "--secret", "TOKEN=env:MY_TOKEN@api.test"];
    let output = here.command(&asked).env("MY_TOKEN", "hunter2").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("secrets need a key with the scope admin") && !said.contains("hunter2"), "{said}");
    assert_eq!((here.ids().len(), there.home.ids().len()), (0, 0));
    // Without it the key is good for a sandbox.
    let id = here.says(&asked[..5]);
    here.says(&["rm", "-f", &id]);
}

fn a_stronger_wall_of_that_host_is_named() {
    let there = There::new();
    let here = there.here();
    let complaint = here.complains(&["create", "--on", "there", "--isolation", "vm"]);
    assert!(complaint.contains(&format!("--on {}/qemu", there.url)), "{complaint}");
}

fn a_run_leaves_nothing_and_has_its_commands_status() {
    let there = There::new();
    let here = there.here();
    here.says(&["context", "use", "there"]);
    let output = here.run(&["run", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(7), &b"out\n"[..]), "{output:?}");
    assert_eq!((here.ids().len(), there.home.ids().len()), (0, 0));
}

fn a_client_that_was_killed_leaves_no_sandbox_that_it_owned() {
    let there = There::new();
    let here = there.here();
    let mut client =
        here.command(&["run", "--on", "there", "--", "sh", "-c", "echo up; sleep 1000"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 3];
    client.stdout.take().unwrap().read_exact(&mut said).unwrap();
    client.kill().unwrap();
    client.wait().unwrap();
    // The next command here, or the lease there: whichever is first.
    here.says(&["gc"]);
    assert_eq!((here.ids().len(), there.home.ids().len()), (0, 0));
}

fn output_goes_on_when_the_server_was_killed_and_another_one_takes_its_place() {
    let mut there = There::new();
    let here = there.here();
    let id = here.says(&["create", "--on", "there"]);
    here.says(&["exec", &id, "--", "mkfifo", "/tmp/go"]);
    let line = "echo one; read x < /tmp/go; echo two";
    let mut client = here.command(&["exec", &id, "--", "sh", "-c", line]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = client.stdout.take().unwrap();
    let mut first = [0; 4];
    output.read_exact(&mut first).unwrap();
    there.kill();
    there.again();
    here.says(&["exec", &id, "--", "sh", "-c", "echo > /tmp/go"]);
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!((&first, rest.as_str(), client.wait().unwrap().code()), (b"one\n", "two\n", Some(0)));
    here.says(&["rm", "-f", &id]);
}

fn what_cannot_be_reached_or_will_not_have_us_says_so() {
    let mut there = There::new();
    let here = there.here();
    let id = here.says(&["create", "--on", "there"]);
    let stranger = Home::new();
    let url = format!("{}/container", there.url);
    assert!(stranger.complains(&["create", "--on", &url]).contains("does not take the key"));
    assert!(here.complains(&["create", "--on", &format!("{}/nope", there.url)]).contains("no such provider"));
    assert!(here.complains(&["create", "--on", "there", "-v", "/tmp:/x"]).contains("another host"));
    assert!(here.complains(&["create", "--on", "http://192.0.2.1"]).contains("this machine alone"));
    assert!(here.complains(&["create", "--on", "https://"]).contains("https://HOST"));
    there.kill();
    assert!(here.complains(&["create", "--on", "there"]).contains("nothing listens there"));
    assert!(here.complains(&["exec", &id, "--", "true"]).contains("nothing listens there"));
    let listed = here.says(&["ls", "--json"]);
    assert!(listed.contains("running") && listed.contains("not verified"), "{listed}");
    assert!(here.complains(&["rm", "-f", &id]).contains("nothing listens there"));
    there.again();
    here.says(&["gc"]);
    assert_eq!((here.ids().len(), there.home.ids().len()), (0, 0));
}
