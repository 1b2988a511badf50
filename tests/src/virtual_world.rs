//! The virtual world: the daemon's whole tree on a paused clock, in-memory wires and disks, and seeded chance.
//!
//! Reading order: `neighbourhood` is what there is around the house (`hardware` is its clock, `keys` a stock of DKIM
//! keys); `house` is the daemon on its disk, `attic` its backups, `machine` the ports that die with it; `people` live and
//! write down what they were promised; `classes` are the faults there are, `weather` is the forecast of a seed; `wire`
//! hears everything, `records` reads everything, `invariants` judges; `day` is a whole life from a seed; `shrink` makes
//! a failing one short.

pub mod hardware;
mod keys;
pub mod neighbourhood;

mod attic;
pub mod house;
pub mod machine;

pub mod people;

pub mod classes;
pub mod weather;

pub mod invariants;
pub mod records;
pub mod wire;

pub mod day;
pub mod shrink;
