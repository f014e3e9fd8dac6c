use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use sandbar_core::{Error, ErrorKind, ExecRequest, ExecResult, ExecStream, ExitStatus, Program, PtySize, Result};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    caller::{May, Use},
    extract::{Body, Path},
    problem::{Answer, Problem},
    processes::Started,
};

/// A command.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Command {
    /// The program and its arguments. Either this or `shell`.
    argv: Option<Vec<String>>,
    /// The program and its arguments in base64, for arguments that are no text. Instead of `argv`.
    argv_base64: Option<Vec<String>>,
    /// A line for `/bin/sh -c`.
    shell: Option<String>,
    /// Added to the sandbox's environment; `null` removes a variable.
    env: BTreeMap<String, Option<String>>,
    /// Working directory.
    workdir: Option<String>,
    /// The user: NAME, UID or UID:GID.
    user: Option<String>,
    /// A terminal of this size. Only where the command is streamed.
    pty: Option<PtySize>,
    /// Whether its standard input is streamed; otherwise it reads end-of-file at once. Only where the command is streamed.
    stdin: bool,
    /// What it reads. Only where the command is not streamed.
    input: Option<String>,
    /// After this many milliseconds it gets TERM.
    timeout_ms: Option<u64>,
    /// Milliseconds between TERM and KILL; 5000 if it is left out.
    grace_ms: Option<u64>,
    /// Whether it gets KILL when its client goes away; otherwise it runs on.
    kill_on_disconnect: bool,
}

impl Command {
    /// The request, and what the command reads at once.
    ///
    /// # Errors
    /// `InvalidInput` for what cannot be.
    pub(crate) fn request(self, streamed: bool) -> Result<(ExecRequest, Option<Bytes>)> {
        let bad = |message: &str| Error::new(ErrorKind::InvalidInput, "exec", message);
        let decode = |argument: &String| STANDARD.decode(argument).map_err(|error| bad("an argument is no base64").with_source(error));
        let program = match (self.argv, self.argv_base64, self.shell) {
            (Some(argv), None, None) if !argv.is_empty() => Program::Argv(argv.into_iter().map(String::into_bytes).collect()),
            (None, Some(argv), None) if !argv.is_empty() => Program::Argv(argv.iter().map(decode).collect::<Result<_>>()?),
            (None, None, Some(line)) => Program::Shell(line),
            _ => return Err(bad("either argv, which is not empty, or shell says what to execute")),
        };
        if !streamed && (self.stdin || self.pty.is_some()) {
            return Err(bad("a terminal, or a standard input that is streamed, needs the WebSocket"));
        }
        if streamed && self.input.is_some() {
            return Err(bad("what is streamed reads what is sent, and has no input"));
        }
        let request = ExecRequest {
            env: self.env,
            workdir: self.workdir,
            user: self.user.map(|user| user.parse()).transpose()?,
            pty: self.pty,
            stdin: self.stdin || self.pty.is_some() || self.input.is_some(),
            timeout: self.timeout_ms.map(Duration::from_millis),
            grace: self.grace_ms.map_or(ExecRequest::DEFAULT_GRACE, Duration::from_millis),
            kill_on_disconnect: self.kill_on_disconnect,
            ..ExecRequest::shell("")
        };
        Ok((ExecRequest { program, ..request }, self.input.map(Bytes::from)))
    }
}

/// A finished command.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Finished {
    /// The process id inside.
    pid: u32,
    /// How it ended.
    status: ExitStatus,
    /// The status that a shell would tell: the code; 128 and the signal's number; 124 after a timeout.
    exit_code: u8,
    /// Standard output, at most 16 MiB of it, and less where the server holds too much for all its clients together; what is no UTF-8 is replaced.
    stdout: String,
    /// Standard error, likewise.
    stderr: String,
    /// The same in base64, where something was replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout_base64: Option<String>,
    /// The same in base64, where something was replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr_base64: Option<String>,
    /// Bytes that are missing.
    dropped: u64,
}

/// Run a command to its end
#[utoipa::path(post, path = "/v1/sandboxes/{id}/exec", tag = "commands", operation_id = "exec", params(("id" = String, Path)), request_body = Command,
    responses((status = 200, body = Finished), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn exec(app: May<Use>, Path(id): Path<String>, Body(command): Body<Command>) -> Answer<Response> {
    let (request, input) = command.request(false)?;
    let sandbox = app.runtime.sandbox(&id).await?;
    let ExecStream { pid, input: mut stdin, mut output } = sandbox.exec_stream(request).await?;
    let _attended = app.metrics.attended();
    let feed = async {
        if let Some(input) = input {
            // A command may end without having read everything.
            let _ = stdin.write(input).await;
            let _ = stdin.close().await;
        }
    };
    let (result, ()) = tokio::join!(app.collected.collect(output.as_mut(), ExecResult::DEFAULT_LIMIT), feed);
    let (result, taken) = result?;
    let (stdout, stdout_base64) = text(result.stdout);
    let (stderr, stderr_base64) = text(result.stderr);
    let exit_code = result.status.shell_code();
    let finished =
        Finished { pid, status: result.status, exit_code, stdout, stderr, stdout_base64, stderr_base64, dropped: result.dropped };
    let content = serde_json::to_vec(&finished)
        .map_err(|error| Error::new(ErrorKind::Internal, "exec", "what a command said cannot be written down").with_source(error))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], taken.body(content)).into_response())
}

/// Start a command, and leave it running
#[utoipa::path(post, path = "/v1/sandboxes/{id}/processes", tag = "commands", operation_id = "start_process", params(("id" = String, Path)),
    request_body = Command,
    responses((status = 201, body = Started), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn start(app: May<Use>, Path(id): Path<String>, Body(command): Body<Command>) -> Answer<impl IntoResponse> {
    let (request, input) = command.request(false)?;
    if input.is_some() || request.kill_on_disconnect {
        return Err(
            Error::new(ErrorKind::InvalidInput, "exec", "what is left running has no input, and no client whose end would matter").into()
        );
    }
    let sandbox = app.runtime.sandbox(&id).await?;
    let pid = sandbox.exec_stream(request).await?.pid;
    let place = format!("/v1/sandboxes/{}/processes/{pid}", sandbox.id());
    Ok((StatusCode::CREATED, [(header::LOCATION, place)], Json(Started { pid })))
}

/// As text, and in base64 where it is none.
fn text(bytes: Vec<u8>) -> (String, Option<String>) {
    match String::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => (String::from_utf8_lossy(error.as_bytes()).into_owned(), Some(STANDARD.encode(error.as_bytes()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_refused() {
        let command = |json: &str| serde_json::from_str::<Command>(json).unwrap();
        for json in [r#"{}"#, r#"{"argv":[]}"#, r#"{"argv":["a"],"shell":"b"}"#, r#"{"argv":["a"],"user":"a:b"}"#] {
            assert_eq!(command(json).request(true).unwrap_err().kind(), ErrorKind::InvalidInput, "{json}");
        }
        assert!(command(r#"{"shell":"a","stdin":true}"#).request(false).is_err());
        assert!(command(r#"{"shell":"a","input":"x"}"#).request(true).is_err());
        assert!(serde_json::from_str::<Command>(r#"{"comand":"a"}"#).is_err());
    }

    #[test]
    fn bytes_that_are_no_text_come_whole() {
        assert_eq!(text(b"a".to_vec()), ("a".to_owned(), None));
        let (shown, whole) = text(vec![0xff, b'a']);
        assert_eq!((shown.as_str(), STANDARD.decode(whole.unwrap()).unwrap()), ("\u{fffd}a", vec![0xff, b'a']));
    }
}
