//! What leaves a sandbox on another host: that one decides, by the rules that came with the request, and keeps the secrets. No packet of these cases leaves the
//! machine.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use sandbar_core::{
    ErrorKind,
    Feature::{self, DiskCheckpoint, Fork, NetworkOpen, NetworkRules, NetworkUdp, Restore, StopStart},
    Network, ProvisionRequest, SandboxSpec, SecretValue, Secrets,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::network::own_address;
use crate::{
    Context, Failure,
    Reach::{Elsewhere, Shell},
    Recorder, Sandbox,
    failure::{ensure, ensure_eq, refused},
    sandbox::soon,
    suite::cases,
};

const NEEDS: &[Feature] = &[NetworkOpen, NetworkRules];

cases! { "egress";
    another_host_refuses_at_once_what_no_rule_allows [.needs(NEEDS).reach(&[Shell, Elsewhere])],
    another_host_refuses_datagrams_that_no_rule_allows [.needs(&[NetworkOpen, NetworkRules, NetworkUdp]).reach(&[Shell, Elsewhere])],
    another_host_connects_to_what_a_rule_allows_until_it_is_changed [.needs(NEEDS).reach(&[Shell, Elsewhere])],
    a_secret_is_kept_by_another_host_and_is_nowhere_else [.needs(NEEDS).reach(&[Shell, Elsewhere])],
    a_secret_on_another_host_lasts [
        .needs(&[NetworkOpen, NetworkRules, StopStart, DiskCheckpoint, Restore, Fork]).reach(&[Shell, Elsewhere])
    ],
    a_secret_that_another_host_cannot_use_is_refused [.needs(NEEDS).reach(&[Shell, Elsewhere])],
}

async fn with(context: &Context, network: &str) -> Result<Sandbox, Failure> {
    let sandbox = context.sandbox_with(SandboxSpec { network: network.parse()?, ..SandboxSpec::default() }).await?;
    sandbox.put_guest().await?;
    Ok(sandbox)
}

/// Speaks to an address; it is reset, and soon.
async fn is_reset(sandbox: &Sandbox, target: &str) -> Result<(), Failure> {
    let talked = sandbox.guest(&["talk", target, "hello"]).await?;
    let said = talked.stderr_text();
    ensure!(!talked.status.success() && said.contains("reset"), "{target}: {}{said}", talked.stdout_text());
    is_soon(target, &said)
}

/// It counts from its own first packet; who waits for a decision in vain, waits for 10 seconds or more.
fn is_soon(target: &str, said: &str) -> Result<(), Failure> {
    let millis = said.trim_end().rsplit_once(" after ").and_then(|(_, rest)| rest.strip_suffix(" ms")?.parse::<u64>().ok());
    ensure!(millis.is_some_and(|millis| millis < 8000), "{target}: {said}");
    Ok(())
}

async fn another_host_refuses_at_once_what_no_rule_allows(context: &Context) -> Result<(), Failure> {
    let sandbox = with(context, "allow=allowed.example.com").await?;
    let resolved = sandbox.guest(&["resolve", "udp", "8.8.8.8:53", "secret.example.com"]).await?;
    // NXDOMAIN.
    ensure_eq!(resolved.stdout_text(), "code 3, 0 answers\n", "the answer");
    for target in ["93.184.215.14:443", "[2606:4700::1111]:443"] {
        is_reset(&sandbox, target).await?;
    }
    let sandbox = with(context, "open").await?;
    for target in ["169.254.169.254:80", "10.0.0.1:22", "[fd00:ec2::254]:80"] {
        is_reset(&sandbox, target).await?;
    }
    Ok(())
}

async fn another_host_refuses_datagrams_that_no_rule_allows(context: &Context) -> Result<(), Failure> {
    let sandbox = with(context, "allow=allowed.example.com").await?;
    for target in ["93.184.215.14:443", "169.254.169.254:80"] {
        let whispered = sandbox.guest(&["whisper", target, "hello"]).await?;
        let said = whispered.stderr_text();
        ensure!(!whispered.status.success() && said.contains("refused"), "{target}: {said}");
        is_soon(target, &said)?;
    }
    Ok(())
}

async fn another_host_connects_to_what_a_rule_allows_until_it_is_changed(context: &Context) -> Result<(), Failure> {
    let Some(own) = own_address() else { return Err(Failure::Ignored("this host has no address but loopback".to_owned())) };
    let listener = TcpListener::bind((own.as_str(), 0)).await?;
    let target = listener.local_addr()?.to_string();
    let sandbox = with(context, &format!("allow={target}")).await?;
    let serve = async {
        let (mut connection, _) = soon("a connection", listener.accept()).await??;
        let mut said = String::new();
        connection.read_to_string(&mut said).await?;
        ensure_eq!(said, "hello", "what was said");
        connection.write_all(b"and hello to you").await?;
        Ok::<_, Failure>(connection.shutdown().await?)
    };
    let words = ["talk", &target, "hello"];
    let (talked, served) = tokio::join!(sandbox.guest(&words), serve);
    let talked = talked?;
    served.map_err(|failure| failure.during(talked.stderr_text()))?;
    ensure_eq!(talked.stdout_text(), "and hello to you\n", "the answer ({})", talked.stderr_text());

    let log = sandbox.network_log(0).await?;
    let allowed = |record: &&serde_json::Value| record["event"] == "allowed" && record["rule"] == format!("allow={target}");
    ensure!(log.iter().any(|record| allowed(&record)), "{log:?}");
    sandbox.set_network(&Network::None).await?;
    is_reset(&sandbox, &target).await?;
    let last = sandbox.network_log(0).await?.pop().unwrap_or_default();
    ensure_eq!(last["event"].as_str(), Some("refused"), "the last line of the log: {last}");
    let without = context.sandbox_with(SandboxSpec { network: Network::None, ..SandboxSpec::default() }).await?;
    refused("a network where there was none", without.set_network(&Network::Open).await, &[ErrorKind::Conflict])?;
    Ok(())
}

