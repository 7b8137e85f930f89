//! What a strait lane is, as runnable cases, and the history checker.
