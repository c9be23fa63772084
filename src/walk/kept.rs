//! The descriptors that walks of this call have opened, kept by path.
#![forbid(unsafe_code)]

use super::object::{Id, Object};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::rc::Rc;

/// Directories whose descriptors are kept for the next walk.
const MAX_KEPT: usize = 64;

/// Descriptors of this call: what a walk has found, by path (as a string: the hash of a path looks for its components).
#[derive(Default)]
struct Found {
    /// Directories on the way, so that paths with a common beginning are walked once. At most [`MAX_KEPT`].
    kept: HashMap<OsString, Rc<Object>>,
    /// What was decided on and is to be used.
    held: HashMap<OsString, Rc<Object>>,
    /// Which objects these were, when their descriptors had to be given up ([`enter_namespace`]).
    expected: HashMap<OsString, Id>,
}

thread_local! {
    static FOUND: RefCell<Found> = RefCell::default();
    /// Whether this process is in a user namespace of its own, where most owners have no number.
    static ENTERED: Cell<bool> = const { Cell::new(false) };
}

/// Whether it can be seen who owns what: not any more once this process has entered a user namespace.
pub fn owners_are_known() -> bool {
    !ENTERED.get()
}

/// Forgets everything that walks have found and closes its descriptors. The next walk starts from `/` again.
pub fn forget() {
    FOUND.with_borrow_mut(|found| *found = Found::default());
}

/// To be called when this process has entered another user and mount namespace: the kernel clones no mount from a descriptor of the
/// one before. Descriptors are given up, and later walks open each path again; one that was held must be the same object,
/// or the walk ends with `ESTALE`.
pub fn enter_namespace() {
    ENTERED.set(true);
    FOUND.with_borrow_mut(|found| {
        let expected = found.held.iter().map(|(path, object)| (path.clone(), object.id())).collect();
        *found = Found { expected, ..Found::default() };
    });
}

/// Keeps `object` until [`forget`]: each later walk to its path gives this one.
pub fn hold(object: &Rc<Object>) {
    FOUND.with_borrow_mut(|found| found.held.insert(object.path.clone().into(), Rc::clone(object)));
}

/// What is kept at `path`.
pub(super) fn get(path: &Path) -> Option<Rc<Object>> {
    FOUND.with_borrow(|found| found.held.get(path.as_os_str()).or_else(|| found.kept.get(path.as_os_str())).cloned())
}

/// Which object was held at `path` before [`enter_namespace`].
pub(super) fn expected(path: &Path) -> Option<Id> {
    FOUND.with_borrow(|found| found.expected.get(path.as_os_str()).copied())
}

/// Keeps `object` for the next walk, if there is room.
pub(super) fn keep(object: Rc<Object>) -> Rc<Object> {
    FOUND.with_borrow_mut(|found| {
        if found.kept.len() < MAX_KEPT {
            found.kept.insert(object.path.clone().into(), Rc::clone(&object));
        }
    });
    object
}
