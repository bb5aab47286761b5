//! The `fwc` command.

fn main() -> std::process::ExitCode {
    fwc::run(std::env::args_os())
}
