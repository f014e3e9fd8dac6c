use sandbar_core::{ErrorKind, ExecRequest, ExecResult, ExitStatus, PutOptions};
use tokio::time::timeout;

use crate::{
    Context, Failure,
    Reach::Shell,
    failure::{ensure, ensure_eq, refused},
    sandbox::SOON,
    suite::cases,
};

cases! { "exec";
    exit_code_is_reported,
    signal_that_ended_it_is_reported,
    output_is_collected,
    arguments_are_passed_as_they_are,
    arguments_need_not_be_utf8 [.reach(&[Shell])],
    a_shell_line_is_run_by_the_shell [.reach(&[Shell])],
    the_command_is_looked_up_in_the_path_of_its_environment [.reach(&[Shell])],
    a_command_with_a_slash_is_not_looked_up [.reach(&[Shell])],
    a_missing_command_is_told,
    a_command_that_cannot_be_executed_is_told,
    a_directory_or_garbage_cannot_be_executed [.reach(&[Shell])],
    it_runs_in_the_working_directory_asked_for,
    a_relative_working_directory_is_taken_from_the_sandboxs_own,
    a_missing_working_directory_is_refused,
    a_file_is_no_working_directory,
    collecting_stops_at_the_limit_and_counts_the_rest [.reach(&[Shell]).heavy()],
    commands_run_at_the_same_time,
    a_background_child_does_not_hold_the_end_back [.reach(&[Shell])],
    file_descriptors_of_the_agent_are_not_inherited [.reach(&[Shell])],
    signals_are_neither_blocked_nor_ignored [.reach(&[Shell])],
    the_process_leads_a_session_of_its_own [.reach(&[Shell])],
}

async fn exit_code_is_reported(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    for code in [0, 1, 7, 125, 126, 127, 255] {
        let status = sandbox.shell(&format!("exit {code}")).await?.status;
        ensure_eq!(status, ExitStatus::exited(code), "exit {code}");
    }
    Ok(())
}

async fn signal_that_ended_it_is_reported(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    for signal in [9, 15, 6] {
        let status = sandbox.shell(&format!("kill -{signal} $$")).await?.status;
        ensure_eq!((status.code, status.signal, status.timed_out), (None, Some(signal), false), "kill -{signal}");
    }
    Ok(())
}

async fn output_is_collected(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let result = sandbox.shell("echo out; echo err >&2; exit 3").await?;
    let expected = ExecResult { status: ExitStatus::exited(3), stdout: b"out\n".to_vec(), stderr: b"err\n".to_vec(), dropped: 0 };
    ensure_eq!(result, expected, "the result");
    Ok(())
}

async fn arguments_are_passed_as_they_are(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let words = ["two words", "", "*", "$HOME", "a'b\"c", "line\nbreak", "-n", "\\", "ünï"];
    let result = sandbox.exec(ExecRequest::argv(["printf", "<%s>"].into_iter().chain(words))).await?;
    let expected: String = words.iter().map(|word| format!("<{word}>")).collect();
    ensure_eq!(result.stdout_text(), expected, "arguments");
    Ok(())
}

async fn arguments_need_not_be_utf8(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let word: Vec<u8> = (1..=255).collect();
    let result = sandbox.exec(ExecRequest::argv([b"printf".to_vec(), b"%s".to_vec(), word.clone()])).await?;
    ensure_eq!(result.stdout, word, "an argument of every byte but NUL");
    Ok(())
}

async fn a_shell_line_is_run_by_the_shell(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let text = sandbox.text("x=5; for i in c a b; do echo $i$((x+1)); done | sort | tr '\\n' ' '").await?;
    ensure_eq!(text, "a6 b6 c6 ", "a pipeline");
    Ok(())
}

async fn the_command_is_looked_up_in_the_path_of_its_environment(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let script = PutOptions { mode: Some(0o755), make_parents: true, ..PutOptions::default() };
    sandbox.put_with("tools/greet", script, "#!/bin/sh\necho hello $1\n").await?;
    let here = sandbox.text("pwd").await?;
    refused("greet without the path", sandbox.exec(ExecRequest::argv(["greet"])).await, &[ErrorKind::CommandNotFound])?;
    let request = ExecRequest::argv(["greet", "you"]).env("PATH", format!("/nowhere:{here}/tools:/usr/bin:/bin"));
    ensure_eq!(sandbox.exec(request).await?.stdout_text(), "hello you\n", "greet");
    Ok(())
}

async fn a_command_with_a_slash_is_not_looked_up(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let script = PutOptions { mode: Some(0o755), make_parents: true, ..PutOptions::default() };
    sandbox.put_with("here", script.clone(), "#!/bin/sh\necho here\n").await?;
    sandbox.put_with("below/there", script, "#!/bin/sh\necho there\n").await?;
    ensure_eq!(sandbox.exec(ExecRequest::argv(["./here"])).await?.stdout_text(), "here\n", "./here");
    ensure_eq!(sandbox.exec(ExecRequest::argv(["below/there"])).await?.stdout_text(), "there\n", "below/there");
    let moved = sandbox.exec(ExecRequest::argv(["./there"]).workdir("below")).await?;
    ensure_eq!(moved.stdout_text(), "there\n", "./there from its folder");
    Ok(())
}

