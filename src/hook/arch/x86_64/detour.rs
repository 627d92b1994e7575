//! Plans detours on x86_64.
//!
//! A jump of 5 bytes replaces the function's first instructions. All instructions that it overlaps
//! move to the detour's block, where iced-x86 rewrites those that refer to addresses by their
//! distance. A landing mark (`endbr64`) stays in place.
#![forbid(unsafe_code)]

use iced_x86::{
    BlockEncoder, BlockEncoderOptions, Code, Decoder, DecoderOptions, FlowControl, Instruction,
    InstructionBlock, OpKind,
};

use crate::hook::arch::{Detour, BLOCK};

/// The greatest distance of the block from the function, in bytes.
pub const REACH: usize = 0x7ff0_0000;

const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

/// The length of `jmp rel32`, in bytes.
const JUMP: usize = 5;

/// `jmp [rip]`, followed by the address.
const FAR_JUMP: [u8; 6] = [0xff, 0x25, 0, 0, 0, 0];

/// The offset in the block of the moved instructions.
const MOVED: usize = 16;

/// Plans the detour of the function whose whole `code` is at `address`, to the function at `hook`,
/// with its block at `block`. Returns `None` if the first instructions cannot be moved because they
/// are too short or a jump leads into the middle of them, or if the block is too far away.
pub fn plan(code: &[u8], address: u64, hook: u64, block: u64) -> Option<Detour> {
    let skip = if code.starts_with(&ENDBR64) { ENDBR64.len() } else { 0 };
    let start = address.checked_add(skip as u64)?;
    let code = code.get(skip..)?;
    let (head, end) = head(code, start)?;
    if is_jumped_into(code, start, end) {
        return None;
    }

    let moved_at = block.checked_add(MOVED as u64)?;
    let mut moved = head;
    if !moved.last()?.flow_control().eq(&FlowControl::UnconditionalBranch) {
        moved.push(Instruction::with_branch(Code::Jmp_rel32_64, end).ok()?);
    }
    let calls = moved.iter().any(|instruction| instruction.flow_control() == FlowControl::Call);
    let instructions = InstructionBlock::new(&moved, moved_at);
    let moved = BlockEncoder::encode(64, instructions, BlockEncoderOptions::NONE).ok()?.code_buffer;

    let mut bytes = FAR_JUMP.to_vec();
    bytes.extend(hook.to_le_bytes());
    bytes.resize(MOVED, 0xcc);
    bytes.extend(moved);

    let distance = block.wrapping_sub(start.checked_add(JUMP as u64)?) as i64;
    let mut patch = vec![0xe9];
    patch.extend(i32::try_from(distance).ok()?.to_le_bytes());
    // The rest of the last moved instruction never runs. It must not look like code.
    patch.resize(usize::try_from(end.checked_sub(start)?).ok()?, 0xcc);
    (bytes.len() <= BLOCK).then_some(Detour { skip, patch, block: bytes, original: MOVED, calls })
}

/// Returns the instructions that the jump overlaps, and the address after them.
fn head(code: &[u8], start: u64) -> Option<(Vec<Instruction>, u64)> {
    let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
    let mut head = Vec::new();
    while decoder.position() < JUMP {
        let last = head.last().map_or(FlowControl::Next, Instruction::flow_control);
        // The code after a jump or a return may belong to another function.
        if !decoder.can_decode() || !matches!(last, FlowControl::Next | FlowControl::Call) {
            return None;
        }
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return None;
        }
        head.push(instruction);
    }
    Some((head, decoder.ip()))
}

