//! A small internet in one process: names, wires, mailbox providers that form an opinion of who
//! writes to them, and clocks that live fast.
//!
//! Used twice. `inboxgrove demo` runs it on real loopback sockets under [`clock::FastClock`]; the
//! tests run it in memory, on one paused runtime, under [`clock::VirtualClock`].

pub mod rng;

pub mod clock;

pub mod dns;

pub mod net;

pub mod provider;

pub mod world;
