//! Output of a script on its way, as the dispatcher receives it from agents.

use ctrl_exec_protocol::live::{Decoder, Found, Stream};

/// Any bytes are items, and how they are cut does not matter.
pub fn run(data: &[u8]) {
    let Some((&step, bytes)) = data.split_first() else {
        return;
    };
    let whole = all(std::iter::once(bytes));
    let split = all(bytes.chunks(usize::from(step).max(1)));
    assert_eq!(whole, split);
}

#[derive(Debug, Default, PartialEq)]
struct Seen {
    out: Vec<u8>,
    err: Vec<u8>,
    end: Vec<u8>,
    gaps: Vec<(bool, u64)>,
    over: bool,
}

fn all<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Seen {
    let mut decoder = Decoder::default();
    let mut seen = Seen::default();
    for piece in pieces {
        decoder.push(piece, &mut |found| match found {
            Found::Bytes(Stream::Out, bytes) => seen.out.extend_from_slice(bytes),
            Found::Bytes(Stream::Err, bytes) => seen.err.extend_from_slice(bytes),
            Found::Gap(stream, bytes) => seen.gaps.push((stream == Stream::Out, bytes)),
            Found::End(bytes) => seen.end.extend_from_slice(bytes),
        });
    }
    seen.over = decoder.is_over();
    seen
}
