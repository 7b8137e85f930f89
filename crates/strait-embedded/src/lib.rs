//! The embedded engine of strait: one commit log on one machine, fsynced before every acknowledgement.

#![deny(unsafe_code)]

#[doc(hidden)]
pub mod disk;
