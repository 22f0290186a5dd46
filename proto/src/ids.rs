//! The numbers that name things: slot, incarnation, phase.

use core::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A fixed seat `0..N` that outlives its workers (`index` in JSON, as Puma calls it).
    Slot(u32)
}
number! {
    /// One spawned worker. Never reused by a master: a message from another incarnation is stale.
    Incarnation(u64)
}
number! {
    /// The phased restart that brought a worker's release: 0 at first start (as Puma), then 1, 2, …
    Phase(u32)
}
