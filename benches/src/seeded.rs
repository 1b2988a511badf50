//! A daemon on a store that was filled before: as many tenants and inboxes as wanted, and a caller in each tenant.
//!
//! The accounts and their sessions are written into the store as `inboxgrove store seed` writes it; the access
//! tokens come from the running daemon, for the refresh tokens of those sessions.

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64URL_NOPAD;
use inboxgrove_model::{
    InboxId, PolicyTime, SessionId, TenantId, UserId, WallTime,
    ports::Rng,
    tenant::{Role, Session, User},
};
use inboxgrove_store::{Batch, Keys, Options, SeedPlan, Store};
use nix::time::ClockId;
use serde_json::json;

use crate::{
    commits::SystemRng,
    http::{User as Client, request, text},
    installation::{Ground, Installation},
    measure::{count, monotonic, read, since},
    reading::connect,
};

/// Accounts written in one batch.
const BATCH: usize = 100;
/// How long the sessions last: longer than any run.
const SESSION: Duration = Duration::from_hours(24);
/// Connections over which tokens are fetched at once.
const LANES: usize = 16;
/// Over this time the next warmup turns of all inboxes are spread.
pub(crate) const WAKE_OVER: Duration = Duration::from_hours(24);

/// How much is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) tenants: u32,
    pub(crate) inboxes_of_tenant: u32,
}

/// Somebody who may call, and whose inboxes there are.
struct Caller {
    inboxes: Vec<InboxId>,
    refresh: String,
    token: String,
}

/// A daemon on a filled store.
pub(crate) struct Running {
    pub(crate) installation: Installation,
    callers: Vec<Caller>,
}

/// A filled store, its surroundings, and who calls.
pub(crate) struct Filled {
    ground: Ground,
    callers: Vec<Caller>,
    /// How long it took to fill it.
    pub(crate) took: Duration,
    pub(crate) disk_bytes: u64,
}

// === impl Filled ===

impl Filled {
    /// Starts the daemon on it and logs the callers in.
    pub(crate) async fn serve(mut self) -> Result<Running> {
        let installation = self.ground.serve().await?;
        log_in(&mut self.callers, installation.api).await?;
        Ok(Running {
            installation,
            callers: self.callers,
        })
    }
}

// === impl Running ===

impl Running {
    /// How many inboxes were filled in.
    pub(crate) fn inboxes(&self) -> f64 {
        count(self.callers.iter().map(|caller| caller.inboxes.len()).sum())
    }

    /// A request for an inbox by its owner. Each number draws one of all inboxes, always the same.
    pub(crate) fn request(
        &self,
        number: usize,
        method: &str,
        what: impl Fn(InboxId) -> (String, String),
    ) -> Result<Vec<u8>> {
        let drawn = usize::try_from(mixed(number as u64))?;
        let caller = &self.callers[drawn % self.callers.len()];
        let own = caller.inboxes.len().max(1);
        let inbox = caller.inboxes.get(drawn / self.callers.len() % own);
        let (path, body) = what(*inbox.context("a tenant has inboxes")?);
        let api = self.installation.api;
        Ok(request(api, &caller.token, (method, &path), &body))
    }

    /// How many due rows the daemon has handed out since it started.
    pub(crate) async fn woken(&self) -> Result<f64> {
        const NAME: &str = "inboxgrove_due_rows_woken_total ";
        let mut client = Client::nobody(self.installation.api).await?;
        let text = client.page("/metrics").await?;
        let line = text.lines().find_map(|line| line.strip_prefix(NAME));
        line.context("due rows are counted")?
            .trim()
            .parse()
            .context("a count is a number")
    }
}

// === free functions ===

