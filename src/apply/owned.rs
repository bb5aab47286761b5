//! Which parts of live are fwc's to change.

use serde::{Deserialize, Serialize};

use crate::live::{Dump, Table};
use crate::net::{Family, PerFamily};

/// The parts of live that are fwc's: of each family these tables, whole.
///
/// Everything that reads live for comparing or changes it goes through here, so that a narrower ownership (chains and the
/// jumps to them) is a matter of this type alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    tables: PerFamily<Vec<Table>>,
}

impl Owned {
    /// The tables that these rules files declare.
    pub fn tables_of(files: &PerFamily<Dump>) -> Self {
        Self {
            tables: PerFamily::from_fn(|family| files[family].tables().collect()),
        }
    }

    /// The tables that hold parts of fwc's.
    pub fn tables(&self, family: Family) -> &[Table] {
        &self.tables[family]
    }

    /// The parts of `live` that are fwc's.
    pub fn of(&self, family: Family, live: &Dump) -> Dump {
        live.only(&self.tables[family])
    }

    /// `live` with `ours` in place of the parts that are fwc's.
    pub fn with(&self, family: Family, live: &Dump, ours: &Dump) -> Dump {
        let mut all = live.clone();
        for &table in &self.tables[family] {
            *all.table_mut(table) = ours.table(table);
        }
        all
    }
}
