//! The hash of an icon, by another program than the one under test.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

/// The SHA-256 in hexadecimal, as `sha256sum` has it.
pub(crate) fn hash(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum is part of every distribution");
    let mut stdin = child.stdin.take().expect("is piped");
    stdin.write_all(bytes).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8(output.stdout).expect("ASCII");
    text.split_whitespace().next().expect("a hash").to_owned()
}
