use std::{
    io::Read,
    process::{Command, Stdio},
};

use crate::world::{Home, There};

pub const CASES: &[(&str, fn())] = &[
    ("a_sandbox_there_is_one_of_here", a_sandbox_there_is_one_of_here),
    ("images_there_are_sent_listed_and_removed_from_here", images_there_are_sent_listed_and_removed_from_here),
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
    assert!(here.says(&["ls"]).contains("running"));
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
