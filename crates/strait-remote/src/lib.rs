//! The strait:// protocol: a client engine and a listener over any engine.
