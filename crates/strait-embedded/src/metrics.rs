//! The names of the engine's metrics; docs/metrics.md says what each means.

/// Time of an fsync of the log.
pub(crate) const FSYNC_SECONDS: &str = "strait_fsync_seconds";
/// Bytes that the writer gave to the log.
pub(crate) const WRITTEN_BYTES: &str = "strait_log_written_bytes_total";
/// Bytes that the cleaner copied.
pub(crate) const CLEANED_BYTES: &str = "strait_cleaned_bytes_total";
/// Time of a checkpoint.
pub(crate) const CHECKPOINT_SECONDS: &str = "strait_checkpoint_seconds";
/// Bytes of the segments.
pub(crate) const LOG_BYTES: &str = "strait_log_bytes";
/// Segments.
pub(crate) const LOG_SEGMENTS: &str = "strait_log_segments";
/// Bytes that the files of the directory take.
pub(crate) const STORAGE_USED: &str = "strait_storage_used_bytes";
/// Bytes that their file system has left.
pub(crate) const STORAGE_FREE: &str = "strait_storage_free_bytes";
/// Messages that a topic holds.
pub(crate) const TOPIC_MESSAGES: &str = "strait_topic_messages";
/// Bytes of a topic.
pub(crate) const TOPIC_BYTES: &str = "strait_topic_bytes";
/// Messages that a group has not settled.
pub(crate) const GROUP_LAG: &str = "strait_group_lag";
/// When the oldest of them was appended.
pub(crate) const GROUP_OLDEST: &str = "strait_group_oldest_timestamp_seconds";
/// Messages that wait for their next attempt, or behind one of their key.
pub(crate) const GROUP_PARKED: &str = "strait_group_parked";
/// Messages that members have.
pub(crate) const GROUP_IN_FLIGHT: &str = "strait_group_in_flight";
/// Keys that a dead letter holds.
pub(crate) const GROUP_HELD_KEYS: &str = "strait_group_held_keys";
/// Dead letters.
pub(crate) const GROUP_DEAD_LETTERS: &str = "strait_group_dead_letters";
/// Dead letters that were removed because of their age.
pub(crate) const DEAD_EXPIRED: &str = "strait_dead_expired_total";
