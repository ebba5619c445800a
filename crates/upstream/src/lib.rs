//! The one crate that makes outgoing HTTP requests: npm and the shared, well-mannered HTTP client.
