//! Whoever reads the changes.

use std::{io, os::fd::AsFd};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use tokio::task::spawn_blocking;

/// Completes once nobody can read standard output any more, as after `steadfast watch | head -1`. A write would tell as much,
/// but on a quiet stream there may be none for hours.
pub(in crate::commands) async fn left() {
    let found = spawn_blocking(|| has_left(io::stdout())).await;
    if !matches!(found, Ok(true)) {
        // It cannot be told: the next write will.
        std::future::pending::<()>().await;
    }
}

/// Waits; false if waiting is not possible.
fn has_left(output: impl AsFd) -> bool {
    // No events are asked for: what is always told is an error or a hang-up.
    let mut fds = [PollFd::new(output.as_fd(), PollFlags::empty())];
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            told => return told.is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_whose_reader_left_is_noticed() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let waiting = std::thread::spawn(move || has_left(writer));
        drop(reader);
        assert!(waiting.join().expect("it returns"));
    }
}
