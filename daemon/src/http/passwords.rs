//! Passwords: argon2id on the blocking pool, one at a time, behind a bounded fair queue.
//!
//! A hash costs 19 MiB and some 30 ms of a core on purpose. So the queue is short, and beyond it a log-in
//! is refused with 429: a flood of log-ins may stop log-ins, never the daemon. An unknown user costs the
//! same as a wrong password. Hashes of bcrypt, as the former product made them, are taken and replaced.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version};
use inboxgrove_model::ports::{Blocking, Rng};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::problem::{ApiError, Code};

/// Log-ins that wait for their turn: at 30 ms each the last one waits a second.
const QUEUE_MAX: usize = 32;
/// What is told to those beyond the queue: it is empty again by then.
const RETRY: Duration = Duration::from_secs(2);
/// Most bytes of a password: longer ones only cost us.
pub(crate) const BYTES_MAX: usize = 256;
/// Most bytes of a password that bcrypt looks at.
const BCRYPT_BYTES_MAX: usize = 72;
/// Salt of the hash that is checked when there is no user; any will do.
const NOBODYS_SALT: &[u8; 16] = b"nobody has a key";

/// Hashes and checks passwords.
#[derive(Clone)]
pub struct Passwords {
    blocking: Arc<dyn Blocking>,
    rng: Arc<dyn Rng>,
    params: Params,
    turn: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

/// What a check showed.
pub(crate) struct Checked {
    /// Whether it is the password.
    pub(crate) good: bool,
    /// A newer hash to keep instead, when the one checked is of an older kind.
    pub(crate) upgrade: Option<SecretString>,
}

/// One who waits; dropping it makes room.
struct Waiting<'a>(&'a AtomicUsize);

// === impl Passwords ===

impl Passwords {
    /// With the memory (KiB), passes and lanes that the operator set.
    pub fn new(
        blocking: Arc<dyn Blocking>,
        rng: Arc<dyn Rng>,
        (memory_kib, passes, lanes): (u32, u32, u32),
    ) -> Result<Self, argon2::Error> {
        Ok(Self {
            blocking,
            rng,
            params: Params::new(memory_kib, passes, lanes, None)?,
            turn: Arc::new(Semaphore::new(1)),
            waiting: Arc::default(),
        })
    }

    /// The hash of a new password, as a PHC string.
    pub(crate) async fn hash(&self, password: SecretString) -> Result<SecretString, ApiError> {
        let (params, salt) = (self.params.clone(), self.salt());
        self.work(move || hash(params, &password, &salt)).await?
    }

    /// Whether this is the password of that hash; without a hash it never is, at the same cost.
    pub(crate) async fn check(
        &self,
        password: SecretString,
        known: Option<SecretString>,
    ) -> Result<Checked, ApiError> {
        let (params, salt) = (self.params.clone(), self.salt());
        self.work(move || check(params, &password, known.as_ref(), &salt))
            .await?
    }

    fn salt(&self) -> [u8; 16] {
        let mut salt = [0; 16];
        self.rng.fill(&mut salt);
        salt
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let _turn = self.wait_for_turn().await?;
        self.blocking
            .call(work)
            .await
            .ok_or_else(|| ApiError::internal("hashing a password panicked"))
    }

    async fn wait_for_turn(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        let _waiting = Waiting(&self.waiting);
        if before >= QUEUE_MAX {
            return Err(
                ApiError::new(Code::RateLimited, "Too many log-ins at once.").retry_after(RETRY),
            );
        }
        // The semaphore is fair: who came first goes first.
        Ok(self.turn.acquire().await.expect("nobody closes it"))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

// === free functions ===

/// What is wrong with a password that somebody wants to use, if anything.
pub(crate) fn weakness(password: &SecretString, email: &str, chars_min: usize) -> Option<String> {
    let text = password.expose_secret();
    if text.chars().count() < chars_min {
        return Some(format!("expected at least {chars_min} characters"));
    }
    if text.len() > BYTES_MAX {
        return Some("expected at most 256 bytes".to_owned());
    }
    if text.eq_ignore_ascii_case(email) {
        return Some("it is the e-mail address".to_owned());
    }
    let first = text.chars().next();
    if text.chars().all(|c| Some(c) == first) {
        return Some("it is one character, repeated".to_owned());
    }
    None
}

fn hash(params: Params, password: &SecretString, salt: &[u8]) -> Result<SecretString, ApiError> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_with_salt(password.expose_secret().as_bytes(), salt)
        .map(|hash| SecretString::from(hash.to_string()))
        .map_err(ApiError::internal)
}

fn check(
    params: Params,
    password: &SecretString,
    known: Option<&SecretString>,
    salt: &[u8],
) -> Result<Checked, ApiError> {
    let Some(known) = known else {
        hash(params, password, NOBODYS_SALT)?;
        return Ok(Checked {
            good: false,
            upgrade: None,
        });
    };
    let text = known.expose_secret();
    if is_bcrypt(text) {
        return check_imported(params, password, text, salt);
    }
    let known = PasswordHash::new(text).map_err(ApiError::internal)?;
    let good = Argon2::default()
        .verify_password(password.expose_secret().as_bytes(), &known)
        .is_ok();
    let upgrade = if good && !is_current(&known, &params) {
        Some(hash(params, password, salt)?)
    } else {
        None
    };
    Ok(Checked { good, upgrade })
}

/// A hash of bcrypt. Right or wrong, it costs a hash of ours beside, so that the time does not tell.
fn check_imported(
    params: Params,
    password: &SecretString,
    known: &str,
    salt: &[u8],
) -> Result<Checked, ApiError> {
    let good = bcrypt::verify(password.expose_secret(), known).map_err(ApiError::internal)?;
    let ours = hash(params, password, salt)?;
    // bcrypt saw no more than this: what came behind it was never checked, so it is not kept.
    let whole = password.expose_secret().len() <= BCRYPT_BYTES_MAX;
    Ok(Checked {
        good,
        upgrade: (good && whole).then_some(ours),
    })
}

/// `$2a$`, `$2b$`, `$2x$`, `$2y$`.
fn is_bcrypt(hash: &str) -> bool {
    hash.len() == 60 && hash.starts_with("$2")
}

fn is_current(known: &PasswordHash, params: &Params) -> bool {
    known.algorithm.as_str() == "argon2id"
        && Params::try_from(known).is_ok_and(|found| {
            found.m_cost() == params.m_cost() && found.t_cost() == params.t_cost()
        })
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::ports::BoxFuture;

    use super::*;

    struct Inline;
    impl Blocking for Inline {
        fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
            Box::pin(async move {
                tokio::task::yield_now().await;
                work();
            })
        }
    }

