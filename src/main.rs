//! The `fwc` command.

fn main() -> std::process::ExitCode {
    fwc::cli::run(std::env::args_os())
}
