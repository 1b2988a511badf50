//! The cache over the resolver: one question in flight per name and type, answers kept on policy time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{Shared, WeakShared},
};
use inboxgrove_model::{
    PolicyTime,
    ports::{BoxFuture, Clock, DnsAnswer, DnsError, RecordType},
};

use super::plain;

/// Answers kept. At some 300 bytes each this is 3 MiB.
const ENTRIES_MAX: usize = 10_000;
/// Longest time an answer is believed, whatever its TTL: a day (RFC 8767 §4 names a cap as good practice).
const TTL_MAX: Duration = Duration::from_hours(24);
/// Longest time an absence is believed: a person who adds a record wants to see it soon.
const NEGATIVE_TTL_MAX: Duration = Duration::from_mins(1);

type Key = (String, RecordType);
type Answer = Result<DnsAnswer, DnsError>;
type Flight = BoxFuture<'static, Answer>;

/// Answers and questions under way. Cheap to clone.
#[derive(Clone)]
pub(super) struct Cache {
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    answers: BTreeMap<Key, (PolicyTime, Answer)>,
    expiries: BTreeSet<(PolicyTime, Key)>,
    /// Weak: a question that nobody waits for any more is forgotten with its deadline.
    flights: BTreeMap<Key, WeakShared<Flight>>,
}

// === impl Cache ===

