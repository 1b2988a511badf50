//! The virtual world: the daemon's whole tree on a paused clock, in-memory wires and disks, and seeded chance.
//!
//! Reading order: `neighbourhood` is what there is around the house, `house` is the daemon on its disk, `machine` the
//! ports that die with it; `people` live and write down what they were promised, `weather` is what goes wrong; `wire`
//! hears everything, `records` reads everything, `invariants` judges; `day` is a whole life from a seed.

pub mod neighbourhood;

pub mod house;
pub mod machine;

pub mod people;
pub mod weather;

pub mod invariants;
pub mod records;
pub mod wire;

pub mod day;
