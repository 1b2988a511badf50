//! A real NSD that serves the zones of a story on a loopback address: a root, our host's zone, the others' zone, the
//! reverse zone, and a zone per domain that a tenant brings.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::{addresses::Addresses, process::Running, programs, wait::eventually};

/// NSD answers within a fraction of a second; a loaded machine takes longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// A name server's name in every zone.
const NAME: &str = "ns.grove.test.";

/// A name server that runs.
#[derive(Debug)]
pub struct NameServer {
    folder: PathBuf,
    address: IpAddr,
    port: u16,
    zones: BTreeMap<String, Zone>,
    running: Running,
}

#[derive(Debug, Default)]
struct Zone {
    serial: u32,
    records: Vec<String>,
}

impl NameServer {
    /// Starts it with these zones, each a name without its last dot and lines of a zone file. More domains can be
    /// served later when they are named here with no lines.
    pub async fn start(
        folder: &Path,
        address: IpAddr,
        zones: &[(&str, &[String])],
    ) -> Result<Self> {
        let folder = folder.join("nsd");
        fs::create_dir_all(folder.join("zones")).context("the name server has a folder")?;
        let port = Addresses::free_port(&[address])?;
        let zones: BTreeMap<String, Zone> = zones
            .iter()
            .map(|(name, records)| {
                (
                    (*name).to_owned(),
                    Zone {
                        serial: 1,
                        records: records.to_vec(),
                    },
                )
            })
            .collect();
        for (name, zone) in &zones {
            write_zone(&folder, address, name, zone)?;
        }
        let config = folder.join("nsd.conf");
        fs::write(&config, configuration(&folder, address, port, zones.keys()))
            .context("nsd.conf can be written")?;
        let mut command = Command::new(programs::system("nsd")?);
        command.arg("-d").arg("-c").arg(&config);
        let running = Running::start(
            "nsd",
            &mut command,
            &folder.join("nsd.out"),
            Signal::SIGTERM,
        )?;
        let server = Self {
            folder,
            address,
            port,
            zones,
            running,
        };
        for name in server.zones.keys() {
            server.until_served(name, 1).await?;
        }
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// On which port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Adds lines to a zone and waits until they are served.
    pub async fn publish(&mut self, zone: &str, records: &[String]) -> Result<()> {
        self.change(zone, |found| found.records.extend_from_slice(records))
            .await
    }

    /// Replaces a zone's lines and waits until they are served.
    pub async fn replace(&mut self, zone: &str, records: &[String]) -> Result<()> {
        self.change(zone, |found| found.records = records.to_vec())
            .await
    }

    /// Stops answering, as in an outage.
    pub fn outage(&self) -> Result<()> {
        // What answers is a child of what was started.
        self.running.signal_family(Signal::SIGSTOP)
    }

    /// Answers again.
    pub fn outage_over(&self) -> Result<()> {
        self.running.signal_family(Signal::SIGCONT)
    }

    async fn change(&mut self, name: &str, change: impl FnOnce(&mut Zone)) -> Result<()> {
        let zone = self
            .zones
            .get_mut(name)
            .with_context(|| format!("{name} is not served here"))?;
        change(zone);
        zone.serial += 1;
        let serial = zone.serial;
        write_zone(&self.folder, self.address, name, zone)?;
        self.running.signal(Signal::SIGHUP)?;
        self.until_served(name, serial).await
    }

    async fn until_served(&self, name: &str, serial: u32) -> Result<()> {
        let dig = programs::system("dig")?;
        let apex = if name == "." {
            ".".to_owned()
        } else {
            format!("{name}.")
        };
        let served = eventually(
            &format!("zone {name} with serial {serial}"),
            ANSWER_WITHIN,
            async || {
                let output = Command::new(&dig)
                    .args([
                        "+short",
                        "+time=1",
                        "+tries=1",
                        "-p",
                        &self.port.to_string(),
                    ])
                    .arg(format!("@{}", self.address))
                    .args([&apex, "SOA"])
                    .output()?;
                let answer = String::from_utf8_lossy(&output.stdout).into_owned();
                Ok(answer
                    .split_whitespace()
                    .any(|word| word == serial.to_string())
                    .then_some(()))
            },
        )
        .await;
        if let Err(why) = served {
            let log = fs::read_to_string(self.folder.join("nsd.log")).unwrap_or_default();
            bail!("{why:#}\n{}\n{log}", self.running.tail());
        }
        Ok(())
    }
}

impl Drop for NameServer {
    /// A test may fail in the middle of an outage, and what is stopped cannot end.
    fn drop(&mut self) {
        // One that has ended by itself has nobody left to wake.
        self.outage_over().ok();
    }
}

/// A TXT record's line: a string holds 255 bytes at most.
pub fn txt(name: &str, value: &str) -> String {
    let mut line = format!("{} TXT", absolute(name));
    let bytes: Vec<char> = value.chars().collect();
    for part in bytes.chunks(255) {
        let part: String = part.iter().collect();
        let escaped = part.replace('\\', "\\\\").replace('"', "\\\"");
        write!(line, " \"{escaped}\"").expect("a string takes all");
    }
    line
}

/// A name with its last dot.
pub fn absolute(name: &str) -> String {
    if name.ends_with('.') {
        name.to_owned()
    } else {
        format!("{name}.")
    }
}

/// The reverse name of an address, with its last dot.
pub fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        }
        IpAddr::V6(v6) => {
            let digits = v6
                .octets()
                .iter()
                .rev()
                .fold(String::new(), |mut name, octet| {
                    write!(name, "{:x}.{:x}.", octet & 0xf, octet >> 4)
                        .expect("a string takes all");
                    name
                });
            format!("{digits}ip6.arpa.")
        }
    }
}