impl Cache {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            state: Arc::default(),
        }
    }

    /// The kept answer, or the one under way, or the one that `ask` brings.
    pub(super) async fn get_or_ask(
        &self,
        name: &str,
        kind: RecordType,
        ask: impl FnOnce() -> BoxFuture<'static, (Answer, Duration)>,
    ) -> Answer {
        let key = (plain(name), kind);
        let flight = {
            let mut state = self.lock();
            if let Some(answer) = state.fresh(&key, self.clock.policy()) {
                return answer;
            }
            match state.flights.get(&key).and_then(WeakShared::upgrade) {
                Some(flight) => flight,
                None => self.take_off(&mut state, key, ask()),
            }
        };
        flight.await
    }

    fn take_off(
        &self,
        state: &mut State,
        key: Key,
        asked: BoxFuture<'static, (Answer, Duration)>,
    ) -> Shared<Flight> {
        let cache = self.clone();
        let landing = key.clone();
        let flight = async move {
            let (answer, ttl) = asked.await;
            cache
                .lock()
                .land(landing, &answer, ttl, cache.clock.policy());
            answer
        };
        let flight = flight.boxed().shared();
        if let Some(weak) = flight.downgrade() {
            state.flights.insert(key, weak);
        }
        flight
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn fresh(&self, key: &Key, now: PolicyTime) -> Option<Answer> {
        let (until, answer) = self.answers.get(key)?;
        (now < *until).then(|| answer.clone())
    }

    /// Ends the flight and keeps what is worth keeping: never an answer that is unknown.
    fn land(&mut self, key: Key, answer: &Answer, ttl: Duration, now: PolicyTime) {
        self.flights.remove(&key);
        self.flights.retain(|_, flight| flight.upgrade().is_some());
        let ttl = match answer {
            Ok(_) => ttl.min(TTL_MAX),
            Err(why) if why.is_absence() => ttl.min(NEGATIVE_TTL_MAX),
            Err(_) => Duration::ZERO,
        };
        if ttl.is_zero() {
            return;
        }
        if let Some((was, _)) = self.answers.get(&key) {
            self.expiries.remove(&(*was, key.clone()));
        }
        while self.answers.len() >= ENTRIES_MAX {
            let Some((_, soonest)) = self.expiries.pop_first() else {
                break;
            };
            self.answers.remove(&soonest);
        }
        let until = now.after(ttl);
        self.expiries.insert((until, key.clone()));
        self.answers.insert(key, (until, answer.clone()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

    use inboxgrove_model::{WallTime, ports::RecordData};

    use super::*;

    #[derive(Default)]
    struct HandClock(AtomicI64);

    impl Clock for HandClock {
        fn policy(&self) -> PolicyTime {
            PolicyTime::from_millis(self.0.load(Ordering::Relaxed))
        }
        fn wall(&self) -> WallTime {
            WallTime::from_millis(0)
        }
        fn sleep_until(&self, _: PolicyTime) -> BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }
    }

    struct World {
        clock: Arc<HandClock>,
        cache: Cache,
        asked: Arc<AtomicUsize>,
    }

    impl World {
        fn new() -> Self {
            let clock = Arc::new(HandClock::default());
            Self {
                cache: Cache::new(clock.clone()),
                clock,
                asked: Arc::default(),
            }
        }

        async fn ask(&self, name: &str, answer: Answer, ttl_secs: u64) -> Answer {
            let asked = Arc::clone(&self.asked);
            self.cache
                .get_or_ask(name, RecordType::A, || {
                    Box::pin(async move {
                        asked.fetch_add(1, Ordering::Relaxed);
                        tokio::task::yield_now().await;
                        (answer, Duration::from_secs(ttl_secs))
                    })
                })
                .await
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "it stands beside the others")]
    fn found() -> Answer {
        Ok(DnsAnswer {
            records: vec![RecordData::A([192, 0, 2, 1].into())],
            ttl: Duration::from_mins(5),
            authentic: false,
        })
    }

    fn absent() -> Answer {
        Err(DnsError::NoSuchName {
            name: "a.example".into(),
        })
    }

    fn unknown() -> Answer {
        Err(DnsError::Unknown {
            name: "a.example".into(),
            kind: RecordType::A,
            why: "SERVFAIL".into(),
        })
    }

    #[tokio::test]
    async fn an_answer_is_kept_for_its_ttl_on_policy_time() {
        let world = World::new();
        for (at_secs, asked) in [(0, 1), (299, 1), (300, 2)] {
            world.clock.0.store(at_secs * 1000, Ordering::Relaxed);
            assert_eq!(world.ask("A.example.", found(), 300).await, found());
            assert_eq!(world.asked(), asked, "at {at_secs} s");
        }
    }

    #[tokio::test]
    async fn an_absence_is_kept_for_a_minute_at_most() {
        let world = World::new();
        for (at_secs, asked) in [(0, 1), (59, 1), (60, 2)] {
            world.clock.0.store(at_secs * 1000, Ordering::Relaxed);
            assert_eq!(world.ask("a.example", absent(), 86_400).await, absent());
            assert_eq!(world.asked(), asked, "at {at_secs} s");
        }
    }

    #[tokio::test]
    async fn what_is_unknown_is_asked_again() {
        let world = World::new();
        assert_eq!(world.ask("a.example", unknown(), 300).await, unknown());
        assert_eq!(world.ask("a.example", found(), 300).await, found());
        assert_eq!(world.asked(), 2);
    }

    #[tokio::test]
    async fn askers_at_one_time_share_one_question() {
        let world = World::new();
        let (one, two) = tokio::join!(
            world.ask("a.example", found(), 300),
            world.ask("a.example", found(), 300)
        );
        assert_eq!((one, two), (found(), found()));
        assert_eq!(world.asked(), 1);
    }

    #[tokio::test]
    async fn a_question_whose_asker_left_is_asked_afresh() {
        let world = World::new();
        {
            let mut left = Box::pin(world.ask("a.example", found(), 300));
            assert!((&mut left).now_or_never().is_none());
        }
        assert_eq!(world.ask("a.example", found(), 300).await, found());
        assert_eq!(world.asked(), 2);
    }

    #[test]
    fn the_cache_is_bounded() {
        let mut state = State::default();
        for i in 0..ENTRIES_MAX + 5 {
            state.land(
                (format!("{i}.example"), RecordType::A),
                &found(),
                Duration::from_mins(1),
                PolicyTime::from_millis(i64::try_from(i).unwrap()),
            );
        }
        assert_eq!(state.answers.len(), ENTRIES_MAX);
        assert_eq!(state.expiries.len(), ENTRIES_MAX);
        assert!(
            !state
                .answers
                .contains_key(&("0.example".into(), RecordType::A))
        );
    }
}
