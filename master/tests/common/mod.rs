//! What several tests of the mind share.

pub(crate) mod rows;
