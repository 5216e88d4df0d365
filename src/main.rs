//! The command-line program: from what was typed to the exit code.

use std::{env, process::ExitCode};

use office_audit_log_collector::{
    cli::{self, Arguments, Command, Parsed},
    commands,
    exit::Exit,
};

fn main() -> ExitCode {
    // What is no UTF-8 names nothing that we know, and is told so.
    let typed = env::args_os().map(|word| word.to_string_lossy().into_owned());
    let exit = match cli::parse(typed) {
        Parsed::Show(text) => commands::show(&text),
        Parsed::Wrong(message) => commands::complain(&message),
        Parsed::Run(arguments) => run(&arguments).unwrap_or_else(|ended| ended),
    };
    exit.into()
}

fn run(arguments: &Arguments) -> Result<Exit, Exit> {
    let setup = commands::set_up(arguments)?;
    Ok(match arguments.command {
        None => commands::pass(setup, arguments),
        Some(Command::Check(_)) => commands::check(&setup),
        Some(Command::Status(asked)) => commands::status(&setup, asked),
        Some(Command::Schedule(asked)) => commands::schedule(&setup, asked.scheduler, arguments),
    })
}
