//! The daemon: HTTP API, admin socket, command line, wiring.
//!
//! Read in this order: [`cli`] is what people type; [`serve`] is the process; [`running`] is a daemon on
//! any ports; [`http`] and `admin` are its faces; the rest is what a process needs of its system.

pub mod cli;

pub mod running;
pub mod serve;

pub mod exit;

pub mod admin;
pub mod http;

pub mod demo;

mod backups;
mod memory;
mod settings;
mod upkeep;

pub mod logging;
pub mod notify;
pub mod ports;
pub mod signals;
