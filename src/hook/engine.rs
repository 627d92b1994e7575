//! Hooks on functions that code of their own object calls directly, as the executable does with its
//! own: their first instructions become a jump to a function of ours.
//!
//! Each function gets a block in a page near them, with the way to the hook and the
//! instructions that the jump replaced. All is tried in a forked child first ([`trial`]): where the
//! kernel or a policy refuses a step, or kills for it, or the hooked function does not do what it
//! should, this process is as it was.
//!
//! The x86-64 instructions are decoded and relocated by `iced-x86`. The rest is code of this module and
//! not of a hooking crate, because each step must be able to refuse, and to be tried in a child first.
//!
//! What the unsafe code below relies on:
//!
//! 1. A function that `dlsym` finds in an object's code, with the length that its symbol has
//!    (`dladdr`), is mapped and readable for as long as its object is loaded. [`install`] demands that
//!    it stays.
//! 2. The process has one thread, which runs this code and not the code that is changed, and no
//!    signal handler runs meanwhile.
//! 3. The hooks may be called in place of the functions ([`install`] demands it), and their object
//!    is pinned.
//! 4. A block holds instructions that do what the replaced ones did, wherever they are, and is
//!    never changed once its page is executable.
//! 5. Without a call in a block no return address leads to it. With the jumps out and one thread, which
//!    runs this code, its page can go.

mod code;
pub(super) mod trial;

use std::ffi::{c_void, CStr};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

use super::arch::{plan, Detour, REACH};
use super::protect::Protections;
use super::refusal::Refusal;
use crate::sys::elf::{objects, LoadedObject};
use crate::sys::status;
use crate::sys::symbol;
use code::Page;

/// A function that is to be hooked.
#[derive(Debug)]
pub struct Target {
    /// Its name.
    pub symbol: &'static CStr,
    /// The address of the function of ours.
    pub hook: fn() -> *const c_void,
    /// How to call the function itself: null, or an address that stays good for the life of the
    /// process. Set before the first call of the hook.
    pub original: &'static AtomicPtr<c_void>,
}

/// What calls hooked functions to see whether they do what they should.
pub type Check = fn() -> Result<(), Refusal>;

/// A function that is or was hooked.
#[derive(Debug, Clone)]
struct Place {
    symbol: &'static CStr,
    /// Where its code was changed.
    address: usize,
    before: Vec<u8>,
    after: Vec<u8>,
    /// The page of its block.
    page: usize,
    /// Whether a function that is running may return to the block.
    calls: bool,
}

static PLACES: Mutex<Vec<Place>> = Mutex::new(Vec::new());

/// Hooks all of the functions, or none. Those that are hooked already stay so.
///
/// `check` is called in a forked child, where the functions are hooked; unless it is content there,
/// nothing is hooked here.
///
/// # Safety
///
/// Each hook has the type of its function and may be called in its place from now on, for as long
/// as the process lives; its `original` is for nothing else. The objects with the functions and the
/// hooks stay loaded.
pub unsafe fn install(targets: &'static [Target], check: Check) -> Result<(), Refusal> {
    let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
    let known = |target: &Target| places.iter().find(|place| place.symbol == target.symbol);
    let before: Vec<Place> = targets.iter().filter_map(known).cloned().collect();
    if before.len() == targets.len() {
        // Their blocks are still there.
        return switch(&before, Place::put_in);
    }
    one_thread()?;
    let objects = objects();
    let functions: Vec<Function> =
        targets.iter().map(|target| Function::find(target, &objects)).collect::<Result<_, _>>()?;
    let (protections, near) = (Protections::read()?, functions.iter().map(|f| f.address));
    let (low, high) = (near.clone().min().unwrap_or(0), near.max().unwrap_or(0));
    let at = protections.gap_near(low..high, REACH).ok_or(Refusal::Room)?;

    // In a child, as the decoder's tables would stay in memory for good.
    let detours: Vec<Detour> = trial::run(|| {
        let detours = functions.iter().enumerate().map(|(i, function)| function.detour(at, i));
        detours.collect()
    })?;
    let mut new = Vec::new();
    let mut blocks = Vec::new();
    for (index, (function, detour)) in functions.iter().zip(detours).enumerate() {
        new.push(function.place(&detour, at).ok_or(Refusal::Room)?);
        blocks.push((code::block(at, index).ok_or(Refusal::Room)?, detour));
    }
    let hook_all = || {
        let page = Page::at(at)?;
        for (target, (block, detour)) in targets.iter().zip(&blocks) {
            page.fill(*block, &detour.block);
            let original = block.wrapping_add(detour.original) as *mut c_void;
            target.original.store(original, Ordering::Release);
        }
        page.seal()?;
        switch(&new, Place::put_in)
    };
    trial::run(|| hook_all().and_then(|()| check()))?;
    hook_all()?;
    places.extend(new);
    Ok(())
}

