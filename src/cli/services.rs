//! `fwc services`

use clap::Args as ClapArgs;
use serde::Serialize;

use super::output::Document;
use super::{Exit, Format, Output};
use crate::diag::did_you_mean;
use crate::net::Family;
use crate::policy::{Service, catalog, catalog_names};
use crate::source::Located;

/// List the built-in services, or show one of them
///
/// A service of the same name under [services] in a policy replaces the built-in one.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// A service, or a part of the names to list
    name: Option<String>,
    /// The format of the list: text or json
    #[arg(
        long,
        value_parser = Format::parser([Format::Text, Format::Json]),
        default_value = "text",
        hide_possible_values = true,
        help_heading = "Output"
    )]
    format: Format,
}

/// The built-in services.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ServicesDocument {
    services: Vec<JsonService>,
}

impl Document for ServicesDocument {
    const SCHEMA: &'static str = "fwc.services/1";
}

/// A built-in service.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct JsonService {
    /// Its name.
    name: String,
    /// What it is, in a sentence.
    about: Option<String>,
    /// Its ports, protocols, ICMP types, and the services that it includes.
    parts: Option<Vec<String>>,
}

/// Runs the command.
pub fn run(args: &Args, output: &mut Output) -> Exit {
    let wanted = args.name.as_deref().unwrap_or_default();
    let names: Vec<_> = match catalog(wanted) {
        Some(_) => catalog_names().filter(|name| *name == wanted).collect(),
        None => catalog_names()
            .filter(|name| name.contains(wanted))
            .collect(),
    };
    if names.is_empty() {
        let near = did_you_mean(wanted, catalog_names().map(|name| -> &str { name }));
        let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        output.fatal(&format!(
            "there is no built-in service `{}`{near}",
            wanted.escape_debug()
        ));
        return Exit::Failed;
    }
    match args.format {
        Format::Json => output.json(&ServicesDocument {
            services: names.iter().map(|name| JsonService::of(name)).collect(),
        }),
        _ => output.result(&text(&names)),
    }
    Exit::Fine
}

fn text(names: &[&str]) -> String {
    let rows: Vec<_> = names
        .iter()
        .filter_map(|name| {
            let entry = catalog(name)?;
            Some((*name, parts(&entry.service).join(" "), entry.about.as_str()))
        })
        .collect();
    let first = rows.iter().map(|row| row.0.len()).max().unwrap_or(0);
    let second = rows
        .iter()
        .map(|row| row.1.len().min(40))
        .max()
        .unwrap_or(0);
    rows.iter()
        .map(|(name, parts, about)| format!("{name:first$}  {parts:second$}  {about}\n"))
        .collect()
}

fn parts(service: &Service) -> Vec<String> {
    let mut words = Vec::new();
    let own = &service.parts;
    words.extend(shown(&own.ports, |(protocol, ports)| {
        format!("{ports}/{protocol}")
    }));
    words.extend(shown(&own.source_ports, |(protocol, ports)| {
        format!("from {ports}/{protocol}")
    }));
    words.extend(own.protocol.iter().map(|p| format!("protocol {}", p.value)));
    let icmp = |kind: &crate::net::IcmpType| match kind.code {
        Some(code) => format!("{}/{code}", kind.kind),
        None => kind.kind.to_string(),
    };
    words.extend(shown(&own.icmp, |kind| format!("icmp {}", icmp(kind))));
    words.extend(shown(&own.icmpv6, |kind| format!("icmpv6 {}", icmp(kind))));
    words.extend(shown(&own.every_icmp, |family| match family {
        Family::V4 => "icmp any".to_owned(),
        Family::V6 => "icmpv6 any".to_owned(),
    }));
    words.extend(service.include.iter().map(|name| name.value.clone()));
    words
}

fn shown<T>(list: &[Located<T>], show: impl Fn(&T) -> String) -> Vec<String> {
    list.iter().map(|item| show(&item.value)).collect()
}

impl JsonService {
    fn of(name: &str) -> Self {
        let entry = catalog(name);
        Self {
            name: name.to_owned(),
            about: entry.map(|entry| entry.about.clone()),
            parts: entry.map(|entry| parts(&entry.service)),
        }
    }
}
