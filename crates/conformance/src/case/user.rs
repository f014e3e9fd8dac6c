use sandbar_core::{ErrorKind, ExecRequest, Feature::User as Users, PutOptions, SandboxSpec, User};

use crate::{
    Context, Failure,
    Reach::{OwnRoot, Shell},
    Sandbox,
    failure::{ensure, ensure_eq, refused},
    suite::cases,
};

cases! { "user";
    the_default_is_root [.reach(&[Shell, OwnRoot])],
    a_command_runs_as_the_number_asked_for [.needs(&[Users]).reach(&[Shell])],
    a_command_runs_as_the_name_asked_for_with_its_groups [.needs(&[Users]).reach(&[Shell])],
    an_unknown_name_is_refused [.needs(&[Users])],
    a_number_without_a_group_has_the_same_group [.needs(&[Users]).reach(&[Shell])],
    the_sandboxs_own_user_is_every_commands [.needs(&[Users]).reach(&[Shell])],
    another_user_is_no_superuser [.needs(&[Users]).reach(&[Shell])],
    home_is_the_users [.needs(&[Users]).reach(&[Shell])],
    files_belong_to_the_sandboxs_user_unless_said_otherwise [.needs(&[Users]).reach(&[Shell])],
}

const fn number(uid: u32, gid: Option<u32>) -> User {
    User::Id { uid, gid }
}

async fn identity(sandbox: &Sandbox, user: User) -> Result<String, Failure> {
    let request = ExecRequest::shell("echo $(id -u) $(id -g) $(id -G)").user(user);
    Ok(sandbox.exec(request).await?.stdout_text().trim_end().to_owned())
}

/// A sandbox that knows a user `tester` with a second group.
async fn with_tester(context: &Context, spec: SandboxSpec) -> Result<Sandbox, Failure> {
    let sandbox = context.sandbox_with(spec).await?;
    let mut passwd = sandbox.get("/etc/passwd").await?;
    passwd.extend_from_slice(b"tester:x:4321:4322:A Tester:/home/tester:/bin/sh\n");
    sandbox.put("/etc/passwd", passwd).await?;
    let mut group = sandbox.get("/etc/group").await?;
    group.extend_from_slice(b"tester:x:4322:\nextra:x:4555:somebody,tester\n");
    sandbox.put("/etc/group", group).await?;
    Ok(sandbox)
}

async fn the_default_is_root(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    ensure_eq!(sandbox.text("id -u; id -g").await?, "0\n0", "user and group");
    Ok(())
}

async fn a_command_runs_as_the_number_asked_for(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    ensure_eq!(identity(&sandbox, number(1234, Some(2345))).await?, "1234 2345 2345", "user and groups");
    Ok(())
}

async fn a_command_runs_as_the_name_asked_for_with_its_groups(context: &Context) -> Result<(), Failure> {
    let sandbox = with_tester(context, SandboxSpec::default()).await?;
    ensure_eq!(identity(&sandbox, User::Name("tester".to_owned())).await?, "4321 4322 4322 4555", "user and groups");
    Ok(())
}

async fn an_unknown_name_is_refused(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let request = ExecRequest::argv(["true"]).user(User::Name("nobody-knows".to_owned()));
    refused("an unknown name", sandbox.exec(request).await, &[ErrorKind::InvalidInput])?;
    Ok(())
}

async fn a_number_without_a_group_has_the_same_group(context: &Context) -> Result<(), Failure> {
    let sandbox = with_tester(context, SandboxSpec::default()).await?;
    ensure_eq!(identity(&sandbox, number(1234, None)).await?, "1234 1234 1234", "a number that nobody has");
    let known = identity(&sandbox, number(4321, None)).await?;
    ensure!(known.starts_with("4321 4322 "), "a number of /etc/passwd has its group there, not {known:?}");
    Ok(())
}

async fn the_sandboxs_own_user_is_every_commands(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox_with(SandboxSpec { user: Some(number(1234, Some(2345))), ..SandboxSpec::default() }).await?;
    ensure_eq!(sandbox.text("echo $(id -u) $(id -g)").await?, "1234 2345", "the sandbox's user");
    ensure_eq!(identity(&sandbox, number(0, Some(0))).await?, "0 0 0", "a command's own");
    Ok(())
}

async fn another_user_is_no_superuser(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let secret = PutOptions { mode: Some(0o600), ..PutOptions::default() };
    sandbox.put_with("/srv/secret", secret, "roots own").await?;
    let request = ExecRequest::shell("cat /srv/secret || echo no; grep CapEff /proc/self/status").user(number(1234, None));
    let text = sandbox.exec(request).await?.stdout_text();
    ensure!(text.starts_with("no\n"), "another user reads root's file: {text:?}");
    ensure!(text.contains("0000000000000000"), "another user has capabilities: {text:?}");
    Ok(())
}

async fn home_is_the_users(context: &Context) -> Result<(), Failure> {
    let sandbox = with_tester(context, SandboxSpec::default()).await?;
    let request = ExecRequest::argv(["env"]).user(User::Name("tester".to_owned()));
    let text = sandbox.exec(request).await?.stdout_text();
    ensure!(text.lines().any(|line| line == "HOME=/home/tester"), "no HOME=/home/tester in {text:?}");
    Ok(())
}

async fn files_belong_to_the_sandboxs_user_unless_said_otherwise(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox_with(SandboxSpec { user: Some(number(1234, Some(2345))), ..SandboxSpec::default() }).await?;
    sandbox.put("/tmp/mine", "x").await?;
    let other = PutOptions { owner: Some((77, 88)), ..PutOptions::default() };
    sandbox.put_with("/tmp/other", other, "x").await?;
    sandbox.make_dir("/tmp/folder", false, None).await?;
    for (path, owner) in [("/tmp/mine", (1234, 2345)), ("/tmp/other", (77, 88)), ("/tmp/folder", (1234, 2345))] {
        let stat = sandbox.stat(path, false).await?;
        ensure_eq!((stat.uid, stat.gid), owner, "{path} as it is told");
        let inside = sandbox.text(&format!("stat -c '%u %g' {path}")).await?;
        ensure_eq!(inside, format!("{} {}", owner.0, owner.1), "{path} as it is seen inside");
    }
    Ok(())
}
