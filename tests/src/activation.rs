//! Sockets that outlive the daemon, as systemd holds them: bound once, and handed to one daemon after the other by
//! sd_listen_fds(3).

use std::{
    net::{SocketAddr, TcpListener},
    os::fd::AsRawFd,
    process::Command,
};

use anyhow::{Context, Result};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::signal::Signal,
};

use crate::{
    daemon::{self, Settings},
    process::Running,
    programs,
};

/// Moves the sockets to where sd_listen_fds(3) wants them, and becomes the daemon, whose id `LISTEN_PID` has to name.
const SCRIPT: &str = r#"exec 3<&"$1" 4<&"$2"; shift 2; LISTEN_PID=$$ exec "$@""#;

/// The sockets of the API and of port 25.
#[derive(Debug)]
pub struct Sockets {
    api: TcpListener,
    smtp: TcpListener,
}

impl Sockets {
    /// Binds them. From here on nobody who connects is refused, whether a daemon runs or not.
    pub fn bind(api: SocketAddr, smtp: SocketAddr) -> Result<Self> {
        let bound = |at: SocketAddr| -> Result<TcpListener> {
            let socket = TcpListener::bind(at).with_context(|| format!("{at}"))?;
            // Whoever is started from here on has it; nobody but the daemon looks for it.
            fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(socket)
        };
        Ok(Self {
            api: bound(api)?,
            smtp: bound(smtp)?,
        })
    }

    /// Starts a daemon on these settings that takes the sockets over.
    pub fn spawn(&self, settings: &Settings) -> Result<Running> {
        let config = daemon::write_config(settings)?;
        daemon::forget_addresses(settings)?;
        let mut command = Command::new(programs::system("bash")?);
        command
            .env_clear()
            .envs([("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "api:smtp")])
            .envs(settings.env.iter().cloned())
            .args(["-c", SCRIPT, "activation"])
            .args([&self.api, &self.smtp].map(|socket| socket.as_raw_fd().to_string()))
            .arg(programs::inboxgrove()?)
            .args(["serve", "--config"])
            .arg(&config)
            .current_dir(&settings.scratch);
        Running::start(
            "inboxgrove",
            &mut command,
            &settings.scratch.join("daemon.log"),
            Signal::SIGKILL,
        )
    }
}
