//! Hooks functions that are called directly within their own object, as the executable calls its
//! own functions: replaces their first instructions by a jump to a function of ours.
//!
//! Each function gets a block in one page near the functions. The block holds a jump to the hook,
//! and the instructions that the patch replaced. Everything is tried in a forked child first
//! ([`trial`]). If the kernel or a policy refuses a step or kills the child for it, or if the
//! hooked function does not do what it should, this process stays unchanged.
//!
//! The crate `iced-x86` decodes and relocates the x86-64 instructions. The rest is code of this
//! module rather than of a hooking crate, because each step must be able to refuse, and must be
//! tried in a child first.
//!
//! What the unsafe code below relies on:
//!
//! 1. A function that `dlsym` finds in an object's code, with the length of its symbol (`dladdr`),
//!    is mapped and readable as long as its object is loaded. [`install`] requires that the object
//!    stays loaded.
//! 2. The process has one thread. It runs this code and not the code that is changed, and no signal
//!    handler runs meanwhile.
//! 3. The hooks may be called in place of the functions ([`install`] requires this), and the object
//!    that contains them is pinned.
//! 4. The instructions in a block do the same as the replaced ones, wherever the block is. A block
//!    is never changed once its page is executable.
//! 5. If a block contains no call, no return address points into it. Then its page can be unmapped
//!    once the jumps are removed, while the process has one thread, which runs this code.

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
use code::CodePage;

/// A function to hook.
#[derive(Debug)]
pub struct Target {
    /// The name of the function.
    pub symbol: &'static CStr,
    /// Returns the address of our function.
    pub hook: fn() -> *const c_void,
    /// The address at which to call the original function: null, or an address that stays valid as
    /// long as the process lives. Set before the first call of the hook.
    pub original: &'static AtomicPtr<c_void>,
}

/// Calls hooked functions to check that they do what they should.
pub type Check = fn() -> Result<(), Refusal>;

/// The patched code of a function that is or was hooked.
#[derive(Debug, Clone)]
struct HookedFunction {
    symbol: &'static CStr,
    /// The address at which its code was changed.
    address: usize,
    before: Vec<u8>,
    after: Vec<u8>,
    /// The page that contains its block.
    page: usize,
    /// Whether a function that is running may return into the block.
    calls: bool,
}

static PLACES: Mutex<Vec<HookedFunction>> = Mutex::new(Vec::new());

/// Hooks all of the functions, or none. Functions that are hooked already stay hooked.
///
/// `check` is called in a forked child in which the functions are hooked. If it fails there,
/// nothing is hooked here.
///
/// # Safety
///
/// Each hook has the type of its function, and may be called in its place from now on, as long as
/// the process lives. Nothing else uses its `original`. The objects that contain the functions and
/// the hooks stay loaded.
pub unsafe fn install(targets: &'static [Target], check: Check) -> Result<(), Refusal> {
    let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
    let known = |target: &Target| places.iter().find(|place| place.symbol == target.symbol);
    let before: Vec<HookedFunction> = targets.iter().filter_map(known).cloned().collect();
    if before.len() == targets.len() {
        // Their blocks are still mapped.
        return switch(&before, HookedFunction::put_in);
    }
    one_thread()?;
    let objects = objects();
    let functions: Vec<FoundTarget> = targets
        .iter()
        .map(|target| FoundTarget::find(target, &objects))
        .collect::<Result<_, _>>()?;
    let (protections, near) = (Protections::read()?, functions.iter().map(|f| f.address));
    let (low, high) = (near.clone().min().unwrap_or(0), near.max().unwrap_or(0));
    let at = protections.gap_near(low..high, REACH).ok_or(Refusal::Room)?;

    // In a child, because the decoder's tables would stay in memory for good.
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
        let page = CodePage::at(at)?;
        for (target, (block, detour)) in targets.iter().zip(&blocks) {
            page.fill(*block, &detour.block);
            let original = block.wrapping_add(detour.original) as *mut c_void;
            target.original.store(original, Ordering::Release);
        }
        page.seal()?;
        switch(&new, HookedFunction::put_in)
    };
    trial::run(|| hook_all().and_then(|()| check()))?;
    hook_all()?;
    places.extend(new);
    Ok(())
}

