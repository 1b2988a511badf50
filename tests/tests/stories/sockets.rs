//! As systemd starts the daemon: its sockets passed in by name, its readiness told to a notify socket.

use std::{net::SocketAddr, os::unix::net::UnixDatagram, process::Command, time::Duration};

use anyhow::{Context, Result};
use inboxgrove_tests::{
    addresses::Addresses,
    client::Api,
    daemon::{self, Settings},
    process::Running,
    programs,
    wait::eventually,
    world,
};
use nix::sys::signal::Signal;

/// A start without a crash before it.
const READY_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test]
async fn sockets_are_taken_over_and_readiness_is_told_after_recovery() -> Result<()> {
    let folder = world::scratch_folder()?;
    let addresses = Addresses::of_this_process();
    let names = world::start_names(&folder, addresses).await?;
    let notify_path = folder.path().join("notify");
    let notify = UnixDatagram::bind(&notify_path)?;
    notify.set_nonblocking(true)?;
    let port = Addresses::free_port(&[addresses.inbound(), addresses.source()])?;
    let smtp = SocketAddr::new(addresses.inbound(), port);
    let api = SocketAddr::new(addresses.source(), port);
    let settings = Settings {
        data: folder.path().join("data"),
        scratch: folder.path().to_owned(),
        // What is passed in wins; these would be refused, for nobody but root may bind them here.
        inbound: "192.0.2.1:25".parse()?,
        source: addresses.source(),
        mx_port: port,
        name_server: SocketAddr::new(names.address(), names.port()),
        free_floor_bytes: 16 << 20,
        plan: daemon::ROOMY,
        more: String::new(),
        env: Vec::new(),
    };
    let config = daemon::write_config(&settings)?;

    // systemd's own helper: it binds, waits for the first connection, then becomes the daemon.
    let mut command = Command::new(programs::system("systemd-socket-activate")?);
    command
        .args([
            "-l",
            &api.to_string(),
            "-l",
            &smtp.to_string(),
            "--fdname=api:smtp",
        ])
        .arg(format!("--setenv=NOTIFY_SOCKET={}", notify_path.display()))
        .arg(programs::inboxgrove()?)
        .args(["serve", "--config"])
        .arg(&config);
    let running = Running::start(
        "inboxgrove",
        &mut command,
        &folder.path().join("daemon.log"),
        Signal::SIGKILL,
    )?;
    let client = Api::new(&api.to_string())?;
    eventually("the first answer", READY_WITHIN, async || {
        Ok(client
            .get("/health/ready")
            .await
            .ok()
            .filter(|answer| answer.status.is_success()))
    })
    .await
    .with_context(|| running.tail())?;

    let mut told = String::new();
    eventually("READY=1", READY_WITHIN, async || {
        told.push_str(&heard(&notify)?);
        Ok(told.contains("READY=1").then_some(()))
    })
    .await
    .with_context(|| told.clone())?;
    let account = client.register("acme").await?;
    assert!(account.tenant.starts_with("ten_"));
    let banner = tokio::net::TcpStream::connect(smtp).await?;
    eventually("the banner", READY_WITHIN, async || {
        let mut bytes = [0; 64];
        let size = banner.try_read(&mut bytes).unwrap_or(0);
        Ok(bytes[..size].starts_with(b"220 ").then_some(()))
    })
    .await
}

fn heard(socket: &UnixDatagram) -> Result<String> {
    let mut bytes = [0; 4096];
    match socket.recv(&mut bytes) {
        Ok(size) => Ok(String::from_utf8_lossy(&bytes[..size]).into_owned() + "\n"),
        Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => Ok(String::new()),
        Err(why) => Err(why).context("the notify socket"),
    }
}
