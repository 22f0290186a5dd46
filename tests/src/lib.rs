//! A harness over the real binaries.
