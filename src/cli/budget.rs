//! `--budget`: the memory and time that an analysis may use.

use clap::Args;

use crate::analysis::Budget;

/// The option `--budget`.
#[derive(Clone, Copy, Debug, Args)]
pub struct BudgetArgs {
    /// Allow N times the usual memory and time (512 MiB, about 10 s); beyond that the answer is partial
    #[arg(
        long = "budget",
        value_name = "N",
        default_value = "1",
        hide_default_value = true,
        value_parser = budget
    )]
    pub budget: Budget,
}

/// Parses a factor, such as `4` or `0.5`.
fn budget(word: &str) -> Result<Budget, String> {
    let factor: Option<f64> = word.parse().ok();
    let factor = factor.filter(|factor| *factor > 0.0 && *factor <= 1000.0);
    let factor = factor.ok_or("use a number above 0, up to 1000, for example 4")?;
    Ok(Budget::default().times(factor))
}
