//! The members of a change that the protocol does not name, while a body is parsed (G6).

use super::wire::Members;
use crate::protocol::json::ObjectWriter;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Maximum number of members that are kept one by one.
const FEW: usize = 16;

/// Members that the protocol does not name. All changes of a body are parsed before any is converted, and a member may be
/// as short as five bytes: so all but the first are kept as text, which takes no more memory than the body.
#[derive(Default)]
pub(super) struct UnnamedMembers<'a> {
    first: Vec<(Cow<'a, str>, &'a RawValue)>,
    further: Option<ObjectWriter>,
}

impl<'a> UnnamedMembers<'a> {
    pub(super) fn add(&mut self, name: Cow<'a, str>, value: &'a RawValue) {
        if self.first.len() < FEW {
            self.first.push((name, value));
        } else {
            self.further.get_or_insert_default().raw(&name, value.get());
        }
    }

    /// Calls a function with all of them, in the order written.
    pub(super) fn with_all<T>(self, call: impl FnOnce(&[(Cow<'_, str>, &RawValue)]) -> T) -> serde_json::Result<T> {
        let further = self.further.map(ObjectWriter::finish).unwrap_or_default();
        let mut members = self.first;
        if !further.is_empty() {
            let Members(further) = serde_json::from_str::<Members<'_, &RawValue>>(&further)?;
            members.extend(further);
        }
        Ok(call(&members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(count: usize) -> Vec<(String, String)> {
        let body: Vec<String> = (0..count).map(|n| format!(r#""m\"{n}":[{n}, "x"]"#)).collect();
        let body = format!("{{{}}}", body.join(","));
        let Members(sent) = serde_json::from_str::<Members<'_, &RawValue>>(&body).unwrap();
        let mut members = UnnamedMembers::default();
        sent.into_iter().for_each(|(name, value)| members.add(name, value));
        assert!(members.first.len() <= FEW);
        let own = |members: &[(Cow<'_, str>, &RawValue)]| {
            members.iter().map(|(name, value)| (name.to_string(), value.get().to_owned())).collect()
        };
        members.with_all(own).unwrap()
    }

    #[test]
    fn many_members_are_given_back_as_they_came() {
        for count in [0, 1, FEW, FEW + 1, 3 * FEW] {
            let expected: Vec<_> = (0..count).map(|n| (format!("m\"{n}"), format!(r#"[{n}, "x"]"#))).collect();
            assert_eq!(read(count), expected);
        }
    }
}
