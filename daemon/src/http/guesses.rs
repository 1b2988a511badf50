//! How many passwords may be guessed: failed log-ins per account, and per account and address.
//!
//! A guess is counted before its hash is made, so that guesses at once cannot outrun the count, and given
//! back when it was right. What is asked for need not exist: an account that never was is limited too, so
//! the limit tells nothing. Both tables are hashed with a secret into a fixed number of places.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use inboxgrove_model::ports::Rng;
use tokio::time::Instant;

use super::{
    problem::{ApiError, Code},
    server::customer_of,
};

/// A place of a table: 65,536 of some 30 bytes are 2 MB at most.
type Place = u16;

/// Wrong passwords of an account, from anywhere: nobody mistypes so often, and 2,400 guesses a day find
/// no password of eight characters.
const OF_ACCOUNT: (u32, Duration) = (100, Duration::from_hours(1));
/// Wrong passwords of an account from one address.
const OF_PAIR: (u32, Duration) = (10, Duration::from_mins(15));

/// Counts wrong passwords.
pub(crate) struct Guesses {
    seed: u64,
    accounts: Table,
    pairs: Table,
}

/// A guess that counts as wrong until it is forgiven.
#[derive(Debug)]
pub(crate) struct Guess {
    account: Place,
    pair: Option<Place>,
}

/// Leaky buckets: each is full until the time that stands here.
struct Table {
    burst: u32,
    each: Duration,
    full_until: Mutex<BTreeMap<Place, Instant>>,
}

// === impl Guesses ===

impl Guesses {
    pub(crate) fn new(rng: &(dyn Rng + 'static)) -> Self {
        Self {
            seed: rng.next_u64(),
            accounts: Table::new(OF_ACCOUNT),
            pairs: Table::new(OF_PAIR),
        }
    }

    /// Counts a guess at the password of `account`, unless too many were wrong.
    pub(crate) fn begin(&self, account: &str, from: Option<IpAddr>) -> Result<Guess, ApiError> {
        let guess = Guess {
            account: self.place(account),
            pair: from.map(|ip| self.place((account, customer_of(ip)))),
        };
        if let Some(pair) = guess.pair {
            self.pairs.take(pair).map_err(refused)?;
        }
        if let Err(wait) = self.accounts.take(guess.account) {
            if let Some(pair) = guess.pair {
                self.pairs.give_back(pair);
            }
            return Err(refused(wait));
        }
        Ok(guess)
    }

    /// It was right, or nobody looked at it.
    pub(crate) fn forgive(&self, guess: &Guess) {
        self.accounts.give_back(guess.account);
        if let Some(pair) = guess.pair {
            self.pairs.give_back(pair);
        }
    }

    fn place(&self, who: impl Hash) -> Place {
        let mut hasher = DefaultHasher::new();
        self.seed.hash(&mut hasher);
        who.hash(&mut hasher);
        Place::try_from(hasher.finish() >> 48).expect("16 bits are left")
    }
}

// === impl Table ===

impl Table {
    fn new((burst, per): (u32, Duration)) -> Self {
        Self {
            burst,
            each: per / burst,
            full_until: Mutex::default(),
        }
    }

    /// Takes one, or says how long to wait for it.
    fn take(&self, place: Place) -> Result<(), Duration> {
        let now = Instant::now();
        let mut table = self
            .full_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let until = table.entry(place).or_insert(now);
        *until = (*until).max(now);
        let room = self.each * (self.burst - 1);
        let wait = until.duration_since(now).saturating_sub(room);
        if !wait.is_zero() {
            return Err(wait);
        }
        *until += self.each;
        Ok(())
    }

    fn give_back(&self, place: Place) {
        let mut table = self
            .full_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = table.get_mut(&place) {
            *until -= self.each;
        }
    }
}

// === free functions ===

fn refused(wait: Duration) -> ApiError {
    ApiError::new(
        Code::RateLimited,
        "Too many wrong passwords. Come back later.",
    )
    .retry_after(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ones;
    impl Rng for Ones {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(1);
        }
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[tokio::test(start_paused = true)]
    async fn ten_wrong_passwords_from_one_address_are_enough() {
        let guesses = Guesses::new(&Ones);
        for _ in 0..10 {
            guesses.begin("ada", Some(ip(1))).unwrap();
        }
        let refused = guesses.begin("ada", Some(ip(1))).unwrap_err();
        assert_eq!(refused.code(), Code::RateLimited);
        assert!(guesses.begin("ada", Some(ip(2))).is_ok());
        assert!(guesses.begin("eve", Some(ip(1))).is_ok());
        tokio::time::advance(Duration::from_secs(91)).await;
        assert!(guesses.begin("ada", Some(ip(1))).is_ok());
        assert!(guesses.begin("ada", Some(ip(1))).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_customer_with_many_addresses_counts_as_one() {
        let guesses = Guesses::new(&Ones);
        let at = |net: u16, host: u16| Some(IpAddr::from([0x2001, 0xdb8, 0, net, 0, 0, 0, host]));
        for host in 0..10 {
            guesses.begin("ada", at(1, host)).unwrap();
        }
        assert!(guesses.begin("ada", at(1, 99)).is_err());
        assert!(guesses.begin("ada", at(2, 99)).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_from_anywhere_are_enough() {
        let guesses = Guesses::new(&Ones);
        for n in 0..100 {
            guesses.begin("ada", Some(ip(n))).unwrap();
        }
        assert!(guesses.begin("ada", Some(ip(200))).is_err());
        assert!(guesses.begin("ada", None).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn right_passwords_are_not_counted() {
        let guesses = Guesses::new(&Ones);
        for _ in 0..1000 {
            let guess = guesses.begin("ada", Some(ip(1))).unwrap();
            guesses.forgive(&guess);
        }
    }
}
