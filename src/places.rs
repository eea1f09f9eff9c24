//! A limited number of places for clients of which only the address is known (G6).
//!
//! Each client takes one place. To keep a flood from a few addresses from taking all of them, a number of extra places
//! are reserved for addresses that hold few or none.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// This fraction of the places exists in addition, for addresses that hold few.
const SPARE: usize = 8;
/// An address no longer holds few if it holds this fraction of the places,
const FEW: usize = 64;
/// or this many.
const MOST_FEW: usize = 32;

/// A limited number of places.
#[derive(Clone, Debug)]
pub struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    places: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by: HashMap<IpAddr, usize>,
}

/// One place; released on drop.
#[derive(Debug)]
pub struct Place {
    places: Places,
    from: Option<IpAddr>,
}

impl Places {
    /// Creates this many places.
    pub fn new(places: usize) -> Places {
        Places(Arc::new(Inner { places, taken: Mutex::default() }))
    }

    /// Takes a place for a client from this address, if it is known. `None` if no place is left.
    pub fn enter(&self, from: Option<IpAddr>) -> Option<Place> {
        let places = self.0.places;
        let mut taken = self.taken();
        let has_few =
            from.is_some_and(|from| taken.by.get(&from).copied().unwrap_or(0) < (places / FEW).clamp(1, MOST_FEW));
        let most = if has_few { places + places / SPARE } else { places };
        if taken.all >= most {
            return None;
        }
        taken.all += 1;
        if let Some(from) = from {
            *taken.by.entry(from).or_default() += 1;
        }
        Some(Place { places: self.clone(), from })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        let Some(from) = self.from else { return };
        if let Some(count) = taken.by.get_mut(&from) {
            *count -= 1;
            if *count == 0 {
                taken.by.remove(&from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn a_flood_from_one_address_leaves_places_for_others() {
        let places = Places::new(640);
        let mut flood: Vec<Place> = std::iter::from_fn(|| places.enter(from(1))).collect();
        assert_eq!(flood.len(), 640, "as many as there are");
        assert!(places.enter(None).is_none(), "of whom not even that is known");
        let few: Vec<Place> = std::iter::from_fn(|| places.enter(from(2))).collect();
        assert_eq!(few.len(), 10);
        let others: Vec<Place> = (3..100).filter_map(|last| places.enter(from(last))).collect();
        assert_eq!(few.len() + others.len(), 80, "an eighth is there in addition");
        drop(others);
        assert!(places.enter(from(1)).is_none() && places.enter(from(2)).is_none() && places.enter(from(3)).is_some());
        flood.truncate(500);
        assert!(places.enter(from(1)).is_some());
        drop((flood, few));
        let taken = places.taken();
        assert!(taken.all == 0 && taken.by.is_empty());
    }

    #[test]
    fn where_there_are_few_places_one_address_gets_no_more_of_them() {
        for most in [1, 3, 10] {
            let places = Places::new(most);
            let held: Vec<Place> = std::iter::from_fn(|| places.enter(from(1))).collect();
            assert_eq!(held.len(), most);
        }
    }
}
