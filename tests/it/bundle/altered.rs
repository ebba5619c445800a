//! A full bundle of which a byte is another one, or whose end is missing.

use std::fs;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{
    assert_same, catalogue::Catalogue, counts, export, head, import, questions, text,
    wire::Standing,
};
use crate::{
    history::seed,
    scene::{Engine, NoRegistry},
};

/// What a bundle begins with; what does not is none.
const BEGINS: usize = "{\"steadfast_bundle\":".len();
/// The last line, from the line end before it, and what of it stands before and behind the 64 digits.
const TRAILER_BYTES: usize = 79;
const BEFORE_DIGITS: usize = 12;
/// Places drawn for each engine.
const DRAWN: usize = 12;

/// A place of a file, and what is said of one whose byte is another one there.
type Place = (usize, &'static [&'static str]);

/// Both sides of each boundary between the parts of a bundle.
fn boundaries(whole: &[u8]) -> Vec<Place> {
    let line = whole
        .iter()
        .position(|byte| *byte == b'\n')
        .expect("a line");
    let trailer = whole.len() - TRAILER_BYTES;
    let altered: &[_] = &["BUNDLE_ALTERED"];
    let none: &[_] = &["BUNDLE_INVALID"];
    let cut: &[_] = &["BUNDLE_TRUNCATED"];
    // It may still be a digit, or not even text.
    let digit: &[_] = &["BUNDLE_ALTERED", "BUNDLE_TRUNCATED"];
    assert_eq!(
        whole[line + 1..line + 3],
        [0x1f, 0x8b],
        "what is packed begins"
    );
    assert_eq!(
        whole[trailer..trailer + 3],
        *b"\n{\"",
        "the last line begins"
    );
    vec![
        (0, none),
        (BEGINS - 1, none),
        (BEGINS, altered),
        (line - 1, altered),
        (line, altered),
        (line + 1, altered),
        (line + 10, altered),
        (line + 11, altered),
        // The length and the checksum of what is packed, which nobody reads before the checksum of all is proven.
        (trailer - 9, altered),
        (trailer - 8, altered),
        (trailer - 1, altered),
        (trailer, cut),
        (trailer + BEFORE_DIGITS - 1, cut),
        (trailer + BEFORE_DIGITS, digit),
        (whole.len() - 4, digit),
        (whole.len() - 3, cut),
        (whole.len() - 1, cut),
    ]
}

#[tokio::test]
async fn rule_15_one_flipped_byte_or_a_missing_end_of_a_full_bundle_is_refused() {
    let mut random = StdRng::seed_from_u64(seed());
    let from = Catalogue::refreshed(Engine::Sqlite).await;
    let file = export(from.server(), "whole.bundle").await;
    let whole = fs::read(&file).expect("reads");
    for engine in Engine::BOTH {
        let target = NoRegistry::start(engine).await;
        let server = &target.server;
        import(server, &file, &[]).await;
        // Were it taken, this package would come back.
        let gone = server.cli(&["package", "remove", "left-pad"]).await;
        let _ = gone.success();
        let before = head(server).await;
        super::level(server, before).await;
        let standing = Standing::of(server).await;
        let questions = questions::seen(&standing).await.questions;
        let expected = standing.ask_all(&questions).await;

        let bad = server.directory().join("bad.bundle");
        let refused = async |bytes: &[u8], reasons: &[&str], what: &str| {
            assert!(bytes != whole, "{what}");
            fs::write(&bad, bytes).expect("writes");
            let told = server.cli(&["import", text(&bad), "--replace"]).await;
            let told = told.failure(1);
            let is_named = reasons.iter().any(|reason| told.contains(reason));
            assert!(is_named, "{what}: {reasons:?}: {told}");
        };
        let body = BEGINS..whole.len() - TRAILER_BYTES;
        let drawn =
            std::iter::repeat_with(|| (random.random_range(body.clone()), &["BUNDLE_ALTERED"][..]));
        let drawn: Vec<Place> = drawn.take(DRAWN).collect();
        for (number, (at, reasons)) in boundaries(&whole).into_iter().chain(drawn).enumerate() {
            let mut altered = whole.clone();
            // One bit, all bits, or one in between. A digit is never made the same digit in another case.
            altered[at] ^= [0x01, 0xff, 0x10][number % 3];
            let what = format!("byte {at} of {}", whole.len());
            refused(&altered, reasons, &what).await;
        }
        let step = whole.len() / 5;
        for length in [0, 1, BEGINS, whole.len() - TRAILER_BYTES, whole.len() - 1]
            .into_iter()
            .chain((1..5).map(|part| part * step))
        {
            let what = format!("{length} of {} bytes", whole.len());
            refused(&whole[..length], &["BUNDLE_TRUNCATED"], &what).await;
        }
        refused(
            b"PK\x03\x04 another file",
            &["BUNDLE_INVALID"],
            "another file",
        )
        .await;
        let longer = [&whole[..], b"\n"].concat();
        refused(&longer, &["BUNDLE_TRUNCATED"], "a byte more").await;

        assert_eq!(head(server).await, before, "nothing was written");
        let told = standing.ask_all(&questions).await;
        assert_same(&told, &expected, |at| questions[at].what.clone());
        // And whole it is taken.
        let imported = import(server, &file, &["--replace"]).await;
        assert_eq!(counts(&imported, "packages"), [1, 0, 107, 0], "{imported}");
    }
}
