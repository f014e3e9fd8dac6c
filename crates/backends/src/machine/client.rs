use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use sandbar_core::{Connection, Error, ErrorKind, Feature, Result};
use sandbar_protocol::{FrameError, FrameReader, FrameWriter, Ping, Pong, Reply, Request, reply::Answer, request::Operation};
use tokio::{
    io::{ReadHalf, WriteHalf},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    Backend, Facts, answer,
    live::{Running, Shared},
    saving::SaveNote,
};

pub(super) type Reader = FrameReader<ReadHalf<Connection>>;
pub(super) type Writer = FrameWriter<WriteHalf<Connection>>;

/// One connection to the agent: one operation.
pub(super) struct Link {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
}

/// How long an answer is waited for while the agent is alive. An agent that is gone is noticed at once in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// The agent has nothing to do that takes long.
    Quick,
    /// The work may take as long as it takes (removing or packing a tree); the agent must answer pings meanwhile.
    Long,
}

/// What a quick operation may take: longer than a busy machine ever needed, shorter than a user's patience.
const QUICK: Duration = Duration::from_secs(30);
/// After this long without an answer the host looks for a reason.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// And again after each of these.
const NEXT_LOOK: Duration = Duration::from_secs(5);
/// An agent that is alive, does not do what it was asked and gives no sign of life for this long hangs: a status says so much earlier, but it
/// ends nobody's work.
pub(super) const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// Between attempts while a machine's listener is not there yet.
const KNOCK_AGAIN: Duration = Duration::from_millis(5);
/// How long the first connection has to be answered; the next has twice as much. A kernel that goes on from memory may lose one that comes before it has
/// dropped those it had: its driver for vsock forgets them without a word to the other end (a race that Firecracker mended in its pull request 5882).
const FIRST_ATTEMPT: Duration = Duration::from_secs(1);

/// One operation on the generation that was in force when it began.
pub(super) struct Call<B: Backend> {
    pub(super) shared: Arc<Shared<B>>,
    pub(super) running: Running<B::Place>,
    pub(super) verb: &'static str,
}

impl<B: Backend> Call<B> {
    /// Begins an operation on a sandbox that is not stopped.
    ///
    /// # Errors
    /// `Conflict` when it is.
    pub(super) fn begin(shared: &Arc<Shared<B>>, verb: &'static str) -> Result<Self> {
        Ok(Self { running: shared.running(verb)?, shared: Arc::clone(shared), verb })
    }

    /// Connects.
    ///
    /// # Errors
    /// `Unavailable`, with the reason, when the agent is gone.
    pub(super) async fn dial(&self) -> Result<Link> {
        match self.shared.backend.dial(self.running.place()).await {
            Ok(connection) => {
                let (reader, writer) = tokio::io::split(connection);
                Ok(Link { reader: FrameReader::new(reader), writer: FrameWriter::new(writer) })
            }
            Err(error) => Err(match self.shared.facts(&self.running) {
                Facts::Gone(reason) => self.gone(&reason).with_source(error),
                Facts::Frozen => self.frozen().with_source(error),
                Facts::Alive => error.during(self.verb),
            }),
        }
    }

    /// Connects, asks, and waits for the answer: one write, then reads.
    ///
    /// # Errors
    /// What the agent says, `Unavailable` when it is gone, `TimedOut` when it does not answer.
    pub(super) async fn ask(&self, operation: Operation, patience: Patience) -> Result<(Link, Answer)> {
        let link = self.dial().await?;
        self.ask_over(link, operation, patience).await
    }

