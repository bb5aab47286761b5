//! Fault points of an apply: where the tests let fwc die, or let a step fail.

use super::error::Error;
use super::store::Store;
use crate::fault::{self, Point};
use crate::live;

/// A point where a write to the state folder may fail.
pub(super) fn state(point: Point, store: &Store) -> Result<(), Error> {
    fault::at(point).map_err(|source| Error::io("cannot write to", &store.folder(), source))
}

/// A point where a change of the rules may fail.
pub(super) fn rules(point: Point) -> Result<(), live::Error> {
    fault::at(point).map_err(|source| live::Error::Io {
        what: "cannot change the rules".to_owned(),
        source,
    })
}

/// A point where a change of the sets may fail.
pub(super) fn sets(point: Point) -> Result<(), live::Error> {
    fault::at(point).map_err(|source| live::Error::Io {
        what: "cannot change the sets".to_owned(),
        source,
    })
}
