//! A bundle is the file of what it was made from, and no other file is.

use std::io::Cursor as File;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use steadfast_store::{BundlePackage, PackageRow, SchemaBlob, SchemaRow};
use steadfast_types::Timestamp;
use steadfast_upstream::PackageName;

use super::*;
use crate::{
    bundle_line::{IconLine, PackageLine},
    package::{PackageDocument, content_hash},
};

const PNG: &[u8] =
    b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89";

fn package(name: &str) -> BundlePackage {
    let document = PackageDocument {
        name: name.to_owned(),
        source: "npm".to_owned(),
        ..Default::default()
    };
    let text = document.canonical().expect("encodes");
    let schema = "{\"type\":\"object\"}".to_owned();
    let hash = content_hash(schema.as_bytes());
    let row = |version: &str, hash: Option<&String>| SchemaRow {
        package: name.to_owned(),
        version: version.to_owned(),
        hash: hash.cloned(),
        integrity: "sha512-x".to_owned(),
        label: "Label".to_owned(),
        origin: String::new(),
        misses: 0,
        retry_us: None,
    };
    let icon = IconLine {
        shape: "square".to_owned(),
        format: "png".to_owned(),
        base64: STANDARD.encode(PNG),
    };
    let of = PackageName::parse(name).expect("a name");
    BundlePackage {
        row: PackageRow {
            name: name.to_owned(),
            source: "npm".to_owned(),
            document: text.text,
            content_hash: text.hash,
            upstream_etag: String::new(),
        },
        schemas: vec![row("1.0.0", Some(&hash)), row("2.0.0", None)],
        texts: vec![SchemaBlob {
            hash,
            document: schema,
        }],
        icons: vec![icon.check(&of).expect("is one")],
    }
}

fn header(packages: i64) -> BundleHeader {
    BundleHeader {
        format: BUNDLE_FORMAT,
        cursor: Cursor {
            store_id: StoreId::default(),
            revision: Revision(7),
            mark: Mark(0xab),
        },
        counts: BundleCounts {
            packages,
            schemas: packages,
            icons: packages,
        },
    }
}

fn items(names: &[&str]) -> Vec<BundleItem> {
    let source = BundleItem::Source("npm".to_owned(), Timestamp(5));
    let packages = names
        .iter()
        .map(|name| BundleItem::Package(Box::new(package(name))));
    [source].into_iter().chain(packages).collect()
}

fn written(header: &BundleHeader, items: &[BundleItem]) -> Vec<u8> {
    let mut writer = BundleWriter::begin(Vec::new(), header).expect("writes");
    for item in items {
        writer.write(item).expect("writes");
    }
    let (bytes, size) = writer.end().expect("writes");
    assert_eq!(bytes.len() as u64, size);
    bytes
}

fn small() -> Vec<u8> {
    written(&header(2), &items(&["@s/a", "b"]))
}

/// The same lines, under a checksum that is right.
fn with_lines(header: &str, lines: &str) -> Vec<u8> {
    let hashing = Hashing {
        to: Vec::new(),
        hash: Sha256::new(),
        bytes: 0,
    };
    let mut hashing = hashing;
    hashing.write_all(header.as_bytes()).expect("writes");
    let mut packed = GzEncoder::new(hashing, Compression::default());
    packed.write_all(lines.as_bytes()).expect("writes");
    BundleWriter { packed }.end().expect("writes").0
}

fn refused(bytes: Vec<u8>) -> BundleError {
    verify(&mut File::new(bytes)).expect_err("is refused")
}

#[test]
fn rule_15_what_is_written_is_read_and_the_same_is_the_same_file() {
    let bytes = small();
    assert_eq!(bytes, small());
    assert_eq!(
        verify(&mut File::new(bytes.clone())).expect("is whole"),
        header(2)
    );
    let (_, mut reader) = open(File::new(bytes)).expect("is whole");
    let mut read = Vec::new();
    while let Some(item) = reader.next().expect("is whole") {
        read.push(item);
    }
    assert_eq!(read, items(&["@s/a", "b"]));
    let empty = written(&header(0), &[]);
    assert_eq!(verify(&mut File::new(empty)).expect("is whole"), header(0));
}

#[test]
fn rule_15_one_flipped_byte_anywhere_is_refused() {
    let bytes = small();
    for at in 0..bytes.len() {
        for mask in [0x01, 0x80, 0xff] {
            let mut altered = bytes.clone();
            altered[at] ^= mask;
            let error = refused(altered);
            let expected = if at < MAGIC.len() {
                matches!(error, BundleError::NotABundle)
            } else if at < bytes.len() - DIGITS - TRAILER_END.len() {
                matches!(error, BundleError::Altered | BundleError::Truncated)
            } else {
                matches!(error, BundleError::Altered | BundleError::Truncated)
            };
            assert!(expected, "byte {at} of {}: {error}", bytes.len());
        }
    }
}

