use std::net::SocketAddr;

use sandbar_core::{
    CheckpointKind, CheckpointOptions, Error, ErrorKind, ExecRequest, Feature, HostImage, ImageKind, Limits, Network, PtySize, RootSource,
    SandboxSpec, User, Volume,
};

use crate::{
    Context, Failure, Sandbox,
    failure::{ensure, refused},
    suite::cases,
};

cases! { "refusal";
    every_feature_is_claimed_or_refused_with_the_provider_that_has_it,
    a_refusal_changes_nothing,
    an_empty_command_is_refused,
    an_argument_with_nul_is_refused,
}

/// Tries to use a feature; the error, if there was one.
async fn attempt(context: &Context, sandbox: &Sandbox, feature: Feature) -> Result<Option<Error>, Failure> {
    let spec = |change: &dyn Fn(&mut SandboxSpec)| {
        let mut spec = SandboxSpec::default();
        change(&mut spec);
        spec
    };
    let limit = |limits: Limits| spec(&|spec| spec.limits = limits);
    let volume = |read_only| {
        let folder = context.host_folder("volume")?;
        Ok::<_, Failure>(spec(&|spec| {
            spec.volumes = vec![Volume { source: folder.clone(), target: "/mnt".into(), read_only }];
        }))
    };
    let image = |root: RootSource| {
        let (mut request, journal) = context.request(SandboxSpec::default())?;
        request.root = root;
        Ok::<_, Failure>((request, journal))
    };
    let none = Limits::default();
    let restore = || Context::restore_request(sandbox, &context.subject().folder);
    let outcome = match feature {
        Feature::Pty => sandbox.exec(ExecRequest::shell("true").with_pty(PtySize { rows: 24, columns: 80 })).await.map(drop),
        Feature::User => sandbox.exec(ExecRequest::shell("true").user(User::Id { uid: 1, gid: None })).await.map(drop),
        Feature::Watch => sandbox.watch(".", false).await.map(drop),
        Feature::ExposePort => sandbox.expose_port(18580, SocketAddr::from(([127, 0, 0, 1], 0))).await.map(drop),
        Feature::Pause => sandbox.pause().await,
        Feature::StopStart => sandbox.stop().await,
        Feature::DiskCheckpoint => checkpoint(context, sandbox, CheckpointKind::Disk).await?,
        Feature::MemoryCheckpoint => checkpoint(context, sandbox, CheckpointKind::Memory).await?,
        Feature::Restore => sandbox.restore(restore()).await,
        Feature::Fork => {
            let (request, _) = context.request(SandboxSpec::default())?;
            context.subject().provider.restore(request, restore()).await.map(drop)
        }
        Feature::Stats => sandbox.stats().await.map(drop),
        Feature::HostImage => {
            let kind = ImageKind::Host { fingerprint: "none".to_owned() };
            let (request, journal) = image(RootSource { kind, host: Some(HostImage::default()), ..RootSource::empty() })?;
            context.refusal(request, journal).await?.map(drop)
        }
        Feature::LayeredImage => {
            let kind = ImageKind::Layers { digest: "sha256:none".to_owned() };
            let (request, journal) = image(RootSource { kind, layers: vec![context.host_folder("layer")?], ..RootSource::empty() })?;
            context.refusal(request, journal).await?.map(drop)
        }
        Feature::VolumeReadOnly => context.sandbox_refusal(volume(true)?).await?.map(drop),
        Feature::VolumeReadWrite => context.sandbox_refusal(volume(false)?).await?.map(drop),
        Feature::LimitMemory => context.sandbox_refusal(limit(Limits { memory: Some(1 << 30), ..none })).await?.map(drop),
        Feature::LimitCpu => context.sandbox_refusal(limit(Limits { cpu_millis: Some(1000), ..none })).await?.map(drop),
        Feature::LimitPids => context.sandbox_refusal(limit(Limits { pids: Some(100), ..none })).await?.map(drop),
        Feature::LimitDisk => context.sandbox_refusal(limit(Limits { disk: Some(1 << 30), ..none })).await?.map(drop),
        Feature::LimitOpenFiles => context.sandbox_refusal(limit(Limits { open_files: Some(100), ..none })).await?.map(drop),
        Feature::LimitDiskRate => context.sandbox_refusal(limit(Limits { disk_rate: Some(1 << 30), ..none })).await?.map(drop),
        Feature::NetworkNone => context.sandbox_refusal(spec(&|spec| spec.network = Network::None)).await?.map(drop),
        Feature::NetworkOpen => context.sandbox_refusal(spec(&|spec| spec.network = Network::Open)).await?.map(drop),
        Feature::NetworkRules => {
            let rules = Network::Rules("allow=example.com".parse()?);
            context.sandbox_refusal(spec(&|spec| spec.network = rules.clone())).await?.map(drop)
        }
        Feature::NetworkUdp => {
            let rules = Network::Rules("allow=example.com:123/udp".parse()?);
            context.sandbox_refusal(spec(&|spec| spec.network = rules.clone())).await?.map(drop)
        }
        Feature::Runtime => context.sandbox_refusal(spec(&|spec| spec.runtime = Some("runc".to_owned()))).await?.map(drop),
        other => return Err(Failure::new(format!("this case does not know how to try {other}"))),
    };
    Ok(outcome.err())
}

