//! Files and paths that a configuration or a state names.
