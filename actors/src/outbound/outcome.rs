//! How an attempt ended, and what that means: for the recipient, its queue row, the counts, the event. Pure.

use inboxgrove_model::{
    EmailAddress, PolicyTime,
    event::EventKind,
    inbox::DayCounts,
    limits::REPLY_CHARS_MAX,
    message::{BounceClass, Message, QueueEntry, Recipient, RecipientState},
};
use inboxgrove_policy::{
    RetryRules,
    retry::{self, Cause},
};

/// The provider of an outcome whose server was forgotten.
const UNKNOWN: &str = "unknown";

/// How an attempt ended.
#[derive(Debug, Clone)]
pub(crate) enum Tried {
    /// The server took it.
    Delivered { provider: String, reply: String },
    /// Put off by a server's answer, or by the lack of one: an attempt was made.
    Deferred {
        provider: String,
        reply: String,
        cause: Cause,
        counted: bool,
    },
    /// Not tried, for a reason of our own (pace, a full budget, a fault of ours): costs no attempt.
    Waiting {
        provider: String,
        why: String,
        until: PolicyTime,
    },
    /// Its account may not send: it is kept, however long that lasts (a suspension never drops mail).
    Held { until: PolicyTime },
    /// Refused for good.
    Bounced {
        provider: String,
        reply: String,
        class: BounceClass,
    },
    /// Its address has come onto the suppression list since it was accepted.
    Suppressed,
    /// Lost after the final dot.
    Uncertain { provider: String, reply: String },
}

/// What an outcome means for its recipient.
pub(super) struct NextStep {
    pub(super) state: RecipientState,
    pub(super) attempts: u16,
    pub(super) due_at: Option<PolicyTime>,
}

/// The whole retry policy of outbound.
pub(super) fn next_step(
    entry: &QueueEntry,
    outcome: &Tried,
    now: PolicyTime,
    rules: &RetryRules,
) -> NextStep {
    let seed = u64::from_be_bytes(
        *entry
            .message
            .as_bytes()
            .last_chunk()
            .expect("an id has 16 bytes"),
    );
    let began = entry.attempts.saturating_add(1);
    let ended = |state| NextStep {
        state,
        attempts: began,
        due_at: None,
    };
    let again =
        |state, cause| match retry::next_attempt(began, entry.accepted_at, now, cause, seed, rules)
        {
            Some(wait) => NextStep {
                state,
                attempts: began,
                due_at: Some(now.after(wait)),
            },
            None => ended(RecipientState::Expired),
        };
    let not_tried = |state, due_at| NextStep {
        state,
        attempts: entry.attempts,
        due_at,
    };
    match outcome {
        Tried::Delivered { .. } => ended(RecipientState::Delivered),
        Tried::Bounced { class, .. } => ended(RecipientState::Bounced(*class)),
        Tried::Suppressed => not_tried(RecipientState::Suppressed, None),
        Tried::Uncertain { .. } => again(RecipientState::Uncertain, Cause::Uncertain),
        Tried::Deferred { cause, .. } => again(RecipientState::Queued, *cause),
        Tried::Waiting { .. } if now.since(entry.accepted_at) >= rules.age_max => {
            not_tried(RecipientState::Expired, None)
        }
        Tried::Held { until } | Tried::Waiting { until, .. } => {
            not_tried(RecipientState::Queued, Some(*until))
        }
    }
}

// === impl Tried ===

impl Tried {
    /// Nobody knows how it ended, nor at whose server.
    pub(super) fn uncertain(reply: String) -> Self {
        Self::Uncertain {
            provider: UNKNOWN.to_owned(),
            reply,
        }
    }

    /// The outcome behind the final state that a message's row has for a recipient. What expired waits `until`
    /// then, should the settings let it live longer by now. None of a state that no outcome makes final.
    pub(super) fn as_recorded(recipient: &Recipient, until: PolicyTime) -> Option<Self> {
        let (provider, reply) = (UNKNOWN.to_owned(), recipient.last_reply.clone());
        match recipient.state {
            RecipientState::Delivered => Some(Self::Delivered { provider, reply }),
            RecipientState::Bounced(class) => Some(Self::Bounced {
                provider,
                reply,
                class,
            }),
            RecipientState::Suppressed => Some(Self::Suppressed),
            RecipientState::Expired => Some(Self::Waiting {
                provider,
                why: reply,
                until,
            }),
            RecipientState::Queued
            | RecipientState::Attempting
            | RecipientState::Uncertain
            | RecipientState::Received => None,
        }
    }