async fn a_missing_command_is_told(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    for command in ["no-such-command", "./no-such-command", "/no/such/command"] {
        refused(command, sandbox.exec(ExecRequest::argv([command])).await, &[ErrorKind::CommandNotFound])?;
    }
    let inner = sandbox.shell("no-such-command").await?;
    ensure_eq!(inner.status.code, Some(127), "the shell's own answer");
    Ok(())
}

async fn a_command_that_cannot_be_executed_is_told(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("plain", "#!/bin/sh\necho no\n").await?;
    refused("./plain", sandbox.exec(ExecRequest::argv(["./plain"])).await, &[ErrorKind::CommandNotExecutable])?;
    Ok(())
}

async fn a_directory_or_garbage_cannot_be_executed(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let executable = PutOptions { mode: Some(0o755), ..PutOptions::default() };
    sandbox.put_with("garbage", executable.clone(), b"\x00\x01\x02 nothing that runs").await?;
    sandbox.put_with("orphan", executable, "#!/no/such/interpreter\n").await?;
    sandbox.make_dir("folder", false, None).await?;
    refused("./folder", sandbox.exec(ExecRequest::argv(["./folder"])).await, &[ErrorKind::CommandNotExecutable])?;
    refused("./garbage", sandbox.exec(ExecRequest::argv(["./garbage"])).await, &[ErrorKind::CommandNotExecutable])?;
    let either = [ErrorKind::CommandNotExecutable, ErrorKind::CommandNotFound];
    refused("a script without its interpreter", sandbox.exec(ExecRequest::argv(["./orphan"])).await, &either)?;
    Ok(())
}

async fn it_runs_in_the_working_directory_asked_for(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let here = sandbox.text("pwd").await?;
    sandbox.make_dir("with space/below", true, None).await?;
    let asked = format!("{here}/with space/below");
    let result = sandbox.exec(ExecRequest::argv(["pwd"]).workdir(&asked)).await?;
    ensure_eq!(result.stdout_text().trim_end(), asked, "pwd");
    Ok(())
}

async fn a_relative_working_directory_is_taken_from_the_sandboxs_own(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let here = sandbox.text("pwd").await?;
    sandbox.make_dir("below", false, None).await?;
    let result = sandbox.exec(ExecRequest::argv(["pwd"]).workdir("below")).await?;
    ensure_eq!(result.stdout_text().trim_end(), format!("{here}/below"), "pwd");
    Ok(())
}

async fn a_missing_working_directory_is_refused(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    refused("a missing folder", sandbox.exec(ExecRequest::argv(["true"]).workdir("nowhere")).await, &[ErrorKind::InvalidInput])?;
    Ok(())
}

async fn a_file_is_no_working_directory(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "").await?;
    refused("a file", sandbox.exec(ExecRequest::argv(["true"]).workdir("file")).await, &[ErrorKind::InvalidInput])?;
    Ok(())
}

async fn collecting_stops_at_the_limit_and_counts_the_rest(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let over = 3 << 20;
    let result = sandbox.shell(&format!("head -c {} /dev/zero; echo end >&2", ExecResult::DEFAULT_LIMIT + over)).await?;
    ensure_eq!((result.stdout.len(), result.dropped), (ExecResult::DEFAULT_LIMIT, over as u64), "kept and dropped");
    ensure_eq!(result.stderr_text(), "end\n", "the other stream");
    Ok(())
}

async fn commands_run_at_the_same_time(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let long = sandbox.start_shell("sleep 1000").await?;
    let (left, right) = tokio::join!(sandbox.shell("echo left"), sandbox.shell("echo right"));
    ensure_eq!((left?.stdout_text(), right?.stdout_text()), ("left\n".to_owned(), "right\n".to_owned()), "two beside a third");
    sandbox.kill(long.pid).await
}

async fn a_background_child_does_not_hold_the_end_back(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let result = timeout(SOON, sandbox.shell("sleep 1000 & echo begun")).await??;
    ensure_eq!(result.stdout_text(), "begun\n", "output of the process that ended");
    Ok(())
}

async fn file_descriptors_of_the_agent_are_not_inherited(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let descriptors = sandbox.exec(ExecRequest::argv(["ls", "/proc/self/fd"])).await?.stdout_text();
    // 0, 1, 2, and the folder that `ls` itself reads.
    ensure_eq!(descriptors.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"], "descriptors");
    Ok(())
}

async fn signals_are_neither_blocked_nor_ignored(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let status = sandbox.exec(ExecRequest::argv(["cat", "/proc/self/status"])).await?.stdout_text();
    for mask in ["SigBlk", "SigIgn"] {
        let line = status.lines().find_map(|line| line.strip_prefix(mask)).unwrap_or_default();
        ensure_eq!(line.trim_start_matches(':').trim().trim_start_matches('0'), "", "{mask}");
    }
    Ok(())
}

async fn the_process_leads_a_session_of_its_own(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let stat = sandbox.exec(ExecRequest::argv(["cat", "/proc/self/stat"])).await?.stdout_text();
    let fields: Vec<&str> = stat.split_whitespace().collect();
    ensure!(fields.len() > 6, "no stat: {stat:?}");
    ensure_eq!((fields[4], fields[5]), (fields[0], fields[0]), "process group and session");
    Ok(())
}
