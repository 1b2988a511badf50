//! How new inboxes are called.

use inboxgrove_model::{DomainName, EmailAddress, job::Naming, ports::Rng};

use crate::refusal::Refusal;

/// First names, common in many countries and easy to spell.
const FIRST: [&str; 64] = [
    "Ada", "Alex", "Alice", "Amir", "Andrea", "Anna", "Anton", "Ben", "Carla", "Carlos", "Chloe",
    "Clara", "Daniel", "David", "Diana", "Elena", "Elias", "Elsa", "Emil", "Emma", "Eric", "Eva",
    "Felix", "Finn", "Frida", "Grace", "Hanna", "Hugo", "Ida", "Ines", "Irene", "Isaac", "Ivan",
    "Jana", "Jonas", "Julia", "Karin", "Laura", "Leo", "Lena", "Lina", "Lucas", "Maja", "Marco",
    "Maria", "Martin", "Maya", "Mila", "Nina", "Noah", "Nora", "Olga", "Oscar", "Paul", "Petra",
    "Rosa", "Samuel", "Sara", "Simon", "Sofia", "Theo", "Tomas", "Vera", "Viktor",
];

/// Last names, likewise.
const LAST: [&str; 64] = [
    "Abbott", "Adler", "Alvarez", "Arnold", "Barnes", "Bauer", "Becker", "Bennett", "Berg",
    "Brandt", "Burke", "Carter", "Clarke", "Cole", "Costa", "Dahl", "Dean", "Diaz", "Duval",
    "Ellis", "Evans", "Fischer", "Fleming", "Foster", "Garcia", "Grant", "Hale", "Hansen", "Hart",
    "Hayes", "Holm", "Hughes", "Jansen", "Jensen", "Keller", "Kim", "Klein", "Lang", "Larsen",
    "Lopez", "Lund", "Marsh", "Meyer", "Miller", "Moreau", "Nash", "Novak", "Olsen", "Park",
    "Perry", "Quinn", "Reed", "Rossi", "Santos", "Shaw", "Silva", "Stone", "Torres", "Vogel",
    "Wagner", "Walsh", "Weber", "West", "Young",
];

/// Letters and digits that are not taken for each other.
const LETTERS: &[u8; 31] = b"abcdefghjkmnpqrstuvwxyz23456789";
/// Letters in a random name: 49 bits, so a clash within a domain is not to be met.
const RANDOM_LEN: usize = 10;
/// After this many tries the pool of plain names is taken to be nearly used up and numbers are added.
const PLAIN_TRIES: u32 = 64;

/// A proposed name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) address: EmailAddress,
    pub(crate) display: String,
}

/// Proposes a name. `number` counts the inboxes of the domain, `tries` the proposals of this chunk.
pub(crate) fn propose(
    naming: Naming,
    domain: &DomainName,
    number: u32,
    tries: u32,
    rng: &dyn Rng,
) -> Result<Name, Refusal> {
    let (local, display) = match naming {
        Naming::FirstnameLastname => person(tries, rng),
        Naming::Random => random(rng),
        Naming::Numbered => (format!("inbox{number}"), format!("Inbox {number}")),
    };
    let address = EmailAddress::new(&local, domain).map_err(|why| Refusal::Invalid {
        field: "domain_id",
        why: why.to_string(),
    })?;
    Ok(Name { address, display })
}

fn person(tries: u32, rng: &dyn Rng) -> (String, String) {
    let (first, last) = (pick(&FIRST, rng), pick(&LAST, rng));
    let plain = format!("{}.{}", first.to_lowercase(), last.to_lowercase());
    let local = if tries <= PLAIN_TRIES {
        plain
    } else {
        format!("{plain}{}", 2 + rng.below(9998))
    };
    (local, format!("{first} {last}"))
}

fn random(rng: &dyn Rng) -> (String, String) {
    let letters = |n| {
        (0..n)
            .map(|_| char::from(*pick(LETTERS, rng)))
            .collect::<String>()
    };
    // A first letter keeps strict forms happy that take a leading digit for a mistake.
    let first = char::from(*pick(b"abcdefghjkmnpqrstuvwxyz", rng));
    let local = format!("{first}{}", letters(RANDOM_LEN - 1));
    (local.clone(), local)
}

fn pick<'a, T>(from: &'a [T], rng: &dyn Rng) -> &'a T {
    let at = rng.below(from.len() as u64);
    &from[usize::try_from(at).expect("below the length of a slice")]
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// SplitMix64: enough for names.
    struct Dice(AtomicU64);
    impl Rng for Dice {
        fn fill(&self, bytes: &mut [u8]) {
            for chunk in bytes.chunks_mut(8) {
                let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
            }
        }
    }

    #[test]
    fn every_scheme_makes_addresses_that_parse() {
        let domain = DomainName::parse("example.com").expect("a name");
        let dice = Dice(AtomicU64::new(1));
        for naming in [Naming::FirstnameLastname, Naming::Random, Naming::Numbered] {
            for number in 1..200 {
                let name = propose(naming, &domain, number, number, &dice).expect("a name");
                assert!(!name.display.is_empty());
                assert!(EmailAddress::parse(name.address.as_str()).is_ok());
            }
        }
    }

    #[test]
    fn numbered_names_follow_the_count() {
        let domain = DomainName::parse("example.com").expect("a name");
        let name =
            propose(Naming::Numbered, &domain, 7, 1, &Dice(AtomicU64::new(1))).expect("a name");
        assert_eq!(name.address.as_str(), "inbox7@example.com");
    }
}
