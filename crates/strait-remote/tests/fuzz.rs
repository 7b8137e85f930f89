//! The fuzz target of the protocol: any stream of bytes is read or refused. `cargo test` runs it on generated input,
//! `cargo bolero test any_stream -p strait-remote` with a fuzzer.

#[test]
fn any_stream() {
    bolero::check!().for_each(|stream: &[u8]| {
        // Whatever it says, it must say it without a panic.
        let _ = strait_remote::inspect(stream);
    });
}

/// Whole frames of every kind, so that the payloads' parsers see the bytes.
#[test]
fn any_frames() {
    bolero::check!()
        .with_type::<Vec<(u8, u8, Vec<u8>)>>()
        .for_each(|frames| {
            let mut stream = Vec::new();
            for (kind, id, payload) in frames {
                stream.extend_from_slice(&(payload.len() as u32 + 9).to_le_bytes());
                stream.push(kind & 0x3f);
                stream.extend_from_slice(&u64::from(id & 3).to_le_bytes());
                stream.extend_from_slice(payload);
            }
            let _ = strait_remote::inspect(&stream);
        });
}
