//! Access tokens (JWT, EdDSA, 15 minutes) and refresh tokens (opaque, 256 bits, rotated at each use).
//!
//! An access token only names its session: whether that session still holds, what its user may do and
//! whether the account is suspended is read from committed rows at each request, so that a revocation
//! works at once.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64URL_NOPAD;
use inboxgrove_model::{SessionId, TenantId, UserId, WallTime, ports::Rng};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    keys::EdgeKeys,
    problem::{ApiError, Code},
    verified::{Signed, Verified},
};

/// `typ` of an access token (RFC 9068 §2.1).
const ACCESS_TYPE: &str = "at+jwt";
/// What a refresh token starts with, so that scanners for leaked secrets know it.
const REFRESH_PREFIX: &str = "igr_";
/// Bytes of a refresh token: tenant, session, secret.
const REFRESH_LEN: usize = 16 + 16 + 32;
/// Longest token that is looked at.
const TOKEN_LEN_MAX: usize = 2048;

/// Makes and checks tokens.
pub struct Tokens {
    sign: EncodingKey,
    verify: DecodingKey,
    key_id: String,
    rules: TokenRules,
    verified: Verified,
}

/// What tokens say, and how strictly they are read.
#[derive(Debug, Clone)]
pub struct TokenRules {
    /// Who issues them.
    pub issuer: String,
    /// Whom they are for.
    pub audience: String,
    /// How far clocks may differ.
    pub leeway: Duration,
    /// How long they live.
    pub lifetimes: Lifetimes,
}

/// How long tokens live.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// Access tokens.
    pub access: Duration,
    /// Refresh tokens, counted anew at each rotation.
    pub refresh: Duration,
}

/// Whom an access token names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) tenant: TenantId,
    pub(crate) user: UserId,
    pub(crate) session: SessionId,
    /// When the token ends.
    pub(crate) expires_at: WallTime,
}

/// The secret half of a refresh token, before its session has an id.
pub(crate) struct RefreshSecret(Zeroizing<[u8; 32]>);

/// A refresh token taken apart.
pub(crate) struct RefreshToken {
    pub(crate) tenant: TenantId,
    pub(crate) session: SessionId,
    pub(crate) secret: RefreshSecret,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    ten: String,
    sid: String,
    jti: String,
    iat: i64,
    nbf: i64,
    exp: i64,
}

// === impl Lifetimes ===

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            access: Duration::from_mins(15),
            refresh: Duration::from_hours(7 * 24),
        }
    }
}

// === impl TokenRules ===

impl Default for TokenRules {
    fn default() -> Self {
        Self {
            issuer: "inboxgrove".to_owned(),
            audience: "inboxgrove-api".to_owned(),
            leeway: Duration::from_secs(30),
            lifetimes: Lifetimes::default(),
        }
    }
}

// === impl Tokens ===

impl Tokens {
    /// Tokens of this installation.
    pub fn new(keys: &EdgeKeys, rules: TokenRules) -> Self {
        Self {
            sign: keys.sign.clone(),
            verify: keys.verify.clone(),
            key_id: keys.key_id.clone(),
            rules,
            verified: Verified::new(),
        }
    }

    /// How long they live.
    pub fn lifetimes(&self) -> Lifetimes {
        self.rules.lifetimes
    }