    /// The words behind it, cut to what a row keeps.
    pub(super) fn reply(&self) -> String {
        let words = match self {
            Self::Delivered { reply, .. }
            | Self::Deferred { reply, .. }
            | Self::Bounced { reply, .. }
            | Self::Uncertain { reply, .. } => reply,
            Self::Waiting { why, .. } => why,
            Self::Held { .. } => "held: the account may not send now",
            Self::Suppressed => "the address is on the suppression list",
        };
        words.chars().take(REPLY_CHARS_MAX).collect()
    }

    /// Whose answer it was; `none` when nobody was asked.
    pub(super) fn provider(&self) -> &str {
        match self {
            Self::Delivered { provider, .. }
            | Self::Deferred { provider, .. }
            | Self::Waiting { provider, .. }
            | Self::Bounced { provider, .. }
            | Self::Uncertain { provider, .. } => provider,
            Self::Held { .. } | Self::Suppressed => "none",
        }
    }

    /// Its name in metrics.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Delivered { .. } => "delivered",
            Self::Deferred { counted: true, .. } => "deferred",
            Self::Deferred { .. } => "unreachable",
            Self::Waiting { .. } => "waiting",
            Self::Held { .. } => "held",
            Self::Bounced { .. } => "bounced",
            Self::Suppressed => "suppressed",
            Self::Uncertain { .. } => "uncertain",
        }
    }

    /// Whether people should see it in the message. A wait of our own changes nothing that they see.
    pub(super) fn is_seen(&self) -> bool {
        !matches!(self, Self::Waiting { .. } | Self::Held { .. })
    }

    pub(super) fn counts(&self) -> Option<DayCounts> {
        let none = DayCounts::default();
        match self {
            Self::Delivered { .. } => Some(DayCounts {
                delivered: 1,
                ..none
            }),
            Self::Deferred { counted: true, .. } => Some(DayCounts {
                deferred: 1,
                ..none
            }),
            Self::Bounced {
                class: BounceClass::Recipient,
                ..
            } => Some(DayCounts {
                bounced_recipient: 1,
                ..none
            }),
            Self::Bounced { .. } => Some(DayCounts {
                bounced_policy: 1,
                ..none
            }),
            _ => None,
        }
    }

    pub(super) fn event(
        &self,
        message: &Message,
        recipient: EmailAddress,
        next: &NextStep,
    ) -> Option<EventKind> {
        let (id, inbox) = (message.id, message.inbox);
        if next.state == RecipientState::Expired {
            return Some(EventKind::MessageExpired {
                message: id,
                inbox,
                recipient,
            });
        }
        let (reply, provider) = (self.reply(), self.provider().to_owned());
        match self {
            Self::Delivered { .. } => Some(EventKind::MessageDelivered {
                message: id,
                inbox,
                recipient,
                provider,
                reply,
            }),
            Self::Bounced { class, .. } => Some(EventKind::MessageBounced {
                message: id,
                inbox,
                recipient,
                provider,
                reply,
                class: *class,
            }),
            Self::Uncertain { .. } => Some(EventKind::MessageUncertain {
                message: id,
                inbox,
                recipient,
                provider,
            }),
            Self::Deferred { .. } => next.due_at.map(|next_at| EventKind::MessageDeferred {
                message: id,
                inbox,
                recipient,
                provider,
                reply,
                next_at,
            }),
            Self::Waiting { .. } | Self::Held { .. } | Self::Suppressed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use inboxgrove_model::{InboxId, MessageId, TenantId, message::MessageClass};

    use super::*;

    fn entry(attempts: u16) -> QueueEntry {
        QueueEntry {
            message: MessageId::from_bytes([1; 16]),
            recipient: 0,
            tenant: TenantId::from_bytes([2; 16]),
            inbox: InboxId::from_bytes([3; 16]),
            due_at: PolicyTime::from_millis(1_000),
            accepted_at: PolicyTime::from_millis(0),
            attempts,
            class: MessageClass::Person,
            attempting: true,
            source: None,
            held: false,
        }
    }

    fn deferred() -> Tried {
        Tried::Deferred {
            provider: "p".into(),
            reply: "451 later".into(),
            cause: Cause::Deferred,
            counted: true,
        }
    }

    fn step(attempts: u16, outcome: &Tried, now: i64) -> NextStep {
        next_step(
            &entry(attempts),
            outcome,
            PolicyTime::from_millis(now),
            &RetryRules::default(),
        )
    }

    #[test]
    fn what_is_settled_is_not_tried_again() {
        let delivered = Tried::Delivered {
            provider: "p".into(),
            reply: "250 ok".into(),
        };
        let bounced = Tried::Bounced {
            provider: "p".into(),
            reply: "550 no".into(),
            class: BounceClass::Recipient,
        };
        for outcome in [delivered, bounced] {
            let next = step(0, &outcome, 5_000);
            assert!(next.state.is_final() && next.due_at.is_none() && next.attempts == 1);
        }
        assert!(step(0, &Tried::Suppressed, 5_000).state.is_final());
    }

    #[test]
    fn what_a_row_has_recorded_settles_to_the_same_state() {
        let late = 6 * 86_400_000;
        let mut recipient = Recipient {
            address: "a@b.example".parse().expect("an address"),
            state: RecipientState::Queued,
            attempts: 9,
            last_reply: "what the server said".to_owned(),
        };
        for state in [
            RecipientState::Delivered,
            RecipientState::Bounced(BounceClass::Recipient),
            RecipientState::Bounced(BounceClass::Infrastructure),
            RecipientState::Bounced(BounceClass::Content),
            RecipientState::Suppressed,
            RecipientState::Expired,
        ] {
            recipient.state = state;
            let recorded = Tried::as_recorded(&recipient, PolicyTime::from_millis(late));
            let outcome = recorded.expect("a final state has an outcome");
            let next = step(9, &outcome, late);
            assert_eq!((next.state, next.due_at), (state, None));
        }
        for state in [
            RecipientState::Queued,
            RecipientState::Attempting,
            RecipientState::Uncertain,
            RecipientState::Received,
        ] {
            recipient.state = state;
            assert!(Tried::as_recorded(&recipient, PolicyTime::default()).is_none());
        }
    }

    #[test]
    fn a_wait_of_our_own_costs_no_attempt_and_ends_when_it_said() {
        let until = PolicyTime::from_millis(3_600_000);
        let waiting = Tried::Waiting {
            provider: "p".into(),
            why: "full".into(),
            until,
        };
        let next = step(2, &waiting, 5_000);
        assert_eq!(
            (next.state, next.attempts, next.due_at),
            (RecipientState::Queued, 2, Some(until))
        );
        assert!(!waiting.is_seen());
    }

    #[test]
    fn an_uncertain_recipient_is_tried_again_soon_and_stays_uncertain_meanwhile() {
        let outcome = Tried::Uncertain {
            provider: "p".into(),
            reply: "gone".into(),
        };
        let next = step(0, &outcome, 5_000);
        let wait = next
            .due_at
            .expect("again")
            .since(PolicyTime::from_millis(5_000));
        assert_eq!(next.state, RecipientState::Uncertain);
        assert!((240..=360).contains(&wait.as_secs()), "{wait:?}");
    }

    #[test]
    fn after_five_days_it_expires_unless_it_is_held() {
        let late = 6 * 86_400_000;
        let until = PolicyTime::from_millis(late).after(Duration::from_hours(1));
        assert_eq!(step(9, &deferred(), late).state, RecipientState::Expired);
        let waiting = Tried::Waiting {
            provider: "p".into(),
            why: "full".into(),
            until,
        };
        assert_eq!(step(9, &waiting, late).state, RecipientState::Expired);
        let held = step(9, &Tried::Held { until }, late);
        assert_eq!(
            (held.state, held.due_at),
            (RecipientState::Queued, Some(until))
        );
    }
}
