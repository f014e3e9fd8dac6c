use std::{
    io::{self, Cursor},
    sync::Arc,
    time::Duration,
};

use sandbar_core::{Connection, DomainName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    super::{
        exchange::{Buffers, Exchange},
        held::Held,
        log::NetworkEvent,
        shown,
    },
    Keyring, Watch, Watched,
    keyring::MOST_CONNECTIONS,
    requests::Requests,
    tls::{self, Opened},
};

/// How long it may take until it is clear what is spoken: as long as a request's head.
const BEGINNING: Duration = Duration::from_secs(30);
/// Bytes that are looked at until then.
const MOST: usize = 32 << 10;

/// Tells of what happened on a connection.
pub(super) type Tell = Arc<dyn Fn(NetworkEvent, String) + Send + Sync>;

/// A connection to a secret's host, with this host in the middle.
pub(crate) struct Interception {
    keyring: Arc<Keyring>,
    host: DomainName,
    tell: Tell,
}

/// Why a connection is not gone on with.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) event: NetworkEvent,
    pub(crate) reason: String,
}

impl Refusal {
    pub(super) const fn refused(reason: String) -> Self {
        Self { event: NetworkEvent::Refused, reason }
    }

    pub(super) const fn failed(reason: String) -> Self {
        Self { event: NetworkEvent::Failed, reason }
    }
}

/// How it ended otherwise than by the will of both sides.
#[derive(Debug)]
pub(crate) enum Failure {
    Refused(Refusal),
    Broken(io::Error),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// What a client speaks.
#[derive(Debug, PartialEq, Eq)]
enum Spoken {
    Tls,
    Http,
    /// Neither, or the server began.
    Other,
}

impl Interception {
    /// `tell` hears what is put in, what goes out as it is, and which requests are refused.
    pub(crate) fn new(keyring: Arc<Keyring>, host: DomainName, tell: impl Fn(NetworkEvent, String) + Send + Sync + 'static) -> Self {
        Self { keyring, host, tell: Arc::new(tell) }
    }

    /// Passes everything on until both sides have ended, with secrets in the place of placeholders.
    pub(crate) async fn run(self, mut inside: Held, mut outside: Connection) -> Result<(), Failure> {
        let _place = self
            .keyring
            .enter()
            .ok_or_else(|| Refusal::refused(format!("{MOST_CONNECTIONS} connections to the hosts of secrets are open")))?;
        let sorting = timeout(BEGINNING, sort(&mut inside, &mut outside)).await;
        let (spoken, seen) = sorting.unwrap_or_else(|_| Err(Refusal::refused("it has not begun to speak".to_owned()).into()))?;
        let again = tokio::io::join(Cursor::new(seen).chain(inside.clone()), inside.clone());
        match spoken {
            Spoken::Tls => {
                let Opened { inside, outside, is_h2 } = tls::open(Box::new(again), outside, &self.host, &self.keyring).await?;
                Exchange::new(Requests::new(self.keyring, self.host, self.tell), Buffers::LARGE).run(inside, outside, is_h2).await?;
            }
            Spoken::Http => {
                Exchange::new(Requests::new(self.keyring, self.host, self.tell), Buffers::LARGE)
                    .run(Box::new(again), outside, false)
                    .await?
            }
            Spoken::Other => {
                let (reader, writer) = again.into_inner();
                let tell = self.tell;
                let watch = Watch::new(self.keyring, move |name| {
                    tell(NetworkEvent::Leak, format!("the placeholder of {name} goes out as it is: neither HTTP nor TLS is spoken"));
                });
                // A request that comes later would have no secret in it, and perhaps another host.
                let judge = |shown: &shown::Shown| !shown.is_request() && !matches!(shown, shown::Shown::Unclear(_));
                let mut inside = tokio::io::join(shown::Beginning::new(Watched::new(reader, Some(watch)), judge), writer);
                tokio::io::copy_bidirectional(&mut inside, &mut outside).await.map_err(|error| -> Failure {
                    match error.kind() {
                        io::ErrorKind::PermissionDenied => Refusal::refused("an HTTP request where none was begun with".to_owned()).into(),
                        _ => error.into(),
                    }
                })?;
            }
        }
        Ok(())
    }
}

/// Looks at the beginning until it is clear what is spoken. What the server says meanwhile is passed on: then it has begun.
async fn sort(inside: &mut Held, outside: &mut Connection) -> Result<(Spoken, Vec<u8>), Failure> {
    /// `ContentType` of a TLS handshake (RFC 8446, 5.1).
    const HANDSHAKE: u8 = 22;
    let mut seen = Vec::new();
    let mut said = vec![0; 4096];
    loop {
        tokio::select! {
            read = inside.read_buf(&mut seen) => if read? == 0 {
                return Ok((Spoken::Other, seen));
            },
            read = outside.read(&mut said) => {
                let length = read?;
                inside.write_all(&said[..length]).await?;
                inside.flush().await?;
                if length == 0 {
                    inside.shutdown().await?;
                }
                return Ok((Spoken::Other, seen));
            },
        }
        if seen.first() == Some(&HANDSHAKE) {
            return Ok((Spoken::Tls, seen));
        }
        match shown::read(&seen) {
            Some(shown::Shown::Host(..) | shown::Shown::NoHost) => return Ok((Spoken::Http, seen)),
            Some(shown::Shown::Nothing | shown::Shown::NoServerName) => return Ok((Spoken::Other, seen)),
            Some(shown::Shown::Unclear(what)) => return Err(Refusal::refused(format!("it begins with {what}")).into()),
            None if seen.len() >= MOST => return Err(Refusal::refused("it begins with a beginning without end".to_owned()).into()),
            None => {}
        }
    }
}
