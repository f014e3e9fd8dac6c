use std::{collections::BTreeMap, env};

use sandbar_core::{ErrorKind, ExecRequest, Isolation, SandboxSpec};

use crate::{
    Context, Failure,
    Reach::Shell,
    Sandbox,
    failure::{ensure, ensure_eq, refused},
    suite::cases,
};

cases! { "environment";
    the_sandboxs_variables_are_there,
    a_commands_variables_are_added,
    a_commands_variables_win,
    a_variable_can_be_removed,
    values_are_passed_as_they_are,
    the_images_variables_are_there_and_can_be_overridden,
    the_hosts_are_not,
    path_and_home_are_there [.reach(&[Shell])],
    a_name_that_is_no_name_is_refused,
    the_working_directory_is_the_one_specified [.reach(&[Shell])],
    the_host_name_is_the_one_specified [.reach(&[Shell])],
    the_host_name_has_an_address [.reach(&[Shell])],
}

fn spec(variables: &[(&str, &str)]) -> SandboxSpec {
    let env = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    SandboxSpec { env, ..SandboxSpec::default() }
}

async fn variables(sandbox: &Sandbox, request: ExecRequest) -> Result<BTreeMap<String, String>, Failure> {
    let text = sandbox.exec(request).await?.stdout_text();
    Ok(text.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

async fn the_sandboxs_variables_are_there(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox_with(spec(&[("COLOUR", "green"), ("EMPTY", "")])).await?;
    let found = variables(&sandbox, ExecRequest::argv(["env"])).await?;
    ensure_eq!(found.get("COLOUR").map(String::as_str), Some("green"), "COLOUR");
    ensure_eq!(found.get("EMPTY").map(String::as_str), Some(""), "EMPTY");
    Ok(())
}

async fn a_commands_variables_are_added(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox_with(spec(&[("COLOUR", "green")])).await?;
    let found = variables(&sandbox, ExecRequest::argv(["env"]).env("SHAPE", "round")).await?;
    ensure_eq!((found.get("COLOUR").map(String::as_str), found.get("SHAPE").map(String::as_str)), (Some("green"), Some("round")), "both");
    ensure!(!variables(&sandbox, ExecRequest::argv(["env"])).await?.contains_key("SHAPE"), "one command's variable is another's");
    Ok(())
}

async fn a_commands_variables_win(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox_with(spec(&[("COLOUR", "green")])).await?;
    let found = variables(&sandbox, ExecRequest::argv(["env"]).env("COLOUR", "red")).await?;
    ensure_eq!(found.get("COLOUR").map(String::as_str), Some("red"), "COLOUR");
    Ok(())
}

async fn a_variable_can_be_removed(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox_with(spec(&[("COLOUR", "green")])).await?;
    let mut request = ExecRequest::argv(["env"]);
    request.env.insert("COLOUR".to_owned(), None);
    request.env.insert("NEVER_THERE".to_owned(), None);
    ensure!(!variables(&sandbox, request).await?.contains_key("COLOUR"), "COLOUR is still there");
    Ok(())
}

async fn values_are_passed_as_they_are(context: &Context) -> Result<(), Failure> {
    let value = "a=b; c\"d' $HOME\n\tünï \\n";
    let sandbox = context.sandbox_with(spec(&[("ODD", value)])).await?;
    let result = sandbox.exec(ExecRequest::shell("printf '%s|%s' \"$ODD\" \"$EVEN\"").env("EVEN", value)).await?;
    ensure_eq!(result.stdout_text(), format!("{value}|{value}"), "values");
    Ok(())
}

async fn the_images_variables_are_there_and_can_be_overridden(context: &Context) -> Result<(), Failure> {
    let (mut request, journal) = context.request(spec(&[("SIZE", "large")]))?;
    request.root.env = [("SIZE", "small"), ("TASTE", "sweet")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let sandbox = context.provision(request, journal).await?;
    let found = variables(&sandbox, ExecRequest::argv(["env"])).await?;
    ensure_eq!((found.get("SIZE").map(String::as_str), found.get("TASTE").map(String::as_str)), (Some("large"), Some("sweet")), "both");
    Ok(())
}

async fn the_hosts_are_not(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let found = variables(&sandbox, ExecRequest::argv(["env"])).await?;
    // Those that every system has may be alike by chance.
    let common = ["PATH", "HOME", "PWD", "OLDPWD", "USER", "LOGNAME", "SHELL", "LANG", "TERM", "SHLVL", "_", "TMPDIR"];
    let host: Vec<(String, String)> = env::vars().filter(|(name, _)| !common.contains(&name.as_str())).collect();
    ensure!(!host.is_empty(), "this process has no variable of its own to look for");
    let leaked: Vec<&str> = host.iter().filter(|(name, _)| found.contains_key(name)).map(|(name, _)| name.as_str()).collect();
    ensure!(leaked.is_empty(), "variables of the host are inside: {leaked:?}");
    Ok(())
}

async fn path_and_home_are_there(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let found = variables(&sandbox, ExecRequest::argv(["env"])).await?;
    ensure!(found.get("PATH").is_some_and(|path| path.contains("/bin")), "PATH is {:?}", found.get("PATH"));
    ensure!(found.get("HOME").is_some_and(|home| home.starts_with('/')), "HOME is {:?}", found.get("HOME"));
    sandbox.text("test -d \"$HOME\" && test -w \"$HOME\"").await?;
    Ok(())
}

async fn a_name_that_is_no_name_is_refused(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    for name in ["", "A=B", "A\0B"] {
        let request = ExecRequest::argv(["true"]).env(name, "x");
        refused(&format!("a variable {name:?}"), sandbox.exec(request).await, &[ErrorKind::InvalidInput])?;
        refused(&format!("a sandbox with {name:?}"), context.sandbox_refusal(spec(&[(name, "x")])).await?, &[ErrorKind::InvalidInput])?;
    }
    refused("a value with NUL", sandbox.exec(ExecRequest::argv(["true"]).env("A", "\0")).await, &[ErrorKind::InvalidInput])?;
    Ok(())
}

async fn the_working_directory_is_the_one_specified(context: &Context) -> Result<(), Failure> {
    let own_root = context.subject().reach.contains(&crate::Reach::OwnRoot);
    let workdir = if own_root { "/srv/made/for this" } else { "made/for this" };
    let sandbox = context.sandbox_with(SandboxSpec { workdir: Some(workdir.to_owned()), ..SandboxSpec::default() }).await?;
    let here = sandbox.text("pwd").await?;
    ensure!(here.ends_with(workdir), "pwd is {here:?}");
    sandbox.put("relative", "here").await?;
    ensure_eq!(sandbox.text("cat \"$PWD/relative\"").await?, "here", "a relative path of a file call");
    Ok(())
}

async fn the_host_name_is_the_one_specified(context: &Context) -> Result<(), Failure> {
    if context.subject().provider.info().isolation == Isolation::None {
        return Err(Failure::Ignored("without isolation the host name is the host's".to_owned()));
    }
    let sandbox = context.sandbox_with(SandboxSpec { hostname: Some("lighthouse".to_owned()), ..SandboxSpec::default() }).await?;
    ensure_eq!(sandbox.text("cat /proc/sys/kernel/hostname").await?, "lighthouse", "the host name");
    let unnamed = context.sandbox().await?;
    ensure_eq!(unnamed.text("cat /proc/sys/kernel/hostname").await?, unnamed.id().as_str(), "without a name");
    Ok(())
}

async fn the_host_name_has_an_address(context: &Context) -> Result<(), Failure> {
    if context.subject().provider.info().isolation == Isolation::None {
        return Err(Failure::Ignored("without isolation the host name is the host's".to_owned()));
    }
    let sandbox = context.sandbox_with(SandboxSpec { hostname: Some("lighthouse".to_owned()), ..SandboxSpec::default() }).await?;
    // Many programs look their own name up and fail, or wait, when nobody knows it.
    sandbox.text("grep -Eq '^127[.0-9]+[[:space:]].*lighthouse' /etc/hosts").await?;
    Ok(())
}
