//! What signs for a domain. A message is signed once for all its recipients and for tries that follow soon, as by a
//! mail server that signs what it takes in: an RSA signature costs more than everything else of an attempt.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use inboxgrove_mail::dkim::{SignError, Signer};
use inboxgrove_model::message::BodyRef;

/// Signatures that are kept for each domain, at some 1.1 KB each.
const SIGNATURES_MAX: usize = 4;
/// How old a signature may be when it goes out. Far below any age at which a receiver would wonder.
const SIGNED_WITHIN_SECS: i64 = 3600;

/// The keys of a domain, parsed, and what they signed last.
pub(crate) struct Signatory {
    signer: Signer,
    /// The oldest first.
    made: Mutex<VecDeque<Made>>,
}

/// Signatures over one text.
struct Made {
    text: BodyRef,
    at_secs: i64,
    headers: Bytes,
}

// === impl Signatory ===

impl Signatory {
    /// It has signed nothing yet.
    pub(crate) fn new(signer: Signer) -> Self {
        Self {
            signer,
            made: Mutex::default(),
        }
    }

    /// The signatures that it has made over this text, if that was not long ago. None from the future: somebody has set
    /// the clock back, and a receiver would not believe them.
    pub(crate) fn lately(&self, text: BodyRef, now_secs: i64) -> Option<Bytes> {
        let fresh = now_secs.saturating_sub(SIGNED_WITHIN_SECS)..=now_secs;
        let made = self.lock();
        let made = made
            .iter()
            .find(|made| made.text == text && fresh.contains(&made.at_secs));
        made.map(|made| made.headers.clone())
    }

    /// The header fields to put before the text, whose bytes are `message`. CPU work, about a millisecond.
    pub(crate) fn sign(
        &self,
        text: BodyRef,
        message: &[u8],
        now_secs: i64,
    ) -> Result<Bytes, SignError> {
        let headers = Bytes::from(self.signer.sign(message, now_secs)?);
        let mut made = self.lock();
        made.retain(|made| made.text != text);
        if made.len() >= SIGNATURES_MAX {
            made.pop_front();
        }
        made.push_back(Made {
            text,
            at_secs: now_secs,
            headers: headers.clone(),
        });
        Ok(headers)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Made>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use inboxgrove_mail::dkim::PrivateKey;
    use inboxgrove_model::{DomainName, domain::DkimAlgorithm};

    use super::*;

    const NOW: i64 = 1_800_000_000;
    const MESSAGE: &[u8] = b"From: ann@grove.test\r\n\r\nHello.\r\n";

    fn signatory() -> Signatory {
        let domain = DomainName::parse("grove.test").expect("a name");
        let key = PrivateKey::generate(DkimAlgorithm::Ed25519).expect("a key");
        let keys = vec![("ig2".to_owned(), domain, key)];
        Signatory::new(Signer::new(keys).expect("a selector"))
    }

    fn text(seq: u64) -> BodyRef {
        BodyRef {
            seq,
            index: 0,
            size: 32,
        }
    }

    #[test]
    fn a_text_is_signed_once_for_an_hour() {
        let signatory = signatory();
        assert_eq!(signatory.lately(text(1), NOW), None);
        let first = signatory.sign(text(1), MESSAGE, NOW).expect("signed");
        for (now, kept) in [(NOW, true), (NOW + 3600, true), (NOW + 3601, false)] {
            assert_eq!(signatory.lately(text(1), now).is_some(), kept, "{now}");
        }
        assert_eq!(signatory.lately(text(1), NOW), Some(first));
        assert_eq!(signatory.lately(text(2), NOW), None, "another text");
        assert_eq!(
            signatory.lately(text(1), NOW - 1),
            None,
            "a clock that was set back"
        );
    }

    #[test]
    fn few_are_kept_and_each_text_once() {
        let signatory = signatory();
        for seq in [1, 2, 3, 3, 4, 5] {
            let at = NOW + i64::try_from(seq).expect("small");
            signatory.sign(text(seq), MESSAGE, at).expect("signed");
        }
        let kept = |seq| signatory.lately(text(seq), NOW + 9).is_some();
        assert_eq!(
            [1, 2, 3, 4, 5].map(kept),
            [false, true, true, true, true],
            "the oldest went"
        );
    }
}