    /// The same for what shall be in nobody's saved memory: after a save that is under way.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(super) async fn ask_unsaved(&self, operation: Operation, patience: Patience) -> Result<(Link, Answer)> {
        let note = self.save_note();
        loop {
            if let Some(note) = &note {
                note.over().await;
            }
            let link = self.dial().await?;
            // Looked for last: whoever notes a save from then on has this connection cut first.
            if note.as_ref().is_none_or(|note| !note.is_in_force()) {
                return self.ask_over(link, operation, patience).await;
            }
        }
    }

    /// The note of a save that clients wait for.
    pub(super) fn save_note(&self) -> Option<SaveNote> {
        self.shared.backend.notes_saves_in(self.running.place()).map(SaveNote::of)
    }

    async fn ask_over(&self, mut link: Link, operation: Operation, patience: Patience) -> Result<(Link, Answer)> {
        let answer = self.patiently(patience, exchange(&mut link, operation)).await?;
        Ok((link, self.accept(answer)?))
    }

    /// An operation that is answered by `Done`.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(super) async fn order(&self, operation: Operation, patience: Patience) -> Result<Link> {
        match self.ask(operation, patience).await? {
            (link, Answer::Done(_)) => Ok(link),
            _ => Err(self.unexpected()),
        }
    }

    /// The answer, or the failure as an error.
    ///
    /// # Errors
    /// What the agent says.
    pub(super) fn accept(&self, answer: Answer) -> Result<Answer> {
        if let Answer::Failure(failure) = answer { Err(answer::failure(self.verb, &failure)) } else { Ok(answer) }
    }

    /// Waits for the agent's part, and looks every now and then for why it takes so long.
    ///
    /// # Errors
    /// `Unavailable` when the agent is gone, `Conflict` when it stays frozen, `TimedOut`, `Corrupt`.
    pub(super) async fn patiently<T>(&self, patience: Patience, work: impl Future<Output = Result<T, FrameError>>) -> Result<T> {
        let mut work = pin!(work);
        let begun = Instant::now();
        let mut look = FIRST_LOOK;
        let mut is_first = true;
        loop {
            if let Ok(done) = timeout(look, &mut work).await {
                return self.finish(done).await;
            }
            look = NEXT_LOOK;
            let late = begun.elapsed() >= QUICK;
            match self.shared.facts(&self.running) {
                Facts::Gone(reason) => return Err(self.gone(&reason)),
                // A checkpoint freezes for a moment; whoever asks meanwhile waits. A pause may last for ever.
                Facts::Frozen if late || self.running.current().is_paused() => return Err(self.frozen()),
                Facts::Frozen => {}
                Facts::Alive if is_first => {
                    is_first = false;
                    tokio::select! {
                        biased;
                        done = &mut work => return self.finish(done).await,
                        alive = self.ping(SIGN_OF_LIFE) => match alive {
                            // Not the command takes too long, but there is nobody who could do it.
                            Err(error) if error.kind() == ErrorKind::TimedOut => {
                                return Err(Error::new(ErrorKind::Unavailable, self.verb, format!("the sandbox hangs: {}", error.message())));
                            }
                            // Whatever is in the way of another connection, this one has its own end.
                            _ => {}
                        },
                    }
                }
                Facts::Alive if !late => {}
                Facts::Alive if patience == Patience::Long => drop(self.ping(NEXT_LOOK).await?),
                Facts::Alive => {
                    let message = format!("the agent did not answer for {} s", begun.elapsed().as_secs());
                    return Err(Error::new(ErrorKind::TimedOut, self.verb, message));
                }
            }
        }
    }

    async fn finish<T>(&self, done: Result<T, FrameError>) -> Result<T> {
        match done {
            Ok(value) => Ok(value),
            Err(error) => Err(self.explain(error).await),
        }
    }

    /// Asks for a sign of life, over a connection of its own.
    ///
    /// # Errors
    /// `TimedOut` or `Unavailable`.
    pub(super) async fn ping(&self, patience: Duration) -> Result<Pong> {
        let asked = async {
            match self.pinged().await? {
                Ok(answer) => self.pong(answer),
                Err(error) => Err(self.explain(error).await),
            }
        };
        timeout(patience, asked).await.unwrap_or_else(|_| Err(self.silent(patience)))
    }

    /// Waits until the agent answers of a place that comes up or wakes: its listener may not be there yet, and connections may be cut or lost.
    ///
    /// # Errors
    /// `Unavailable` with `gone` and the reason when the place is gone, `TimedOut`, or `Corrupt` for what is no answer.
    pub(super) async fn answers(&self, patience: Duration, gone: &str) -> Result<Pong> {
        let deadline = Instant::now() + patience;
        let mut attempt = FIRST_ATTEMPT;
        loop {
            let error = match timeout_at(deadline, self.knock(attempt)).await {
                Ok(Ok(pong)) => return Ok(pong),
                Ok(Err(error)) => error,
                Err(_) => self.silent(patience),
            };
            if let Facts::Gone(reason) = self.shared.facts(&self.running) {
                return Err(Error::new(ErrorKind::Unavailable, self.verb, format!("{gone}: {reason}")).with_source(error));
            }
            if Instant::now() >= deadline || error.kind() == ErrorKind::Corrupt {
                return Err(error);
            }
            if error.kind() == ErrorKind::TimedOut {
                attempt *= 2;
            }
            sleep(KNOCK_AGAIN).await;
        }
    }

    /// One attempt. Why a connection was cut is not waited for.
    async fn knock(&self, patience: Duration) -> Result<Pong> {
        let asked = async {
            match self.pinged().await? {
                Ok(answer) => self.pong(answer),
                Err(error @ (FrameError::Cut | FrameError::Io(_))) => {
                    Err(Error::new(ErrorKind::Unavailable, self.verb, "the connection was cut").with_source(error))
                }
                Err(error) => Err(self.explain(error).await),
            }
        };
        timeout(patience, asked).await.unwrap_or_else(|_| Err(self.silent(patience)))
    }

    async fn pinged(&self) -> Result<Result<Answer, FrameError>> {
        let mut link = self.dial().await?;
        Ok(exchange(&mut link, Operation::Ping(Ping {})).await)
    }

    fn pong(&self, answer: Answer) -> Result<Pong> {
        match self.accept(answer)? {
            Answer::Pong(pong) => Ok(pong),
            _ => Err(self.unexpected()),
        }
    }

    fn silent(&self, patience: Duration) -> Error {
        Error::new(ErrorKind::TimedOut, self.verb, format!("the agent does not answer within {} ms", patience.as_millis()))
    }

    /// Whether memory can be saved here: then a connection may be cut for it.
    pub(super) fn can_be_saved(&self) -> bool {
        self.shared.backend.info().features.has(Feature::MemoryCheckpoint)
    }

    /// Turns a broken connection into an error that says what became of the sandbox.
    pub(super) async fn explain(&self, error: FrameError) -> Error {
        match error {
            FrameError::Cut | FrameError::Io(_) => {
                let reason = self.shared.why_cut(&self.running).await;
                Error::new(ErrorKind::Unavailable, self.verb, reason).with_source(error)
            }
            FrameError::Version(_) => Error::new(ErrorKind::Unavailable, self.verb, "the agent speaks another version of the protocol")
                .with_source(error)
                .with_hint("the sandbox was made by a sandbar of another major version: use that one, or stop and start the sandbox"),
            other => Error::new(ErrorKind::Corrupt, self.verb, "the agent's answer cannot be understood").with_source(other),
        }
    }

    /// The agent said something that has no place here.
    pub(super) fn unexpected(&self) -> Error {
        answer::nonsense(self.verb, "an answer to another question")
    }

    fn gone(&self, reason: &str) -> Error {
        Error::new(ErrorKind::Unavailable, self.verb, format!("the sandbox does not run any more: {reason}"))
    }

    fn frozen(&self) -> Error {
        Error::new(ErrorKind::Conflict, self.verb, "the sandbox is frozen").with_hint("resume it first: sandbar resume ID")
    }
}

impl<B: Backend> Clone for Call<B> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), running: self.running.clone(), verb: self.verb }
    }
}

/// Sends the request with the preamble in one write, and reads the answer.
pub(super) async fn exchange(link: &mut Link, operation: Operation) -> Result<Answer, FrameError> {
    let sent = link.writer.message(&Request { operation: Some(operation) }).await;
    let read = read_answer(&mut link.reader).await;
    // An agent that refuses may close before it has read everything: what it said counts more than the broken pipe.
    match (sent, read) {
        (_, Ok(answer)) => Ok(answer),
        (Err(error @ FrameError::TooLong { .. }), _) | (Ok(()), Err(error)) | (Err(_), Err(error)) => Err(error),
    }
}

/// Reads the agent's preamble and its answer. Loses nothing when it is dropped between the two; not meant to be resumed.
pub(super) async fn read_answer(reader: &mut Reader) -> Result<Answer, FrameError> {
    reader.preamble().await?;
    next_answer(reader).await
}

/// Reads a further answer.
pub(super) async fn next_answer(reader: &mut Reader) -> Result<Answer, FrameError> {
    reader.message::<Reply>().await?.answer.ok_or_else(|| FrameError::Malformed("a reply without an answer".to_owned()))
}
