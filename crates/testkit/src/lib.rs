//! For tests only: databases, a real server process, an npm registry on loopback and fault plans.