/// A request for a sandbox with a secret TOKEN of this value, if there is one.
fn request(context: &Context, value: Option<&str>) -> Result<(ProvisionRequest, std::sync::Arc<Recorder>), Failure> {
    let secrets = Secrets { vault: None, list: vec!["TOKEN=given@api.example.com".parse()?] };
    let spec = SandboxSpec { network: "allow=api.example.com".parse()?, secrets, ..SandboxSpec::default() };
    let (mut request, journal) = context.request(spec)?;
    request.secret_values.extend(value.map(|value| ("TOKEN".to_owned(), SecretValue::new(value))));
    Ok((request, journal))
}

async fn with_secret(context: &Context, value: &str) -> Result<Sandbox, Failure> {
    let (request, journal) = request(context, Some(value))?;
    Ok(context.provision(request, journal).await?)
}

/// A value that nothing else has.
fn value() -> Result<String, Failure> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(std::io::Error::from)?;
    Ok(format!("hunter2-{:016x}", u64::from_ne_bytes(random)))
}

async fn a_secret_is_kept_by_another_host_and_is_nowhere_else(context: &Context) -> Result<(), Failure> {
    let value = value()?;
    let sandbox = with_secret(context, &value).await?;
    let inside = sandbox.text("cat /proc/[0-9]*/environ 2>/dev/null; env; cat /etc/sandbar/authority.pem").await?;
    ensure!(inside.contains("TOKEN=sandbar-secret-") && inside.contains("BEGIN CERTIFICATE"), "{inside}");
    ensure!(!inside.contains(&value), "the value is inside");
    let record = sandbox.journal().record().unwrap_or_default().to_string();
    ensure!(!record.contains(&value), "the value is in the record");
    // Of both hosts, which are this one.
    for (process, file) in words_of_processes() {
        ensure!(!has(&file, &value), "process {process} has the value in {}", file.display());
    }
    let [here, there] = ["here", "there"].map(|state| context.subject().folder.join(state));
    let mut found = Vec::new();
    for folder in [&here, &there, &sandbox.request().folder] {
        files_with(folder, &value, sandbox.id().as_str(), &mut found);
    }
    let vaults = there.join("secrets");
    ensure!(matches!(&*found, [vault] if vault.starts_with(&vaults)), "files with the value: {found:?}");
    ensure_eq!(fs::metadata(&found[0])?.permissions().mode() & 0o7777, 0o600, "the vault's mode");
    context.destroy(&sandbox).await?;
    ensure!(!found[0].exists(), "the value is still there");
    Ok(())
}

async fn a_secret_on_another_host_lasts(context: &Context) -> Result<(), Failure> {
    let sandbox = with_secret(context, &value()?).await?;
    let placeholder = sandbox.text("echo $TOKEN").await?;
    ensure!(placeholder.starts_with("sandbar-secret-"), "{placeholder}");
    let authority = sandbox.text("cat /etc/sandbar/authority.pem").await?;
    let (layer, _) = context.checkpoint(&sandbox).await?;
    sandbox.stop().await?;
    sandbox.start().await?;
    ensure_eq!(sandbox.text("echo $TOKEN").await?, placeholder, "after a start");
    sandbox.restore(Context::restore_request(&sandbox, &layer)).await?;
    ensure_eq!(sandbox.text("echo $TOKEN").await?, placeholder, "after a restore");
    // With the specification of its origin, and no value: the other host has it.
    let fork = context.fork(&sandbox, &layer, sandbox.request().spec.clone()).await?;
    context.destroy(&sandbox).await?;
    ensure_eq!(fork.text("echo $TOKEN").await?, placeholder, "in a fork");
    ensure_eq!(fork.text("cat /etc/sandbar/authority.pem").await?, authority, "the authority of a fork");
    Ok(())
}

async fn a_secret_that_another_host_cannot_use_is_refused(context: &Context) -> Result<(), Failure> {
    let value = value()?;
    for given in [None, Some(String::new()), Some(format!("{value}\r\nX-Token: more"))] {
        let (request, journal) = request(context, given.as_deref())?;
        let outcome = context.refusal(request, journal).await?;
        let error = refused("a secret that cannot be used", outcome, &[ErrorKind::InvalidInput])?;
        ensure!(!error.chain().contains(&value), "the value is in the error");
    }
    Ok(())
}

/// What every process of this machine was started with.
fn words_of_processes() -> impl Iterator<Item = (u32, PathBuf)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    processes.flat_map(|process| ["cmdline", "environ"].map(|name| (process, PathBuf::from(format!("/proc/{process}/{name}")))))
}

/// Files below a folder that have a text in them; of sandboxes, only those of one.
fn files_with(folder: &Path, text: &str, id: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        let is_of_another = folder.ends_with("sandboxes") && !path.ends_with(id);
        if kind.is_dir() && !is_of_another {
            files_with(&path, text, id, found);
        } else if kind.is_file() && has(&path, text) {
            found.push(path);
        }
    }
}

/// Whether a file has a text in it; one that is gone has not.
fn has(file: &Path, text: &str) -> bool {
    fs::read(file).is_ok_and(|content| content.windows(text.len()).any(|window| window == text.as_bytes()))
}