/// Fills a store of this size.
pub(crate) async fn fill(size: Size) -> Result<Filled> {
    let ground = Ground::prepare().await?;
    let data = ground.data();
    fs::create_dir(&data).context("the folder is new")?;
    let began = monotonic();
    let keys = Keys::load_or_create(&data.join("installation.key"), &SystemRng)?;
    let options = Options::new(data.join("store"), keys);
    let (store, _report) = Store::open(options, Arc::new(SystemRng))?;
    let now = i64::try_from(read(ClockId::CLOCK_REALTIME)?.as_millis())?;
    let plan = SeedPlan {
        tenants: size.tenants,
        inboxes_of_tenant: size.inboxes_of_tenant,
        messages_of_inbox: 0,
        body_bytes: 0,
        at: PolicyTime::from_millis(now),
        wake_over: Some(WAKE_OVER),
    };
    let seeded = store.seed(&plan, &SystemRng).await?;
    let took = since(began);
    let mut inboxes = seeded.inboxes.into_iter().peekable();
    let mut callers = Vec::with_capacity(seeded.tenants.len());
    for some in seeded.tenants.chunks(BATCH) {
        let mut batch = Batch::new();
        for (tenant, _domain) in some {
            let mut own = Vec::new();
            while let Some((_, inbox)) = inboxes.next_if(|(of, _)| of == tenant) {
                own.push(inbox);
            }
            callers.push(caller(
                &mut batch,
                *tenant,
                own,
                WallTime::from_millis(now),
            )?);
        }
        store.commit(batch).await?;
    }
    store.close();
    let disk_bytes = bytes_in(&data)?;
    Ok(Filled {
        ground,
        callers,
        took,
        disk_bytes,
    })
}

/// Writes a user with a session.
fn caller(
    batch: &mut Batch,
    tenant: TenantId,
    inboxes: Vec<InboxId>,
    now: WallTime,
) -> Result<Caller> {
    let (mut user, mut session, mut secret) = ([0; 16], [0; 16], [0; 32]);
    SystemRng.fill(&mut user);
    SystemRng.fill(&mut session);
    SystemRng.fill(&mut secret);
    let (user, session) = (UserId::from_bytes(user), SessionId::from_bytes(session));
    batch.put(&User {
        id: user,
        tenant,
        email: format!("{tenant}@company.example").parse()?,
        password_hash: String::new().into(),
        role: Role::Owner,
        created_at: now,
        last_login_at: None,
    });
    batch.put(&Session {
        id: session,
        tenant,
        user,
        refresh_hash: digest(&SHA256, &secret).as_ref().try_into()?,
        previous_hash: None,
        rotated_at: None,
        expires_at: now.after(SESSION),
        created_at: now,
        revoked_at: None,
    });
    let bytes = [tenant.as_bytes().as_slice(), session.as_bytes(), &secret].concat();
    Ok(Caller {
        inboxes,
        refresh: format!("igr_{}", BASE64URL_NOPAD.encode(&bytes)),
        token: String::new(),
    })
}

/// Lets the daemon give every caller an access token.
async fn log_in(callers: &mut [Caller], api: SocketAddr) -> Result<()> {
    let connections = connect(LANES, api).await?;
    let share = callers.len().div_ceil(LANES);
    let mut lanes = Vec::new();
    for (some, connection) in callers.chunks(share).zip(connections) {
        let refreshes: Vec<String> = some.iter().map(|caller| caller.refresh.clone()).collect();
        lanes.push(tokio::spawn(async move {
            let mut client = Client::over(connection, api);
            let mut tokens = Vec::with_capacity(refreshes.len());
            for refresh in refreshes {
                let body = json!({ "refresh_token": refresh });
                let answer = client
                    .call("POST", "/api/v1/auth/refresh", Some(&body))
                    .await?;
                tokens.push(text(&answer, "access_token")?);
            }
            anyhow::Ok(tokens)
        }));
    }
    let mut callers = callers.iter_mut();
    for lane in lanes {
        for token in lane.await.context("a client panicked")?? {
            callers.next().context("a token a caller")?.token = token;
        }
    }
    Ok(())
}

/// A number that looks drawn by chance, another for each (`SplitMix64`'s last step).
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// What a folder takes on the disk.
fn bytes_in(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += if about.is_dir() {
            bytes_in(&entry.path())?
        } else {
            about.len()
        };
    }
    Ok(bytes)
}
