//! Finds rules without effect: covered by others, or never met.

use crate::profile::Condition;

impl Condition {
    fn negated(&self) -> Condition {
        Condition { equal: !self.equal, ..*self }
    }
}

/// The first list that has no effect, or a condition without effect; and why.
pub(crate) fn redundant(lists: &[Vec<Condition>]) -> Option<(usize, &'static str)> {
    for (at, list) in lists.iter().enumerate() {
        if !satisfiable(list) {
            return Some((at, "its `when` never holds"));
        }
        for (i, condition) in list.iter().enumerate() {
            let mut without = list.clone();
            without[i] = condition.negated();
            if !satisfiable(&without) {
                return Some((at, "a condition of its `when` follows from the others"));
            }
        }
    }
    // the later list is named: an earlier one need not be changed
    for at in (0..lists.len()).rev() {
        let others: Vec<_> = lists.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, list)| list).collect();
        if !reaches(&lists[at], &others) {
            return Some((at, "other rules' `when` cover this one"));
        }
    }
    let all: Vec<_> = lists.iter().collect();
    (!reaches(&[], &all))
        .then_some((lists.len() - 1, "with it the call is always allowed, so the `when`s are redundant"))
}

/// Whether there are arguments that meet all of `held` and none of `lists`: in each list one condition must fail.
fn reaches(held: &[Condition], lists: &[&Vec<Condition>]) -> bool {
    if !satisfiable(held) {
        return false;
    }
    let Some((first, rest)) = lists.split_first() else { return true };
    first.iter().any(|condition| reaches(&[held, &[condition.negated()]].concat(), rest))
}

/// Whether there are arguments that meet all of these.
fn satisfiable(conditions: &[Condition]) -> bool {
    (0..6).all(|arg| {
        // A condition of equality fixes bits; one of difference needs a bit that is not fixed.
        let (mut mask, mut value) = (0, 0);
        let of_arg = conditions.iter().filter(|c| c.arg == arg);
        let (equal, differ): (Vec<&Condition>, Vec<&Condition>) = of_arg.partition(|c| c.equal);
        for c in equal {
            if (value ^ c.value) & mask & c.mask != 0 {
                return false;
            }
            mask |= c.mask;
            value |= c.value;
        }
        differs(mask, value, &differ)
    })
}

/// Whether the bits that `mask` leaves open can be chosen so that each of `from` differs.
fn differs(mask: u32, value: u32, from: &[&Condition]) -> bool {
    let Some((first, rest)) = from.split_first() else { return true };
    if (value ^ first.value) & mask & first.mask != 0 {
        return differs(mask, value, rest);
    }
    let free = first.mask & !mask;
    (0..32).map(|bit| 1_u32 << bit).filter(|bit| free & bit != 0).any(|bit| {
        // this is the lowest bit that differs: those below it are equal
        let below = free & (bit - 1);
        differs(mask | below | bit, value | first.value & below | !first.value & bit, rest)
    })
}
