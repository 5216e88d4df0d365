//! The command-line program: from the arguments to the exit code.

use std::{env, process::ExitCode};

use office_audit_log_collector::{
    cli::{self, Arguments, Command, Parsed},
    commands,
    exit::Exit,
};

fn main() -> ExitCode {
    // An argument that is not UTF-8 is reported as unknown.
    let arguments = env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let exit = match cli::parse(arguments) {
        Parsed::Show(text) => commands::show(&text),
        Parsed::Wrong(message) => commands::complain(&message),
        Parsed::Run(arguments) => run(&arguments).unwrap_or_else(|exit| exit),
    };
    exit.into()
}

fn run(arguments: &Arguments) -> Result<Exit, Exit> {
    let setup = commands::set_up(arguments)?;
    Ok(match &arguments.command {
        None => commands::pass(setup, arguments),
        Some(Command::Check(asked)) => commands::check(&setup, *asked),
        Some(Command::Status(asked)) => commands::status(&setup, asked),
        Some(Command::Verify(asked)) => commands::verify(&setup, asked, arguments),
        Some(Command::Schedule(asked)) => commands::schedule(&setup, asked, arguments),
    })
}
