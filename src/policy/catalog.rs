//! The built-in services (`ssh`, `http`, ...), written in the policy language itself.

use std::sync::LazyLock;

use indexmap::IndexMap;
use toml::de::DeTable;

use super::reader::CheckedTable;
use super::schema::{Service, read_catalog_service};
use crate::diag::Sink;
use crate::source::{Located, SourceMap};

const TEXT: &str = include_str!("catalog.toml");

/// A built-in service.
#[derive(Clone, Debug)]
pub struct CatalogEntry {
    /// A description in one line.
    pub about: String,
    /// The service.
    pub service: Service,
}

static CATALOG: LazyLock<IndexMap<String, CatalogEntry>> = LazyLock::new(|| {
    let mut sink = Sink::new();
    let file = SourceMap::new().add("catalog.toml", TEXT);
    let (root, _) = DeTable::parse_recoverable(TEXT);
    let mut entries = Vec::new();
    for (name, value) in CheckedTable::root(&root, file).entries() {
        let about = value
            .as_table()
            .and_then(|table| table.text("about", &mut sink));
        let name = name.map(str::to_owned);
        if let Some(service) = read_catalog_service(&name, value, &mut sink) {
            let about = about.map_or("", |text| text.value).to_owned();
            entries.push((name, CatalogEntry { about, service }));
        }
    }
    entries.sort_by_key(|(name, _): &(Located<String>, _)| name.span);
    entries
        .into_iter()
        .map(|(name, entry)| (name.value, entry))
        .collect()
});

/// Returns the built-in service of a name.
pub fn catalog(name: &str) -> Option<&'static CatalogEntry> {
    CATALOG.get(name)
}

/// Returns the names of all built-in services, in alphabetical order.
pub fn catalog_names() -> impl Iterator<Item = &'static str> {
    CATALOG.keys().map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_read() {
        let (root, errors) = DeTable::parse_recoverable(TEXT);
        assert!(errors.is_empty(), "{errors:?}");
        let file = SourceMap::new().add("catalog.toml", TEXT);
        let mut sink = Sink::new();
        for (name, value) in CheckedTable::root(&root, file).entries() {
            read_catalog_service(&name.map(str::to_owned), value, &mut sink);
        }
        assert!(!sink.has_errors(), "{sink:?}");
        assert_eq!(CATALOG.len(), root.get_ref().len());
        for (name, entry) in CATALOG.iter() {
            for included in &entry.service.include {
                assert!(
                    CATALOG.contains_key(&included.value),
                    "{name} includes {}",
                    included.value
                );
            }
        }
    }
}