/// Returns whether the code contains a jump to an address between `start` and `end`, both
/// exclusive.
fn is_jumped_into(code: &[u8], start: u64, end: u64) -> bool {
    Decoder::with_ip(64, code, start, DecoderOptions::NONE).into_iter().any(|instruction| {
        let near = matches!(
            instruction.op0_kind(),
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
        );
        let target = instruction.near_branch_target();
        near && instruction.flow_control() != FlowControl::Call && start < target && target < end
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 0x5555_0000_1000;
    const HOOK: u64 = 0x7fff_1234_5678;
    const NEAR: u64 = AT - 0x10_0000;

    fn decoded(bytes: &[u8], at: u64) -> Vec<Instruction> {
        Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).into_iter().collect()
    }

    /// `push rbp; mov rdx,rsi; mov rbp,rsi; ret`
    const PLAIN: [u8; 8] = [0x55, 0x48, 0x89, 0xf2, 0x48, 0x89, 0xf5, 0xc3];

    #[test]
    fn moves_whole_instructions() {
        let detour = plan(&PLAIN, AT, HOOK, NEAR).unwrap();
        assert_eq!((detour.skip, detour.patch.len()), (0, 7));
        let jump = decoded(&detour.patch[..5], AT)[0];
        assert_eq!((jump.code(), jump.near_branch_target()), (Code::Jmp_rel32_64, NEAR));
        assert_eq!(detour.block[..6], FAR_JUMP);
        assert_eq!(detour.block[6..14], HOOK.to_le_bytes());
        assert_eq!(detour.block[16..23], PLAIN[..7]);
        let back = decoded(&detour.block[23..], NEAR + 23);
        assert_eq!((back.len(), back[0].near_branch_target()), (1, AT + 7));
    }

    #[test]
    fn a_landing_mark_stays() {
        let mut code = ENDBR64.to_vec();
        code.extend(PLAIN);
        let detour = plan(&code, AT, HOOK, NEAR).unwrap();
        assert_eq!(detour.skip, 4);
        assert_eq!(decoded(&detour.patch[..5], AT + 4)[0].near_branch_target(), NEAR);
        let back = decoded(&detour.block[23..], NEAR + 23);
        assert_eq!(back[0].near_branch_target(), AT + 11);
    }

    #[test]
    fn relative_operands_still_mean_the_same() {
        // push r12; lea r12,[rip+0xbcac3]; ret
        let code = [0x41, 0x54, 0x4c, 0x8d, 0x25, 0xc3, 0xca, 0x0b, 0x00, 0xc3];
        let detour = plan(&code, AT, HOOK, NEAR).unwrap();
        let (then, now) = (decoded(&code, AT)[1], decoded(&detour.block[16..], NEAR + 16)[1]);
        assert_eq!(then.memory_displacement64(), now.memory_displacement64());
        // call +0x100; nop; ret
        let code = [0xe8, 0, 1, 0, 0, 0x90, 0xc3];
        let detour = plan(&code, AT, HOOK, NEAR).unwrap();
        assert!(detour.calls);
        let call = decoded(&detour.block[16..], NEAR + 16)[0];
        assert_eq!(call.near_branch_target(), AT + 5 + 0x100);
        // test rdi,rdi; je +0x10; nop...
        let mut code = vec![0x48, 0x85, 0xff, 0x74, 0x10];
        code.resize(32, 0x90);
        let detour = plan(&code, AT, HOOK, NEAR).unwrap();
        let jump = decoded(&detour.block[16..], NEAR + 16)[1];
        assert_eq!((jump.mnemonic(), jump.near_branch_target()), (iced_x86::Mnemonic::Je, AT + 21));
    }

    #[test]
    fn another_hook_is_called_through() {
        // jmp +0x1000
        let code = [0xe9, 0, 0x10, 0, 0, 0xcc];
        let detour = plan(&code, AT, HOOK, NEAR).unwrap();
        let moved = decoded(&detour.block[16..], NEAR + 16);
        assert_eq!((moved.len(), moved[0].near_branch_target()), (1, AT + 5 + 0x1000));
    }

    #[test]
    fn refused() {
        // xor eax,eax; ret; nop...
        let mut short = vec![0x31, 0xc0, 0xc3];
        short.resize(16, 0x90);
        // jmp backwards, into the second instruction
        let mut loops = PLAIN[..7].to_vec();
        loops.extend([0xeb, 0xf8]);
        for code in [&[][..], &PLAIN[..4], &short, &loops, &[0x06; 16], &ENDBR64] {
            assert_eq!(plan(code, AT, HOOK, NEAR), None, "{code:x?}");
        }
        // A jump to the start of the function runs the hook again, as a call would.
        loops[8] = 0xf7;
        assert!(plan(&loops, AT, HOOK, NEAR).is_some());
        for block in [AT + 0x8000_0010, AT - 0x8000_0010] {
            assert_eq!(plan(&PLAIN, AT, HOOK, block), None);
        }
        for block in [AT + REACH as u64, AT - REACH as u64] {
            assert!(plan(&PLAIN, AT, HOOK, block).is_some());
        }
    }
}