async fn checkpoint(context: &Context, sandbox: &Sandbox, kind: CheckpointKind) -> Result<sandbar_core::Result<()>, Failure> {
    let into = context.host_folder("checkpoint")?;
    Ok(sandbox.checkpoint(CheckpointOptions { kind, into }).await.map(drop))
}

async fn every_feature_is_claimed_or_refused_with_the_provider_that_has_it(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let own = context.subject().provider.info().name;
    let mut complaints = Vec::new();
    for feature in Feature::ALL.iter().copied().filter(|feature| !context.has(*feature)) {
        let Some(error) = attempt(context, &sandbox, feature).await? else {
            complaints.push(format!("{feature} is not claimed and was not refused"));
            continue;
        };
        if error.kind() != ErrorKind::Unsupported {
            complaints.push(format!("{feature} was refused as {:?}: {}", error.kind(), error.chain()));
            continue;
        }
        let hint = error.hint().unwrap_or_default();
        let having = context.subject().claims.iter().filter(|claim| claim.features.has(feature) && claim.provider != own);
        for claim in having.filter(|claim| !hint.contains(claim.provider)) {
            complaints.push(format!("the refusal of {feature} does not name {}: {hint:?}", claim.provider));
        }
    }
    ensure!(complaints.is_empty(), "{}", complaints.join("; "));
    Ok(())
}

async fn a_refusal_changes_nothing(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "kept").await?;
    for feature in Feature::ALL.iter().copied().filter(|feature| !context.has(*feature)) {
        attempt(context, &sandbox, feature).await?;
    }
    ensure!(sandbox.get("file").await? == b"kept", "a file changed");
    ensure!(sandbox.status().await.state == sandbar_core::State::Running, "the state changed");
    Ok(())
}

async fn an_empty_command_is_refused(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    refused("no arguments", sandbox.exec(ExecRequest::argv(Vec::<Vec<u8>>::new())).await, &[ErrorKind::InvalidInput])?;
    refused("an empty name", sandbox.exec(ExecRequest::argv([""])).await, &[ErrorKind::InvalidInput])?;
    Ok(())
}

async fn an_argument_with_nul_is_refused(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    refused("an argument", sandbox.exec(ExecRequest::argv(["echo", "a\0b"])).await, &[ErrorKind::InvalidInput])?;
    refused("a line", sandbox.exec(ExecRequest::shell("echo \0")).await, &[ErrorKind::InvalidInput])?;
    Ok(())
}
