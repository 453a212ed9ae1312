//! The entries of one observation in the order of their ids, so that sums and answers do not depend on the order
//! they were listed in, and an id that is listed twice stands beside itself.

use crate::observation::{DomainKl, KlObservation};

/// An observation's domains, sorted by id.
pub(super) struct Entries<'a> {
    domains: &'a [DomainKl],
    order: Vec<usize>,
}

impl<'a> Entries<'a> {
    /// Sorts into `scratch`, whose memory is reused.
    pub(super) fn of(obs: &'a KlObservation, mut scratch: Vec<usize>) -> Self {
        scratch.clear();
        scratch.extend(0..obs.domains.len());
        scratch.sort_unstable_by(|&a, &b| obs.domains[a].id.cmp(&obs.domains[b].id));
        Self { domains: &obs.domains, order: scratch }
    }

    /// Gives the scratch memory back.
    pub(super) fn release(self) -> Vec<usize> {
        self.order
    }

    fn at(&self, place: usize) -> &'a DomainKl {
        &self.domains[self.order[place]]
    }

    /// Every entry, and whether its id is listed more than once.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a DomainKl, bool)> + '_ {
        let same = |a: usize, b: usize| b < self.order.len() && self.at(a).id == self.at(b).id;
        (0..self.order.len()).map(move |i| {
            (self.at(i), same(i, i + 1) || i.checked_sub(1).is_some_and(|before| same(i, before)))
        })
    }

    /// The only entry with this id.
    pub(super) fn only(&self, id: &str) -> Option<&'a DomainKl> {
        let from = self.order.partition_point(|&i| self.domains[i].id.as_str() < id);
        let to = self.order.partition_point(|&i| self.domains[i].id.as_str() <= id);
        (to == from + 1).then(|| self.at(from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::NatsPerSequence;

    fn observation(ids: &[&str]) -> KlObservation {
        KlObservation::rollout(
            0,
            ids.iter().map(|id| DomainKl::new(*id, NatsPerSequence(1.0), 1.0, 1)).collect(),
        )
    }

    #[test]
    fn entries_come_by_id_and_doubles_are_marked() {
        let obs = observation(&["c", "a", "b", "a"]);
        let entries = Entries::of(&obs, vec![7; 9]);
        let listed: Vec<_> = entries.iter().map(|(d, twice)| (d.id.as_str(), twice)).collect();
        assert_eq!(listed, [("a", true), ("a", true), ("b", false), ("c", false)]);
        let found = |id| entries.only(id).map(|d| d.id.as_str());
        assert_eq!(
            (found("a"), found("b"), found("c"), found("d"), found("")),
            (None, Some("b"), Some("c"), None, None)
        );
        assert_eq!(entries.release().len(), 4);
    }

    #[test]
    fn an_empty_observation_has_none() {
        let obs = observation(&[]);
        let entries = Entries::of(&obs, Vec::new());
        assert!(entries.iter().next().is_none() && entries.only("all").is_none());
    }
}