/// Takes out the hooks on the functions, where they are still the last ones there, and their blocks.
pub fn uninstall(targets: &'static [Target]) -> Result<(), Refusal> {
    let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
    let is_ours = |place: &Place| targets.iter().any(|target| target.symbol == place.symbol);
    let ours: Vec<Place> = places.iter().filter(|place| is_ours(place)).cloned().collect();
    if ours.is_empty() {
        return Ok(());
    }
    switch(&ours, Place::take_out)?;
    if one_thread().is_err() || ours.iter().any(|place| place.calls) {
        return Ok(());
    }
    places.retain(|place| !is_ours(place));
    let mut pages: Vec<usize> = ours.iter().map(|place| place.page).collect();
    pages.dedup();
    for page in pages.into_iter().filter(|page| places.iter().all(|place| place.page != *page)) {
        // SAFETY: 5: nothing leads to the blocks of this page any more.
        unsafe { code::unmap(page) };
    }
    Ok(())
}

/// Whether all of the functions are hooked.
#[cfg(test)]
pub fn are_in(targets: &'static [Target]) -> bool {
    let places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
    targets
        .iter()
        .all(|target| places.iter().any(|place| place.symbol == target.symbol && place.is_in()))
}

/// Code that a thread may be in cannot be changed.
fn one_thread() -> Result<(), Refusal> {
    match status::own() {
        Ok(status) if status.threads == 1 => Ok(()),
        Ok(_) => Err(Refusal::Threads),
        Err(_) => Err(Refusal::Maps),
    }
}

/// Does something to all of the places. When it fails with one, those before are put back.
fn switch(places: &[Place], how: fn(&Place) -> Result<(), Refusal>) -> Result<(), Refusal> {
    for (index, place) in places.iter().enumerate() {
        if let Err(refusal) = how(place) {
            for done in places.iter().take(index) {
                // Either way is right for what is in place already.
                let _ = if done.is_in() { done.take_out() } else { done.put_in() };
            }
            return Err(refusal);
        }
    }
    Ok(())
}

impl Place {
    fn is_in(&self) -> bool {
        code::holds(self.address, &self.after)
    }

    fn put_in(&self) -> Result<(), Refusal> {
        self.change(&self.before, &self.after)
    }

    fn take_out(&self) -> Result<(), Refusal> {
        self.change(&self.after, &self.before)
    }

    fn change(&self, from: &[u8], to: &[u8]) -> Result<(), Refusal> {
        if code::holds(self.address, to) {
            return Ok(());
        }
        if !code::holds(self.address, from) {
            let symbol = self.symbol.to_string_lossy().into_owned();
            return Err(Refusal::Overwritten { symbol });
        }
        one_thread()?;
        // SAFETY: 1 to 4; both say the same to who calls the function.
        unsafe { code::write(self.address, to) }
    }
}

/// A target as it was found.
struct Function<'a> {
    target: &'a Target,
    address: usize,
    code: &'a [u8],
}

impl<'a> Function<'a> {
    fn find(target: &'a Target, objects: &[LoadedObject]) -> Result<Self, Refusal> {
        let is_code = |address: &usize| {
            objects.iter().flat_map(LoadedObject::executable).any(|range| range.contains(address))
        };
        let found = symbol::address(target.symbol).filter(is_code);
        let address = found.ok_or_else(|| Refusal::Unresolved { symbol: symbol_of(target) })?;
        let length = symbol::length(address);
        // SAFETY: 1.
        let code = unsafe { std::slice::from_raw_parts(address as *const u8, length) };
        Ok(Function { target, address, code })
    }

    /// Its detour, with the block in the page that is to be at an address.
    fn detour(&self, page: usize, index: usize) -> Result<Detour, Refusal> {
        let block = code::block(page, index).ok_or(Refusal::Room)?;
        let hook = (self.target.hook)() as u64;
        plan(self.code, self.address as u64, hook, block as u64)
            .ok_or_else(|| Refusal::Code { symbol: symbol_of(self.target) })
    }

    /// Where its code is to change.
    fn place(&self, detour: &Detour, page: usize) -> Option<Place> {
        Some(Place {
            symbol: self.target.symbol,
            address: self.address.wrapping_add(detour.skip),
            before: self.code.get(detour.skip..)?.get(..detour.patch.len())?.to_vec(),
            after: detour.patch.clone(),
            page,
            calls: detour.calls,
        })
    }
}

fn symbol_of(target: &Target) -> String {
    target.symbol.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
