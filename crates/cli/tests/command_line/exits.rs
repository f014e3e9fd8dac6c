//! Exit statuses and what is said with them.

use crate::support::{Case, Home};

pub const CASES: &[Case] = &[
    Case::new("exits::the_status_is_the_commands_own", own_status),
    Case::new("exits::exec_gives_the_same_statuses_as_run", exec_status),
    Case::new("exits::a_missing_command_is_127_and_one_that_cannot_be_executed_126", missing_command),
    Case::new("exits::a_signal_is_128_and_its_number", signal_status),
    Case::new("exits::a_timeout_is_124", timeout),
    Case::new("exits::what_sandbar_cannot_do_is_125_with_a_reason", sandbar_failed),
    Case::new("exits::arguments_arrive_untouched", arguments),
    Case::new("exits::environment_directory_and_user_are_passed_on", surroundings),
    Case::new("exits::a_wall_that_is_none_says_so", no_wall).on(&["dangerous-host"]),
];

fn own_status(home: &Home) {
    assert_eq!(home.run(&["true"]).code, 0);
    assert_eq!(home.run(&["sh", "-c", "exit 7"]).code, 7);
    assert_eq!(home.run(&["sh", "-c", "exit 255"]).code, 255);
}

fn exec_status(home: &Home) {
    let id = home.create(&[]);
    let status = |command: &[&str]| home.sandbar(&[&["exec", &id, "--"], command].concat()).code;
    assert_eq!(status(&["true"]), 0);
    assert_eq!(status(&["sh", "-c", "exit 7"]), 7);
    assert_eq!(status(&["no-such-command"]), 127);
    assert_eq!(status(&["sh", "-c", "kill -9 $$"]), 137);
    assert_eq!(home.sandbar(&["exec", "--timeout", "0.2", &id, "--", "sleep", "100"]).code, 124);
}

fn missing_command(home: &Home) {
    let missing = home.run(&["no-such-command"]);
    assert_eq!((missing.code, missing.stdout.len()), (127, 0), "{missing}");
    assert!(missing.stderr.contains("no-such-command") && missing.stderr.contains("error: "), "{missing}");
    let denied = home.run(&["/etc/passwd"]);
    assert_eq!(denied.code, 126, "{denied}");
}

fn signal_status(home: &Home) {
    assert_eq!(home.run(&["sh", "-c", "kill -9 $$"]).code, 137);
    assert_eq!(home.run(&["sh", "-c", "kill -TERM $$"]).code, 143);
}

fn timeout(home: &Home) {
    let late = home.sandbar(&home.run_args(&["--timeout", "0.2"], &["sleep", "100"]));
    assert_eq!(late.code, 124, "{late}");
    let in_time = home.sandbar(&home.run_args(&["--timeout", "50"], &["true"]));
    assert_eq!(in_time.code, 0, "{in_time}");
}

fn sandbar_failed(home: &Home) {
    let cases: &[(&[&str], &str)] = &[
        (&["run"], "CMD"),
        (&["run", "--no-such-option", "--", "true"], "--no-such-option"),
        (&["run", "--on", "no-such-wall", "--", "true"], "no-such-wall"),
        (&["run", "--memory", "lots", "--", "true"], "lots"),
        (&["run", "--net", "allow=a b", "--", "true"], "a b"),
        (&["run", "-v", "/no/such/folder:/x", "--", "true"], "/no/such/folder"),
        (&["exec", "no-such-sandbox", "--", "true"], "no-such-sandbox"),
        (&["restore", "no-such-sandbox", "x"], "no-such-sandbox"),
        (&["cp", "a", "b"], "ID:PATH"),
    ];
    for (args, word) in cases {
        let failed = home.sandbar(args);
        assert_eq!(failed.code, 125, "{failed}");
        assert!(failed.stderr.contains("error: ") && failed.stderr.contains(word), "{failed}");
        assert!(failed.stdout.is_empty(), "{failed}");
    }
}

fn arguments(home: &Home) {
    let words = ["--flag", "-x", "a b", "", "*", "$HOME", "--", "é\n'\"\\", "--help"];
    let command: Vec<&str> = ["printf", "%s\\0"].into_iter().chain(words).collect();
    let expected: Vec<u8> = words.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect();
    let printed = home.run(&command);
    assert_eq!((printed.code, &printed.stdout), (0, &expected), "{printed}");
    // Without the two dashes the first word that is no option begins the command.
    let bare = home.sandbar(&[&["run", "--on", home.wall.provider], command.as_slice()].concat());
    assert_eq!((bare.code, &bare.stdout), (0, &expected), "{bare}");
    let raw = std::os::unix::ffi::OsStringExt::from_vec(b"\xff\xfe".to_vec());
    let mut args: Vec<std::ffi::OsString> = home.run_args(&[], &["printf", "%s"]).into_iter().map(Into::into).collect();
    args.push(raw);
    assert_eq!(home.sandbar(&args).stdout, b"\xff\xfe");
}

fn surroundings(home: &Home) {
    let line = "echo $A-$B-$C; pwd";
    let mut command = home.command(&home.run_args(&["-e", "A=one", "-e", "B", "-e", "C", "-w", "/tmp"], &["sh", "-c", line]));
    command.env("B", "two words").env("D", "not this");
    let id = home.create(&["-e", "A=1", "-e", "B=2"]);
    assert_eq!(home.ok(&["exec", "-e", "B=3", &id, "--", "sh", "-c", "echo $A $B"]), "1 3");
    if home.wall.provider == "container" {
        let printed = crate::support::Client::start(command, &["run"]).finish();
        assert_eq!((printed.code, printed.text().as_str()), (0, "one-two words-\n/tmp\n"), "{printed}");
        assert!(printed.stderr.contains("C is not set here"), "{printed}");
        assert_eq!(home.ok(&["exec", "-w", "/usr", &id, "--", "pwd"]), "/usr");
        if home.wall.user.is_none() {
            assert_eq!(home.ok(&["exec", "-u", "1234:5678", &id, "--", "sh", "-c", "id -u; id -g"]), "1234\n5678");
            assert_eq!(home.ok(&home.run_args(&["-u", "nobody"], &["id", "-u"])), "65534");
        }
        assert_eq!(home.run(&["env"]).text().lines().find(|line| line.starts_with("SANDBAR")), None);
    }
}

fn no_wall(home: &Home) {
    let run = home.run(&["true"]);
    assert!(run.stderr.contains("warning: ") && run.stderr.contains("no wall"), "{run}");
}
