use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    http::HeaderMap,
    response::{
        IntoResponse,
        sse::{Event as Message, Sse},
    },
};
use futures_util::stream;
use sandbar_core::{Error, ErrorKind, Result, SandboxId};
use sandbar_runtime::{PortChange, Runtime, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    sync::{broadcast::error::RecvError, watch},
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until},
};
use utoipa::IntoParams;

use crate::{
    caller::{May, Read},
    extract::Query,
    feed::Told,
    problem::{Answer, Problem},
};

/// How often the ledger is asked what has happened.
const LOOK: Duration = Duration::from_millis(100);
/// Events that are taken from it at once, and wait here for the listener: the others wait there.
const AT_ONCE: usize = 100;
/// Silence after which a comment shows that somebody is there, and finds out who is not.
const SILENCE: Duration = Duration::from_secs(15);

/// What somebody wants to be told.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listening {
    /// Begin with what came after the event of this number. With what happens from now on, if neither this nor `Last-Event-ID` is there.
    after: Option<u64>,
    /// What happens to this sandbox alone.
    sandbox: Option<String>,
}

/// Tell what happens to sandboxes, as it happens
///
/// Server-sent events, whichever process made them happen. The first is `open`. `created`, `started`, `paused`, `resumed`, `stopped`, `crashed`, `checkpointed`, `restored` and `destroyed` have numbers, and data
/// such as `{"id":7,"time_ms":1,"kind":"created","sandbox":"sb-…","name":"web","detail":"container"}`; the newest ten thousand are kept, so that who comes again with `Last-Event-ID` misses nothing. `network` is a decision about
/// what leaves a sandbox, `{"sandbox":"sb-…","name":null,"verdict":{…}}`; it has no number and is not told again; nor have `port-opened` and
/// `port-closed`, `{"sandbox":"sb-…","name":null,"port":8080}`: something inside listens there, or does not any more, as it is seen a few times a second. `lost` says what a listener has missed that was too slow or away for too long:
/// `{"what":"events","count":3}`, or `"what":"verdicts"` or `"ports"`, counted over all sandboxes. A crash is found within seconds.
#[utoipa::path(get, path = "/v1/events", tag = "sandboxes", operation_id = "events",
    params(Listening, ("Last-Event-ID" = Option<u64>, Header, description = "The number of the last event that was received")),
    responses((status = 200, body = String, content_type = "text/event-stream", description = "Events without end"),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn listen(app: May<Read>, headers: HeaderMap, Query(listening): Query<Listening>) -> Answer<impl IntoResponse> {
    let only = match &listening.sandbox {
        Some(reference) => Some(app.runtime.sandbox(reference).await?.id().clone()),
        None => None,
    };
    let newest = app.runtime.kept_events()?.map_or(0, |(_, newest)| newest);
    let last =
        headers.get("last-event-id").map(|value| value.to_str().ok().and_then(|text| text.parse::<u64>().ok()).ok_or_else(bad_number));
    let after = last.transpose()?.or(listening.after).unwrap_or(newest).min(newest);
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let listener = Listener {
        told: app.feed.listen().await?,
        runtime: app.runtime.clone(),
        closing: app.closing.clone(),
        only,
        after,
        waiting: VecDeque::from([Message::default().id(after.to_string()).event("open").data("{}")]),
        look,
        silent_since: Instant::now(),
    };
    let messages = stream::unfold(listener, |mut listener| async move {
        let message = listener.next().await?;
        Some((Ok::<_, Infallible>(message), listener))
    });
    Ok(([("cache-control", "no-store")], Sse::new(messages)))
}

fn bad_number() -> Error {
    Error::new(ErrorKind::InvalidInput, "events", "the number of the last event is no number")
}

/// Somebody who is told. Holds as many events as were taken from the ledger at once, and falls behind in the ledger itself when it does not read.
struct Listener {
    runtime: Runtime,
    only: Option<SandboxId>,
    /// The number of the last event that was taken.
    after: u64,
    waiting: VecDeque<Message>,
    told: Told,
    closing: watch::Receiver<bool>,
    look: Interval,
    silent_since: Instant,
}

impl Listener {
    /// The next message; `None` when the server stops, or cannot read its ledger: then the listener comes again, with the last number.
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.waiting.pop_front() {
                self.silent_since = Instant::now();
                return Some(message);
            }
            let told = tokio::select! {
                () = closed(&mut self.closing) => return None,
                verdict = self.told.verdicts.recv() => match verdict {
                    Ok(verdict) if self.concerns(&verdict) => Some(message("network", &*verdict)),
                    Ok(_) => continue,
                    Err(RecvError::Lagged(count)) => Some(lost("verdicts", count)),
                    Err(RecvError::Closed) => return None,
                },
                change = self.told.ports.recv() => match change {
                    Ok(change) if self.concerns_port(&change) => {
                        Some(message(if change.is_open { "port-opened" } else { "port-closed" }, &*change))
                    }
                    Ok(_) => continue,
                    Err(RecvError::Lagged(count)) => Some(lost("ports", count)),
                    Err(RecvError::Closed) => return None,
                },
                _ = self.look.tick() => None,
                () = sleep_until(self.silent_since + SILENCE) => {
                    // With the number, so that who comes again after a long silence has missed nothing.
                    self.waiting.push_back(Message::default().comment("").id(self.after.to_string()));
                    continue;
                }
            };
            // What came before is told before it: that there is the sandbox, for one.
            if let Err(error) = self.take() {
                tracing::warn!(error = error.chain(), "cannot tell what happens to sandboxes");
                return None;
            }
            self.waiting.extend(told);
        }
    }

    fn concerns(&self, verdict: &Verdict) -> bool {
        self.runtime.sees(verdict) && self.only.as_ref().is_none_or(|only| *only == verdict.sandbox)
    }

    fn concerns_port(&self, change: &PortChange) -> bool {
        self.runtime.sees_port(change) && self.only.as_ref().is_none_or(|only| *only == change.sandbox)
    }

    /// Takes what has happened since from the ledger.
    fn take(&mut self) -> Result<()> {
        let (events, seen) = self.runtime.events_after(self.after, AT_ONCE)?;
        if events.is_empty() {
            // What has happened is of others: it is not missed when it is not kept any more.
            self.after = self.after.max(seen);
            return Ok(());
        }
        // After the events were read: what is kept now was kept then.
        let oldest = self.runtime.kept_events()?.map_or(0, |(oldest, _)| oldest);
        let first = events.first().map_or(0, |event| event.id);
        if first > self.after + 1 && oldest > self.after + 1 {
            self.waiting.push_back(lost("events", oldest.min(first) - self.after - 1));
        }
        if events.len() == AT_ONCE {
            // There may be more.
            self.look.reset_immediately();
        }
        self.after = seen;
        for event in events {
            if self.only.as_ref().is_none_or(|only| *only == event.sandbox) {
                self.waiting.push_back(message(event.kind.name(), &event).id(event.id.to_string()));
            }
        }
        Ok(())
    }
}

/// Waits until the server stops.
async fn closed(closing: &mut watch::Receiver<bool>) {
    if closing.wait_for(|closing| *closing).await.is_err() {
        // It serves one client, and ends with it.
        std::future::pending().await
    }
}

fn message(kind: &str, data: &impl Serialize) -> Message {
    Message::default().event(kind).data(json!(data).to_string())
}

fn lost(what: &str, count: u64) -> Message {
    message("lost", &json!({ "what": what, "count": count }))
}
