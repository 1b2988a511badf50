//! The vault: holds every secret, and gives out handles that use them, never the secrets.
//!
//! Owns the rows of table `secrets`. Mailbox: questions of tenants' domains and inboxes and of outbound;
//! facts of its own tasks. Slow work (making and parsing keys) runs on the blocking pool in a task, so the
//! mailbox never waits for it; commits are awaited. Its death is fatal. A restart of the process reads
//! everything from the store; nothing else survives.

mod signatory;

use std::{collections::BTreeMap, sync::Arc};

use aws_lc_rs::digest;
use data_encoding::BASE32_NOPAD;
use inboxgrove_mail::dkim::{KeyMaker, PrivateKey, Signer};
use inboxgrove_model::{
    DomainName, SecretId, TenantId,
    domain::{DkimAlgorithm, DkimSelector},
};
use inboxgrove_store::{Batch, Lease, Owner, records::SecretRow};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use self::signatory::Signatory;
use crate::{
    context::{Context, Cx, Reply, answer},
    mailbox::{Own, Told},
    refusal::{RETRY_BUSY, Refusal},
};

/// Parsed signers that are kept. Each holds two keys, about 4 KB, and as much of what it signed last: parsing one costs
/// 64 % of a signature.
const SIGNERS_MAX: usize = 4096;
/// Those that are kept while memory is tight: the domains that send just now.
const SIGNERS_PRESSED_MAX: usize = 256;
/// Bytes of chance in a password: 150 bits in 30 letters, far beyond guessing, so a salted hash keeps it.
const PASSWORD_BYTES: usize = 19;
/// How the bytes of a password row start: it has never been shown.
const UNSEEN: u8 = 0;
/// How the bytes of a password row start: only a salted SHA-256 is kept.
const HASHED: u8 = 1;
const SALT_LEN: usize = 16;
/// Pairs of DKIM keys made at once: an RSA key takes a core for some 200 ms, and mail needs cores too.
const KEYS_AT_ONCE_MAX: usize = 2;
/// Who may wait for one: at 200 ms each the last waits less than two seconds.
const KEYS_WAITING_MAX: usize = 16;

/// What the vault is asked.
pub(crate) enum VaultMsg {
    /// Make both DKIM keys of a new domain. From `Platform::add_domain`.
    MakeDkimKeys(TenantId, Reply<Vec<DkimSelector>>),
    /// Keys were made by the task that `MakeDkimKeys` started.
    MadeDkimKeys(TenantId, Option<Vec<FreshKey>>, Reply<Vec<DkimSelector>>),
    /// Something that signs for this domain. From outbound.
    Signer(
        TenantId,
        DomainName,
        Vec<DkimSelector>,
        Reply<Arc<Signatory>>,
    ),
    /// Keys were parsed by the task that `Signer` started.
    Parsed(SignerKey, Option<Arc<Signatory>>, Reply<Arc<Signatory>>),
    /// Make passwords of new inboxes; they wait to be shown. From domains.
    MakePasswords(TenantId, usize, Reply<Vec<SecretId>>),
    /// Show a password that has never been shown, and keep its hash only. From inboxes.
    ShowPassword(TenantId, SecretId, Reply<SecretString>),
    /// Make a password anew, show it, and keep its hash only. From inboxes.
    RotatePassword(TenantId, SecretId, Reply<SecretString>),
    /// Forget secrets whose owner is gone.
    Forget(TenantId, Vec<SecretId>),
    /// Memory is tight: keep only the signers that were used last.
    Shrink,
}

/// A signer's place in the cache: the secrets it was made of.
pub(crate) type SignerKey = (TenantId, Vec<SecretId>);

/// A key that is not stored yet.
pub(crate) struct FreshKey {
    algorithm: DkimAlgorithm,
    public: String,
    private: Zeroizing<Vec<u8>>,
}

/// The vault's actor.
pub(crate) struct Vault;

/// What it keeps in memory.
pub(crate) struct VaultState {
    cx: Cx,
    lease: Lease,
    signers: BTreeMap<SignerKey, (Arc<Signatory>, u64)>,
    uses: u64,
    /// Room for tasks that make keys.
    key_makers: Arc<Semaphore>,
    /// Room for those that wait for it, the ones at work included.
    key_queue: Arc<Semaphore>,
}

// === impl Actor for Vault ===

impl Actor for Vault {
    type Msg = Told<VaultMsg>;
    type State = VaultState;
    type Arguments = Cx;

    async fn pre_start(
        &self,
        _me: ActorRef<Self::Msg>,
        cx: Cx,
    ) -> Result<Self::State, ActorProcessingErr> {
        let lease = cx.store.own(Owner::Vault).await?;
        Ok(VaultState {
            cx,
            lease,
            signers: BTreeMap::new(),
            uses: 0,
            key_makers: Arc::new(Semaphore::new(KEYS_AT_ONCE_MAX)),
            key_queue: Arc::new(Semaphore::new(KEYS_WAITING_MAX)),
        })
    }

