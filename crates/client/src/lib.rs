//! What a node embeds: connection and typed calls.
