//! The tables of a wake-up: one list, however many sessions keep it until they are told (G6).

use crate::mail_budget::{MailCharge, UserMail};
use crate::protocol::websocket::{ServerMessage, Text};
use std::ops::Deref;
use std::sync::{Arc, OnceLock, Weak};

/// Approximate memory of a name besides its characters, in bytes.
pub const NAME_BYTES: usize = 48;
/// Lists of up to this many bytes are covered by the fixed cost of a session.
const FREE: usize = 1 << 10;

/// Names of tables, in order. Clones share the names, the message made from them, and the charge for both.
#[derive(Clone, Debug)]
pub struct Tables(Arc<List>);

#[derive(Debug)]
struct List {
    names: Box<[Arc<str>]>,
    bytes: usize,
    /// The message for sessions and the app it is for, once one was sent.
    message: OnceLock<(Arc<str>, Text)>,
    /// Set once a mailbox keeps the list.
    charge: OnceLock<MailCharge>,
}

/// A list that is dropped when nobody keeps it any more.
#[derive(Clone, Debug)]
pub struct WeakTables(Weak<List>);

impl WeakTables {
    /// True if it refers to this list.
    pub fn is(&self, list: &Tables) -> bool {
        std::ptr::eq(self.0.as_ptr(), Arc::as_ptr(&list.0))
    }

    /// Returns the list if somebody keeps it.
    pub fn upgrade(&self) -> Option<Tables> {
        self.0.upgrade().map(Tables)
    }
}

impl Tables {
    /// Merges lists, each name once. The user is charged as by [`charge`](Self::charge), before the work is done; `None`
    /// if there is no room.
    pub fn merged(lists: &[Tables], user: &UserMail) -> Option<Tables> {
        let needs = |names: &[Arc<str>]| names.iter().map(|name| 2 * name.len() + NAME_BYTES).sum::<usize>();
        let mut charge = user.charge(lists.iter().map(|list| needs(list)).sum())?;
        let mut names: Vec<Arc<str>> = lists.iter().flatten().cloned().collect();
        // Stable sorting merges runs that are in order.
        names.sort();
        names.dedup();
        charge.set(needs(&names));
        let all = Tables::from(names);
        // Nobody else knows the list yet.
        let _ = all.0.charge.set(charge);
        Some(all)
    }

    /// Returns a reference that does not keep the list.
    pub fn downgrade(&self) -> WeakTables {
        WeakTables(Arc::downgrade(&self.0))
    }

    /// Approximate memory of the list if it is not shared, in bytes.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// Finds the table with this name.
    pub fn find(&self, name: &str) -> Option<&Arc<str>> {
        self.binary_search_by(|table| (**table).cmp(name)).ok().map(|at| &self[at])
    }

    /// True if both are the same list, not only equal lists.
    pub fn is_same(&self, other: &Tables) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns the message that these tables of an app changed. It is encoded once.
    pub fn message(&self, app: &Arc<str>) -> Text {
        let (of, message) = self.0.message.get_or_init(|| (app.clone(), self.encode(app)));
        if of == app { message.clone() } else { self.encode(app) }
    }

    fn encode(&self, app: &str) -> Text {
        ServerMessage::SyncAvailable { app_id: app, tables: self.iter().map(|table| &**table).collect() }
            .encode()
            .into()
    }

    /// Charges the user for the list and its message, unless that has been done; false if there is no room.
    pub fn charge(&self, user: &UserMail) -> bool {
        if self.0.bytes <= FREE || self.0.charge.get().is_some() {
            return true;
        }
        let names: usize = self.iter().map(|name| name.len()).sum();
        let Some(charge) = user.charge(self.0.bytes + names) else { return false };
        // If another mailbox was faster, this charge is released.
        let _ = self.0.charge.set(charge);
        true
    }
}

impl From<Vec<Arc<str>>> for Tables {
    fn from(mut names: Vec<Arc<str>>) -> Tables {
        if !names.is_sorted() {
            names.sort_unstable();
        }
        let bytes = names.iter().map(|name| name.len() + NAME_BYTES).sum();
        let names = names.into_boxed_slice();
        Tables(Arc::new(List { names, bytes, message: OnceLock::new(), charge: OnceLock::new() }))
    }
}

impl FromIterator<Arc<str>> for Tables {
    fn from_iter<I: IntoIterator<Item = Arc<str>>>(names: I) -> Tables {
        Vec::from_iter(names).into()
    }
}

impl Deref for Tables {
    type Target = [Arc<str>];

    fn deref(&self) -> &[Arc<str>] {
        &self.0.names
    }
}

impl<'a> IntoIterator for &'a Tables {
    type Item = &'a Arc<str>;
    type IntoIter = std::slice::Iter<'a, Arc<str>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialEq for Tables {
    fn eq(&self, other: &Tables) -> bool {
        self.is_same(other) || **self == **other
    }
}

impl Eq for Tables {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail_budget::MailBudget;

    #[test]
    fn tables_are_in_order_written_once_and_charged_once() {
        let tables: Tables = ["b", "c", "a"].map(Into::into).into_iter().collect();
        assert_eq!(tables.find("c").map(|name| &**name), Some("c"));
        assert_eq!(tables.find("d"), None);
        let (app, other) = ("todo".into(), "notes".into());
        let message = tables.message(&app);
        assert_eq!(message.as_str(), r#"{"type":"sync-available","appId":"todo","tables":["a","b","c"]}"#);
        assert_eq!(tables.clone().message(&app).as_ptr(), message.as_ptr());
        assert!(tables.message(&other).as_str().contains("notes"));

        let all = MailBudget::new(prometheus::IntGauge::new("mail", "for the test").unwrap());
        let user = all.user();
        assert!(tables.charge(&user) && all.bytes() == 0, "it is small");
        let many: Tables = (0..2_000).map(|n| format!("table-{n}").into()).collect();
        assert!(many.charge(&user) && many.clone().charge(&user));
        assert!(all.bytes() > many.bytes() && all.bytes() < 2 * many.bytes());
        drop(many);
        assert_eq!(all.bytes(), 0);
    }
}