/// Removes the hooks where nobody has patched over them, and unmaps their blocks. A block that a
/// running function may return into stays mapped.
pub fn uninstall(targets: &'static [Target]) -> Result<(), Refusal> {
    let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
    let is_ours =
        |place: &HookedFunction| targets.iter().any(|target| target.symbol == place.symbol);
    let ours: Vec<HookedFunction> = places.iter().filter(|place| is_ours(place)).cloned().collect();
    if ours.is_empty() {
        return Ok(());
    }
    switch(&ours, HookedFunction::take_out)?;
    if one_thread().is_err() || ours.iter().any(|place| place.calls) {
        return Ok(());
    }
    places.retain(|place| !is_ours(place));
    let mut pages: Vec<usize> = ours.iter().map(|place| place.page).collect();
    pages.dedup();
    for page in pages.into_iter().filter(|page| places.iter().all(|place| place.page != *page)) {
        // SAFETY: nothing leads to the blocks of this page any more (5).
        unsafe { code::unmap(page) };
    }
    Ok(())
}

/// Returns whether all of the functions are hooked.
#[cfg(test)]
pub fn are_in(targets: &'static [Target]) -> bool {
    let places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
    targets
        .iter()
        .all(|target| places.iter().any(|place| place.symbol == target.symbol && place.is_in()))
}

/// Checks that the process has one thread: code that another thread may be running cannot be
/// changed.
fn one_thread() -> Result<(), Refusal> {
    match status::own() {
        Ok(status) if status.threads == 1 => Ok(()),
        Ok(_) => Err(Refusal::Threads),
        Err(_) => Err(Refusal::Maps),
    }
}

/// Applies `how` to all places. If it fails for one, undoes it for the places before.
fn switch(
    places: &[HookedFunction],
    how: fn(&HookedFunction) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    for (index, place) in places.iter().enumerate() {
        if let Err(refusal) = how(place) {
            for done in places.iter().take(index) {
                // Errors are ignored here: each place is in a valid state either way.
                let _ = if done.is_in() { done.take_out() } else { done.put_in() };
            }
            return Err(refusal);
        }
    }
    Ok(())
}

impl HookedFunction {
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
        // SAFETY: the code is mapped (1), no other thread runs it (2), and the old and the new code
        // do the same for a caller (3, 4).
        unsafe { code::write(self.address, to) }
    }
}

/// A target whose code was found.
struct FoundTarget<'a> {
    target: &'a Target,
    address: usize,
    code: &'a [u8],
}

impl<'a> FoundTarget<'a> {
    fn find(target: &'a Target, objects: &[LoadedObject]) -> Result<Self, Refusal> {
        let is_code = |address: &usize| {
            objects.iter().flat_map(LoadedObject::executable).any(|range| range.contains(address))
        };
        let found = symbol::address(target.symbol).filter(is_code);
        let address = found.ok_or_else(|| Refusal::Unresolved { symbol: symbol_of(target) })?;
        let length = symbol::length(address);
        // SAFETY: the function's code is mapped and readable for the length of its symbol (1).
        let code = unsafe { std::slice::from_raw_parts(address as *const u8, length) };
        Ok(FoundTarget { target, address, code })
    }

    /// Plans the detour of the function, with its block in the page at address `page`.
    fn detour(&self, page: usize, index: usize) -> Result<Detour, Refusal> {
        let block = code::block(page, index).ok_or(Refusal::Room)?;
        let hook = (self.target.hook)() as u64;
        plan(self.code, self.address as u64, hook, block as u64)
            .ok_or_else(|| Refusal::Code { symbol: symbol_of(self.target) })
    }

    /// Returns the change that the detour makes to the function's code.
    fn place(&self, detour: &Detour, page: usize) -> Option<HookedFunction> {
        Some(HookedFunction {
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
