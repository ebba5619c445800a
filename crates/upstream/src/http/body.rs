//! A body as it arrives: counted on the wire and again after decompression, refused at the limit.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;

/// Memory set aside before the first byte is there, whatever length the upstream claims.
const RESERVE_BYTES_MAX: u64 = 1024 * 1024;

/// Why a body is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyRefused {
    TooLarge,
    Malformed(String),
    Truncated(String),
}

/// A body under way.
pub(super) struct Body {
    sink: Sink,
    wire_bytes: usize,
    limit_bytes: usize,
}

enum Sink {
    Plain(Capped),
    Gzip(Box<MultiGzDecoder<Capped>>),
}

/// Takes bytes up to a limit and remembers whether more came.
struct Capped {
    bytes: Vec<u8>,
    limit_bytes: usize,
    exceeded: bool,
}

// === impl Body ===

impl Body {
    /// A body in the given `Content-Encoding`, of the announced length if there is one.
    pub(super) fn new(
        coding: Option<&str>,
        announced_bytes: Option<u64>,
        limit_bytes: usize,
    ) -> Result<Self, BodyRefused> {
        let announced_bytes = announced_bytes.unwrap_or(0);
        if usize::try_from(announced_bytes).map_or(true, |announced| announced > limit_bytes) {
            return Err(BodyRefused::TooLarge);
        }
        let reserve = usize::try_from(announced_bytes.min(RESERVE_BYTES_MAX)).unwrap_or(0);
        let capped = Capped {
            bytes: Vec::with_capacity(reserve),
            limit_bytes,
            exceeded: false,
        };
        let sink = match coding.map(|coding| coding.trim().to_ascii_lowercase()) {
            None => Sink::Plain(capped),
            Some(coding) => match coding.as_str() {
                "" | "identity" => Sink::Plain(capped),
                "gzip" | "x-gzip" => Sink::Gzip(Box::new(MultiGzDecoder::new(capped))),
                _ => {
                    let shown: String = coding.chars().take(32).collect();
                    return Err(BodyRefused::Malformed(format!(
                        "content encoding {shown:?} was not asked for"
                    )));
                }
            },
        };
        Ok(Self {
            sink,
            wire_bytes: 0,
            limit_bytes,
        })
    }

    /// Takes the next part.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<(), BodyRefused> {
        self.wire_bytes = self.wire_bytes.saturating_add(chunk.len());
        if self.wire_bytes > self.limit_bytes {
            return Err(BodyRefused::TooLarge);
        }
        match &mut self.sink {
            Sink::Plain(capped) => {
                capped.bytes.extend_from_slice(chunk);
                Ok(())
            }
            Sink::Gzip(decoder) => match decoder.write_all(chunk) {
                Ok(()) => Ok(()),
                Err(_) if decoder.get_ref().exceeded => Err(BodyRefused::TooLarge),
                Err(error) => Err(BodyRefused::Malformed(format!("gzip: {error}"))),
            },
        }
    }

    /// The whole body.
    pub(super) fn finish(self) -> Result<Bytes, BodyRefused> {
        match self.sink {
            Sink::Plain(capped) => Ok(capped.bytes.into()),
            // Nothing at all is how some servers send an empty body they call compressed.
            Sink::Gzip(_) if self.wire_bytes == 0 => Ok(Bytes::new()),
            Sink::Gzip(mut decoder) => match decoder.try_finish() {
                Ok(()) => Ok(std::mem::take(&mut decoder.get_mut().bytes).into()),
                Err(_) if decoder.get_ref().exceeded => Err(BodyRefused::TooLarge),
                // The decoder does not tell a trailer that is cut off from one that does not fit. Either way what came before
                // was gzip, so that it was damaged on the way and is worth another try.
                Err(error) => Err(BodyRefused::Truncated(format!(
                    "at the end of gzip: {error}"
                ))),
            },
        }
    }
}

// === impl Capped ===

impl Write for Capped {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if part.len() > self.limit_bytes - self.bytes.len() {
            self.exceeded = true;
            return Err(io::Error::other("over the limit"));
        }
        self.bytes.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).expect("writes to memory");
        encoder.finish().expect("writes to memory")
    }

    fn read(coding: Option<&str>, wire: &[u8], limit: usize) -> Result<Bytes, BodyRefused> {
        let mut body = Body::new(coding, None, limit)?;
        for part in wire.chunks(7) {
            body.push(part)?;
        }
        body.finish()
    }

    #[test]
    fn plain_and_gzip_bodies_come_out_whole() {
        assert_eq!(read(None, b"hello", 5).expect("fits"), "hello");
        assert_eq!(
            read(Some("GZIP"), &gzip(b"hello"), 64).expect("fits"),
            "hello"
        );
        assert_eq!(read(Some("gzip"), b"", 5).expect("fits"), "");
    }

    #[test]
    fn the_limit_holds_on_the_wire_in_the_announcement_and_after_decompression() {
        assert_eq!(read(None, b"hello!", 5), Err(BodyRefused::TooLarge));
        assert_eq!(
            Body::new(None, Some(6), 5).err(),
            Some(BodyRefused::TooLarge)
        );
        let bomb = gzip(&vec![0; 10 * 1024 * 1024]);
        assert!(bomb.len() < 64 * 1024);
        assert_eq!(
            read(Some("gzip"), &bomb, 64 * 1024),
            Err(BodyRefused::TooLarge)
        );
    }

    #[test]
    fn a_gzip_body_cut_anywhere_is_never_taken_for_whole() {
        let whole = gzip(b"a body that is long enough to be cut in many places");
        for cut in 1..whole.len() {
            let outcome = read(Some("gzip"), &whole[..cut], 1024);
            assert!(
                matches!(outcome, Err(BodyRefused::Truncated(_))),
                "{cut}: {outcome:?}"
            );
        }
    }

    #[test]
    fn rubbish_and_unknown_encodings_are_malformed() {
        for (coding, wire) in [("gzip", &b"certainly not gzip"[..]), ("br", b"x")] {
            let outcome = read(Some(coding), wire, 1024);
            assert!(
                matches!(outcome, Err(BodyRefused::Malformed(_))),
                "{outcome:?}"
            );
        }
    }
}