    /// A fresh access token for a session.
    pub(crate) fn access(
        &self,
        (tenant, user, session): (TenantId, UserId, SessionId),
        now: WallTime,
        rng: &dyn Rng,
    ) -> Result<SecretString, ApiError> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(ACCESS_TYPE.to_owned());
        header.kid = Some(self.key_id.clone());
        let mut nonce = [0; 16];
        rng.fill(&mut nonce);
        let claims = Claims {
            iss: self.rules.issuer.clone(),
            aud: self.rules.audience.clone(),
            sub: user.to_string(),
            ten: tenant.to_string(),
            sid: session.to_string(),
            jti: BASE64URL_NOPAD.encode(&nonce),
            iat: now.as_secs(),
            nbf: now.as_secs(),
            exp: now.after(self.rules.lifetimes.access).as_secs(),
        };
        jsonwebtoken::encode(&header, &claims, &self.sign)
            .map(SecretString::from)
            .map_err(ApiError::internal)
    }

    /// Whom a token names, when it is ours, whole and in time.
    pub(crate) fn check(&self, token: &str, now: WallTime) -> Result<Bearer, ApiError> {
        if token.len() > TOKEN_LEN_MAX {
            return Err(invalid("too long"));
        }
        let hash = sha256(token.as_bytes());
        let signed = if let Some(signed) = self.verified.get(&hash) {
            signed
        } else {
            let signed = self.verify(token)?;
            self.verified.keep(hash, signed);
            signed
        };
        in_time(&signed, now, self.rules.leeway)?;
        Ok(signed.bearer)
    }

    /// What the token says, when its signature and its words are ours.
    fn verify(&self, token: &str) -> Result<Signed, ApiError> {
        // The key decides on the algorithm; the header only has to agree.
        let mut wanted = Validation::new(Algorithm::EdDSA);
        wanted.set_audience(&[&self.rules.audience]);
        wanted.set_issuer(&[&self.rules.issuer]);
        wanted.set_required_spec_claims(&["exp", "nbf", "aud", "iss", "sub"]);
        // Time is checked at each use, against the clock port.
        wanted.validate_exp = false;
        wanted.validate_nbf = false;
        let found =
            jsonwebtoken::decode::<Claims>(token, &self.verify, &wanted).map_err(invalid)?;
        if found.header.typ.as_deref() != Some(ACCESS_TYPE) {
            return Err(invalid("another typ"));
        }
        if found.header.kid.as_deref() != Some(self.key_id.as_str()) {
            return Err(invalid("another kid"));
        }
        let claims = found.claims;
        let bearer = Bearer {
            tenant: claims.ten.parse().map_err(invalid)?,
            user: claims.sub.parse().map_err(invalid)?,
            session: claims.sid.parse().map_err(invalid)?,
            expires_at: WallTime::from_millis(claims.exp.saturating_mul(1000)),
        };
        Ok(Signed {
            bearer,
            begins: claims.nbf.max(claims.iat),
            ends: claims.exp,
        })
    }
}

// === impl RefreshSecret ===

impl RefreshSecret {
    /// A new one.
    pub(crate) fn new(rng: &dyn Rng) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        rng.fill(&mut *secret);
        Self(secret)
    }

    /// What the store keeps of it. 256 random bits need no slow hash.
    pub(crate) fn hash(&self) -> [u8; 32] {
        sha256(&*self.0)
    }

    /// The token of this session.
    pub(crate) fn token(&self, tenant: TenantId, session: SessionId) -> SecretString {
        let mut bytes = Zeroizing::new([0_u8; REFRESH_LEN]);
        bytes[..16].copy_from_slice(tenant.as_bytes());
        bytes[16..32].copy_from_slice(session.as_bytes());
        bytes[32..].copy_from_slice(&*self.0);
        SecretString::from(format!(
            "{REFRESH_PREFIX}{}",
            BASE64URL_NOPAD.encode(&*bytes)
        ))
    }
}

// === impl RefreshToken ===

impl RefreshToken {
    /// Takes a token apart.
    pub(crate) fn parse(token: &SecretString) -> Result<Self, ApiError> {
        let wrong = || invalid("no refresh token");
        let text = token.expose_secret();
        let text = text.strip_prefix(REFRESH_PREFIX).ok_or_else(wrong)?;
        if text.len() > TOKEN_LEN_MAX {
            return Err(wrong());
        }
        let bytes = Zeroizing::new(
            BASE64URL_NOPAD
                .decode(text.as_bytes())
                .map_err(|_| wrong())?,
        );
        let bytes = <&[u8; REFRESH_LEN]>::try_from(bytes.as_slice()).map_err(|_| wrong())?;
        let mut secret = Zeroizing::new([0; 32]);
        secret.copy_from_slice(&bytes[32..]);
        Ok(Self {
            tenant: TenantId::from_bytes(part(bytes, 0)),
            session: SessionId::from_bytes(part(bytes, 16)),
            secret: RefreshSecret(secret),
        })
    }
}

// === free functions ===

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

fn part(bytes: &[u8; REFRESH_LEN], from: usize) -> [u8; 16] {
    let mut part = [0; 16];
    part.copy_from_slice(&bytes[from..from + 16]);
    part
}

fn invalid(why: impl ToString) -> ApiError {
    ApiError::new(
        Code::InvalidToken,
        "The token is not one of ours, or no longer valid.",
    )
    .because(why)
}

