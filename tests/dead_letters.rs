//! Records that a receiver refuses for good.