    struct Ones;
    impl Rng for Ones {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(1);
        }
    }

    fn cheap(memory_kib: u32) -> Passwords {
        Passwords::new(Arc::new(Inline), Arc::new(Ones), (memory_kib, 1, 1)).unwrap()
    }

    fn secret(text: &str) -> SecretString {
        SecretString::from(text.to_owned())
    }

    #[tokio::test]
    async fn the_right_password_is_good_and_no_other() {
        let passwords = cheap(8);
        let known = passwords.hash(secret("correct horse")).await.unwrap();
        assert!(
            known
                .expose_secret()
                .starts_with("$argon2id$v=19$m=8,t=1,p=1$")
        );
        for (given, good) in [
            ("correct horse", true),
            ("correct horsf", false),
            ("", false),
        ] {
            let checked = passwords
                .check(secret(given), Some(known.clone()))
                .await
                .unwrap();
            assert_eq!(checked.good, good, "{given:?}");
            assert!(checked.upgrade.is_none());
        }
        assert!(!passwords.check(secret("x"), None).await.unwrap().good);
    }

    #[tokio::test]
    async fn older_hashes_are_taken_and_replaced() {
        let passwords = cheap(16);
        let weaker = cheap(8).hash(secret("correct horse")).await.unwrap();
        let imported = secret(&bcrypt::hash("correct horse", 4).unwrap());
        for known in [weaker, imported] {
            let checked = passwords
                .check(secret("correct horse"), Some(known.clone()))
                .await
                .unwrap();
            let upgrade = checked.upgrade.expect("an older hash is replaced");
            assert!(upgrade.expose_secret().contains("m=16"));
            let wrong = passwords
                .check(secret("wrong horse"), Some(known))
                .await
                .unwrap();
            assert!(!wrong.good && wrong.upgrade.is_none());
        }
    }

    #[tokio::test]
    async fn what_bcrypt_never_saw_is_not_kept() {
        let seen = "correct horse ".repeat(6)[..72].to_owned();
        let known = secret(&bcrypt::hash(&seen, 4).unwrap());
        for (given, upgraded) in [(seen.clone(), true), (format!("{seen}and more"), false)] {
            let checked = cheap(8)
                .check(secret(&given), Some(known.clone()))
                .await
                .unwrap();
            assert!(checked.good);
            assert_eq!(checked.upgrade.is_some(), upgraded, "{given}");
        }
    }

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let passwords = cheap(8);
        let all = (0..QUEUE_MAX + 8).map(|_| passwords.hash(secret("correct horse")));
        let done = futures_util::future::join_all(all).await;
        let refused = done.iter().filter(|result| result.is_err()).count();
        assert!(refused > 0 && refused <= 8, "{refused} were refused");
        assert!(passwords.hash(secret("correct horse")).await.is_ok());
    }

    #[test]
    fn weak_passwords_are_named() {
        for (text, weak) in [
            ("short", true),
            ("aaaaaaaaaaaa", true),
            ("Ada@Example.com", true),
            ("correct horse", false),
            ("пароль с пробелами", false),
        ] {
            assert_eq!(
                weakness(&secret(text), "ada@example.com", 8).is_some(),
                weak,
                "{text}"
            );
        }
        assert!(weakness(&secret(&"ab".repeat(200)), "a@b.c", 8).is_some());
    }
}
