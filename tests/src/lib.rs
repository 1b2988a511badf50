//! What the tests against the real binary stand on: the world of a story (name server, mail server, daemon, client) and
//! the crash laboratory (disks that lose power, a load that journals what was acknowledged).
//!
//! Reading order: `checkout`, `programs`, `process` and `janitor` say where things are, how they run and how they end; `world` puts a story
//! together from `addresses`, `name_server`, `mail_server`, `daemon`, `client` and `peers`; `disk`, `journal`, `load`,
//! `fates`, `looks` and `laboratory` are the crash laboratory, `damages` the one for files that rot; `faults` preloads a disk
//! that fails and clocks that are set into a daemon on `prepared` data, `activation` holds its sockets. `virtual_world` needs
//! none of them: it is the tree alone, in simulated time.

pub mod checkout;
pub mod programs;

pub mod process;

pub mod janitor;

pub mod wait;

pub mod addresses;

pub mod name_server;

pub mod mail_server;

pub mod mail_text;

pub mod peers;

pub mod client;

pub mod daemon;

pub mod world;

pub mod chance;

pub mod disk;

pub mod faults;

pub mod journal;

pub mod fates;

pub mod sink;

pub mod letterbox;

pub mod load;

pub mod event_reader;

mod looks;

pub mod report;

pub mod laboratory;

pub mod damages;

pub mod activation;

pub mod prepared;

pub mod io_trials;

pub mod virtual_world;
