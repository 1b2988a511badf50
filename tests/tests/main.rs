//! All tests above the library crates, in one binary. A stage of `make test` is a filter on the first part of a name:
//! `crash::`, `seeds::`, `stories::`; everything else belongs to the laws.

mod layers;
mod limits;
mod supply;
mod units;

mod counterparts;

mod crash;
mod stories;

mod seeds;
mod tree;
