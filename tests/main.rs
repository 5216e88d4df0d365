//! The collector's tests, by behaviour. Most run the real program against the simulator, in an installation of their
//! own, and compare what was delivered with what was served, record by record.

mod support;

mod architecture;
mod commands;
mod log_lines;
mod pass;
mod trouble;
