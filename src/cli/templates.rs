//! `fwc templates`

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Subcommand};
use serde::Serialize;

use super::output::Document;
use super::{Exit, Format, Output};
use crate::diag::did_you_mean;
use crate::expand::{BuiltIn, CONTEXT_VERSION};
use crate::files::{create_folder, write_atomically};

/// List, show or copy the templates that write the rules files
///
/// To override a template, put a file of the same name into a folder and give the folder with `--templates DIR`. Your
/// template may extend the built-in one and change a part of it: `{% extends "builtin/group.j2" %}`. docs/guides/templates.md lists
/// the variables. The rules are proven as always: a template may write them differently, but not change what they do.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the templates
    List {
        /// Show which of them the templates in DIR override
        #[arg(long, value_name = "DIR")]
        templates: Option<PathBuf>,
        /// The format of the list: text or json
        #[arg(
            long,
            value_parser = Format::parser([Format::Text, Format::Json]),
            default_value = "text",
            hide_possible_values = true,
            help_heading = "Output"
        )]
        format: Format,
    },
    /// Print a built-in template
    Show {
        /// Its name, for example `group.j2`
        name: String,
    },
    /// Copy built-in templates to a folder, to edit them
    Eject {
        /// The templates to copy [default: all]
        names: Vec<String>,
        /// The folder, created if missing; existing files are not overwritten
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
    },
}

/// The templates.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TemplatesDocument {
    /// The version of the variables that a template gets.
    context: usize,
    templates: Vec<JsonTemplate>,
}

impl Document for TemplatesDocument {
    const SCHEMA: &'static str = "fwc.templates/1";
}

/// A template.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct JsonTemplate {
    /// Its name, such as `group.j2`.
    name: &'static str,
    /// What it writes.
    about: &'static str,
    /// The file that overrides it.
    own: Option<String>,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Exit {
    let done = match &args.what {
        What::List { templates, format } => list(templates.as_deref(), *format, output),
        What::Show { name } => find(name).map(|one| output.result(one.text)),
        What::Eject {
            names,
            output: folder,
        } => eject(names, folder, output),
    };
    match done {
        Ok(()) => Exit::Fine,
        Err(message) => {
            output.fatal(&message);
            Exit::Failed
        }
    }
}

fn find(name: &str) -> Result<BuiltIn, String> {
    BuiltIn::named(name).ok_or_else(|| {
        let near = did_you_mean(name, BuiltIn::ALL.iter().map(|one| one.name));
        let near = near.map_or_else(
            || "; `fwc templates list` shows them".to_owned(),
            |near| format!("; did you mean `{near}`?"),
        );
        format!("there is no template `{}`{near}", name.escape_debug())
    })
}

fn list(folder: Option<&Path>, format: Format, output: &Output) -> Result<(), String> {
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return Err(format!("`{}` is not a folder", folder.display()));
    }
    let own = |name: &str| {
        let path = folder.map(|folder| folder.join(name));
        path.filter(|path| path.exists())
    };
    match format {
        Format::Json => {
            let templates = BuiltIn::ALL.iter().map(|BuiltIn { name, about, .. }| {
                let own = own(name).map(|path| path.display().to_string());
                JsonTemplate { name, about, own }
            });
            output.json(&TemplatesDocument {
                context: CONTEXT_VERSION,
                templates: templates.collect(),
            });
        }
        _ => {
            let width = BuiltIn::ALL.iter().map(|one| one.name.len());
            let width = width.max().unwrap_or_default();
            for BuiltIn { name, about, .. } in BuiltIn::ALL {
                let place = own(name).map(|path| format!(" (yours: {})", path.display()));
                output.result(&format!(
                    "{name:width$}  {about}{}\n",
                    place.unwrap_or_default()
                ));
            }
        }
    }
    Ok(())
}

/// Copies templates. Checks all names and files first, so that an error leaves nothing half written.
fn eject(names: &[String], folder: &Path, output: &Output) -> Result<(), String> {
    let wanted: Vec<BuiltIn> = match names {
        [] => BuiltIn::ALL.to_vec(),
        names => names
            .iter()
            .map(|name| find(name))
            .collect::<Result<_, _>>()?,
    };
    for BuiltIn { name, .. } in &wanted {
        let path = folder.join(name);
        if path.symlink_metadata().is_ok() {
            return Err(format!(
                "`{}` exists already; nothing was written. To copy the built-in template again, move that file away",
                path.display()
            ));
        }
    }
    let cannot =
        |path: &Path, error: io::Error| format!("cannot write `{}`: {error}", path.display());
    create_folder(folder, 0o755).map_err(|error| cannot(folder, error))?;
    for BuiltIn { name, text, .. } in wanted {
        let path = folder.join(name);
        write_atomically(&path, text).map_err(|error| cannot(&path, error))?;
        output.message(&format!("wrote {}", path.display()));
    }
    Ok(())
}
