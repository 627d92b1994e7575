//! Lists the exported functions of a loaded object by address.
//!
//! The unsafe code rests on rule 1 of [`image`](super::image): [`around`] and [`all`] require of
//! their callers what [`Image::new`] requires.

use object::elf::{GnuHashHeader, HashHeader, SHN_UNDEF, STT_FUNC, STT_OBJECT};
use object::{NativeEndian, U32};

use super::image::{Dynamic, ElfSymbol, Image};
use crate::sys::elf::LoadedObject;

/// The maximum length of a name in bytes; longer names are cut.
const NAME: usize = 128;

/// The exported functions on both sides of an address that is in no exported function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// The last function that starts at or before the address.
    pub below: Option<String>,
    /// The address at which that function starts.
    pub below_at: usize,
    /// The first function that starts behind the address.
    pub above: Option<String>,
    /// The number of functions that start between the address and a given function.
    pub between: usize,
}

/// A function: its start, and its symbol.
type FoundExport<'a> = (usize, &'a ElfSymbol);

/// Finds the neighbours of an address among the functions that the object exports, and how many of
/// them start between the address and `function`. The neighbours are `None` if the object's tables
/// cannot be read.
///
/// # Safety
///
/// The object is loaded, and stays loaded during the call.
pub unsafe fn around(object: &LoadedObject, address: usize, function: usize) -> Neighbours {
    // SAFETY: the caller keeps the object loaded during the call (rule 1 of `image`).
    let image = unsafe { Image::new(object) };
    neighbours(&image, address, function).unwrap_or_default()
}

fn neighbours(image: &Image, address: usize, function: usize) -> Option<Neighbours> {
    let dynamic = image.dynamic(image.object.dynamic?)?;
    let (mut below, mut above): (Option<FoundExport>, Option<FoundExport>) = (None, None);
    let (low, high) = (address.min(function), address.max(function));
    let mut between = 0;
    for index in 0..count(image, &dynamic)? {
        let symbol = image.symbol(&dynamic, index)?;
        if symbol.st_type() != STT_FUNC || !is_defined(symbol) {
            continue;
        }
        let at = address_of(image, symbol);
        between += usize::from(low < at && at < high);
        if at <= address && below.is_none_or(|(best, _)| best < at) {
            below = Some((at, symbol));
        }
        if at > address && above.is_none_or(|(best, _)| best > at) {
            above = Some((at, symbol));
        }
    }
    let name = |found: Option<FoundExport>| name(image, &dynamic, found?.1);
    let below_at = below.map_or(0, |(at, _)| at);
    Some(Neighbours { below: name(below), below_at, above: name(above), between })
}

fn is_defined(symbol: &ElfSymbol) -> bool {
    symbol.st_shndx.get(NativeEndian) != SHN_UNDEF
}

fn address_of(image: &Image, symbol: &ElfSymbol) -> usize {
    image.object.bias.wrapping_add(symbol.st_value.get(NativeEndian) as usize)
}

fn name(image: &Image, dynamic: &Dynamic, symbol: &ElfSymbol) -> Option<String> {
    let start = symbol.st_name.get(NativeEndian) as usize;
    let length = dynamic.strings_size.checked_sub(start)?.min(NAME);
    let bytes = image.bytes(dynamic.strings.wrapping_add(start), length)?;
    let name = bytes.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(name).into_owned())
}

/// An exported function or variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Its name.
    pub name: String,
    /// The address at which it starts.
    pub address: usize,
    /// Its size in bytes.
    pub size: usize,
    /// Whether it is a function; otherwise it is data.
    pub is_function: bool,
}

/// Returns all functions and all data that an object exports, sorted by address; empty if its
/// tables cannot be read.
///
/// # Safety
///
/// The object is loaded, and stays loaded during the call.
pub unsafe fn all(object: &LoadedObject) -> Vec<Export> {
    // SAFETY: the caller keeps the object loaded during the call (rule 1 of `image`).
    let image = unsafe { Image::new(object) };
    let mut all = exports(&image).unwrap_or_default();
    all.sort_by(|a, b| a.address.cmp(&b.address).then_with(|| a.name.cmp(&b.name)));
    all
}

