//! The descriptors that walks of this call have opened, by path.
#![forbid(unsafe_code)]

use super::object::{Id, Object};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::rc::Rc;

/// Limit for the directories whose descriptors are kept for later walks.
const MAX_KEPT: usize = 64;

/// Objects found in this call, by path (as `OsString`: hashing a `Path` parses its components).
#[derive(Default)]
struct Found {
    /// Directories on the way, so that common prefixes are walked once. At most [`MAX_KEPT`].
    kept: HashMap<OsString, Rc<Object>>,
    /// Objects that were checked and will be used.
    held: HashMap<OsString, Rc<Object>>,
    /// The identities of held objects whose descriptors had to be closed ([`enter_namespace`]).
    expected: HashMap<OsString, Id>,
}

thread_local! {
    static FOUND: RefCell<Found> = RefCell::default();
    /// Whether this process is in its own user namespace, where most owners are not mapped.
    static ENTERED: Cell<bool> = const { Cell::new(false) };
}

/// Whether owners are visible: not after this process has entered a user namespace.
pub fn owners_are_known() -> bool {
    !ENTERED.get()
}

/// Forgets all objects and closes their descriptors. The next walk starts from `/` again.
pub fn forget() {
    FOUND.with_borrow_mut(|found| *found = Found::default());
}

/// Must be called after this process has entered another user and mount namespace: the kernel does not clone mounts from a
/// descriptor of the previous one. Closes the descriptors; later walks open each path again. If a held path is then another
/// object, the walk fails with `ESTALE`.
pub fn enter_namespace() {
    ENTERED.set(true);
    FOUND.with_borrow_mut(|found| {
        let expected = found.held.iter().map(|(path, object)| (path.clone(), object.id())).collect();
        *found = Found { expected, ..Found::default() };
    });
}

/// Keeps `object` until [`forget`]: each later walk of its path returns it.
pub fn hold(object: &Rc<Object>) {
    FOUND.with_borrow_mut(|found| found.held.insert(object.path.clone().into(), Rc::clone(object)));
}

/// The object kept for `path`.
pub(super) fn get(path: &Path) -> Option<Rc<Object>> {
    FOUND.with_borrow(|found| found.held.get(path.as_os_str()).or_else(|| found.kept.get(path.as_os_str())).cloned())
}

/// The identity of the object held for `path` before [`enter_namespace`].
pub(super) fn expected(path: &Path) -> Option<Id> {
    FOUND.with_borrow(|found| found.expected.get(path.as_os_str()).copied())
}

/// Keeps `object` for later walks, up to [`MAX_KEPT`] objects.
pub(super) fn keep(object: Rc<Object>) -> Rc<Object> {
    FOUND.with_borrow_mut(|found| {
        if found.kept.len() < MAX_KEPT {
            found.kept.insert(object.path.clone().into(), Rc::clone(&object));
        }
    });
    object
}
