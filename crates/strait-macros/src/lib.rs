//! Derive macros of strait.
