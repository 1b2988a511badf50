//! Nothing is sent twice outside the window in which nobody can know whether it was sent.
//!
//! The window: a server took a message for a recipient, and before the client said anything more on that connection
//! (so before it had surely seen the answer) the connection ended; or, before the outcome could be on disk, the run
//! of the daemon ended. Each such end allows the message to be sent once more, no more.

use std::{collections::BTreeMap, net::IpAddr};

use inboxgrove_model::event::{EventKind, LoggedEvent};

use super::Inspection;
use crate::virtual_world::wire::Heard;

/// A message's local part of its `Message-ID`, and one of its recipients.
type Delivery = (String, String);

impl Inspection<'_> {
    /// A server takes a message for a recipient once, and once more for every time that nobody could know.
    pub(super) fn nothing_arrives_twice(&mut self, events: &[LoggedEvent]) {
        let mut uncertain: BTreeMap<Delivery, usize> = BTreeMap::new();
        let mut delivered: Vec<Delivery> = Vec::new();
        for logged in events {
            match &logged.event.kind {
                EventKind::MessageUncertain {
                    message, recipient, ..
                } => {
                    *uncertain
                        .entry((message.to_string(), recipient.key()))
                        .or_default() += 1;
                }
                EventKind::MessageDelivered {
                    message, recipient, ..
                } => delivered.push((message.to_string(), recipient.key())),
                _ => {}
            }
        }
        let taken = self.taken();
        for (what, places) in &taken {
            let (times, known) = (places.len(), uncertain.get(what).copied().unwrap_or(0));
            // An attempt that a crash cut off is called uncertain when the daemon is up again.
            self.demand(times <= known + 1, || {
                format!(
                    "{} arrived {times} times at {} and was uncertain {known} times",
                    what.0, what.1
                )
            });
            let heard = self.scene.heard;
            for pair in places.windows(2) {
                let &[one, next] = pair else { continue };
                self.demand(nobody_could_know(heard, one, next), || {
                    format!(
                        "{} was sent to {} again at {}, though its answer had been seen and no run had ended",
                        what.0, what.1, heard.transmissions[next].began_at
                    )
                });
            }
        }
        for what in &delivered {
            self.demand(taken.contains_key(what), || {
                format!(
                    "{} is called delivered to {}, and no server took it",
                    what.0, what.1
                )
            });
        }
    }

    /// Which transmissions of ours servers took, by what and for whom.
    fn taken(&self) -> BTreeMap<Delivery, Vec<usize>> {
        let sources: Vec<IpAddr> = self
            .scene
            .config
            .outbound
            .sources
            .iter()
            .map(|source| source.address)
            .collect();
        let mut taken: BTreeMap<Delivery, Vec<usize>> = BTreeMap::new();
        for (place, out) in self.scene.heard.transmissions.iter().enumerate() {
            if out.answer != Some(250) || !sources.contains(&out.from) {
                continue;
            }
            let id = out.message_id.split('@').next().unwrap_or_default();
            for recipient in &out.recipients {
                let key = (id.to_owned(), recipient.clone());
                taken.entry(key).or_default().push(place);
            }
        }
        taken
    }
}

/// Whether between these two transmissions something happened after which nobody could know of the first.
fn nobody_could_know(heard: &Heard, one: usize, next: usize) -> bool {
    let ended = heard.ends.iter().any(|end| (one + 1..=next).contains(end));
    ended || !heard.transmissions[one].answer_seen
}
