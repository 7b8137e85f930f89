//! The embedded engine of strait: one commit log on one machine, fsynced before every acknowledgement.