fn in_time(signed: &Signed, now: WallTime, leeway: Duration) -> Result<(), ApiError> {
    let (now, leeway) = (
        now.as_secs(),
        i64::try_from(leeway.as_secs()).unwrap_or(i64::MAX),
    );
    if signed.ends.saturating_add(leeway) <= now {
        return Err(ApiError::new(
            Code::TokenExpired,
            "Get a new access token with the refresh token.",
        ));
    }
    if signed.begins.saturating_sub(leeway) > now {
        return Err(invalid("not valid yet"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::ports::Rng;
    use proptest::prelude::*;

    use super::*;

    struct Ones;
    impl Rng for Ones {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(1);
        }
    }

    const NOW: WallTime = WallTime::from_millis(1_800_000_000_000);

    fn tokens(seed: u8, issuer: &str) -> Tokens {
        let rules = TokenRules {
            issuer: issuer.to_owned(),
            ..TokenRules::default()
        };
        Tokens::new(&EdgeKeys::from_bytes(&[seed; 32]), rules)
    }

    fn who() -> (TenantId, UserId, SessionId) {
        (
            TenantId::from_bytes([1; 16]),
            UserId::from_bytes([2; 16]),
            SessionId::from_bytes([3; 16]),
        )
    }

    fn made() -> String {
        let token = tokens(1, "grove.test").access(who(), NOW, &Ones).unwrap();
        token.expose_secret().to_owned()
    }

    #[test]
    fn a_token_names_whom_it_was_made_for() {
        let bearer = tokens(1, "grove.test").check(&made(), NOW).unwrap();
        assert_eq!((bearer.tenant, bearer.user, bearer.session), who());
    }

    #[test]
    fn a_token_ends_and_does_not_begin_early() {
        let ours = tokens(1, "grove.test");
        for (at, code) in [
            (
                NOW.after(Duration::from_secs(15 * 60 + 31)),
                Code::TokenExpired,
            ),
            (NOW.before(Duration::from_secs(31)), Code::InvalidToken),
        ] {
            assert_eq!(ours.check(&made(), at).unwrap_err().code(), code);
        }
        assert!(
            ours.check(&made(), NOW.after(Duration::from_secs(15 * 60 + 29)))
                .is_ok()
        );
    }

    #[test]
    fn a_token_that_was_good_once_still_ends() {
        let ours = tokens(1, "grove.test");
        let token = made();
        for _ in 0..2 {
            assert!(ours.check(&token, NOW).is_ok());
        }
        let late = NOW.after(Duration::from_secs(15 * 60 + 31));
        let early = NOW.before(Duration::from_secs(31));
        for (at, code) in [(late, Code::TokenExpired), (early, Code::InvalidToken)] {
            assert_eq!(ours.check(&token, at).unwrap_err().code(), code);
        }
    }

    #[test]
    fn what_was_refused_once_is_refused_again() {
        let ours = tokens(2, "grove.test");
        for _ in 0..2 {
            assert!(ours.check(&made(), NOW).is_err());
        }
    }

    #[test]
    fn a_token_of_another_key_or_issuer_is_refused() {
        assert!(tokens(2, "grove.test").check(&made(), NOW).is_err());
        assert!(tokens(1, "other.test").check(&made(), NOW).is_err());
    }

    #[test]
    fn a_token_of_another_algorithm_is_refused() {
        let claims = made();
        let claims = claims.split('.').nth(1).unwrap();
        for header in [
            r#"{"alg":"none","typ":"at+jwt"}"#,
            r#"{"alg":"HS256","typ":"at+jwt"}"#,
        ] {
            let header = BASE64URL_NOPAD.encode(header.as_bytes());
            for signature in ["", "AAAA"] {
                let forged = format!("{header}.{claims}.{signature}");
                assert!(tokens(1, "grove.test").check(&forged, NOW).is_err());
            }
        }
    }

    #[test]
    fn a_refresh_token_survives_its_text() {
        let secret = RefreshSecret::new(&Ones);
        let (tenant, _, session) = who();
        let token = secret.token(tenant, session);
        let found = RefreshToken::parse(&token).unwrap();
        assert_eq!((found.tenant, found.session), (tenant, session));
        assert_eq!(found.secret.hash(), secret.hash());
    }

    proptest! {
        #[test]
        fn a_token_changed_anywhere_is_refused(at in 0_usize..400, with in "[A-Za-z0-9_.-]") {
            let token = made();
            let at = at % token.len();
            let mut forged = token.clone();
            forged.replace_range(at..=at, &with);
            prop_assume!(forged != token);
            let ours = tokens(1, "grove.test");
            prop_assert!(ours.check(&token, NOW).is_ok());
            prop_assert!(ours.check(&forged, NOW).is_err());
        }

        #[test]
        fn no_text_breaks_the_parsers(text in "\\PC{0,200}") {
            prop_assert!(tokens(1, "grove.test").check(&text, NOW).is_err());
            drop(RefreshToken::parse(&SecretString::from(text)));
        }
    }
}
