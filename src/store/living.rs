//! Maps from which what was deleted is gone at once, and leaves in slices.

use std::{collections::hash_map, fmt, hash::Hash, ops::Range};

use crate::{
    audit,
    ids::{EntityId, IdMap},
};

/// What belongs to an entity, or moves over its logs.
pub trait Belongs {
    /// Whether it goes with an entity that owns these ids.
    fn belongs_to(&self, owner: &Range<EntityId>) -> bool;
}

/// A map in which nothing is found of what belongs to entities that were deleted. The memory of it is given back by
/// [`remove`](Living::remove), by and by.
pub struct Living<K, V> {
    all: IdMap<K, Box<V>>,
    /// The ids of entities that were deleted, and of which something is here.
    gone: Vec<Range<EntityId>>,
}

impl<K, V> Default for Living<K, V> {
    fn default() -> Living<K, V> {
        Living { all: IdMap::default(), gone: Vec::new() }
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Living<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.all).finish()
    }
}

impl<K: Eq + Hash, V: Belongs> Living<K, V> {
    #[inline(always)]
    pub fn get(&self, id: &K) -> Option<&V> {
        if !self.gone.is_empty() {
            return self.get_living(id);
        }
        Some(&**self.all.get(id)?)
    }

    #[inline(always)]
    pub fn get_mut(&mut self, id: &K) -> Option<&mut V> {
        if !self.gone.is_empty() {
            return self.get_living_mut(id);
        }
        Some(&mut **self.all.get_mut(id)?)
    }

    // What is done most often pays only for the look whether anything is gone.
    #[cold]
    #[inline(never)]
    fn get_living(&self, id: &K) -> Option<&V> {
        let found = self.all.get(id)?;
        (!is_gone(&self.gone, &**found)).then_some(&**found)
    }

    #[cold]
    #[inline(never)]
    fn get_living_mut(&mut self, id: &K) -> Option<&mut V> {
        let found = self.all.get_mut(id)?;
        (!is_gone(&self.gone, &**found)).then_some(&mut **found)
    }

    #[inline]
    pub fn contains_key(&self, id: &K) -> bool {
        self.get(id).is_some()
    }

    pub fn insert(&mut self, id: K, value: Box<V>) {
        self.all.insert(id, value);
    }

    pub fn insert_new(&mut self, id: K, value: impl FnOnce() -> V) {
        self.all.entry(id).or_insert_with(|| Box::new(value()));
    }

    /// Removes a value, also one that was gone before.
    pub fn remove(&mut self, id: &K) -> Option<Box<V>> {
        self.all.remove(id)
    }

    /// From now on nothing is found that belongs to these entities. With `also`, what belongs to those before them is not
    /// found either. Otherwise nothing of those is left here.
    pub fn lose(&mut self, gone: &[Range<EntityId>], also: bool) {
        self.gone.retain(|it| also && !gone.contains(it));
        self.gone.extend_from_slice(gone);
    }
}

/// All values, also those that are gone.
impl<K, V> Living<K, V> {
    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn keys(&self) -> hash_map::Keys<'_, K, Box<V>> {
        self.all.keys()
    }

    pub fn iter(&self) -> hash_map::Iter<'_, K, Box<V>> {
        self.all.iter()
    }

    pub fn values(&self) -> impl ExactSizeIterator<Item = &V> {
        self.all.values().map(|it| &**it)
    }

    pub fn values_mut(&mut self) -> impl ExactSizeIterator<Item = &mut V> {
        self.all.values_mut().map(|it| &mut **it)
    }
}

fn is_gone<V: Belongs>(gone: &[Range<EntityId>], value: &V) -> bool {
    audit::steps(gone.len() as u64);
    gone.iter().any(|owner| value.belongs_to(owner))
}

#[cfg(test)]
impl<K: Eq + Hash, V: Belongs> std::ops::Index<&K> for Living<K, V> {
    type Output = V;

    fn index(&self, id: &K) -> &V {
        self.get(id).expect("it is there")
    }
}