fn exports(image: &Image) -> Option<Vec<Export>> {
    let dynamic = image.dynamic(image.object.dynamic?)?;
    let mut all = Vec::new();
    for index in 0..count(image, &dynamic)? {
        let symbol = image.symbol(&dynamic, index)?;
        let kind = symbol.st_type();
        if (kind != STT_FUNC && kind != STT_OBJECT) || !is_defined(symbol) {
            continue;
        }
        all.push(Export {
            name: name(image, &dynamic, symbol)?,
            address: address_of(image, symbol),
            size: symbol.st_size.get(NativeEndian) as usize,
            is_function: kind == STT_FUNC,
        });
    }
    Some(all)
}

/// Returns the number of symbols.
fn count(image: &Image, dynamic: &Dynamic) -> Option<usize> {
    let (gnu, old) = dynamic.hashes;
    if old != 0 {
        let header: &HashHeader<NativeEndian> = image.get(old)?;
        return Some(header.chain_count.get(NativeEndian) as usize);
    }
    if gnu == 0 {
        return None;
    }
    // Each bucket has the first symbol of its chain; the last symbol of a chain has an odd hash.
    let half = |at: usize| Some(image.get::<U32<NativeEndian>>(at)?.get(NativeEndian) as usize);
    let header: &GnuHashHeader<NativeEndian> = image.get(gnu)?;
    let [buckets, first, bloom] = [&header.bucket_count, &header.symbol_base, &header.bloom_count]
        .map(|field| field.get(NativeEndian) as usize);
    let buckets_at = gnu
        .checked_add(size_of::<GnuHashHeader<NativeEndian>>())?
        .checked_add(bloom.checked_mul(size_of::<u64>())?)?;
    let chains_at = buckets_at.checked_add(buckets.checked_mul(4)?)?;
    let mut last = 0;
    for bucket in 0..buckets {
        last = last.max(half(buckets_at + bucket * 4)?);
    }
    if last < first {
        return Some(first);
    }
    while half(chains_at.checked_add((last - first).checked_mul(4)?)?)? & 1 == 0 {
        last += 1;
    }
    Some(last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::elf::objects;
    use crate::sys::testing::Library;

    const SOURCE: &str = "
        int one(int n) { return n + 1; }
        static __attribute__((noinline)) int hidden(int n) { return n * 3; }
        int (*pointer)(int) = hidden;
        int two(int n) { return n + 2; }
        int data;
    ";

    #[test]
    fn of_a_static_function() {
        for style in ["gnu", "sysv", "both"] {
            let name = format!("exports-{style}.so");
            let library =
                Library::build(&name, SOURCE, &[&format!("-Wl,--hash-style={style}"), "-O0"]);
            let objects = objects();
            let object = objects.iter().find(|object| object.name == name).unwrap();
            // SAFETY: the pointer has this type, and the library stays loaded (rule 1 of `image`).
            let hidden = unsafe { library.symbol(c"pointer").cast::<usize>().read() };
            // SAFETY: the library stays loaded (rule 1 of `image`).
            let found = unsafe { around(object, hidden, library.symbol(c"two") as usize) };
            let [one, two] = [Some("one".to_owned()), Some("two".to_owned())];
            let below_at = found.below_at;
            assert!(0 < below_at && below_at <= hidden);
            let expected = Neighbours { below: one, below_at, above: two.clone(), between: 0 };
            assert_eq!(found, expected);
            // SAFETY: the library stays loaded (rule 1 of `image`).
            let last = unsafe { around(object, library.symbol(c"two") as usize, 0) };
            assert_eq!(last.between, 1, "the first");
            assert_eq!(last.below, two);
            // SAFETY: the library stays loaded (rule 1 of `image`).
            assert_eq!(unsafe { around(object, 0, 0) }.below, None);
            library.close();
        }
    }
}
