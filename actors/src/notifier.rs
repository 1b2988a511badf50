//! The notifier: tells operators what they have to know. Owns the outbox of notices.
//!
//! Mailbox: [`Look`] when something was put into [`Notices`], [`Due`] from the clock, [`Called`] from the one
//! task that each call runs in. Never waits for the network. What is to be told waits in [`Notices`] until it is
//! a row, so that the death of this actor loses none of it. A notice is a row before it is told; the call carries its id as
//! `Idempotency-Key`, so a receiver may see it twice and knows. The same code and subject is told once a day.
//! After `notifier.attempts_max` failures it is a dead letter, which stays for an operator to see. Without a
//! webhook notices are only kept and logged. Restarts within [`Budget::SERVICE`]; rows survive.
//!
//! [`Look`]: NotifierMsg::Look
//! [`Due`]: NotifierMsg::Due
//! [`Called`]: NotifierMsg::Called
//! [`Budget::SERVICE`]: crate::supervision::Budget::SERVICE

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_lc_rs::hmac;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use inboxgrove_model::{
    PolicyTime, TenantId,
    due::{DueRow, DueWork},
    notice::{Notice, NoticeState},
};
use inboxgrove_store::{Batch, Lease, Owner, Scope};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::{
    context::{Context, Cx, Nudge, Reply, answer, pages},
    mailbox::{Own, Told},
    refusal::Refusal,
};

/// The same code about the same subject is told once in this time.
const MUTED_FOR: Duration = Duration::from_hours(24);
/// Wait after the first failed call; doubles with each further one.
const RETRY_FIRST: Duration = Duration::from_secs(30);
/// Longest wait between calls.
const RETRY_LONGEST: Duration = Duration::from_hours(4);
/// Notices read back at the start to find the next id and what is muted: the latest day of a busy installation.
const RECENT_MAX: usize = 500;
/// A due row handed out comes back after this when the call's outcome was lost.
const CALL_AGAIN: Duration = Duration::from_mins(5);
/// Notices that were told are removed after this.
const TOLD_KEPT: Duration = Duration::from_hours(30 * 24);
/// Old notices are looked for this often.
const SWEEP_EVERY: Duration = Duration::from_hours(24);
/// Notices removed at once: a commit holds 10,000 rows at most.
const SWEEP_MAX: usize = 2000;
/// What is kept of an error: enough to know it by, and a row stays small.
const ERROR_CHARS_MAX: usize = 200;
/// What may wait to become a row, at some 500 bytes each. Beyond it the newest is only in the log: so many at
/// once say the same thing.
const NOTICES_MAX: usize = 256;

/// What a notice is about: stable, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeCode {
    /// A domain's records were proven.
    DomainVerified,
    /// A record that a domain needs has failed.
    DomainDegraded,
    /// A domain's claim ran out.
    DomainExpired,
    /// An inbox was put into quarantine by its evidence.
    InboxQuarantined,
    /// An account was suspended.
    TenantSuspended,
}

/// What the notifier is told.
pub(crate) enum NotifierMsg {
    /// Write down what waits.
    Look,
    /// The clock says it is time to call.
    Due(DueRow, Reply<()>),
    /// A call ended. From the task that it ran in.
    Called(u64, DueRow, Result<(), String>),
}

/// What operators should know and is no row yet.
#[derive(Default)]
pub(crate) struct Notices {
    waiting: Mutex<VecDeque<News>>,
    nudge: Nudge,
}

/// The notifier's actor.
pub(crate) struct Notifier;

/// What it keeps in memory.
pub(crate) struct NotifierState {
    cx: Cx,
    lease: Lease,
    next_id: u64,
    recent: Vec<Notice>,
    swept_at: Option<PolicyTime>,
}

/// Something that operators should know.
#[derive(Clone)]
struct News {
    tenant: Option<TenantId>,
    code: NoticeCode,
    subject: String,
    text: String,
}

/// Tells operators something. Best effort until it is a row: the end of the process loses it.
pub(crate) fn tell(
    cx: &Context,
    tenant: Option<TenantId>,
    code: NoticeCode,
    subject: &str,
    text: &str,
) {
    tracing::info!(code = code.name(), subject, text, "notice");
    let news = News {
        tenant,
        code,
        subject: subject.to_owned(),
        text: text.to_owned(),
    };
    if !cx.notices.put(news) {
        tracing::warn!(
            code = code.name(),
            subject,
            "too much is to be told at once; this is only in this log"
        );
    }
    // A notifier that is just restarting looks when it is back.
    if cx.notices.nudge.is_first() && cx.notifier.tell(NotifierMsg::Look).is_err() {
        cx.notices.nudge.heard();
    }
}

// === impl Notices ===

