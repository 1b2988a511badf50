//! What users live through, told against the real binary, over the public API only, with real counterparts: NSD serves the
//! zones, Postfix takes the mail, dkimpy and pyspf judge it, swaks writes back.

mod bad_input;
mod bounces;
mod hostile;
mod inbound;
mod life_cycle;
mod restarts;
mod sockets;
mod whole_story;
