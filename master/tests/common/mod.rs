//! What several tests of the mind share.

pub(crate) mod death;
pub(crate) mod fates;
pub(crate) mod rows;
