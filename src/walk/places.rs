//! The place of a walk's result in its file system.
#![forbid(unsafe_code)]

use super::{Object, Walked};
use crate::mounts::{Mount, Spot, Table};
use std::io;
use std::path::Path;

impl Table {
    /// The mount that an object is in.
    ///
    /// # Errors
    /// The mount is not in the table.
    pub fn mount_of(&self, object: &Object) -> io::Result<&Mount> {
        self.of(object.fd())
    }

    /// The place of an object in its file system; for a missing path, the place where it would be created.
    ///
    /// # Errors
    /// The mount is not in the table.
    pub fn spot(&self, walked: &Walked) -> io::Result<Spot> {
        self.of(walked.object.fd())?.spot(&walked.path())
    }

    /// The places of `path` in `directory` and of each mount point on the way to it: renaming a mount point removes the mount
    /// in all other mount namespaces (rename(2), since Linux 3.18).
    ///
    /// # Errors
    /// A mount is not in the table.
    pub fn way(&self, directory: &Object, path: &Path) -> io::Result<Vec<Spot>> {
        self.way_from(directory.fd(), path)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{How, walk};
    use super::*;

    #[test]
    fn the_own_table_knows_where_things_lie() {
        let table = Table::read().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let walked = walk(dir.path(), How::NoLinks).unwrap();
        let below = walk(&dir.path().join("a/b"), How::NoLinks).unwrap();
        let (spot, below) = (table.spot(&walked).unwrap(), table.spot(&below).unwrap());
        assert!(spot.holds(&below) && !below.holds(&spot));
        assert!(table.way(&walked.object, walked.object.path()).unwrap().contains(&spot));
    }
}
