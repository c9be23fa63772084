//! Where what was walked to lies in its file system.
#![forbid(unsafe_code)]

use super::{Object, Walked};
use crate::mounts::{Mount, Spot, Table};
use std::io;
use std::path::Path;

impl Table {
    /// The mount that an object lies in.
    ///
    /// # Errors
    /// It is not known.
    pub fn mount_of(&self, object: &Object) -> io::Result<&Mount> {
        self.of(object.fd())
    }

    /// Where an object lies in its file system, or would lie when what is missing were made.
    ///
    /// # Errors
    /// Its mount is not known.
    pub fn spot(&self, walked: &Walked) -> io::Result<Spot> {
        self.of(walked.object.fd())?.spot(&walked.path())
    }

    /// The same for `path` in `directory`, and for each mount point on the way to it: whoever can rename a directory on
    /// which something is mounted takes the mount off in all other mount namespaces (rename(2), from Linux 3.18 on).
    ///
    /// # Errors
    /// A mount is not known.
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
