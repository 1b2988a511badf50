//! What systemd is told, and the sockets it passes in: the protocols of sd_notify(3) and
//! sd_listen_fds(3), both a few lines over a datagram socket and three variables of the environment.

use std::{
    collections::BTreeMap,
    io,
    os::{
        fd::{FromRawFd, OwnedFd, RawFd},
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::Path,
    time::Duration,
};

/// The first descriptor that systemd passes.
const LISTEN_FDS_START: RawFd = 3;
/// Most descriptors that are taken: SMTP, API and admin are three, with both families five.
const LISTEN_FDS_MAX: RawFd = 16;

/// Tells systemd how we are; says nothing when nobody listens.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

/// The sockets that systemd bound for us, by the names of their units.
#[derive(Debug, Default)]
pub struct Passed {
    sockets: BTreeMap<String, Vec<OwnedFd>>,
}

// === impl Notifier ===

impl Notifier {
    /// From the environment: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    pub fn from_env(env: &BTreeMap<String, String>) -> io::Result<Self> {
        let socket = match env.get("NOTIFY_SOCKET") {
            Some(path) => Some(connect(path)?),
            None => None,
        };
        let ours = env
            .get("WATCHDOG_PID")
            .is_none_or(|pid| pid.parse() == Ok(std::process::id()));
        let watchdog = env
            .get("WATCHDOG_USEC")
            .and_then(|usec| usec.parse().ok())
            .filter(|usec| ours && *usec > 0)
            .map(Duration::from_micros);
        Ok(Self { socket, watchdog })
    }

    /// How often the watchdog wants to hear from us, halved as sd_watchdog_enabled(3) advises.
    pub fn watchdog_every(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    /// Serving: recovered and listening.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// What we are at, for `systemctl status`.
    pub fn status(&self, status: &str) {
        self.tell(&format!("STATUS={}", one_line(status)));
    }

    /// Alive.
    pub fn watchdog(&self) {
        self.tell("WATCHDOG=1");
    }

    /// On the way out.
    pub fn stopping(&self, status: &str) {
        self.tell(&format!("STOPPING=1\nSTATUS={}", one_line(status)));
    }

    /// Starting or stopping takes longer; hear from us again within `more`.
    pub fn extend_timeout(&self, more: Duration) {
        self.tell(&format!("EXTEND_TIMEOUT_USEC={}", more.as_micros()));
    }

    fn tell(&self, message: &str) {
        if let Some(socket) = &self.socket
            && let Err(why) = socket.send(message.as_bytes())
        {
            tracing::warn!(%why, "systemd could not be told");
        }
    }
}

// === impl Passed ===

impl Passed {
    /// From the environment: `LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES`. Call once, at the start, before
    /// anything else opens descriptors.
    pub fn from_env(env: &BTreeMap<String, String>) -> Self {
        let ours = env
            .get("LISTEN_PID")
            .is_some_and(|pid| pid.parse() == Ok(std::process::id()));
        let count: RawFd = env
            .get("LISTEN_FDS")
            .and_then(|count| count.parse().ok())
            .filter(|_| ours)
            .unwrap_or(0);
        let mut names = env
            .get("LISTEN_FDNAMES")
            .map(String::as_str)
            .unwrap_or_default()
            .split(':');
        let mut passed = Self::default();
        for fd in LISTEN_FDS_START..LISTEN_FDS_START + count.clamp(0, LISTEN_FDS_MAX) {
            let name = names
                .next()
                .filter(|name| !name.is_empty())
                .unwrap_or("unknown");
            passed
                .sockets
                .entry(name.to_owned())
                .or_default()
                .push(adopt(fd));
        }
        passed
    }

    /// Takes the first socket of this name.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        let sockets = self.sockets.get_mut(name)?;
        (!sockets.is_empty()).then(|| sockets.remove(0))
    }

    /// The names that nobody took.
    pub fn left(&self) -> Vec<&str> {
        let left = self
            .sockets
            .iter()
            .filter(|(_, sockets)| !sockets.is_empty());
        left.map(|(name, _)| name.as_str()).collect()
    }
}

// === free functions ===

/// Takes over a descriptor that systemd passed.
#[expect(
    unsafe_code,
    reason = "sd_listen_fds(3): a number in the environment says that this descriptor is ours"
)]
fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: LISTEN_PID names this process, so systemd opened descriptors 3 to 3 + LISTEN_FDS for us and
    // nobody else in it knows of them; `from_env` runs once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A path, or a name in the abstract namespace after `@`.
fn connect(path: &str) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(Path::new(path))?,
    };
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// A line break would start another assignment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(own).collect()
    }

    #[test]
    fn systemd_hears_what_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let listens = UnixDatagram::bind(&path).unwrap();
        let pid = std::process::id().to_string();
        let env = env(&[
            ("NOTIFY_SOCKET", path.to_str().unwrap()),
            ("WATCHDOG_USEC", "30000000"),
            ("WATCHDOG_PID", &pid),
        ]);
        let notifier = Notifier::from_env(&env).unwrap();
        assert_eq!(notifier.watchdog_every(), Some(Duration::from_secs(15)));
        notifier.ready("serving\nMAINPID=1");
        notifier.watchdog();
        let mut buffer = [0; 256];
        for expected in ["READY=1\nSTATUS=serving MAINPID=1", "WATCHDOG=1"] {
            let len = listens.recv(&mut buffer).unwrap();
            assert_eq!(std::str::from_utf8(&buffer[..len]).unwrap(), expected);
        }
    }

    #[test]
    fn nobody_is_told_when_nobody_listens() {
        let notifier = Notifier::from_env(&env(&[
            ("WATCHDOG_USEC", "30000000"),
            ("WATCHDOG_PID", "1"),
        ]))
        .unwrap();
        assert_eq!(notifier.watchdog_every(), None);
        notifier.ready("nobody hears this");
    }

    #[test]
    fn sockets_of_another_process_are_not_ours() {
        let mut passed = Passed::from_env(&env(&[("LISTEN_PID", "1"), ("LISTEN_FDS", "2")]));
        assert!(passed.take("api").is_none());
        assert!(passed.left().is_empty());
    }
}
