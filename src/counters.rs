//! Structs of counters that are summed field by field.

/// Declares a struct of `u64` counters with a function `plus`.
macro_rules! counters {
    ($(#[$attribute:meta])* $name:ident { $($(#[$doc:meta])* $counter:ident,)* }) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$doc])* pub $counter: u64,)*
        }

        impl $name {
            /// Returns the sums of both. They saturate, so that a number in a damaged file does not end the pass.
            #[must_use]
            pub fn plus(self, other: Self) -> Self {
                Self { $($counter: self.$counter.saturating_add(other.$counter),)* }
            }
        }
    };
}

pub(crate) use counters;
