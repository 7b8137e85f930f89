//! Hashes of ids and keys.

use siphasher::sip128::{Hasher128, SipHasher13};

/// 128-bit fingerprints, keyed by the directory's own random identity: nobody outside can make two ids collide.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fingerprint {
    key: [u8; 16],
}

impl Fingerprint {
    pub(crate) fn new(identity: u128) -> Fingerprint {
        Fingerprint {
            key: identity.to_le_bytes(),
        }
    }

    pub(crate) fn of(&self, bytes: &[u8]) -> u128 {
        use std::hash::Hasher;
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(bytes);
        hasher.finish128().as_u128()
    }
}

/// A hash of a key for the order of retries, never 0. Two keys of one hash wait for each other, which is harmless.
pub(crate) fn key_hash(key: Option<&[u8]>) -> u64 {
    key.map_or(0, |key| rapidhash::v3::rapidhash_v3(key).max(1))
}