impl Notices {
    fn lock(&self) -> MutexGuard<'_, VecDeque<News>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there was room for it.
    fn put(&self, news: News) -> bool {
        let mut waiting = self.lock();
        let room = waiting.len() < NOTICES_MAX;
        if room {
            waiting.push_back(news);
        }
        room
    }

    fn first(&self) -> Option<News> {
        self.lock().front().cloned()
    }

    /// The first one is a row, or never will be. The notifier alone takes away.
    fn done(&self) {
        self.lock().pop_front();
    }
}

// === impl NoticeCode ===

impl NoticeCode {
    /// Its name, as in `domain_degraded`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DomainVerified => "domain_verified",
            Self::DomainDegraded => "domain_degraded",
            Self::DomainExpired => "domain_expired",
            Self::InboxQuarantined => "inbox_quarantined",
            Self::TenantSuspended => "tenant_suspended",
        }
    }
}

// === impl Actor for Notifier ===

impl Actor for Notifier {
    type Msg = Told<NotifierMsg>;
    type State = NotifierState;
    type Arguments = Cx;

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        cx: Cx,
    ) -> Result<Self::State, ActorProcessingErr> {
        let lease = cx.store.own(Owner::Notifier).await?;
        // What a predecessor was told and did not come to.
        cx.notifier.own(me).tell(NotifierMsg::Look);
        let mut recent: Vec<Notice> = Vec::new();
        for notice in pages::<Notice>(&cx, &Scope::All) {
            recent.push(notice?);
            if recent.len() > RECENT_MAX {
                recent.remove(0);
            }
        }
        let next_id = recent.last().map_or(1, |notice| notice.id + 1);
        Ok(NotifierState {
            cx,
            lease,
            next_id,
            recent,
            swept_at: None,
        })
    }

    async fn handle(
        &self,
        me: ActorRef<Self::Msg>,
        told: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let me = state.cx.notifier.own(me);
        match told.msg {
            NotifierMsg::Look => {
                state.cx.notices.nudge.heard();
                while let Some(news) = state.cx.notices.first() {
                    state.tell(news).await;
                    state.cx.notices.done();
                }
                state.sweep().await;
            }
            NotifierMsg::Due(row, reply) => answer(reply, state.call(me, row).await),
            NotifierMsg::Called(id, row, result) => state.called(id, row, result).await,
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _me: ActorRef<Self::Msg>,
        _event: SupervisionEvent,
        _state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        Ok(()) // It has no children.
    }
}

// === impl NotifierState ===

impl NotifierState {
    fn batch(&self) -> Batch {
        let mut batch = Batch::new();
        batch.by(&self.lease);
        batch
    }

    fn webhook(&self) -> Option<&str> {
        Some(self.cx.config.notifier.webhook_url.as_str()).filter(|url| !url.is_empty())
    }

    async fn tell(&mut self, news: News) {
        let News {
            tenant,
            code,
            subject,
            text,
        } = news;
        let now = self.cx.now();
        let muted = |old: &Notice| {
            old.code == code.name()
                && old.subject == subject
                && old.tenant == tenant
                && now.since(old.at) < MUTED_FOR
        };
        if self.recent.iter().any(muted) {
            return;
        }
        let told = self.webhook().is_none();
        let notice = Notice {
            id: self.next_id,
            tenant,
            code: code.name().to_owned(),
            text,
            subject,
            at: now,
            attempts: 0,
            state: if told {
                NoticeState::Told
            } else {
                NoticeState::Waiting
            },
            last_error: String::new(),
        };
        let mut batch = self.batch();
        batch.put_new(&notice);
        if !told {
            batch.put(&DueRow {
                at: now,
                work: DueWork::Notice(notice.id),
            });
        }
        match self.cx.store.commit(batch).await {
            Ok(_) => {
                self.next_id += 1;
                self.recent.push(notice);
                if self.recent.len() > RECENT_MAX {
                    self.recent.remove(0);
                }
            }
            Err(why) => tracing::error!(%why, code = code.name(), "a notice was not kept"),
        }
    }

    /// Removes notices that were told long ago. The latest stays: the next id follows from it. Dead letters
    /// stay for an operator.
    async fn sweep(&mut self) {
        let now = self.cx.now();
        if self.swept_at.is_some_and(|at| now.since(at) < SWEEP_EVERY) {
            return;
        }
        self.swept_at = Some(now);
        let latest = self.next_id - 1;
        let old: Result<Vec<Notice>, Refusal> = pages::<Notice>(&self.cx, &Scope::All)
            .take_while(|notice| {
                notice
                    .as_ref()
                    .map_or(true, |notice| now.since(notice.at) >= TOLD_KEPT)
            })
            .filter(|notice| {
                notice.as_ref().map_or(true, |notice| {
                    notice.state == NoticeState::Told && notice.id != latest
                })
            })
            .take(SWEEP_MAX)
            .collect();
        let removed = match old {
            Ok(old) if old.is_empty() => return,
            Ok(old) => {
                let mut batch = self.batch();
                for notice in old {
                    batch.remove::<Notice>(&notice.id);
                }
                self.cx.store.commit(batch).await.map_err(Refusal::from)
            }
            Err(why) => Err(why),
        };
        if let Err(why) = removed {
            tracing::warn!(%why, "old notices were not removed; they are tomorrow");
        }
    }

