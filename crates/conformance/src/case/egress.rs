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
    stream::read_until,
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
    an_end_that_nobody_speaks_for_is_a_reset [.needs(NEEDS).reach(&[Shell])],
    the_last_to_come_decides [.needs(NEEDS).reach(&[Shell])],
    whoever_comes_next_is_asked_what_was_not_answered [.needs(NEEDS).reach(&[Shell])],
    nothing_inside_may_change_where_it_goes [.needs(NEEDS).reach(&[Shell, SharedKernel])],
    a_datagram_that_is_refused_is_refused_at_once [.needs(DATAGRAMS).reach(&[Shell])],
    datagrams_are_asked_for_by_name_and_keep_their_boundaries [.needs(DATAGRAMS).reach(&[Shell])],
    each_socket_and_each_address_is_asked_for_by_itself [.needs(DATAGRAMS).reach(&[Shell])],
    datagrams_that_are_not_allowed_any_more_find_nobody [.needs(DATAGRAMS).reach(&[Shell])],
    sockets_that_send_are_bounded [.needs(DATAGRAMS).reach(&[Shell])],
    it_holds_after_a_stop_and_a_start [.needs(&[NetworkOpen, NetworkRules, Feature::StopStart]).reach(&[Shell])],
    memory_is_saved_without_what_is_open_or_not_at_all [.needs(WITH_MEMORY).reach(&[Shell])],
}

const DATAGRAMS: &[Feature] = &[NetworkOpen, NetworkRules, Feature::NetworkUdp];
pub(super) const WITH_MEMORY: &[Feature] = &[NetworkOpen, NetworkRules, Feature::MemoryCheckpoint, Feature::Fork];

pub(super) type Asking = Box<dyn EgressStream>;

pub(super) fn with_network() -> SandboxSpec {
    SandboxSpec { network: Network::Open, ..SandboxSpec::default() }
}

