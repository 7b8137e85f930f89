//! CRC-32C (Castagnoli; CRC-32/ISCSI of RFC 3720), the one checksum of every file of a data directory.

use crc_fast::{CrcAlgorithm, Digest};

/// CRC-32C of `bytes`. The same function as that over `bytes[8..len]` of a body, which strait-core computes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC-32C of several pieces as if they were one.
pub fn crc32c_of(pieces: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for piece in pieces {
        digest.update(piece);
    }
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_value_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c_of(&[b"1234", b"", b"56789"]), 0xE306_9283);
    }
}