#[test]
fn rule_15_a_bundle_that_is_cut_or_goes_on_is_refused() {
    let bytes = small();
    for length in 0..bytes.len() {
        let error = refused(bytes[..length].to_vec());
        assert!(
            matches!(error, BundleError::Truncated),
            "{length} of {}: {error}",
            bytes.len()
        );
    }
    let longer = [bytes.clone(), b"\n".to_vec()].concat();
    assert!(matches!(refused(longer), BundleError::Truncated));
    let twice = [bytes.clone(), bytes.clone()].concat();
    assert!(matches!(refused(twice), BundleError::Altered));
    let mut without_some = bytes.clone();
    without_some.drain(200..210);
    assert!(matches!(refused(without_some), BundleError::Altered));
    assert!(matches!(
        refused(b"PK\x03\x04".to_vec()),
        BundleError::NotABundle
    ));
}

#[test]
fn rule_15_a_newer_format_is_named() {
    let newer = BundleHeader {
        format: BUNDLE_FORMAT + 1,
        ..header(0)
    };
    let error = refused(written(&newer, &[]));
    assert!(error.to_string().contains("format 2"), "{error}");
    assert!(matches!(error, BundleError::Newer { found: 2 }), "{error}");
    // Its other fields may be anything.
    let error = refused(with_lines("{\"steadfast_bundle\":9,\"x\":[]}\n", "?"));
    assert!(matches!(error, BundleError::Newer { found: 9 }), "{error}");
}

#[test]
fn what_makes_no_sense_is_refused_although_its_checksum_is_right() {
    let head = |counts: i64| {
        let bytes = written(&header(counts), &[]);
        let end = bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .expect("a line");
        String::from_utf8(bytes[..=end].to_vec()).expect("text")
    };
    let line = |change: &dyn Fn(&mut PackageLine)| {
        let mut line = PackageLine::of(&package("a"));
        change(&mut line);
        let text = serde_json::to_string(&ItemLine::Package(line)).expect("encodes");
        format!("{text}\n")
    };
    let good = line(&|_| {});
    assert!(verify(&mut File::new(with_lines(&head(1), &good))).is_ok());
    for (lines, part) in [
        (good.repeat(2), "order"),
        (String::new(), "states"),
        ("{}\n".to_owned(), "expected"),
        ("{\"package\":{}}\n".to_owned(), "missing field"),
        ("{\"else\":{}}\n".to_owned(), "unknown variant"),
        (good.trim_end().to_owned(), "no end"),
        (line(&|line| line.name = "../b".into()), "name"),
        (line(&|line| line.name = "b".into()), "another package's"),
        (
            line(&|line| line.source = "other".into()),
            "another package's",
        ),
        (line(&|line| line.document = "{".into()), "cannot be read"),
        (line(&|line| line.texts[0].push(' ')), "1.0.0 is missing"),
        (line(&|line| line.schemas[0].label = "\0".into()), "NUL"),
        (line(&|line| line.icons[0].shape = "round".into()), "shape"),
        (line(&|line| line.icons[0].format = "svg".into()), "format"),
        (line(&|line| line.icons[0].format = "gif".into()), "format"),
        (line(&|line| line.icons[0].base64 = "?".into()), "base64"),
        (line(&|line| line.icons[0].base64 = "eA==".into()), "format"),
    ] {
        let error = refused(with_lines(&head(1), &lines));
        assert!(matches!(error, BundleError::Invalid { .. }), "{error}");
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    let error = refused(with_lines("{\"steadfast_bundle\":1}\n", ""));
    assert!(error.to_string().contains("first line"), "{error}");
}

#[test]
fn a_bundle_that_unpacks_without_end_is_refused() {
    let head = "{\"steadfast_bundle\":1,\"store_id\":\"00000000-0000-0000-0000-000000000000\",\
                \"revision\":0,\"mark\":\"0\",\"packages\":0,\"schemas\":0,\"icons\":0}\n";
    let bomb = with_lines(head, &" ".repeat(64 << 20));
    assert!(bomb.len() < 1 << 20);
    let error = refused(bomb);
    assert!(error.to_string().contains("too long"), "{error}");
}

#[test]
fn rule_15_packages_that_are_alike_take_little_place_and_are_taken() {
    let alike = |number: usize| {
        let mut package = package(&format!("p{number:04}"));
        let document = format!("{{\"description\":\"{}\"}}", "alike ".repeat(4_000));
        let hash = content_hash(document.as_bytes());
        package.schemas[0].hash = Some(hash.clone());
        package.texts = vec![SchemaBlob { hash, document }];
        BundleItem::Package(Box::new(package))
    };
    let packages: Vec<BundleItem> = (0..400).map(alike).collect();
    let bytes = written(&header(400), &packages);
    assert!(bytes.len() < 400 * 24_000 / 64, "{} bytes", bytes.len());
    let read = verify(&mut File::new(bytes)).expect("is whole");
    assert_eq!(read, header(400));
}

proptest! {
    /// No file that is not a bundle is taken for one, and none makes the reader panic.
    #[test]
    fn whatever_a_file_holds_it_is_refused_in_words(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
        begins in any::<bool>(),
    ) {
        if begins {
            bytes.splice(0..0, MAGIC.bytes());
        }
        let error = refused(bytes);
        prop_assert!(!error.to_string().is_empty());
    }
}
