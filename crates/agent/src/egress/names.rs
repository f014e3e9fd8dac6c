use std::{
    collections::{HashMap, VecDeque},
    net::Ipv4Addr,
};

/// The range of the addresses that stand for names: one that is routed nowhere (RFC 2544).
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Most names; the one that was given longest ago makes room. All of them fit into the range twice over.
const MOST: usize = 1 << 16;

/// Addresses that stand for names: what is asked by name is connected to by name.
#[derive(Debug, Default)]
pub(super) struct Names {
    by_name: HashMap<String, Ipv4Addr>,
    by_address: HashMap<Ipv4Addr, String>,
    /// Oldest first.
    order: VecDeque<Ipv4Addr>,
}

impl Names {
    /// The address that stands for a name.
    pub(super) fn address(&mut self, name: &str) -> Ipv4Addr {
        if let Some(address) = self.by_name.get(name) {
            return *address;
        }
        let address = match u32::try_from(self.order.len()) {
            Ok(count) if self.order.len() < MOST => Ipv4Addr::from_bits(FIRST.to_bits() + count),
            _ => self.make_room(),
        };
        self.by_name.insert(name.to_owned(), address);
        self.by_address.insert(address, name.to_owned());
        self.order.push_back(address);
        address
    }

    /// The name that an address stands for.
    pub(super) fn name(&self, address: Ipv4Addr) -> Option<&str> {
        self.by_address.get(&address).map(String::as_str)
    }

    fn make_room(&mut self) -> Ipv4Addr {
        let oldest = self.order.pop_front().unwrap_or(FIRST);
        if let Some(name) = self.by_address.remove(&oldest) {
            self.by_name.remove(&name);
        }
        oldest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_address_and_two_names_have_two() {
        let mut names = Names::default();
        let one = names.address("a.com");
        let two = names.address("b.com");
        assert_ne!(one, two);
        assert_eq!((names.address("a.com"), names.name(two)), (one, Some("b.com")));
        assert_eq!(names.name(Ipv4Addr::new(8, 8, 8, 8)), None);
    }

    #[test]
    fn names_without_end_take_no_memory_without_end() {
        let mut names = Names::default();
        let first = names.address("0.com");
        for number in 1..=MOST {
            names.address(&format!("{number}.com"));
        }
        assert_eq!((names.by_name.len(), names.by_address.len(), names.order.len()), (MOST, MOST, MOST));
        assert_eq!(names.name(first), Some(format!("{MOST}.com").as_str()));
        assert!(Ipv4Addr::from_bits(FIRST.to_bits() + u32::try_from(MOST).unwrap()) < Ipv4Addr::new(198, 20, 0, 0));
    }
}
