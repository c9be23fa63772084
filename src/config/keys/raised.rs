//! Twice an amount, for remedies: up to the limit of the reader of the same name; `None` if it is at the limit already.

use crate::units;
use serde_json::Value;
use std::time::Duration;

pub(super) fn size(now: u64, most: u64) -> Option<Value> {
    twice(now, most).map(|bytes| units::size_text(bytes).into())
}

pub(super) fn count(now: u64, _least: u64, most: u64) -> Option<Value> {
    twice(now, most).map(Value::from)
}

pub(super) fn time(now: Duration) -> Option<Value> {
    (now < units::MAX_TIME).then(|| units::time_text((now * 2).min(units::MAX_TIME)).into())
}

fn twice(now: u64, most: u64) -> Option<u64> {
    (now < most).then(|| now.saturating_mul(2).min(most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Grant, read_unchecked};
    use crate::keys::Key;
    use std::path::Path;

    #[test]
    fn a_limit_at_its_most_is_not_doubled() {
        for (now, twofold) in [(1, Some(2)), (600, Some(1000)), (999, Some(1000)), (1000, None), (u64::MAX, None)] {
            assert_eq!(twice(now, 1000), twofold);
        }
    }

    /// The grant of a configuration with this value; `None` if it is invalid.
    fn with(key: Key, value: &Value) -> Option<Grant> {
        let text =
            format!("[defaults]\n{} = {value}\n[plugins.P]\nmodule = \"p\"\nallowed_methods = [\"m\"]\n", key.name());
        let config = read_unchecked(Path::new("/nowhere/c.toml"), text.into_bytes()).ok()?;
        Some(crate::decide::grant::grant(&config, "P", "m", None).unwrap().grant)
    }

    #[test]
    fn every_amount_is_doubled_to_what_its_reader_takes_and_no_further() {
        let amounts: Vec<Key> = Key::ALL.iter().copied().filter(|key| key.unit().is_some()).collect();
        assert!(amounts.len() > 10);
        for key in amounts {
            let (mut grant, mut most) = (Grant::built_in(), None);
            while let Some(value) = grant.raised(key) {
                grant = with(key, &value).unwrap_or_else(|| panic!("{} = {value} is refused", key.name()));
                most = Some(value);
            }
            let most = most.unwrap_or_else(|| panic!("{} is never doubled", key.name()));
            let more = match &most {
                Value::Number(number) => (number.as_u64().unwrap() + 1).into(),
                _ => match serde_json::to_value(&grant).unwrap()[key.name()].clone() {
                    Value::Number(bytes) => format!("{}B", bytes.as_u64().unwrap() + 1).into(),
                    time => format!("{}ms", units::time(time.as_str().unwrap()).unwrap().as_millis() + 1).into(),
                },
            };
            assert!(with(key, &more).is_none(), "{} = {more} is more than {most}", key.name());
        }
        assert_eq!(Grant::built_in().raised(Key::Site), None);
    }
}