    async fn handle(
        &self,
        me: ActorRef<Self::Msg>,
        told: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let me = state.cx.vault.own(me);
        match told.msg {
            VaultMsg::MakeDkimKeys(tenant, reply) => state.make_keys(me, tenant, reply),
            VaultMsg::MadeDkimKeys(tenant, keys, reply) => {
                // Nobody would ever use the keys of somebody who has gone away.
                if !reply.is_closed() {
                    answer(reply, state.keep_keys(tenant, keys).await);
                }
            }
            VaultMsg::Signer(tenant, name, selectors, reply) => {
                state.signer(me, tenant, &name, &selectors, reply);
            }
            VaultMsg::Parsed(key, signer, reply) => answer(reply, state.keep_signer(key, signer)),
            VaultMsg::MakePasswords(tenant, n, reply) => {
                answer(reply, state.make_passwords(tenant, n).await);
            }
            VaultMsg::ShowPassword(tenant, id, reply) => {
                answer(reply, state.show(tenant, id).await);
            }
            VaultMsg::RotatePassword(tenant, id, reply) => {
                answer(reply, state.rotate(tenant, id).await);
            }
            VaultMsg::Forget(tenant, ids) => state.forget(tenant, &ids).await,
            VaultMsg::Shrink => state.keep_latest(SIGNERS_PRESSED_MAX),
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

// === impl VaultState ===

impl VaultState {
    fn make_keys(&self, me: Own<VaultMsg>, tenant: TenantId, reply: Reply<Vec<DkimSelector>>) {
        let Ok(place) = Arc::clone(&self.key_queue).try_acquire_owned() else {
            let refusal = Refusal::Busy {
                what: "the maker of DKIM keys",
                retry_after: RETRY_BUSY,
            };
            return answer(reply, Err(refusal));
        };
        let (cx, makers) = (Arc::clone(&self.cx), Arc::clone(&self.key_makers));
        let maker = Arc::clone(&self.cx.key_maker);
        self.cx.spawn(async move {
            // A permit of a semaphore that is never closed.
            let room = makers.acquire().await;
            let wanted = !reply.is_closed();
            let made = if wanted {
                let make = move || fresh_keys(&*maker);
                cx.ports.blocking.call(make).await.flatten()
            } else {
                None
            };
            drop((room, place));
            // A vault that is gone has ended the process already.
            me.tell(VaultMsg::MadeDkimKeys(tenant, made, reply));
        });
    }

    async fn keep_keys(
        &self,
        tenant: TenantId,
        keys: Option<Vec<FreshKey>>,
    ) -> Result<Vec<DkimSelector>, Refusal> {
        let keys = keys.ok_or_else(|| Refusal::Unavailable {
            why: "DKIM keys could not be made".to_owned(),
        })?;
        let mut batch = Batch::new();
        batch.by(&self.lease);
        let mut selectors = Vec::with_capacity(keys.len());
        for (n, key) in keys.into_iter().enumerate() {
            let id = SecretId::from_bytes(self.cx.new_id());
            batch.put_new(&SecretRow {
                tenant,
                id,
                bytes: key.private,
            });
            selectors.push(DkimSelector {
                name: format!("ig{}", n + 1),
                algorithm: key.algorithm,
                public_key: key.public,
                secret: id,
            });
        }
        self.cx.store.commit(batch).await?;
        Ok(selectors)
    }

    fn signer(
        &mut self,
        me: Own<VaultMsg>,
        tenant: TenantId,
        name: &DomainName,
        selectors: &[DkimSelector],
        reply: Reply<Arc<Signatory>>,
    ) {
        let key: SignerKey = (
            tenant,
            selectors.iter().map(|selector| selector.secret).collect(),
        );
        self.uses += 1;
        if let Some((signer, used)) = self.signers.get_mut(&key) {
            *used = self.uses;
            return answer(reply, Ok(Arc::clone(signer)));
        }
        let mut secrets = Vec::with_capacity(selectors.len());
        for selector in selectors {
            match self
                .cx
                .store
                .existing::<SecretRow>(&(tenant, selector.secret))
            {
                Ok(row) => secrets.push((selector.name.clone(), selector.algorithm, row.bytes)),
                Err(why) => return answer(reply, Err(why.into())),
            }
        }
        let (cx, name) = (Arc::clone(&self.cx), name.clone());
        self.cx.spawn(async move {
            let parsed = cx
                .ports
                .blocking
                .call(move || parse(&name, secrets))
                .await
                .flatten();
            // A vault that is gone has ended the process already.
            me.tell(VaultMsg::Parsed(key, parsed.map(Arc::new), reply));
        });
    }

    fn keep_signer(
        &mut self,
        key: SignerKey,
        signer: Option<Arc<Signatory>>,
    ) -> Result<Arc<Signatory>, Refusal> {
        let signer = signer.ok_or_else(|| Refusal::Damaged {
            why: format!("a DKIM key of {} does not parse", key.0),
        })?;
        if self.signers.len() >= SIGNERS_MAX {
            self.keep_latest(SIGNERS_MAX - SIGNERS_MAX / 16);
        }
        self.signers.insert(key, (Arc::clone(&signer), self.uses));
        Ok(signer)
    }

    /// Drops the signers that have not been used for longest. Some at a time: to find them all are looked at.
    fn keep_latest(&mut self, signers_max: usize) {
        let Some(beyond) = self.signers.len().checked_sub(signers_max + 1) else {
            return;
        };
        let mut uses: Vec<u64> = self.signers.values().map(|(_, used)| *used).collect();
        let (_, latest_dropped, _) = uses.select_nth_unstable(beyond);
        let latest_dropped = *latest_dropped;
        self.signers.retain(|_, (_, used)| *used > latest_dropped);
    }

    async fn make_passwords(&self, tenant: TenantId, n: usize) -> Result<Vec<SecretId>, Refusal> {
        let mut batch = Batch::new();
        batch.by(&self.lease);
        let mut ids = Vec::with_capacity(n);
        for _ in 0..n {
            let id = SecretId::from_bytes(self.cx.new_id());
            let mut bytes = Zeroizing::new(vec![UNSEEN]);
            bytes.extend_from_slice(self.new_password().expose_secret().as_bytes());
            batch.put_new(&SecretRow { tenant, id, bytes });
            ids.push(id);
        }
        self.cx.store.commit(batch).await?;
        Ok(ids)
    }

    async fn show(&self, tenant: TenantId, id: SecretId) -> Result<SecretString, Refusal> {
        let row = self.cx.store.existing::<SecretRow>(&(tenant, id))?;
        let Some((&UNSEEN, text)) = row.bytes.split_first() else {
            let why = "this password has been shown; rotate it to get a new one".to_owned();
            return Err(Refusal::Conflict {
                code: "already_shown",
                why,
            });
        };
        let text = std::str::from_utf8(text).map_err(|_| Refusal::Damaged {
            why: format!("secret {id} is no text"),
        })?;
        let password = SecretString::from(text.to_owned());
        self.keep_hash(tenant, id, &password).await?;
        Ok(password)
    }

    async fn rotate(&self, tenant: TenantId, id: SecretId) -> Result<SecretString, Refusal> {
        let password = self.new_password();
        self.keep_hash(tenant, id, &password).await?;
        Ok(password)
    }

    async fn keep_hash(
        &self,
        tenant: TenantId,
        id: SecretId,
        password: &SecretString,
    ) -> Result<(), Refusal> {
        let mut salt = [0; SALT_LEN];
        self.cx.ports.rng.fill(&mut salt);
        let mut bytes = Zeroizing::new(vec![HASHED]);
        bytes.extend_from_slice(&salt);
        bytes.extend_from_slice(&salted_hash(&salt, password));
        let mut batch = Batch::new();
        batch.by(&self.lease);
        batch.put(&SecretRow { tenant, id, bytes });
        self.cx.store.commit(batch).await?;
        Ok(())
    }

    async fn forget(&self, tenant: TenantId, ids: &[SecretId]) {
        let mut batch = Batch::new();
        batch.by(&self.lease);
        for id in ids {
            batch.remove::<SecretRow>(&(tenant, *id));
        }
        if let Err(why) = self.cx.store.commit(batch).await {
            // Nothing refers to them: they cost a row each and open nothing.
            tracing::warn!(%tenant, %why, "secrets without an owner were left behind");
        }
    }

    fn new_password(&self) -> SecretString {
        let mut bytes = Zeroizing::new([0; PASSWORD_BYTES]);
        self.cx.ports.rng.fill(bytes.as_mut_slice());
        SecretString::from(BASE32_NOPAD.encode(bytes.as_slice()).to_lowercase())
    }
}

/// Tells the vault that nobody owns these secrets any more.
pub(crate) fn forget(cx: &Context, tenant: TenantId, secrets: Vec<SecretId>) {
    if let Err(why) = cx.vault.tell(VaultMsg::Forget(tenant, secrets)) {
        // Nothing refers to them: they cost a row each and open nothing.
        tracing::warn!(%tenant, %why, "secrets without an owner were left behind");
    }
}

fn fresh_keys(maker: &dyn KeyMaker) -> Option<Vec<FreshKey>> {
    [DkimAlgorithm::Rsa2048, DkimAlgorithm::Ed25519]
        .into_iter()
        .map(|algorithm| {
            let key = maker.make(algorithm).ok()?;
            Some(FreshKey {
                algorithm,
                public: key.public_key(),
                private: key.to_pkcs8(),
            })
        })
        .collect()
}

fn parse(
    name: &DomainName,
    secrets: Vec<(String, DkimAlgorithm, Zeroizing<Vec<u8>>)>,
) -> Option<Signatory> {
    let keys = secrets
        .into_iter()
        .map(|(selector, algorithm, bytes)| {
            let key = PrivateKey::from_pkcs8(algorithm, &bytes).ok()?;
            Some((selector, name.clone(), key))
        })
        .collect::<Option<Vec<_>>>()?;
    Signer::new(keys).ok().map(Signatory::new)
}

fn salted_hash(salt: &[u8], password: &SecretString) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(salt);
    context.update(password.expose_secret().as_bytes());
    context
        .finish()
        .as_ref()
        .try_into()
        .expect("SHA-256 has 32 bytes")
}
