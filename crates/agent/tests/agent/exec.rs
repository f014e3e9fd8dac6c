//! Starting commands, and how they end.

use crate::host::{Host, argv, exited, shell, signaled};
use sandbar_protocol::{EnvVar, Exec, input, request::Operation};

#[test]
fn exit_codes_are_told() {
    let host = Host::new();
    for code in [0, 1, 7, 255] {
        assert_eq!(host.run(&format!("exit {code}")).status, exited(code));
    }
}

#[test]
fn stdout_and_stderr_are_apart() {
    let host = Host::new();
    let output = host.run("echo out; echo err >&2; echo more");
    assert_eq!((output.text(), output.stderr.as_slice()), ("out\nmore\n", b"err\n".as_slice()));
}
