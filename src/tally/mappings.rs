//! The list of nginx's shared mappings.
//!
//! nginx makes and removes them in the master while it loads a configuration. A worker inherits the
//! list when it is forked: these are the mappings that it has for the rest of its life.
#![forbid(unsafe_code)]

/// A shared mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedMapping {
    /// A number that no other mapping of this server has, not even an earlier one at the same
    /// address.
    pub serial: u64,
    /// The number of the configuration that made it, as in the generation of processes; `None` if
    /// it is older than the hook.
    pub generation: Option<u64>,
    /// The name that nginx gave it.
    pub name: Vec<u8>,
    /// Its start address.
    pub address: usize,
    /// The bytes that nginx requested.
    pub size: usize,
    /// Whether the configuration that made it is still being loaded.
    loading: bool,
}

/// All shared mappings.
#[derive(Debug, Default)]
pub struct SharedMappings {
    all: Vec<SharedMapping>,
    last_serial: u64,
}

impl SharedMappings {
    /// An empty list.
    pub const fn new() -> Self {
        SharedMappings { all: Vec::new(), last_serial: 0 }
    }

    /// Adds a mapping that the configuration being loaded has made. Returns its serial number.
    pub fn add(&mut self, name: &[u8], address: usize, size: usize) -> u64 {
        self.push(name, address, size, true)
    }

    /// Adds a mapping that is older than the hook. Returns its serial number; `None` if the mapping
    /// is already in the list.
    pub fn adopt(&mut self, name: &[u8], address: usize, size: usize) -> Option<u64> {
        let known = self.all.iter().any(|m| m.address == address && m.size == size);
        (!known).then(|| self.push(name, address, size, false))
    }

    /// Removes a mapping that is about to be unmapped.
    pub fn remove(&mut self, address: usize) {
        self.all.retain(|mapping| mapping.address != address);
    }

    /// Removes all mappings.
    pub fn clear(&mut self) {
        self.all.clear();
    }

    /// Notes that nginx begins to load a configuration. Mappings made since the last loaded one
    /// belong to a configuration without this module, whose number is unknown.
    pub fn loading(&mut self) {
        self.all.iter_mut().for_each(|mapping| mapping.loading = false);
    }

    /// Notes that the configuration with this number is loaded: mappings made meanwhile belong to
    /// it.
    pub fn loaded(&mut self, generation: u64) {
        for mapping in self.all.iter_mut().filter(|mapping| mapping.loading) {
            mapping.generation = Some(generation);
            mapping.loading = false;
        }
    }

    /// All mappings, the oldest first.
    pub fn all(&self) -> &[SharedMapping] {
        &self.all
    }

    fn push(&mut self, name: &[u8], address: usize, size: usize, loading: bool) -> u64 {
        self.remove(address);
        self.last_serial += 1;
        let (serial, name) = (self.last_serial, name.to_vec());
        self.all.push(SharedMapping { serial, generation: None, name, address, size, loading });
        serial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(mappings: &SharedMappings) -> Vec<(u64, Option<u64>, usize)> {
        mappings.all().iter().map(|m| (m.serial, m.generation, m.address)).collect()
    }

    #[test]
    fn over_reloads() {
        let mut mappings = SharedMappings::new();
        mappings.add(b"one", 0x1000, 10);
        mappings.add(b"two", 0x2000, 20);
        assert_eq!(list(&mappings), [(1, None, 0x1000), (2, None, 0x2000)]);
        mappings.loaded(1);
        assert_eq!(mappings.adopt(b"one", 0x1000, 10), None);
        assert_eq!(mappings.adopt(b"old", 0x5000, 10), Some(3));
        // A reload that makes a new mapping of "one" fails, and the next reload succeeds.
        mappings.add(b"one", 0x3000, 30);
        mappings.remove(0x3000);
        mappings.add(b"one", 0x3000, 30);
        mappings.loaded(2);
        mappings.remove(0x1000);
        assert_eq!(
            list(&mappings),
            [(2, Some(1), 0x2000), (3, None, 0x5000), (5, Some(2), 0x3000)]
        );
        // A new mapping at the same address gets another serial number.
        mappings.add(b"one", 0x2000, 20);
        mappings.loaded(3);
        assert_eq!(list(&mappings).last(), Some(&(6, Some(3), 0x2000)));
        assert_eq!(list(&mappings).len(), 3);
        mappings.add(b"late", 0x7000, 10);
        mappings.loading();
        mappings.loaded(4);
        assert_eq!(list(&mappings).last(), Some(&(7, None, 0x7000)));
        mappings.clear();
        assert_eq!(mappings.add(b"one", 0x2000, 20), 8);
    }
}
