//! The bound of a mailbox: ractor's own have none, so places are counted where letters are sent.
//!
//! A service actor stands behind a [`Door`], which lets in so many letters of others at once and refuses the
//! next one. What an actor is told by its own tasks comes through [`Own`], without a limit: their number is
//! bounded where they are started, and an outcome that is turned away is lost work.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use ractor::{ActorCell, ActorRef, ActorStatus};
use tokio::sync::oneshot;

use crate::{
    context::{Reply, answer_of},
    refusal::{RETRY_BUSY, Refusal},
};

/// What lies in a mailbox, and what was ever taken out of it.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    depth: AtomicUsize,
    handled: AtomicU64,
    /// What was handled at the last mark and at the one before.
    marks: [AtomicU64; 2],
}

/// A letter's place in a mailbox, until it is handled.
#[derive(Debug)]
pub(crate) struct Place {
    mailbox: Arc<Mailbox>,
}

/// A letter in the mailbox of a service, with its place.
pub(crate) struct Told<M> {
    pub(crate) msg: M,
    _place: Place,
}

/// The door to a service actor. It stays when the actor behind it is restarted.
pub(crate) struct Door<M: Send + 'static> {
    who: &'static str,
    letters_max: usize,
    mailbox: Arc<Mailbox>,
    behind: RwLock<Option<ActorRef<Told<M>>>>,
}

/// How a service's own tasks reach it.
pub(crate) struct Own<M: Send + 'static> {
    actor: ActorRef<Told<M>>,
    mailbox: Arc<Mailbox>,
}

// === impl Mailbox ===

impl Mailbox {
    /// A place, unless so many are taken.
    pub(crate) fn take(self: &Arc<Self>, letters_max: usize) -> Option<Place> {
        let room = |depth| (depth < letters_max).then_some(depth + 1);
        self.depth
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, room)
            .ok()?;
        Some(Place {
            mailbox: Arc::clone(self),
        })
    }

    /// A place for what is bounded elsewhere.
    pub(crate) fn own(self: &Arc<Self>) -> Place {
        self.depth.fetch_add(1, Ordering::AcqRel);
        Place {
            mailbox: Arc::clone(self),
        }
    }

    /// Letters that lie there now.
    pub(crate) fn depth(&self) -> usize {
        self.depth.load(Ordering::Acquire)
    }

    /// Letters that were handled since the mark before the last one.
    pub(crate) fn recent(&self) -> u64 {
        let before = self.marks[1].load(Ordering::Relaxed);
        self.handled.load(Ordering::Relaxed).saturating_sub(before)
    }

    /// Marks what was handled so far. One at a time.
    pub(crate) fn mark(&self) {
        let last = self.marks[0].swap(self.handled.load(Ordering::Relaxed), Ordering::Relaxed);
        self.marks[1].store(last, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.mailbox.depth.fetch_sub(1, Ordering::AcqRel);
        self.mailbox.handled.fetch_add(1, Ordering::Relaxed);
    }
}

// === impl Door ===

impl<M: Send + 'static> Door<M> {
    /// A door with nobody behind it.
    pub(crate) fn shut(who: &'static str, letters_max: usize) -> Self {
        Self {
            who,
            letters_max,
            mailbox: Arc::default(),
            behind: RwLock::new(None),
        }
    }

    /// Puts an actor behind the door, or nobody.
    pub(crate) fn put(&self, actor: Option<ActorRef<Told<M>>>) {
        *self.behind.write().unwrap_or_else(PoisonError::into_inner) = actor;
    }

    /// Who stands behind it now.
    fn actor(&self) -> Option<ActorRef<Told<M>>> {
        self.behind
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether somebody who is alive stands behind it.
    pub(crate) fn is_open(&self) -> bool {
        let alive = |actor: ActorRef<Told<M>>| {
            matches!(
                actor.get_status(),
                ActorStatus::Running | ActorStatus::Starting
            )
        };
        self.actor().is_some_and(alive)
    }

    /// What lies behind it.
    pub(crate) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// The way of the actor's own tasks to it.
    pub(crate) fn own(&self, actor: ActorRef<Told<M>>) -> Own<M> {
        Own {
            actor,
            mailbox: Arc::clone(&self.mailbox),
        }
    }

    /// Hands a message in, or says why not. A message that is let in is lost when the actor dies before it
    /// comes to it; whoever cares finds the work again in the store.
    pub(crate) fn tell(&self, msg: M) -> Result<(), Refusal> {
        let place = self.mailbox.take(self.letters_max).ok_or(Refusal::Busy {
            what: self.who,
            retry_after: RETRY_BUSY,
        })?;
        let told = Told { msg, _place: place };
        match self.actor().map(|actor| actor.send_message(told)) {
            Some(Ok(())) => Ok(()),
            _ => Err(Refusal::Unavailable {
                why: format!("{} is not running", self.who),
            }),
        }
    }

    /// Asks, and waits for [`crate::context::CALL_TIMEOUT`] at most.
    pub(crate) async fn ask<T>(&self, question: impl FnOnce(Reply<T>) -> M) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.tell(question(reply))?;
        answer_of(self.who, answer).await
    }
}

// === impl Own ===

impl<M: Send + 'static> Own<M> {
    /// Tells. `false` when the actor is gone: its successor, or a restart, finds the work in the store.
    pub(crate) fn tell(&self, msg: M) -> bool {
        let told = Told {
            msg,
            _place: self.mailbox.own(),
        };
        self.actor.send_message(told).is_ok()
    }

    /// Ends the actor, as a failure: a supervisor takes every stop with a reason for one.
    pub(crate) fn stop(&self, why: String) {
        self.actor.stop(Some(why));
    }

    /// For whom it supervises.
    pub(crate) fn cell(&self) -> ActorCell {
        self.actor.get_cell()
    }
}

impl<M: Send + 'static> Clone for Own<M> {
    fn clone(&self) -> Self {
        Self {
            actor: self.actor.clone(),
            mailbox: Arc::clone(&self.mailbox),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_beyond_the_last_is_refused_and_comes_back() {
        let mailbox = Arc::new(Mailbox::default());
        let first = mailbox.take(2);
        let second = mailbox.take(2);
        assert!(first.is_some() && second.is_some());
        assert!(mailbox.take(2).is_none());
        assert_eq!(mailbox.depth(), 2);
        let own = mailbox.own();
        assert_eq!(mailbox.depth(), 3, "what is bounded elsewhere always fits");
        drop((first, second, own));
        assert_eq!(mailbox.depth(), 0);
        assert!(mailbox.take(1).is_some());
    }

    #[test]
    fn what_is_recent_was_handled_between_the_last_two_marks_or_since() {
        let mailbox = Arc::new(Mailbox::default());
        drop(mailbox.own());
        assert_eq!(mailbox.recent(), 1);
        mailbox.mark();
        drop(mailbox.own());
        assert_eq!(mailbox.recent(), 2);
        mailbox.mark();
        assert_eq!(mailbox.recent(), 1);
        mailbox.mark();
        assert_eq!(mailbox.recent(), 0);
    }
}
