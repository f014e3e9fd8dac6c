use std::{fs, process::Command};

use sandbar_core::{AttachRequest, ErrorKind, ExecRequest, Resource, SandboxSpec, State};
use serde_json::json;
use tokio::time::timeout;

use crate::{
    Context, Failure,
    Reach::{HostProcesses, Shell},
    failure::{ensure, ensure_eq, refused},
    harness, host,
    sandbox::SOON,
    suite::cases,
};

cases! { "provider";
    looking_changes_nothing,
    it_says_what_it_is,
    provision_returns_when_the_agent_answers,
    provision_undoes_what_it_did_when_the_journal_refuses [.seconds(240)],
    many_are_provisioned_at_once,
    a_limit_too_small_to_work_is_refused,
    attach_gives_a_working_handle,
    attach_refuses_another_providers_record,
    reclaim_ends_what_a_crash_left [.reach(&[Shell, HostProcesses])],
    reclaim_takes_no_offence_at_what_is_gone,
    reclaim_leaves_what_is_not_ours_any_more [.reach(&[HostProcesses])],
    reclaim_goes_on_after_what_it_cannot_remove [.reach(&[HostProcesses])],
    an_owned_sandbox_ends_with_its_owner [.reach(&[Shell, HostProcesses])],
    a_detached_sandbox_is_found_by_its_record_alone [.reach(&[HostProcesses])],
}

async fn looking_changes_nothing(context: &Context) -> Result<(), Failure> {
    let look = || -> std::io::Result<Vec<_>> {
        let mut names: Vec<_> = fs::read_dir(&context.subject().folder)?.flatten().map(|entry| entry.file_name()).collect();
        names.retain(|name| !name.to_string_lossy().contains('-'));
        names.sort();
        Ok(names)
    };
    let before = look()?;
    let info = context.subject().provider.info();
    let probe = context.subject().provider.probe().await;
    ensure!(probe.usable, "the variant is tested, and its probe says: {}", probe.verdict);
    ensure_eq!(context.subject().provider.info(), info, "the info, asked again");
    ensure_eq!(look()?, before, "the run's folder");
    Ok(())
}

async fn it_says_what_it_is(context: &Context) -> Result<(), Failure> {
    let info = context.subject().provider.info();
    ensure!(!info.description.is_empty(), "it has no description");
    let claim = context.subject().claims.iter().find(|claim| claim.provider == info.name);
    let claim = claim.ok_or_else(|| Failure::new(format!("{} is not among the claims of this build", info.name)))?;
    let beyond: Vec<_> = info.features.iter().filter(|feature| !claim.features.has(*feature)).collect();
    ensure!(beyond.is_empty(), "it claims here what it does not claim at its best: {beyond:?}");
    Ok(())
}

async fn provision_returns_when_the_agent_answers(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    ensure_eq!(sandbox.id(), &sandbox.request().id, "its id");
    ensure_eq!(sandbox.exec(ExecRequest::argv(["echo", "here"])).await?.stdout_text(), "here\n", "the first command");
    ensure_eq!(sandbox.status().await.state, State::Running, "the state");
    ensure!(sandbox.journal().record().is_some(), "no record was committed");
    Ok(())
}

async fn provision_undoes_what_it_did_when_the_journal_refuses(context: &Context) -> Result<(), Failure> {
    // The first one of a run may make what is then there for all: a template.
    context.sandbox().await?;
    let intents = context.sandbox().await?.journal().ever().len();
    ensure!(intents > 0, "the journal was told nothing");
    for count in 1..=intents {
        let (request, journal) = context.request(SandboxSpec::default())?;
        journal.refuse_from(count);
        let outcome = context.refusal(request, journal).await.map_err(|failure| failure.during(format!("intent {count}")))?;
        refused(&format!("provision with intent {count} refused"), outcome.map(drop), &[ErrorKind::Unavailable])?;
    }
    Ok(())
}

async fn many_are_provisioned_at_once(context: &Context) -> Result<(), Failure> {
    let one = || context.sandbox();
    let made = tokio::try_join!(one(), one(), one(), one(), one(), one(), one(), one())?;
    for (index, sandbox) in [made.0, made.1, made.2, made.3, made.4, made.5, made.6, made.7].iter().enumerate() {
        sandbox.put("file", index.to_string()).await?;
        ensure_eq!(sandbox.text("cat file").await?, index.to_string(), "sandbox {index}");
    }
    Ok(())
}

async fn a_limit_too_small_to_work_is_refused(context: &Context) -> Result<(), Failure> {
    use sandbar_core::{Feature, Limits};

    let none = Limits::default();
    let small = [
        (Feature::LimitMemory, Limits { memory: Some(1), ..none }),
        (Feature::LimitCpu, Limits { cpu_millis: Some(1), ..none }),
        (Feature::LimitPids, Limits { pids: Some(1), ..none }),
        (Feature::LimitDisk, Limits { disk: Some(1), ..none }),
        (Feature::LimitOpenFiles, Limits { open_files: Some(1), ..none }),
        (Feature::LimitDiskRate, Limits { disk_rate: Some(1), ..none }),
        (Feature::LimitDiskRate, Limits { disk_operations: Some(1), ..none }),
    ];
    for (feature, limits) in small {
        let outcome = context.sandbox_refusal(SandboxSpec { limits, ..SandboxSpec::default() }).await?;
        refused(feature.name(), outcome.map(drop), &[ErrorKind::InvalidInput])?;
    }
    Ok(())
}