    async fn call(&mut self, me: Own<NotifierMsg>, row: DueRow) -> Result<(), Refusal> {
        let DueWork::Notice(id) = row.work else {
            return Err(Refusal::NotFound { what: "notice" });
        };
        let notice = self.cx.store.get::<Notice>(&id)?;
        let (Some(notice), Some(url)) = (
            notice.filter(|n| n.state == NoticeState::Waiting),
            self.webhook(),
        ) else {
            let mut batch = self.batch();
            batch.remove::<DueRow>(&(row.at, row.work));
            self.cx.store.commit(batch).await?;
            return Ok(());
        };
        // Moved before the call: should the outcome be lost, the notice comes up again by itself.
        let next = DueRow {
            at: self.cx.now().after(CALL_AGAIN),
            work: row.work.clone(),
        };
        let mut batch = self.batch();
        batch.remove::<DueRow>(&(row.at, row.work));
        batch.put(&next);
        self.cx.store.commit(batch).await?;
        let request = request(
            url,
            &notice,
            self.cx.config.notifier.webhook_secret.expose(),
        );
        let deadline = Duration::from_millis(self.cx.config.notifier.timeout_ms.into());
        let cx = Arc::clone(&self.cx);
        self.cx.spawn(async move {
            let result = match request {
                Ok(request) => match cx.ports.http.send(request, deadline).await {
                    Ok(answer) if answer.status().is_success() => Ok(()),
                    Ok(answer) => Err(format!("the webhook answered {}", answer.status())),
                    Err(why) => Err(why.to_string()),
                },
                Err(why) => Err(why),
            };
            // A notifier that is gone finds the row again.
            me.tell(NotifierMsg::Called(id, next, result));
        });
        Ok(())
    }

    async fn called(&mut self, id: u64, row: DueRow, result: Result<(), String>) {
        let label = if result.is_ok() { "told" } else { "failed" };
        self.cx
            .metrics
            .notices
            .get_or_create(&crate::metrics::ByOutcome { outcome: label })
            .inc();
        let Ok(Some(mut notice)) = self.cx.store.get::<Notice>(&id) else {
            return;
        };
        let mut batch = self.batch();
        batch.remove::<DueRow>(&(row.at, row.work.clone()));
        match result {
            Ok(()) => notice.state = NoticeState::Told,
            Err(why) => {
                notice.attempts += 1;
                notice.last_error = why.chars().take(ERROR_CHARS_MAX).collect();
                if notice.attempts >= self.cx.config.notifier.attempts_max {
                    notice.state = NoticeState::Dead;
                    tracing::error!(
                        notice = id,
                        why = notice.last_error,
                        "a notice is a dead letter now"
                    );
                } else {
                    let wait = RETRY_FIRST
                        .saturating_mul(2_u32.saturating_pow(notice.attempts - 1))
                        .min(RETRY_LONGEST);
                    batch.put(&DueRow {
                        at: self.cx.now().after(wait),
                        work: row.work,
                    });
                }
            }
        }
        batch.put(&notice);
        if let Err(why) = self.cx.store.commit(batch).await {
            tracing::error!(%why, notice = id, "the outcome of a call was not kept; it is made again");
        }
    }
}

/// The call: JSON, signed by HMAC-SHA-256 over its body when there is a secret.
fn request(
    url: &str,
    notice: &Notice,
    secret: Option<&str>,
) -> Result<http::Request<Bytes>, String> {
    let body = serde_json::json!({
        "id": notice.id,
        "code": notice.code,
        "subject": notice.subject,
        "text": notice.text,
        "tenant_id": notice.tenant.map(|tenant| tenant.to_string()),
        "at": notice.at.to_string(),
    })
    .to_string();
    let mut request = http::Request::post(url)
        .header("content-type", "application/json")
        .header("idempotency-key", format!("notice-{}", notice.id));
    if let Some(secret) = secret {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let signature = HEXLOWER.encode(hmac::sign(&key, body.as_bytes()).as_ref());
        request = request.header("x-inboxgrove-signature", format!("sha256={signature}"));
    }
    request
        .body(Bytes::from(body))
        .map_err(|why| format!("notifier.webhook_url: {why}"))
}
