//! What leaves, as the agent asks about it and the host decides: no packet of these cases leaves the sandbox.

use sandbar_core::{
    CheckpointKind, CheckpointOptions, EgressQuestion, EgressStream, ErrorKind, ExecRequest, ExecStream,
    Feature::{self, NetworkOpen, NetworkRules},
    Network, RemoteHost, SandboxSpec, Wanted,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::memory::{save, with_memory};
use crate::{
    Context, Failure,
    Reach::{SharedKernel, Shell},
    Sandbox,
    failure::{ensure, ensure_eq},
    guest,
    sandbox::soon,
    suite::cases,
};

const NEEDS: &[Feature] = &[NetworkOpen, NetworkRules];

cases! { "egress";
    what_is_refused_is_refused_at_once [.needs(NEEDS).reach(&[Shell])],
    a_name_that_may_not_be_asked_for_does_not_exist [.needs(NEEDS).reach(&[Shell])],
    a_name_is_connected_to_by_name [.needs(NEEDS).reach(&[Shell])],
    questions_to_any_server_end_at_the_agent [.needs(NEEDS).reach(&[Shell])],
    addresses_are_asked_for_as_they_are [.needs(NEEDS).reach(&[Shell])],
    loopback_is_asked_of_nobody [.needs(NEEDS).reach(&[Shell])],
    many_connections_are_asked_for_at_the_same_time [.needs(NEEDS).reach(&[Shell])],
    the_last_to_come_decides [.needs(NEEDS).reach(&[Shell])],
    nothing_inside_may_change_where_it_goes [.needs(NEEDS).reach(&[Shell, SharedKernel])],
    it_holds_after_a_stop_and_a_start [.needs(&[NetworkOpen, NetworkRules, Feature::StopStart]).reach(&[Shell])],
    memory_is_saved_without_what_is_open_or_not_at_all [.needs(WITH_MEMORY).reach(&[Shell])],
}

const WITH_MEMORY: &[Feature] = &[NetworkOpen, NetworkRules, Feature::MemoryCheckpoint, Feature::Fork];

type Asking = Box<dyn EgressStream>;

fn with_network() -> SandboxSpec {
    SandboxSpec { network: Network::Open, ..SandboxSpec::default() }
}

async fn open(context: &Context) -> Result<(Sandbox, Asking), Failure> {
    if context.subject().provider.is_elsewhere() {
        return Err(Failure::Ignored("the other host decides about what leaves".to_owned()));
    }
    let sandbox = context.sandbox_with(with_network()).await?;
    sandbox.put_guest().await?;
    let asking = sandbox.egress().await?;
    Ok((sandbox, asking))
}

/// The next question, which is about this.
async fn asked(asking: &mut Asking, wanted: &Wanted) -> Result<EgressQuestion, Failure> {
    let question = soon("a question", asking.next()).await??;
    ensure_eq!(question.wanted.as_ref(), Some(wanted), "the question");
    Ok(question)
}

fn name(text: &str) -> Result<Wanted, Failure> {
    Ok(Wanted::Name(text.parse()?))
}

fn address(text: &str) -> Result<Wanted, Failure> {
    let address: std::net::SocketAddr = text.parse().map_err(|error| Failure::new(format!("{text}: {error}")))?;
    Ok(Wanted::Connection(RemoteHost::Address(address.ip()), address.port()))
}

async fn what_is_refused_is_refused_at_once(context: &Context) -> Result<(), Failure> {
    let (sandbox, mut asking) = open(context).await?;
    for target in ["93.184.215.14:443", "[2606:4700::1111]:443"] {
        let refuse = async {
            let question = asked(&mut asking, &address(target)?).await?;
            Ok::<_, Failure>(asking.answer(question.id, false).await?)
        };
        let words = ["talk", target, "hello"];
        let (talked, refused) = tokio::join!(sandbox.guest(&words), refuse);
        refused?;
        let talked = talked?;
        let said = talked.stderr_text();
        ensure!(!talked.status.success() && said.contains("reset"), "{target}: {said}");
        // It counts from its own first packet; who waits for a decision in vain, waits for 10 seconds or more.
        let millis = said.trim_end().rsplit_once(" after ").and_then(|(_, rest)| rest.strip_suffix(" ms")?.parse::<u64>().ok());
        ensure!(millis.is_some_and(|millis| millis < 8000), "{target}: {said}");
    }
    Ok(())
}

async fn a_name_that_may_not_be_asked_for_does_not_exist(context: &Context) -> Result<(), Failure> {
    let (sandbox, mut asking) = open(context).await?;
    let refuse = async {
        let question = asked(&mut asking, &name("secret.example.com")?).await?;
        Ok::<_, Failure>(asking.answer(question.id, false).await?)
    };
    let words = ["resolve", "udp", "127.0.0.53:53", "Secret.example.com"];
    let (resolved, refused) = tokio::join!(sandbox.guest(&words), refuse);
    refused?;
    // NXDOMAIN.
    ensure_eq!(resolved?.stdout_text(), "code 3, 0 answers\n", "the answer");
    Ok(())
}

/// Asks for a name, which is allowed; the address that stands for it.
async fn resolve(sandbox: &Sandbox, asking: &mut Asking, how: &str, server: &str, of: &str) -> Result<String, Failure> {
    let allow = async {
        let question = asked(asking, &name(of)?).await?;
        Ok::<_, Failure>(asking.answer(question.id, true).await?)
    };
    let words = ["resolve", how, server, of];
    let (resolved, allowed) = tokio::join!(sandbox.guest(&words), allow);
    allowed?;
    Ok(resolved?.stdout_text().trim().to_owned())
}

async fn a_name_is_connected_to_by_name(context: &Context) -> Result<(), Failure> {
    let (sandbox, mut asking) = open(context).await?;
    let found = resolve(&sandbox, &mut asking, "udp", "127.0.0.53:53", "www.example.com").await?;
    let serve = async {
        let wanted = Wanted::Connection(RemoteHost::Name("www.example.com".parse()?), 443);
        let question = asked(&mut asking, &wanted).await?;
        let process = question.process.ok_or_else(|| Failure::new("no process is claimed"))?;
        ensure_eq!(process.name, "guest", "the process");
        let mut connection = sandbox.leave(question.id).await?;
        let mut said = String::new();
        connection.read_to_string(&mut said).await?;
        ensure_eq!(said, "hello", "what was said");
        connection.write_all(b"and hello to you").await?;
        connection.shutdown().await?;
        ensure!(sandbox.leave(question.id).await.is_err(), "a question was answered twice");
        Ok::<_, Failure>(())
    };
    let target = format!("{found}:443");
    let words = ["talk", &target, "hello"];
    let (talked, served) = tokio::join!(sandbox.guest(&words), serve);
    served?;
    let talked = talked?;
    ensure_eq!(talked.stdout_text(), "and hello to you\n", "the answer ({})", talked.stderr_text());
    Ok(())
}

async fn questions_to_any_server_end_at_the_agent(context: &Context) -> Result<(), Failure> {
    let (sandbox, mut asking) = open(context).await?;
    let first = resolve(&sandbox, &mut asking, "udp", "127.0.0.53:53", "a.example.com").await?;
    ensure!(first.starts_with("198.18."), "{first} is no address that stands for a name");
    for (how, server) in [("udp", "8.8.8.8:53"), ("tcp", "8.8.8.8:53"), ("tcp", "127.0.0.53:53"), ("udp", "[2001:4860:4860::8888]:53")] {
        let other = resolve(&sandbox, &mut asking, how, server, "a.example.com").await?;
        ensure_eq!(other, first, "the address by {how} from {server}");
    }
    ensure_eq!(sandbox.text("cat /etc/resolv.conf").await?, "nameserver 127.0.0.53", "/etc/resolv.conf");
    Ok(())
}

async fn addresses_are_asked_for_as_they_are(context: &Context) -> Result<(), Failure> {
    let (sandbox, mut asking) = open(context).await?;
    // The last is IPv4's in IPv6's clothes, the one before stands for no name.
    let targets = [
        ("10.0.0.1:22", "10.0.0.1:22"),
        ("169.254.169.254:80", "169.254.169.254:80"),
        ("[fd00:ec2::254]:80", "[fd00:ec2::254]:80"),
        ("198.19.1.1:80", "198.19.1.1:80"),
        ("[::ffff:10.0.0.1]:22", "10.0.0.1:22"),
    ];
    for (target, seen) in targets {
        let refuse = async {
            let question = asked(&mut asking, &address(seen)?).await?;
            Ok::<_, Failure>(asking.answer(question.id, false).await?)
        };
        let words = ["talk", target, "hello"];
        let (talked, refused) = tokio::join!(sandbox.guest(&words), refuse);
        refused.map_err(|failure| failure.during(target.to_owned()))?;
        ensure!(!talked?.status.success(), "{target} was reached");
    }
    Ok(())
}

async fn loopback_is_asked_of_nobody(context: &Context) -> Result<(), Failure> {
    let (sandbox, _asking) = open(context).await?;
    let server = sandbox.start_guest(&["echo", "0.0.0.0:18480"]).await?;
    for target in ["127.0.0.1:18480", "127.1.2.3:18480"] {
        let talked = sandbox.guest(&["talk", target, "hello"]).await?;
        ensure_eq!(talked.stdout_text(), "hello\n", "{target} ({})", talked.stderr_text());
    }
    soon("the port", sandbox.echoes(18480, b"from outside")).await??;
    sandbox.kill(server.pid).await
}

async fn many_connections_are_asked_for_at_the_same_time(context: &Context) -> Result<(), Failure> {
    const MANY: usize = 50;
    let (sandbox, mut asking) = open(context).await?;
    let talks = (0..MANY).map(|number| {
        let sandbox = sandbox.clone();
        tokio::spawn(async move { sandbox.guest(&["talk", &format!("93.184.215.{number}:80"), "hello"]).await })
    });
    let talks: Vec<_> = talks.collect();
    let mut questions = Vec::new();
    while questions.len() < MANY {
        questions.push(soon("a question", asking.next()).await??);
    }
    // The other way round.
    for question in questions.into_iter().rev() {
        let Some(Wanted::Connection(RemoteHost::Address(address), _)) = question.wanted else {
            return Err(Failure::new(format!("{question:?}")));
        };
        let mut connection = sandbox.leave(question.id).await?;
        connection.write_all(address.to_string().as_bytes()).await?;
        connection.shutdown().await?;
    }
    for (number, talk) in talks.into_iter().enumerate() {
        let talked = talk.await??;
        ensure_eq!(talked.stdout_text(), format!("93.184.215.{number}\n"), "connection {number} ({})", talked.stderr_text());
    }
    Ok(())
}

async fn the_last_to_come_decides(context: &Context) -> Result<(), Failure> {
    let (sandbox, mut first) = open(context).await?;
    let mut second = sandbox.egress().await?;
    ensure!(soon("the first", first.next()).await?.is_err(), "the first was not told that it is replaced");
    let found = resolve(&sandbox, &mut second, "udp", "127.0.0.53:53", "a.example.com").await?;
    ensure!(found.starts_with("198.18."), "{found}");
    Ok(())
}

async fn nothing_inside_may_change_where_it_goes(context: &Context) -> Result<(), Failure> {
    /// `CAP_NET_ADMIN`.
    const BIT: u32 = 12;
    let (sandbox, _asking) = open(context).await?;
    for status in ["/proc/self/status", "/proc/1/status"] {
        let text = sandbox.text(&format!("grep ^Cap {status}")).await?;
        for line in text.lines() {
            let sets = line.split_whitespace().last().and_then(|digits| u64::from_str_radix(digits, 16).ok());
            let sets = sets.ok_or_else(|| Failure::new(format!("{status}: {line}")))?;
            ensure!(sets & (1 << BIT) == 0, "{status} may change the network: {line}");
        }
    }
    Ok(())
}

async fn it_holds_after_a_stop_and_a_start(context: &Context) -> Result<(), Failure> {
    let (sandbox, asking) = open(context).await?;
    drop(asking);
    sandbox.stop().await?;
    sandbox.start().await?;
    let mut asking = sandbox.egress().await?;
    is_asked_and_refused(&sandbox, &mut asking).await
}

async fn is_asked_and_refused(sandbox: &Sandbox, asking: &mut Asking) -> Result<(), Failure> {
    let refuse = async {
        let question = asked(asking, &address("93.184.215.14:80")?).await?;
        Ok::<_, Failure>(asking.answer(question.id, false).await?)
    };
    let words = ["talk", "93.184.215.14:80", "hello"];
    let (talked, refused) = tokio::join!(sandbox.guest(&words), refuse);
    refused?;
    let talked = talked?;
    ensure!(!talked.status.success() && talked.stderr_text().contains("reset"), "{}", talked.stderr_text());
    Ok(())
}

async fn begin(sandbox: &Sandbox, words: &[&str]) -> Result<ExecStream, Failure> {
    Ok(sandbox.exec_stream(ExecRequest::argv(std::iter::once(guest::COMMAND).chain(words.iter().copied()))).await?)
}

async fn memory_is_saved_without_what_is_open_or_not_at_all(context: &Context) -> Result<(), Failure> {
    let (sandbox, mut asking) = open(context).await?;
    let found = resolve(&sandbox, &mut asking, "udp", "127.0.0.53:53", "a.example.com").await?;
    // One that was let out, and one that waits for a decision.
    let talking = begin(&sandbox, &["talk", "93.184.215.14:443", "hello"]).await?;
    let question = asked(&mut asking, &address("93.184.215.14:443")?).await?;
    let mut left = sandbox.leave(question.id).await?;
    let mut said = [0; 5];
    left.read_exact(&mut said).await?;
    if let Err(refusal) = sandbox.checkpoint(CheckpointOptions { kind: CheckpointKind::Memory, into: context.host_folder("tried")? }).await
    {
        ensure_eq!(refusal.kind(), ErrorKind::Conflict, "the refusal");
        ensure!(refusal.hint().is_some(), "nothing is said of what to do: {}", refusal.chain());
        left.write_all(b"still there").await?;
        left.shutdown().await?;
        let ended = sandbox.ended(talking.pid).await?;
        ensure!(ended.status.is_some_and(|status| status.success()), "what was open was broken off: {ended:?}");
        return is_asked_and_refused(&sandbox, &mut asking).await;
    }
    ensure!(sandbox.ended(talking.pid).await?.status.is_some_and(|status| !status.success()), "what was open was not broken off");
    let mut asking = sandbox.egress().await?;
    let talking = begin(&sandbox, &["talk", "93.184.215.14:443", "hello"]).await?;
    let question = asked(&mut asking, &address("93.184.215.14:443")?).await?;
    let _left = sandbox.leave(question.id).await?;
    let waiting = begin(&sandbox, &["talk", "93.184.215.14:444", "hello"]).await?;
    asked(&mut asking, &address("93.184.215.14:444")?).await?;
    let saved = save(context, &sandbox).await?;
    for pid in [talking.pid, waiting.pid] {
        let ended = sandbox.ended(pid).await?;
        ensure!(ended.status.is_some_and(|status| !status.success()), "what was open was not broken off: {ended:?}");
    }
    let mut asking = sandbox.egress().await?;
    is_asked_and_refused(&sandbox, &mut asking).await?;
    let fork = context.fork_from(with_memory(&sandbox, &saved), with_network()).await?;
    let mut asking = fork.egress().await?;
    is_asked_and_refused(&fork, &mut asking).await?;
    ensure_eq!(resolve(&fork, &mut asking, "udp", "8.8.8.8:53", "a.example.com").await?, found, "the address of a name that was known");
    ensure!(resolve(&fork, &mut asking, "udp", "127.0.0.53:53", "b.example.com").await? != found, "two names have one address");
    Ok(())
}
