//! A running daemon, whatever carries it: the tree, the HTTP edge and the admin socket on the ports and
//! listeners that it is given. The process makes it of real ones, the demo and the virtual world of others.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use inboxgrove_actors::platform::{Parts, Platform};
use inboxgrove_config::Config;
use inboxgrove_mail::dkim::RandomKeys;
use inboxgrove_model::ports::{Listener, Ports};
use inboxgrove_store::Store;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, Admin},
    http::{
        Api, Options,
        keys::EdgeKeys,
        server::{ConnectionLimits, Listening, Server},
    },
    logging::LogLevel,
    upkeep::Upkeep,
};

/// What a daemon is made of.
pub struct Assembly {
    /// Time, chance and the outside.
    pub ports: Ports,
    /// Opened before.
    pub store: Store,
    /// What the operator set.
    pub config: Arc<Config>,
    /// Keys of the HTTP edge.
    pub keys: EdgeKeys,
    /// Where the API listens.
    pub api: Box<dyn Listener>,
    /// Where operators come in.
    pub admin: Option<Listening>,
    /// Where mail comes in.
    pub smtp: Option<Box<dyn Listener>>,
    /// TLS for STARTTLS there.
    pub smtp_tls: Option<Arc<rustls::ServerConfig>>,
    /// The log, when its level may be changed.
    pub log: Option<LogLevel>,
    /// Users who may come in at the admin socket, root beside.
    pub operators: admin::Operators,
}

/// A daemon that serves.
pub struct Running {
    platform: Platform,
    server: Server,
    /// Its own caps: a flood on the API must not shut operators out.
    admin: Server,
    stop: CancellationToken,
    api: SocketAddr,
    smtp: Option<SocketAddr>,
}

// === impl Running ===

impl Running {
    /// Starts the tree, then serves. When it returns, both listen.
    pub async fn start(assembly: Assembly) -> anyhow::Result<Self> {
        let upkeep = Upkeep::new(Arc::clone(&assembly.ports.blocking));
        Self::start_with(assembly, upkeep).await
    }

    /// As [`start`](Self::start), with a thread of its own for what takes minutes (backups,
    /// verifications), so that log-ins do not wait for it.
    pub(crate) async fn start_with(assembly: Assembly, upkeep: Upkeep) -> anyhow::Result<Self> {
        let Assembly {
            ports,
            store,
            config,
            keys,
            api,
            admin,
            smtp,
            smtp_tls,
            log,
            operators,
        } = assembly;
        let (api_at, smtp_at) = (
            api.local_addr(),
            smtp.as_ref().map(|smtp| smtp.local_addr()),
        );
        let parts = Parts {
            ports,
            store,
            config: Arc::clone(&config),
            smtp,
            smtp_tls,
            key_maker: Arc::new(RandomKeys),
        };
        let platform = Platform::start(parts).await?;
        let server = Server::new(ConnectionLimits::of(&config));
        let admin_server = Server::new(ConnectionLimits::admin());
        let options = Options::of(&config);
        let edge = Api::new(platform.clone(), &keys, options, server.draining())?;
        let stop = CancellationToken::new();
        server.serve(Listening::Net(api), edge.router(), None);
        if let Some(listening) = admin {
            let admin = Admin::new(edge, upkeep, log, stop.clone(), operators);
            admin_server.serve(listening, admin.router(), None);
        }
        Ok(Self {
            platform,
            server,
            admin: admin_server,
            stop,
            api: api_at,
            smtp: smtp_at,
        })
    }

    /// The tree.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// Where the API listens.
    pub fn api(&self) -> SocketAddr {
        self.api
    }

    /// Where mail comes in.
    pub fn smtp(&self) -> Option<SocketAddr> {
        self.smtp
    }

    /// Resolves when an operator asked for the end.
    pub async fn asked_to_stop(&self) {
        self.stop.cancelled().await;
    }

    /// Stops accepting, lets what is in flight end or puts it back, flushes. Returns whether the HTTP
    /// edge became calm by itself.
    pub async fn drain(self, within: Duration) -> bool {
        let end = Instant::now() + within;
        self.platform.start_draining();
        // The tree stays until the last request has its answer, or its commit would be without one.
        let (api, admin) = tokio::join!(self.server.drain(within), self.admin.drain(within));
        self.platform
            .drain(end.saturating_duration_since(Instant::now()))
            .await;
        api && admin
    }
}
