//! The crash laboratory: what was acknowledged is there after a kill and after a power cut, whole, and no cap is exceeded.
//! The daemon is the real binary under load over API and SMTP; every acknowledgement is journalled outside.

mod accidents;
mod clock_steps;
mod damages;
mod exits;
mod full_disk;
mod instruments;
mod io_errors;
