//! `/api/v1/events`: what happens in an account, as server-sent events.
//!
//! An event's id is its place in the log. A client that comes back with `Last-Event-ID` gets what it
//! missed, up to 24 hours and to so many megabytes of log; beyond that a `reset` event tells it to read
//! its lists again. The stream ends with the access token, with the session or the right to read, or with
//! the daemon's drain, and the client comes back.
//!
//! The log is of all accounts, so a replay may read much to find little: it goes in bounded steps on the
//! blocking pool, few at a time.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    extract::State,
    http::HeaderMap,
    response::{
        IntoResponse, Response, Sse,
        sse::{self, KeepAlive},
    },
};
use futures_util::{Stream, stream};
use inboxgrove_model::{TenantId, event::LoggedEvent, ports::BoxFuture};
use inboxgrove_store::EventsStep;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    caller::{Caller, Reads, admitted},
    event_view,
    problem::{ApiError, Code},
};

/// How far back events are sent again.
const REPLAY_MAX: Duration = Duration::from_hours(24);
/// Events read from the log at once.
const BATCH: usize = 200;
/// Steps that read the log at once, of all streams: what else blocks has the rest of the pool.
const READS_MAX: usize = 2;
/// How often a stream looks whether its reader may still read.
const LOOK: Duration = Duration::from_secs(1);

/// What all event streams share.
pub(crate) struct Streams {
    room: Arc<Semaphore>,
    per_tenant_max: usize,
    open: Arc<Mutex<BTreeMap<TenantId, usize>>>,
    reads: Semaphore,
}

/// A stream's place under the caps.
struct Place {
    _room: OwnedSemaphorePermit,
    tenant: TenantId,
    open: Arc<Mutex<BTreeMap<TenantId, usize>>>,
}

/// All routes, as the OpenAPI document lists them.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(events))
}

/// The events of the account, as they happen.
#[utoipa::path(get, path = "/api/v1/events", tag = "events",
    params(("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was seen")),
    responses((status = 200, body = String, content_type = "text/event-stream")))]
async fn events(
    State(api): State<Api>,
    who: Caller<Reads>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let place = api.streams.take(who.tenant)?;
    let seen = last_event_id(&headers)?;
    let lifetime = who.expires_at.since(api.wall());
    let feed = Feed::open(api.clone(), who.tenant, seen, place);
    let end: BoxFuture<'static, ()> = Box::pin({
        let api = api.clone();
        async move {
            tokio::select! {
                biased;
                () = api.draining.cancelled() => {}
                () = tokio::time::sleep(lifetime) => {}
                () = shut_out(&api, &who) => {}
            }
        }
    });
    let stream: Pin<Box<dyn Stream<Item = Result<sse::Event, Infallible>> + Send>> =
        Box::pin(futures_util::StreamExt::take_until(feed.into_stream(), end));
    let alive = KeepAlive::new().interval(api.options.heartbeat);
    Ok(Sse::new(stream).keep_alive(alive).into_response())
}

/// A client's place in the log.
struct Feed {
    api: Api,
    tenant: TenantId,
    /// The id of the last event that was sent or skipped.
    last: u64,
    /// Read and not yet sent.
    ready: VecDeque<LoggedEvent>,
    /// What it misses of the log.
    behind: Behind,
    live: broadcast::Receiver<Arc<Vec<LoggedEvent>>>,
    _place: Place,
}

/// How a client stands to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    /// It came back, and nobody looked yet how old the first event after its last one is.
    Unknown {
        /// Where to read on.
        after: u64,
        /// What was read so far.
        bytes: u64,
    },
    /// There may be events after `after` that were not read yet.
    Yes {
        /// Where to read on.
        after: u64,
        /// What was read so far.
        bytes: u64,
    },
    /// The live events are all it needs.
    No,
}

// === impl Streams ===

impl Streams {
    /// Caps of streams: all, and of one account.
    pub(crate) fn new(max: usize, per_tenant_max: usize) -> Self {
        Self {
            room: Arc::new(Semaphore::new(max)),
            per_tenant_max,
            open: Arc::default(),
            reads: Semaphore::new(READS_MAX),
        }
    }

    fn take(&self, tenant: TenantId) -> Result<Place, ApiError> {
        let full =
            |why: &'static str| ApiError::new(Code::Busy, why).retry_after(Duration::from_secs(30));
        let room = Arc::clone(&self.room).try_acquire_owned();
        let room = room.map_err(|_| full("Too many event streams are open."))?;
        let mut open = lock(&self.open);
        let count = open.entry(tenant).or_default();
        if *count >= self.per_tenant_max {
            return Err(full("This account has too many event streams open."));
        }
        *count += 1;
        Ok(Place {
            _room: room,
            tenant,
            open: Arc::clone(&self.open),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        if let Some(count) = open.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.tenant);
            }
        }
    }
}