async fn attach_gives_a_working_handle(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "shared").await?;
    let other = context.subject().provider.attach(sandbox.attach_request()?).await?;
    ensure_eq!(other.id(), sandbox.id(), "its id");
    ensure_eq!(other.exec(ExecRequest::argv(["cat", "file"])).await?.stdout_text(), "shared", "a command");
    ensure_eq!(other.limits(), sandbox.limits(), "its limits");
    Ok(())
}

async fn attach_refuses_another_providers_record(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    for record in [json!(null), json!({"something": "else"}), json!([1, 2]), json!("text")] {
        let request = AttachRequest { provision: sandbox.request().clone(), record: record.clone() };
        refused(&record.to_string(), context.subject().provider.attach(request).await.map(drop), &[ErrorKind::Corrupt])?;
    }
    Ok(())
}

async fn reclaim_ends_what_a_crash_left(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let marker = host::marker();
    sandbox.start_shell(&format!("(setsid sleep {marker} &); sleep {marker}")).await?;
    let held = sandbox.journal().held();
    // As after a crash of the runtime: only the journal's rows are known.
    timeout(SOON * context.subject().patience, context.subject().provider.reclaim(sandbox.id(), &held)).await??;
    sandbox.released();
    for resource in &held {
        sandbox.gone(resource).await?;
    }
    ensure_eq!(host::processes_with(&marker), [0u32; 0], "processes that outlived the reclaim");
    let mounts = host::mounts_of(&sandbox.request().folder);
    ensure!(mounts.is_empty(), "still mounted: {mounts:?}");
    Ok(())
}

async fn reclaim_takes_no_offence_at_what_is_gone(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let ever = sandbox.journal().ever();
    context.destroy(&sandbox).await?;
    context.subject().provider.reclaim(sandbox.id(), &ever).await?;
    context.subject().provider.reclaim(sandbox.id(), &ever).await?;
    Ok(context.subject().provider.reclaim(sandbox.id(), &[]).await?)
}

async fn reclaim_leaves_what_is_not_ours_any_more(context: &Context) -> Result<(), Failure> {
    let (request, _) = context.request(SandboxSpec::default())?;
    let mut bystander = Command::new("sleep").arg("1000").spawn()?;
    let start_time = host::start_time(bystander.id()).unwrap_or_default();
    let stale = Resource::Process { pid: bystander.id(), start_time: start_time + 1, role: "agent".to_owned() };
    let outcome = context.subject().provider.reclaim(&request.id, &[stale]).await;
    let lives = bystander.try_wait()?.is_none();
    let _ = bystander.kill();
    let _ = bystander.wait();
    ensure!(lives, "a process with another start time was ended");
    Ok(outcome?)
}

async fn reclaim_goes_on_after_what_it_cannot_remove(context: &Context) -> Result<(), Failure> {
    let (request, _) = context.request(SandboxSpec::default())?;
    let folder = request.folder.join("left");
    fs::create_dir_all(folder.join("below"))?;
    // A folder of /proc cannot be removed by anybody.
    let stubborn = Resource::Cgroup { path: "/proc/self".into() };
    let outcome = context.subject().provider.reclaim(&request.id, &[stubborn, Resource::Folder { path: folder.clone() }]).await;
    ensure!(!folder.exists(), "what came after was not removed ({outcome:?})");
    ensure!(outcome.is_err(), "nothing is said of what could not be removed");
    Ok(())
}

async fn an_owned_sandbox_ends_with_its_owner(context: &Context) -> Result<(), Failure> {
    let (request, _) = context.request(SandboxSpec::default())?;
    let marker = host::marker();
    let mut owned = harness::start_owner(context.subject(), request.id, &request.folder, &context.subject().folder, &marker)?;
    let lived = host::appear(&marker, 1).await;
    owned.process.kill()?;
    owned.process.wait()?;
    let gone = async {
        while !host::processes_with(&marker).is_empty() {
            tokio::time::sleep(crate::sandbox::POLL).await;
        }
    };
    let outcome = timeout(SOON * context.subject().patience, gone).await;
    context.subject().provider.reclaim(&owned.id, &owned.resources).await?;
    ensure!(lived, "the command of the owned sandbox was never seen");
    outcome.map_err(|_| Failure::new("its processes outlived the owner"))?;
    let left: Vec<_> = owned.resources.iter().filter(|resource| host::exists(resource)).collect();
    ensure!(left.is_empty(), "after reclaim there still are {left:?}");
    Ok(())
}

async fn a_detached_sandbox_is_found_by_its_record_alone(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut request = sandbox.attach_request()?;
    // What was said to the ledger survives as JSON.
    let text = request.record.to_string();
    request.record = serde_json::from_str(&text).map_err(|error| Failure::new(error.to_string()))?;
    let other = context.subject().provider.attach(request).await?;
    ensure_eq!(other.status().await.state, State::Running, "the state");
    other.destroy().await?;
    sandbox.released();
    Context::nothing_is_left(&sandbox)
}
