//! Async messaging for Rust services: five lanes, one atomic commit, embedded by default.
