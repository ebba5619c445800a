//! The manners of the client and of npm, against a server on loopback that behaves as badly as it is told to.

mod http;
mod npm;
mod server;