fn write_zone(folder: &Path, address: IpAddr, name: &str, zone: &Zone) -> Result<()> {
    let mut text = format!(
        "$ORIGIN {}\n$TTL 1\n@ SOA {NAME} hostmaster.grove.test. {} 60 60 600 1\n@ NS {NAME}\n",
        absolute(name),
        zone.serial
    );
    if name == "grove.test" {
        writeln!(text, "{NAME} A {address}").expect("a string takes all");
    }
    for record in &zone.records {
        text.push_str(record);
        text.push('\n');
    }
    // Renamed into place: NSD never reads half a zone.
    let path = zone_path(folder, name);
    let fresh = path.with_extension("new");
    fs::write(&fresh, text)
        .and_then(|()| fs::rename(&fresh, &path))
        .with_context(|| format!("{}", path.display()))
}

fn zone_path(folder: &Path, name: &str) -> PathBuf {
    let name = if name == "." { "root" } else { name };
    folder.join("zones").join(format!("{name}.zone"))
}

fn configuration<'a>(
    folder: &Path,
    address: IpAddr,
    port: u16,
    zones: impl Iterator<Item = &'a String>,
) -> String {
    let folder_shown = folder.display();
    let mut text = format!(
        "server:\n  ip-address: {address}@{port}\n  username: \"\"\n  chroot: \"\"\n  server-count: 1\n  database: \"\"\n  \
         zonesdir: \"{folder_shown}/zones\"\n  pidfile: \"{folder_shown}/nsd.pid\"\n  logfile: \"{folder_shown}/nsd.log\"\n  \
         xfrdfile: \"{folder_shown}/xfrd.state\"\n  xfrdir: \"{folder_shown}\"\n  zonelistfile: \"{folder_shown}/zone.list\"\n  \
         zonefiles-check: yes\n  rrl-ratelimit: 0\nremote-control:\n  control-enable: no\n"
    );
    for name in zones {
        let path = zone_path(folder, name);
        writeln!(
            text,
            "zone:\n  name: \"{name}\"\n  zonefile: \"{}\"",
            path.display()
        )
        .expect("a string takes all");
    }
    text
}