// === impl Feed ===

impl Feed {
    fn open(api: Api, tenant: TenantId, seen: Option<u64>, place: Place) -> Self {
        // Subscribed first, read then: what is committed in between comes twice and is sent once.
        let live = api.store().subscribe();
        Self {
            tenant,
            last: seen.unwrap_or(0),
            ready: VecDeque::new(),
            behind: seen.map_or(Behind::No, |after| Behind::Unknown { after, bytes: 0 }),
            live,
            _place: place,
            api,
        }
    }

    fn into_stream(self) -> impl Stream<Item = Result<sse::Event, Infallible>> + Send {
        stream::unfold(self, |mut feed| async move {
            let event = feed.next().await?;
            Some((Ok(event), feed))
        })
    }

    /// The next event for this client; none when the stream has to end.
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(logged) = self.ready.pop_front() {
                self.last = logged.id;
                return Some(rendered(&logged));
            }
            if self.behind != Behind::No {
                if self.read_on().await? {
                    return Some(self.reset());
                }
                continue;
            }
            match self.live.recv().await {
                Ok(batch) => self.take(&batch),
                // The log has what the channel dropped.
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    let after = self.last;
                    self.behind = Behind::Yes { after, bytes: 0 };
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// Reads a step of the log; none when it cannot be read, and whether too much was missed.
    async fn read_on(&mut self) -> Option<bool> {
        match self.behind {
            Behind::No => Some(false),
            Behind::Unknown { after, bytes } => {
                if after > self.api.store().events_end() {
                    // Of another log than this one: it was restored from a backup.
                    self.last = 0;
                    return Some(true);
                }
                let step = self.step(after, 1, None).await?;
                if let Some(first) = step.events.first() {
                    self.behind = Behind::Yes {
                        after: self.last,
                        bytes: 0,
                    };
                    return Some(first.event.at < self.api.now().before(REPLAY_MAX));
                }
                let (after, bytes) = (step.after, bytes + step.bytes);
                self.behind = if step.end {
                    Behind::No
                } else {
                    Behind::Unknown { after, bytes }
                };
                Some(bytes > self.api.options.replay_bytes_max)
            }
            Behind::Yes { after, bytes } => {
                let step = self.step(after, BATCH, Some(self.tenant)).await?;
                self.ready.extend(step.events);
                let (after, bytes) = (step.after, bytes + step.bytes);
                self.behind = if step.end {
                    Behind::No
                } else {
                    Behind::Yes { after, bytes }
                };
                Some(bytes > self.api.options.replay_bytes_max && self.behind != Behind::No)
            }
        }
    }

    async fn step(&self, after: u64, limit: usize, of: Option<TenantId>) -> Option<EventsStep> {
        let _read = self.api.streams.reads.acquire().await;
        let store = self.api.store().clone();
        let blocking = &self.api.platform.ports().blocking;
        let read = blocking.call(move || store.events_step(after, limit, of));
        let why = match read.await {
            Some(Ok(step)) => return Some(step),
            Some(Err(why)) => why.to_string(),
            None => "reading it panicked".to_owned(),
        };
        tracing::error!(tenant = %self.tenant, why, "an event stream ended: the log could not be read");
        None
    }

    /// Tells the client to read its lists again; from there on the live events are all it needs. The id is
    /// the log's end, so that it does not ask for the same once more.
    fn reset(&mut self) -> sse::Event {
        self.ready.clear();
        self.behind = Behind::No;
        sse::Event::default()
            .id(self.api.store().events_end().to_string())
            .event("reset")
            .data(r#"{"why":"more was missed than is kept; read the lists again"}"#)
    }

    fn take(&mut self, batch: &[LoggedEvent]) {
        for logged in batch {
            if logged.event.tenant == Some(self.tenant) && logged.id > self.last {
                self.ready.push_back(logged.clone());
            }
        }
    }
}

// === free functions ===

fn lock(open: &Mutex<BTreeMap<TenantId, usize>>) -> MutexGuard<'_, BTreeMap<TenantId, usize>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Resolves when this reader may read no more: logged out, another role, a closed account.
async fn shut_out(api: &Api, who: &Caller<Reads>) {
    loop {
        tokio::time::sleep(LOOK).await;
        if admitted::<Reads>(api, who.tenant, who.session, who.user).is_err() {
            return;
        }
    }
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get("last-event-id") else {
        return Ok(None);
    };
    let number = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok());
    number
        .map(Some)
        .ok_or_else(|| ApiError::invalid("Last-Event-ID", "expected the id of an event"))
}

fn rendered(logged: &LoggedEvent) -> sse::Event {
    let (kind, data) = event_view::render(logged);
    sse::Event::default()
        .id(logged.id.to_string())
        .event(kind)
        .data(data.to_string())
}