pub(super) async fn open(context: &Context) -> Result<(Sandbox, Asking), Failure> {
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

pub(super) fn address(text: &str) -> Result<Wanted, Failure> {
    let address: std::net::SocketAddr = text.parse().map_err(|error| Failure::new(format!("{text}: {error}")))?;
    Ok(Wanted::Connection(RemoteHost::Address(address.ip()), address.port()))
}

async fn what_is_refused_is_refused_at_once(context: &Context) -> Result<(), Failure> {
    let (sandbox, mut asking) = open(context).await?;
    for target in ["93.184.215.14:443", "[2606:4700::1111]:443"] {
        let wanted = address(target)?;
        let words = ["talk", target, "hello"];
        let (talked, refused) = tokio::join!(sandbox.guest(&words), is_refused(&mut asking, &wanted));
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
        asking.answer(question.id, true).await?;
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
    // Nobody has this one, and the kernel says so without a question.
    let whispered = sandbox.guest(&["whisper", "127.0.0.1:18481", "hello"]).await?;
    ensure!(whispered.stderr_text().contains("refused"), "{}", whispered.stderr_text());
    sandbox.kill(server.pid).await
}

fn datagrams(text: &str) -> Result<Wanted, Failure> {
    let address: std::net::SocketAddr = text.parse().map_err(|error| Failure::new(format!("{text}: {error}")))?;
    Ok(Wanted::Datagrams(RemoteHost::Address(address.ip()), address.port()))
}

async fn a_datagram_that_is_refused_is_refused_at_once(context: &Context) -> Result<(), Failure> {
    let (sandbox, mut asking) = open(context).await?;
    for target in ["93.184.215.14:443", "[2606:4700::1111]:443", "169.254.169.254:80", "10.0.0.1:53000", "[fd00:ec2::254]:80"] {
        let refuse = async {
            let question = asked(&mut asking, &datagrams(target)?).await?;
            ensure_eq!(question.process.map(|process| process.name).as_deref(), Some("guest"), "the process");
            Ok::<_, Failure>(asking.answer(question.id, false).await?)
        };
        let words = ["whisper", target, "hello"];
        let (whispered, refused) = tokio::join!(sandbox.guest(&words), refuse);
        refused.map_err(|failure| failure.during(target.to_owned()))?;
        let whispered = whispered?;
        let said = whispered.stderr_text();
        ensure!(!whispered.status.success() && said.contains("refused"), "{target}: {said}");
        let millis = said.trim_end().rsplit_once(" after ").and_then(|(_, rest)| rest.strip_suffix(" ms")?.parse::<u64>().ok());
        ensure!(millis.is_some_and(|millis| millis < 8000), "{target}: {said}");
    }
    Ok(())
}

async fn datagrams_are_asked_for_by_name_and_keep_their_boundaries(context: &Context) -> Result<(), Failure> {
    /// The last is the largest that IPv4 has.
    const SIZES: [usize; 6] = [1, 0, 1200, 9000, 1, 65_507];
    let (sandbox, mut asking) = open(context).await?;
    let found = resolve(&sandbox, &mut asking, "udp", "127.0.0.53:53", "time.example.com").await?;
    for (target, wanted) in [
        (format!("{found}:123"), Wanted::Datagrams(RemoteHost::Name("time.example.com".parse()?), 123)),
        ("[2606:4700::1111]:443".to_owned(), datagrams("[2606:4700::1111]:443")?),
    ] {
        // IPv6 without fragments has less room.
        let sizes: Vec<usize> = SIZES.into_iter().map(|size| if target.starts_with('[') { size.min(65_000) } else { size }).collect();
        let echo = async {
            let question = asked(&mut asking, &wanted).await?;
            let mut stream = sandbox.leave_datagrams(question.id).await?;
            for (number, size) in sizes.iter().enumerate() {
                let datagram = soon("a datagram", stream.next()).await??.ok_or_else(|| Failure::new("the datagrams have ended"))?;
                ensure_eq!(datagram.len(), *size, "the size of datagram {number}");
                stream.send(&datagram).await?;
            }
            Ok::<_, Failure>(())
        };
        let sizes: Vec<String> = sizes.iter().map(ToString::to_string).collect();
        let words: Vec<&str> = ["datagrams", &target].into_iter().chain(sizes.iter().map(String::as_str)).collect();
        let (sent, echoed) = tokio::join!(sandbox.guest(&words), echo);
        let sent = sent?;
        echoed.map_err(|failure| failure.during(format!("{target}: {}", sent.stderr_text())))?;
        let expected: String = sizes.iter().map(|size| format!("{size} true\n")).collect();
        ensure_eq!(sent.stdout_text(), expected, "the answers from {target} ({})", sent.stderr_text());
    }
    Ok(())
}

async fn each_socket_and_each_address_is_asked_for_by_itself(context: &Context) -> Result<(), Failure> {
    let (sandbox, mut asking) = open(context).await?;
    let mut whispers = Vec::new();
    let targets = ["93.184.215.14:123", "93.184.215.14:123", "93.184.215.15:123", "93.184.215.14:124"];
    for target in targets {
        let sandbox = sandbox.clone();
        whispers.push(tokio::spawn(async move { sandbox.guest(&["whisper", target, target]).await }));
    }
    let mut streams = Vec::new();
    for _ in targets {
        let question = soon("a question", asking.next()).await??;
        ensure!(matches!(question.wanted, Some(Wanted::Datagrams(..))), "{question:?}");
        streams.push(sandbox.leave_datagrams(question.id).await?);
    }
    for mut stream in streams.into_iter().rev() {
        let datagram = soon("a datagram", stream.next()).await??.ok_or_else(|| Failure::new("the datagrams have ended"))?;
        stream.send(&datagram).await?;
        // It is not asked for again, and ends with this.
        drop(stream);
    }
    for (target, whisper) in targets.into_iter().zip(whispers) {
        let whispered = whisper.await??;
        ensure_eq!(whispered.stdout_text(), format!("{target}\n"), "the answer ({})", whispered.stderr_text());
    }
    Ok(())
}

async fn datagrams_that_are_not_allowed_any_more_find_nobody(context: &Context) -> Result<(), Failure> {
    let (sandbox, mut asking) = open(context).await?;
    let cut = async {
        let question = asked(&mut asking, &datagrams("93.184.215.14:443")?).await?;
        let mut stream = sandbox.leave_datagrams(question.id).await?;
        soon("a datagram", stream.next()).await??;
        asking.answer(question.id, false).await?;
        ensure!(soon("the end", stream.next()).await??.is_none(), "something came after it was refused");
        Ok::<_, Failure>(())
    };
    let words = ["whisper", "93.184.215.14:443", "hello"];
    let (whispered, cut) = tokio::join!(sandbox.guest(&words), cut);
    cut?;
    let said = whispered?.stderr_text();
    ensure!(said.contains("refused"), "{said}");
    Ok(())
}

async fn sockets_that_send_are_bounded(context: &Context) -> Result<(), Failure> {
    /// Flows for which the agent has places, and how many more are tried.
    const PLACES: usize = 1024;
    const MORE: usize = 50;
    let (sandbox, mut asking) = open(context).await?;
    let all = PLACES + MORE;
    let line = format!("ulimit -n {} && exec {} sockets 93.184.215.14:123 {all} {MORE}", all + 100, guest::COMMAND);
    let mut sending = sandbox.start_shell(&line).await?;
    let pid = sending.pid;
    let mut questions = 0;
    {
        let mut told = std::pin::pin!(read_until(&mut sending, "bounded\n"));
        loop {
            tokio::select! {
                question = asking.next() => {
                    question?;
                    questions += 1;
                }
                told = &mut told => {
                    told?;
                    break;
                }
            }
        }
    }
    // The last of them may be on their way.
    ensure!(questions > 0 && questions <= PLACES, "{questions} questions");
    ensure!(sandbox.ended(pid).await?.status.is_some_and(|status| status.success()), "it failed");
    Ok(())
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
        // To its end: what is left unread breaks a connection off.
        let mut said = String::new();
        connection.read_to_string(&mut said).await?;
        ensure_eq!(said, "hello", "what was said");
        connection.write_all(address.to_string().as_bytes()).await?;
        connection.shutdown().await?;
        asking.answer(question.id, true).await?;
    }
    for (number, talk) in talks.into_iter().enumerate() {
        let talked = talk.await??;
        ensure_eq!(talked.stdout_text(), format!("93.184.215.{number}\n"), "connection {number} ({})", talked.stderr_text());
    }
    Ok(())
}

async fn an_end_that_nobody_speaks_for_is_a_reset(context: &Context) -> Result<(), Failure> {
    let (sandbox, mut asking) = open(context).await?;
    let target = "93.184.215.14:80";
    let kill = async {
        let question = asked(&mut asking, &address(target)?).await?;
        let mut connection = sandbox.leave(question.id).await?;
        let mut said = [0; 5];
        connection.read_exact(&mut said).await?;
        connection.write_all(b"half of").await?;
        connection.flush().await?;
        // As when whoever decides is killed: all that it has open ends.
        drop(connection);
        drop(asking);
        Ok::<_, Failure>(())
    };
    let words = ["talk", target, "hello"];
    let (talked, killed) = tokio::join!(sandbox.guest(&words), kill);
    killed?;
    let talked = talked?;
    let said = talked.stderr_text();
    ensure!(!talked.status.success() && said.contains("reset"), "{}{said}", talked.stdout_text());
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

async fn whoever_comes_next_is_asked_what_was_not_answered(context: &Context) -> Result<(), Failure> {
    let (sandbox, mut asking) = open(context).await?;
    let wanted = address("93.184.215.14:80")?;
    let decide = async {
        asked(&mut asking, &wanted).await?;
        // One that is replaced, and one that goes.
        let mut replacing = sandbox.egress().await?;
        asked(&mut replacing, &wanted).await?;
        drop(replacing);
        is_refused(&mut sandbox.egress().await?, &wanted).await
    };
    is_reset(&sandbox, decide).await
}

async fn nothing_inside_may_change_where_it_goes(context: &Context) -> Result<(), Failure> {
    /// `CAP_NET_ADMIN` and `CAP_NET_RAW`.
    const RIGHTS: u64 = 1 << 12 | 1 << 13;
    let (sandbox, _asking) = open(context).await?;
    for status in ["/proc/self/status", "/proc/1/status"] {
        let text = sandbox.text(&format!("grep ^Cap {status}")).await?;
        for line in text.lines() {
            let sets = line.split_whitespace().last().and_then(|digits| u64::from_str_radix(digits, 16).ok());
            let sets = sets.ok_or_else(|| Failure::new(format!("{status}: {line}")))?;
            ensure!(sets & RIGHTS == 0, "{status} may change the network: {line}");
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

pub(super) async fn is_refused(asking: &mut Asking, wanted: &Wanted) -> Result<(), Failure> {
    let question = asked(asking, wanted).await?;
    Ok(asking.answer(question.id, false).await?)
}

async fn is_asked_and_refused(sandbox: &Sandbox, asking: &mut Asking) -> Result<(), Failure> {
    let wanted = address("93.184.215.14:80")?;
    is_reset(sandbox, is_refused(asking, &wanted)).await
}

/// Whoever speaks to that address meanwhile hears a reset.
async fn is_reset(sandbox: &Sandbox, decided: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let words = ["talk", "93.184.215.14:80", "hello"];
    let (talked, decided) = tokio::join!(sandbox.guest(&words), decided);
    decided?;
    let talked = talked?;
    ensure!(!talked.status.success() && talked.stderr_text().contains("reset"), "{}", talked.stderr_text());
    Ok(())
}

pub(super) async fn begin(sandbox: &Sandbox, words: &[&str]) -> Result<ExecStream, Failure> {
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
        asking.answer(question.id, true).await?;
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
